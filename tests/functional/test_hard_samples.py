"""Hard-sample weights (Eq. 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midas_aug import functional as F
from midas_aug.errors import MidasAugError
from tests.helpers import reference
from tests.helpers import strategies as own
from tests.helpers.strategies import (
    Library,
    as_library,
    as_numpy,
    assert_close,
    assert_helpful,
    assert_kind,
)


def _native_plan(plan: own.Plan, library: Library) -> F.SwapPlan:
    return F.SwapPlan(
        as_library(plan.source, "int64", library)[0],
        as_library(plan.anchor, "int64", library)[0],
        as_library(plan.valid, "bool", library)[0],
    )


def _plan(source: Any, anchor: Any, library: Library) -> F.SwapPlan:
    rows = len(anchor)
    arrays = np.reshape(source, (rows, -1)), np.asarray(anchor), np.ones(rows, np.bool_)
    return _native_plan(own.Plan(*arrays), library)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.modality_counts())
def test_weights_are_the_mean_cosine_of_replaced_modalities(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    dtype = data.draw(own.feature_dtypes(library))
    plan = data.draw(own.plans(n, m))
    pairs = [as_library(f, dtype, library) for f in data.draw(own.feature_lists(n, m))]
    out = F.hard_sample_weights([p[0] for p in pairs], _native_plan(plan, library))
    assert_kind(out, library, own.result_dtype(dtype))
    wanted = reference.cosine_hardness([p[1] for p in pairs], plan.source, plan.anchor)
    assert_close(out, wanted, atol=2e-6)
    assert (as_numpy(out) >= 1 - 1e-6).all()
    assert (as_numpy(out) <= 2 + 1e-6).all()


@own.both_libraries
def test_weights_worked_by_hand(library: Library) -> None:
    rows = [[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [0.0, 5.0], [0.0, 0.0]]
    features = [as_library(rows, "float32", library)[0] for _ in range(2)]
    plan = _plan(
        [[0, 1], [0, 2], [0, 3], [0, 4], [1, 1], [2, 0], [4, 4]], [0, 0, 0, 0, 1, 2, 4], library
    )
    out = F.hard_sample_weights(features, plan)
    # same direction, opposite, orthogonal, zero vector, none replaced, opposite, none replaced
    assert_close(out, [2.0, 1.0, 1.5, 1.5, 2.0, 1.0, 2.0])


@own.both_libraries
def test_weights_average_over_the_replaced_modalities_only(library: Library) -> None:
    first = as_library([[1.0, 0.0], [1.0, 0.0]], "float64", library)[0]
    second = as_library([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], "float64", library)[0]
    third = as_library([[2.0], [-4.0]], "float64", library)[0]
    plan = _plan([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 1, 0]], [0, 0, 0, 1], library)
    out = F.hard_sample_weights([first, second, third], plan)
    # the last row's anchor is 1: modalities 0 and 2 come from row 0, cosines 1 and -1
    assert_close(out, [2.0, 1.0, 1.0 + (-1 / 3 + 1) / 2, 1.5], atol=1e-12)


def test_one_modality_alone_has_weights_too() -> None:
    weights = F.hard_sample_weights([torch.eye(2)], _plan([[1], [0]], [0, 0], "torch"))
    assert weights.tolist() == [1.5, 2.0]


@own.both_libraries
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_the_length_of_a_feature_does_not_matter(library: Library, scale: float) -> None:
    values = np.random.default_rng(3).standard_normal((6, 5))
    plan = _plan([[0, 1], [2, 3], [5, 4]], [0, 3, 5], library)
    plain, scaled = (
        F.hard_sample_weights([as_library(f, "float32", library)[0] for f in pair], plan)
        for pair in ((values, values[::-1]), (values * scale, values[::-1]))
    )
    assert_close(scaled, as_numpy(plain), atol=1e-5)


@own.both_libraries
def test_large_half_precision_features_do_not_overflow(library: Library) -> None:
    values = np.array([[60000.0, 60000.0], [60000.0, -60000.0], [60000.0, 60000.0]])
    features = [as_library(values, "float16", library)[0]] * 2
    out = F.hard_sample_weights(features, _plan([[0, 1], [0, 2]], [0, 0], library))
    assert_close(out, [1.5, 2.0])


def test_modalities_may_differ_in_dtype_and_width() -> None:
    one, two = torch.randn(4, 3).bfloat16(), torch.randn(4, 7)
    plan = _plan([[0, 1], [2, 3], [1, 3]], [0, 3, 0], "torch")
    out = F.hard_sample_weights([one, two], plan)
    wanted = reference.cosine_hardness(
        [as_numpy(one), as_numpy(two)], plan.source.numpy(), plan.anchor.numpy()
    )
    assert_kind(out, "torch", "float32")
    assert_close(out, wanted)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=1), own.modality_counts())
def test_permuting_samples_and_modalities_permutes_the_weights(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    plan, features = data.draw(own.plans(n, m)), data.draw(own.feature_lists(n, m))
    samples, order = rng.permutation(len(plan.anchor)), rng.permutation(m)
    first = F.hard_sample_weights(
        [as_library(f, "float64", library)[0] for f in features], _native_plan(plan, library)
    )
    moved = own.Plan(plan.source[samples][:, order], plan.anchor[samples], plan.valid[samples])
    second = F.hard_sample_weights(
        [as_library(features[k], "float64", library)[0] for k in order],
        _native_plan(moved, library),
    )
    assert_close(second, as_numpy(first)[samples], atol=1e-9)


def test_weights_carry_no_gradient_and_change_no_input() -> None:
    features = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    before = [f.detach().clone() for f in features]
    out = F.hard_sample_weights(features, _plan([[0, 1], [2, 3]], [0, 3], "torch"))
    assert not out.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, features, strict=True))


@own.both_libraries
@pytest.mark.parametrize(
    ("shapes", "received"),
    [
        ([(4, 3)], ["1", "2"]),
        ([(4, 3)] * 3, ["3", "2"]),
        ([(4, 3), (4,)], ["(4,)"]),
        ([(4, 3), (4, 3, 2)], ["(4, 3, 2)"]),
        ([(4, 3), (5, 3)], ["4", "5"]),
    ],
)
def test_weights_refuse_features_that_do_not_fit(
    library: Library, shapes: list[tuple[int, ...]], received: list[str]
) -> None:
    features = [as_library(np.ones(shape), "float32", library)[0] for shape in shapes]
    with pytest.raises(MidasAugError) as error:
        F.hard_sample_weights(features, _plan([[0, 1]], [0], library))
    assert isinstance(error.value, ValueError)
    assert_helpful(str(error.value), *received)


@own.both_libraries
@pytest.mark.parametrize(
    ("source", "anchor", "received"),
    [((4, 2), (3,), ["3"]), ((4, 2), (1,), ["1"]), ((4, 2), (4, 1), ["(4, 1)"]), ((4,), (4,), [])],
)
def test_weights_refuse_a_plan_that_does_not_fit_itself(
    library: Library, source: tuple[int, ...], anchor: tuple[int, ...], received: list[str]
) -> None:
    features = [as_library(np.ones((2, 3)), "float32", library)[0]] * 2
    plan = own.Plan(np.zeros(source, int), np.zeros(anchor, int), np.ones(4, np.bool_))
    with pytest.raises(MidasAugError) as error:
        F.hard_sample_weights(features, _native_plan(plan, library))
    assert_helpful(str(error.value), *received)


@pytest.mark.parametrize(
    ("wrong", "received"), [(torch.tensor([[0, 1]]), "Tensor"), (None, "NoneType")]
)
def test_weights_refuse_what_is_no_plan(wrong: Any, received: str) -> None:
    with pytest.raises(MidasAugError) as error:
        F.hard_sample_weights([torch.ones(2, 3)] * 2, wrong)
    assert_helpful(str(error.value), received, "out.plan")


def test_weights_refuse_features_by_name() -> None:
    named: Any = {"ears": torch.ones(2, 3), "eyes": torch.ones(2, 3)}
    with pytest.raises(MidasAugError) as error:
        F.hard_sample_weights(named, _plan([[0, 1]], [0], "torch"))
    assert_helpful(str(error.value), "dict", "list(features.values())")


@own.both_libraries
def test_weights_refuse_an_unknown_similarity(library: Library) -> None:
    features = [as_library(np.ones((2, 3)), "float32", library)[0]] * 2
    wrong: Any = "cosinus"
    with pytest.raises(MidasAugError) as error:
        F.hard_sample_weights(features, _plan([[0, 1]], [0], library), similarity=wrong)
    assert_helpful(str(error.value), "cosinus", "cosine")


def test_hardness_stays_in_its_range_where_a_cosine_does_not() -> None:
    plan = F.SwapPlan(torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([True]))
    rows = [torch.ones(2, 3), torch.ones(2, 3)]
    for similarity, wanted in ((1.5, 2.0), (-1.5, 1.0), (0.5, 1.75), (torch.nan, 1.5)):
        weights = F.hard_sample_weights(
            rows, plan, similarity=lambda a, b, s=similarity: torch.full((len(a),), s)
        )
        assert weights.tolist() == [wanted]
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(4096, 7, generator=generator).repeat(2, 1)
    source = torch.stack([torch.arange(4096), torch.arange(4096, 8192)], dim=1)
    plan = F.SwapPlan(source, torch.arange(4096), torch.ones(4096, dtype=torch.bool))
    assert float(F.hard_sample_weights([same, same], plan).max()) == 2.0  # no rounding beyond


def test_a_similarity_that_is_no_number_counts_as_none():
    features = [torch.eye(2), torch.eye(2)]
    plan = F.SwapPlan(torch.tensor([[1, 1]]), torch.tensor([0]), torch.tensor([True]))
    given = iter([torch.tensor([float("nan")]), torch.tensor([0.5])])
    weights = F.hard_sample_weights(features, plan, similarity=lambda one, other: next(given))
    assert weights.tolist() == [1.5 + 0.25 / 2]


def test_a_learned_similarity_learns_nothing_by_the_weights():
    """They are constants of the loss (Sec. 3.5); or what is alike would be learned to be unlike."""
    layer = torch.nn.Linear(4, 4)

    def similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(layer(one), layer(other), dim=1)

    plan = F.SwapPlan(torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([True]))
    features = [torch.randn(2, 4), torch.randn(2, 4, requires_grad=True)]
    weights = F.hard_sample_weights(features, plan, similarity=similarity)
    assert not weights.requires_grad
    expected = 1.5 + similarity(features[1][:1], features[1][1:]) / 2
    torch.testing.assert_close(weights, expected.detach())
