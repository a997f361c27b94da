"""TCMax, against the sum over all combinations."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.tcmax import TCMax, tcmax_loss
from tests.benchmarks.methods.helpers import (
    encoded,
    set_up,
    tiny_model,
)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_tcmax_is_the_cross_entropy_over_the_cube_of_all_combinations(num_modalities):
    rows, classes = 3, 4
    parts = torch.randn(num_modalities, rows, classes, dtype=torch.float64)
    labels = torch.tensor([1, 3, 1])
    cube = torch.stack(
        [
            sum(parts[m, row] for m, row in enumerate(combination))
            for combination in itertools.product(range(rows), repeat=num_modalities)
        ]
    )
    aligned = parts.sum(dim=0)[torch.arange(rows), labels]
    expected = torch.logsumexp(cube.flatten(), dim=0) - aligned.mean()
    expected -= (num_modalities - 1) * math.log(rows)
    torch.testing.assert_close(tcmax_loss(parts, labels), expected)


def test_tcmax_of_one_row_is_the_cross_entropy():
    model = tiny_model(2)
    method = set_up(TCMax(), model)
    features, labels = encoded(model, num_rows=1)
    expected = F.cross_entropy(model.fuse(features), labels)
    torch.testing.assert_close(method.loss(features, labels), expected)


def test_tcmax_survives_large_logits():
    parts = 1e4 * torch.randn(2, 5, 3)
    assert bool(tcmax_loss(parts, torch.zeros(5, dtype=torch.int64)).isfinite())
