"""What several balancing methods share, against worked numbers and slow loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.methods import shared
from tests.benchmarks.methods.helpers import (
    assert_close,
    counts,
    draw_parts,
    seeds,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_ratios, slow_softmax


def test_parts_sum_to_the_joint_logits() -> None:
    model = tiny_model(3)
    features = model.encode(tiny_rows(model, 6)[0])
    for detach in (False, True):
        parts = model.parts(features, detach=detach)
        assert_close(shared.stack(parts).sum(dim=0), model.fuse(features))


@given(counts, seeds)
def test_scores_and_ratios_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    parts, labels = draw_parts(count, seed)
    scores = shared.label_scores(parts, labels)
    wanted = [
        sum(slow_softmax(row)[int(label)] for row, label in zip(part, labels, strict=True))
        for part in parts
    ]
    assert_close(scores, wanted)
    np.testing.assert_allclose(shared.mean_ratios(scores), slow_ratios(wanted), rtol=1e-6)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6))
def test_the_weakest_modality_is_never_ahead(scores: list[float]) -> None:
    ratios = shared.mean_ratios(torch.tensor(scores))
    assert ratios[int(torch.tensor(scores).argmin())] <= 1


def test_ratios_of_scores_that_underflowed_are_finite() -> None:
    assert shared.mean_ratios(torch.tensor([0.0, 0.0])).tolist() == [1, 1]
    assert shared.mean_ratios(torch.tensor([3.0, 0.0])).isfinite().all()


def test_windows_include_both_ends() -> None:
    official = [epoch for epoch in range(100) if shared.in_window(epoch, 100, 0, 0.5)]
    assert official == list(range(51))
    assert [e for e in range(10) if shared.in_window(e, 10, 0.29, 0.7)] == [3, 4, 5, 6, 7]
    assert all(shared.in_window(epoch, 7, 0, 1) for epoch in range(7))


def test_summed_cross_entropy_is_a_sum_over_modalities_of_means_over_rows() -> None:
    parts, labels = draw_parts((3, 5, 4), 0)
    wanted = sum(F.cross_entropy(part, labels) for part in parts)
    assert_close(shared.summed_cross_entropy(parts, labels), wanted)
