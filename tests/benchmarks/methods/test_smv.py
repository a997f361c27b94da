"""SMV, against worked numbers and slow loops."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.methods import smv
from benchmarks.methods.smv import SMV
from midas_aug.diagnostics import shapley
from tests.benchmarks.methods.helpers import (
    assert_close,
    lopsided_model,
    seeds,
    set_up,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_shapley


def _values(names: list[str], right: list[set[str]]) -> dict[frozenset[str], Tensor]:
    """v of all subsets, of one row, where the head is right for the given ones."""
    return {
        frozenset(subset): torch.tensor([float(size * (set(subset) in right))]).double()
        for size in range(len(names) + 1)
        for subset in itertools.combinations(names, size)
    }


@pytest.mark.parametrize(
    ("a", "v", "both", "phi", "copies"),
    [
        (0, 0, 0, (0, 0), (2, 2)),
        (0, 0, 1, (1, 1), (0, 0)),
        (0, 1, 0, (-0.5, 0.5), (3, 1)),
        (0, 1, 1, (0.5, 1.5), (1, 0)),
        (1, 0, 0, (0.5, -0.5), (1, 3)),
        (1, 0, 1, (1.5, 0.5), (0, 1)),
        (1, 1, 0, (0, 0), (2, 2)),
        (1, 1, 1, (1, 1), (0, 0)),
    ],
)
def test_smv_worked_table(a: int, v: int, both: int, phi: Any, copies: Any) -> None:
    right = [s for s, ok in (({"a"}, a), ({"v"}, v), ({"a", "v"}, both)) if ok]
    valued = shapley(_values(["a", "v"], right))
    assert (float(valued["a"]), float(valued["v"])) == phi
    numbers = smv.num_copies(torch.stack([valued["a"], valued["v"]]))
    assert numbers.flatten().tolist() == list(copies)


def test_smv_worked_example_of_three_modalities() -> None:
    right = [{"a"}, {"a", "b"}, {"a", "c"}, {"a", "b", "c"}]
    valued = shapley(_values(["a", "b", "c"], right))
    assert_close([float(valued[name]) for name in "abc"], [2, 0.5, 0.5])


def test_a_shapley_value_of_one_means_no_copy_whatever_the_rounding() -> None:
    exactly_one = 0
    for right in itertools.product([False, True], repeat=7):
        subsets = [set(s) for r in (1, 2, 3) for s in itertools.combinations("abc", r)]
        values = _values(["a", "b", "c"], [s for s, ok in zip(subsets, right, strict=True) if ok])
        wanted = slow_shapley({s: float(v) for s, v in values.items()}, ["a", "b", "c"])
        for name, phi in shapley(values).items():
            assert_close(phi, [wanted[name]])
            if abs(wanted[name] - 1) < 1e-9:
                exactly_one += 1
                assert smv.num_copies(phi + 1e-12).item() == 0
                assert smv.num_copies(phi - 1e-12).item() == 0
    assert exactly_one > 0


@given(st.integers(2, 4), st.integers(1, 8), seeds)
def test_smv_values_match_a_head_that_is_fed_zeros(m: int, n: int, seed: int) -> None:
    model = tiny_model(m)
    with torch.no_grad():
        model.fusion.bias.copy_(torch.tensor([0.5, -0.5, 0.1]))
    inputs, labels = tiny_rows(model, n, seed)
    features = model.encode(inputs)
    values = smv.subset_values(model.parts(features), model.fusion.bias, labels)
    assert len(values) == 2**m
    for subset, value in values.items():
        zeroed = {name: f * (name in subset) for name, f in features.items()}
        predicted = model.fuse(zeroed).argmax(dim=1).tolist()
        wanted = [len(subset) * (p == y) for p, y in zip(predicted, labels.tolist(), strict=True)]
        assert value.tolist() == wanted
    phi = shapley(values)
    assert_close(sum(phi.values()), values[frozenset(model.modalities)])
    for row in range(n):
        wanted = slow_shapley({s: float(v[row]) for s, v in values.items()}, list(phi))
        assert_close([float(v[row]) for v in phi.values()], list(wanted.values()))


@given(st.integers(2, 4), st.integers(1, 8), seeds)
def test_smv_enlarged_set_matches_a_slow_loop(m: int, n: int, seed: int) -> None:
    copies = np.random.default_rng(seed).integers(0, 4, size=(m, n))
    rows, keep, _ = smv.enlarged(torch.from_numpy(copies))
    assert keep is not None
    wanted = Counter({(row, (True,) * m): 1 for row in range(n)})
    for modality in range(m):
        for row in range(n):
            kept = tuple(other == modality for other in range(m))
            wanted[(row, kept)] += int(copies[modality, row])
    actual = zip(rows.tolist(), map(tuple, keep.tolist()), strict=True)
    assert Counter(actual) == +wanted


def test_smv_leaves_the_set_alone_where_all_rows_contribute_one() -> None:
    rows, keep, _ = smv.enlarged(smv.num_copies(torch.ones(2, 7)))
    assert rows.tolist() == list(range(7))
    assert keep is not None
    assert keep.shape == (7, 2)
    assert keep.all()


def test_smv_trains_on_the_original_rows_within_the_warmup() -> None:
    method = set_up(SMV(warmup=0.5), lopsided_model(), num_rows=12, epochs=6)
    sizes = []
    for epoch in range(6):
        rows, keep, _ = method.epoch_rows(epoch)
        sizes.append(len(rows))
        assert (keep is None) == (epoch < 3)
        method.on_epoch_end(epoch)
    assert sizes[:3] == [12] * 3
    assert min(sizes[3:]) > 12
    assert len(set(sizes[3:])) == 1  # always from the original rows, which the model values equally


def test_smv_values_neither_within_the_warmup_nor_after_the_last_epoch() -> None:
    method = set_up(SMV(warmup=0.5), lopsided_model(), epochs=6)
    valued = []
    encode = method.setting.encode_training
    for epoch in range(6):
        method.setting = method.setting._replace(
            encode_training=lambda epoch=epoch: valued.append(epoch) or encode()
        )
        method.on_epoch_end(epoch)
    assert valued == [2, 3, 4]


def test_smv_copies_rows_by_what_the_model_gets_right() -> None:
    model = lopsided_model(3)
    method = set_up(SMV(warmup=0), model, num_rows=12)
    assert method.epoch_rows(0).keep is None
    method.on_epoch_end(0)
    rows, keep, _ = method.epoch_rows(1)
    assert keep is not None
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    wanted = Counter({(row, (True, True, True)): 1 for row in range(12)})
    for row in range(12):
        values = {}
        for size in range(4):
            for subset in itertools.combinations(model.modalities, size):
                zeroed = {name: f[row : row + 1] * (name in subset) for name, f in features.items()}
                right = int(model.fuse(zeroed).argmax()) == int(labels[row])
                values[frozenset(subset)] = float(size * right)
        for number, phi in enumerate(slow_shapley(values, list(model.modalities)).values()):
            copies = 0 if phi > 1 - 1e-9 else 1 if phi > 0.4 else 2 if phi > -0.1 else 3
            if copies:
                wanted[(row, tuple(other == number for other in range(3)))] += copies
    assert Counter(zip(rows.tolist(), map(tuple, keep.tolist()), strict=True)) == wanted
    assert len({kept for _, kept in wanted}) == 4
