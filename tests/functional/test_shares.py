"""Soft labels (Eq. 2-3): true_class_confidence, label_shares, soft_targets."""

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

WIDE_LABEL_DTYPES = [*own.LABEL_DTYPES, "uint16", "uint32", "uint64"]

# ---------------------------------------------------------------- true_class_confidence


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts())
def test_confidence_is_the_softmax_at_the_true_class(
    data: st.DataObject, library: Library, n: int, c: int
) -> None:
    dtype = data.draw(own.feature_dtypes(library))
    temperature = data.draw(st.sampled_from([0.05, 0.5, 1.0, 2.0, 10.0]))
    logits, exact = as_library(data.draw(own.logits(n, c)), dtype, library)
    labels = data.draw(own.labels_arrays(n, c, skews=own.SKEWS[:4]))
    native, _ = as_library(labels, labels.dtype.name, library)
    out = F.true_class_confidence(logits, native, temperature=temperature)
    assert_kind(out, library, own.result_dtype(dtype))
    largest = float(np.abs(exact).max(initial=1.0)) / temperature
    wanted = reference.true_class_confidence(exact, labels, temperature)
    assert_close(out, wanted, atol=1e-6 + 3e-7 * largest)


def test_confidence_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [np.log(9.0), 0.0], [0.0, np.log(3.0)]])
    out = F.true_class_confidence(logits, torch.tensor([1, 0, 0]))
    assert_close(out, [0.5, 0.9, 0.25])
    cooled = F.true_class_confidence(logits, torch.tensor([1, 0, 0]), temperature=0.5)
    assert_close(cooled, [0.5, 81 / 82, 1 / 10])


@own.every_dtype
def test_confidence_is_float32_or_float64(library: Library, dtype: str) -> None:
    for n in (0, 1, 3):
        logits, _ = as_library(np.ones((n, 4)), dtype, library)
        labels, _ = as_library(np.zeros(n), "int64", library)
        out = F.true_class_confidence(logits, labels)
        assert_kind(out, library, own.result_dtype(dtype))
        assert_close(out, np.full(n, 0.25))


@own.both_libraries
@pytest.mark.parametrize("dtype", WIDE_LABEL_DTYPES)
def test_confidence_takes_labels_of_any_integer_dtype(library: Library, dtype: str) -> None:
    logits, exact = as_library(np.eye(3), "float32", library)
    labels, _ = as_library([0, 2, 2], dtype, library)
    out = F.true_class_confidence(logits, labels)
    assert_close(out, reference.true_class_confidence(exact, np.array([0, 2, 2])))


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts())
def test_confidence_of_an_ignored_row_is_harmless(
    data: st.DataObject, library: Library, n: int, c: int
) -> None:
    labels = data.draw(own.labels_arrays(n, c, "with_ignored"))
    logits, exact = as_library(data.draw(own.logits(n, c)), "float64", library)
    out = F.true_class_confidence(logits, as_library(labels, labels.dtype.name, library)[0])
    got, kept = as_numpy(out), labels >= 0
    assert np.isfinite(got).all()
    assert (got >= 0).all()
    assert (got <= 1).all()
    np.testing.assert_allclose(
        got[kept], reference.true_class_confidence(exact[kept], labels[kept]), atol=1e-9
    )


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts())
def test_permuting_rows_permutes_confidences_and_a_shift_changes_nothing(
    data: st.DataObject, library: Library, n: int, c: int
) -> None:
    values = data.draw(own.logits(n, c))
    labels = data.draw(own.labels_arrays(n, c, dtype="int64", skews=own.SKEWS[:4]))
    order = np.random.default_rng(data.draw(own.seeds())).permutation(n)
    first = F.true_class_confidence(
        as_library(values, "float64", library)[0], as_library(labels, "int64", library)[0]
    )
    second = F.true_class_confidence(
        as_library(values[order] + 7.0, "float64", library)[0],
        as_library(labels[order], "int64", library)[0],
    )
    assert_close(second, as_numpy(first)[order], atol=1e-9)


@own.every_dtype
def test_extreme_logits_give_exact_confidences_and_no_nan(library: Library, dtype: str) -> None:
    rows = [[-65504.0, 65504.0], [65504.0, 65504.0], [-65504.0, -65504.0], [65504.0, -65504.0]]
    logits, _ = as_library(rows, dtype, library)
    labels, _ = as_library([1, 0, 1, 1], "int64", library)
    assert_close(F.true_class_confidence(logits, labels), [1.0, 0.5, 0.5, 0.0])


@own.every_dtype
def test_label_ids_above_2048_stay_exact_in_confidences(library: Library, dtype: str) -> None:
    ids = np.array([2049, 2051, 4097, 999])
    logits, exact = as_library(np.eye(4099)[ids] * 20, dtype, library)
    for label_dtype in ("int16", "int64"):
        out = F.true_class_confidence(logits, as_library(ids, label_dtype, library)[0])
        assert_close(out, reference.true_class_confidence(exact, ids))
        assert as_numpy(out).min() > 0.99


def test_the_smallest_temperature_decides_and_gives_no_nan() -> None:
    logits = torch.tensor([[5.0, 3.0], [3e38, -3e38], [2.0, 2.0]])
    labels = torch.tensor([0, 1, 0])
    for temperature in (1e-38, torch.tensor(1e-38)):
        confidence = F.true_class_confidence(logits, labels, temperature=temperature)
        assert confidence.tolist() == [1.0, 0.0, 0.5]


def test_confidence_carries_no_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    assert not F.true_class_confidence(logits, torch.tensor([0, 1, 2, 0])).requires_grad


# ---------------------------------------------------------------- label_shares


@own.both_libraries
def test_shares_of_the_worked_example_are_three_quarters_and_one_quarter(library: Library) -> None:
    confidence, _ = as_library([[0.9, 0.5], [0.5, 0.3]], "float64", library)
    source, _ = as_library([[0, 1], [1, 0]], "int64", library)
    assert_close(F.label_shares(confidence, source), [[0.75, 0.25], [0.5, 0.5]], atol=1e-12)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.modality_counts())
def test_shares_are_the_confidences_of_the_source_rows_normalised(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    dtype = data.draw(own.feature_dtypes(library))
    plan = data.draw(own.plans(n, m))
    confidence, exact = as_library(data.draw(own.confidences(n, m)), dtype, library)
    source, _ = as_library(plan.source, data.draw(st.sampled_from(["int32", "int64"])), library)
    out = F.label_shares(confidence, source)
    assert_kind(out, library, own.result_dtype(dtype))
    assert_close(out, reference.label_shares(exact, plan.source))


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.modality_counts())
def test_shares_are_not_negative_and_sum_to_one(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    plan = data.draw(own.plans(n, m))
    confidence, exact = as_library(data.draw(own.confidences(n, m)), "float32", library)
    got = as_numpy(F.label_shares(confidence, as_library(plan.source, "int64", library)[0]))
    assert (got >= 0).all()
    np.testing.assert_allclose(got.sum(axis=1), np.ones(len(plan.source)), atol=1e-6)
    nothing = exact[plan.source, np.arange(m)].sum(axis=1) == 0
    np.testing.assert_array_equal(got[nothing], np.float32(1.0 / m))


@own.both_libraries
@pytest.mark.parametrize("m", [2, 3, 4])
def test_shares_of_all_zero_confidences_are_equal(library: Library, m: int) -> None:
    confidence, _ = as_library(np.zeros((2, m)), "float32", library)
    source, _ = as_library(np.zeros((3, m)), "int64", library)
    assert_close(F.label_shares(confidence, source), np.full((3, m), 1 / m))


@own.both_libraries
@pytest.mark.parametrize("scale", [1e-40, 1e-37, 1e-30, 1e-12, 1e-6, 1.0])
def test_tiny_confidences_are_not_taken_for_zero(library: Library, scale: float) -> None:
    confidence, _ = as_library([[3 * scale, scale], [0.0, scale]], "float32", library)
    source, _ = as_library([[0, 0], [1, 0]], "int64", library)
    rtol = 1e-4 if scale < 1e-38 else 1e-5  # numbers below 1.2e-38 have fewer digits
    assert_close(F.label_shares(confidence, source), [[0.75, 0.25], [0.0, 1.0]], rtol=rtol)


@own.both_libraries
@pytest.mark.parametrize("rule", [F.label_shares, F.shares_by_source])
def test_negative_confidences_are_refused_and_nan_is_not(library: Library, rule: Any) -> None:
    source, _ = as_library([[0, 1], [1, 0]], "int64", library)
    log_p, _ = as_library([[-0.1, -0.7], [np.nan, -2.5]], "float32", library)
    expected = r"expected confidence of 0 or more, got -2\.5; pass probabilities, such as logits"
    with pytest.raises(MidasAugError, match=expected):
        rule(log_p, source)
    diverged, _ = as_library([[np.nan, 0.7], [0.5, 0.5]], "float32", library)
    assert np.isnan(as_numpy(rule(diverged, source))).any()


@own.both_libraries
@pytest.mark.parametrize("rule", [F.label_shares, F.shares_by_source])
def test_the_largest_numbers_have_shares_and_an_infinite_one_counts_as_the_largest(
    library: Library, rule: Any
) -> None:
    rows = [[3e38, 1e38, 2e38], [np.inf, 1.0, 1.0], [np.inf, np.inf, 0.0]]
    confidence, _ = as_library(rows, "float32", library)
    # Each row with itself alone, so that both rules are Eq. 2.
    source, _ = as_library(np.repeat([[0], [1], [2]], 3, axis=1), "int64", library)
    shares = as_numpy(rule(confidence, source))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    if rule is F.label_shares:
        wanted = [[1 / 2, 1 / 6, 1 / 3], [1, 0, 0], [1 / 2, 1 / 2, 0]]
        np.testing.assert_allclose(shares, wanted, rtol=1e-6, atol=1e-30)
    mixed, _ = as_library([[0, 1, 0], [2, 0, 1]], "int64", library)
    assert np.isfinite(as_numpy(rule(confidence, mixed))).all()


@pytest.mark.parametrize("rule", [F.label_shares, F.shares_by_source])
def test_a_confidence_that_is_no_number_does_not_pass_for_a_share(rule: Any) -> None:
    confidence = torch.tensor([[float("nan"), 0.5], [0.5, 0.5]])
    shares = rule(confidence, torch.tensor([[0, 1], [1, 1]]))
    assert shares[0].isnan().any()
    assert shares[1].tolist() == [0.5, 0.5]


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=1), own.modality_counts())
def test_scaling_a_row_of_confidences_changes_no_share(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    values = data.draw(own.confidences(n, m))
    source, _ = as_library(np.repeat(rng.integers(n, size=5)[:, None], m, 1), "int64", library)
    scaled = values * 10.0 ** rng.uniform(-3, 3, size=(n, 1))
    first = F.label_shares(as_library(values, "float64", library)[0], source)
    second = F.label_shares(as_library(scaled, "float64", library)[0], source)
    assert_close(second, as_numpy(first), atol=1e-12)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=1), own.modality_counts())
def test_shares_follow_a_permutation_of_batch_rows_samples_and_modalities(
    data: st.DataObject, library: Library, n: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    values, plan = data.draw(own.confidences(n, m)), data.draw(own.plans(n, m))
    rows, samples, order = rng.permutation(n), rng.permutation(len(plan.source)), rng.permutation(m)
    first = as_numpy(
        F.label_shares(
            as_library(values, "float64", library)[0], as_library(plan.source, "int64", library)[0]
        )
    )
    moved = np.argsort(rows)[plan.source]  # where each source row lies in values[rows]
    second = F.label_shares(
        as_library(values[rows][:, order], "float64", library)[0],
        as_library(moved[samples][:, order], "int64", library)[0],
    )
    assert_close(second, first[samples][:, order], atol=1e-12)


def test_shares_carry_no_gradient() -> None:
    confidence = torch.rand(4, 2, requires_grad=True)
    assert not F.label_shares(confidence, torch.tensor([[0, 1], [2, 3]])).requires_grad


# ---------------------------------------------------------------- soft_targets


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_targets_put_each_share_on_the_label_of_its_source(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    dtype = data.draw(own.feature_dtypes(library))
    labels = data.draw(own.source_label_arrays(s, m, c))
    label_dtype = data.draw(own.label_dtypes(c))
    shares, exact = as_library(data.draw(own.shares_arrays(s, m)), dtype, library)
    out = F.soft_targets(as_library(labels, label_dtype, library)[0], shares, c)
    assert_kind(out, library, own.result_dtype(dtype))
    assert_close(out, reference.soft_targets(labels, exact, c))


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_targets_are_a_distribution(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    labels, _ = as_library(data.draw(own.source_label_arrays(s, m, c)), "int64", library)
    shares, _ = as_library(data.draw(own.shares_arrays(s, m)), "float32", library)
    got = as_numpy(F.soft_targets(labels, shares, c))
    assert got.shape == (s, c)
    assert (got >= 0).all()
    np.testing.assert_allclose(got.sum(axis=1), np.ones(s), atol=1e-6)


@own.both_libraries
def test_shares_of_the_same_label_add_up(library: Library) -> None:
    labels, _ = as_library([[2, 2, 0], [1, 1, 1]], "int64", library)
    shares, _ = as_library([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], "float32", library)
    assert_close(F.soft_targets(labels, shares, 3), [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])


@own.both_libraries
@pytest.mark.parametrize("dtype", WIDE_LABEL_DTYPES)
def test_targets_take_labels_of_any_integer_dtype(library: Library, dtype: str) -> None:
    labels, _ = as_library([[0, 2]], dtype, library)
    shares, _ = as_library([[0.75, 0.25]], "float32", library)
    assert_close(F.soft_targets(labels, shares, 3), [[0.75, 0.0, 0.25]])


@own.every_dtype
def test_label_ids_above_2048_stay_exact_in_targets(library: Library, dtype: str) -> None:
    labels, _ = as_library([[2049, 4097], [2051, 999]], "int16", library)
    shares, _ = as_library([[0.75, 0.25], [0.5, 0.5]], dtype, library)
    got = as_numpy(F.soft_targets(labels, shares, 4099))
    assert [np.flatnonzero(row).tolist() for row in got] == [[2049, 4097], [999, 2051]]


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_a_negative_source_label_harms_no_other_row(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    labels = data.draw(own.source_label_arrays(s, m, c, ignored=True))
    shares, exact = as_library(data.draw(own.shares_arrays(s, m)), "float64", library)
    got = as_numpy(F.soft_targets(as_library(labels, "int64", library)[0], shares, c))
    assert got.shape == (s, c)
    assert np.isfinite(got).all()
    assert (got >= 0).all()
    assert (got.sum(axis=1) <= 1 + 1e-9).all()
    kept = (labels >= 0).all(axis=1)
    wanted = reference.soft_targets(labels[kept], exact[kept], c)
    np.testing.assert_allclose(got[kept], wanted, atol=1e-12)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_targets_follow_a_permutation_of_rows_and_ignore_the_order_of_modalities(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    labels = data.draw(own.source_label_arrays(s, m, c))
    shares = data.draw(own.shares_arrays(s, m))
    rows, order = rng.permutation(s), rng.permutation(m)
    first, second = (
        F.soft_targets(
            as_library(y, "int64", library)[0], as_library(share, "float64", library)[0], c
        )
        for y, share in ((labels, shares), (labels[rows][:, order], shares[rows][:, order]))
    )
    assert_close(second, as_numpy(first)[rows], atol=1e-12)


# ---------------------------------------------------------------- the pipeline, the reference


def test_nothing_is_written_to_the_inputs() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    confidence, source = torch.rand(4, 2), torch.tensor([[0, 1], [2, 0]])
    shares = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    before = [t.clone() for t in (logits, labels, confidence, source, shares)]
    F.true_class_confidence(logits, labels)
    F.label_shares(confidence, source)
    F.soft_targets(labels[source], shares, 3)
    for kept, now in zip(before, (logits, labels, confidence, source, shares), strict=True):
        assert torch.equal(kept, now)


def test_numpy_views_of_any_layout_are_taken() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    wanted = reference.true_class_confidence(logits, labels)
    assert_close(F.true_class_confidence(logits[::-1], labels[::-1]), wanted[::-1])
    assert_close(F.true_class_confidence(logits[::2], labels[::2]), wanted[::2])
    assert_close(F.true_class_confidence(np.asfortranarray(logits), labels), wanted)
    logits.flags.writeable = labels.flags.writeable = False
    assert_close(F.true_class_confidence(logits, labels), wanted)


def test_reference_partners_have_another_label_and_ignored_rows_have_none() -> None:
    partners = reference.possible_partners(np.array([0, 1, 0, -100, -1]))
    assert partners == [{1}, {0, 2}, {1}, set(), set()]
    assert reference.possible_partners(np.array([3, 3])) == [set(), set()]
    assert reference.possible_partners(np.zeros(0)) == []


# ---------------------------------------------------------------- errors


def _zeros(library: Library, *shape: int, dtype: str = "float32") -> Any:
    return as_library(np.zeros(shape), dtype, library)[0]


@own.both_libraries
@pytest.mark.parametrize(
    ("logits", "labels", "dtype", "received"),
    [
        ((5,), (5,), "int64", ["(5,)"]),
        ((5, 4, 3), (5,), "int64", ["(5, 4, 3)"]),
        ((5, 3), (5, 1), "int64", ["(5, 1)"]),
        ((5, 3), (), "int64", ["()"]),
        ((5, 3), (4,), "int64", ["5", "4"]),
        ((5, 3), (5,), "float32", ["float32"]),
        ((5, 3), (5,), "float64", ["float64"]),
    ],
)
def test_confidence_refuses_what_does_not_fit(
    library: Library,
    logits: tuple[int, ...],
    labels: tuple[int, ...],
    dtype: str,
    received: list[str],
) -> None:
    with pytest.raises(MidasAugError) as error:
        F.true_class_confidence(_zeros(library, *logits), _zeros(library, *labels, dtype=dtype))
    assert isinstance(error.value, ValueError)
    assert_helpful(str(error.value), *received)


@own.both_libraries
@pytest.mark.parametrize("temperature", [0.0, -2.5, float("nan"), float("inf")])
def test_confidence_refuses_a_temperature_that_is_no_positive_number(
    library: Library, temperature: float
) -> None:
    with pytest.raises(MidasAugError) as error:
        F.true_class_confidence(
            _zeros(library, 2, 3), _zeros(library, 2, dtype="int64"), temperature=temperature
        )
    assert_helpful(str(error.value), str(temperature))
    with pytest.raises(MidasAugError, match="temperature above 0"):
        F.true_class_confidence(
            torch.zeros(2, 3), torch.zeros(2).long(), temperature=torch.tensor(temperature)
        )


@own.both_libraries
@pytest.mark.parametrize(
    ("confidence", "source", "dtype", "received"),
    [
        ((5,), (4, 2), "int64", ["(5,)"]),
        ((5, 2, 1), (4, 2), "int64", ["(5, 2, 1)"]),
        ((5, 2), (4,), "int64", ["(4,)"]),
        ((5, 2), (4, 3), "int64", ["2", "3"]),
        ((5, 2), (4, 2), "float32", ["float32"]),
    ],
)
def test_shares_refuse_what_does_not_fit(
    library: Library,
    confidence: tuple[int, ...],
    source: tuple[int, ...],
    dtype: str,
    received: list[str],
) -> None:
    with pytest.raises(MidasAugError) as error:
        F.label_shares(_zeros(library, *confidence), _zeros(library, *source, dtype=dtype))
    assert_helpful(str(error.value), *received)


@own.both_libraries
@pytest.mark.parametrize(
    ("labels", "shares", "dtype", "received"),
    [
        ((4,), (4, 2), "int64", ["(4,)"]),
        ((4, 2), (4,), "int64", ["(4,)"]),
        ((4, 2), (3, 2), "int64", ["(4, 2)", "(3, 2)"]),
        ((4, 2), (4, 3), "int64", ["(4, 2)", "(4, 3)"]),
        ((4, 2), (4, 2), "float32", ["float32"]),
    ],
)
def test_targets_refuse_what_does_not_fit(
    library: Library,
    labels: tuple[int, ...],
    shares: tuple[int, ...],
    dtype: str,
    received: list[str],
) -> None:
    with pytest.raises(MidasAugError) as error:
        F.soft_targets(_zeros(library, *labels, dtype=dtype), _zeros(library, *shares), 3)
    assert_helpful(str(error.value), *received)


@own.both_libraries
@pytest.mark.parametrize("num_classes", [0, -1])
@pytest.mark.parametrize("rows", [0, 4])
def test_targets_refuse_a_number_of_classes_below_one(
    library: Library, num_classes: int, rows: int
) -> None:
    labels, shares = _zeros(library, rows, 2, dtype="int64"), _zeros(library, rows, 2)
    with pytest.raises(MidasAugError) as error:
        F.soft_targets(labels, shares, num_classes)
    assert_helpful(str(error.value), str(num_classes))


@own.both_libraries
def test_the_number_of_columns_itself_is_no_class(library: Library) -> None:
    labels, _ = as_library([0, 3], "int64", library)
    for call in (
        lambda: F.true_class_confidence(_zeros(library, 2, 3), labels),
        lambda: F.soft_targets(labels[:, None], _zeros(library, 2, 1), 3),
        lambda: F.misaligned_cross_entropy(
            _zeros(library, 2, 3), labels[:, None], _zeros(library, 2, 1)
        ),
    ):
        with pytest.raises(MidasAugError) as error:
            call()
        assert_helpful(str(error.value), "3")
    assert as_numpy(F.true_class_confidence(_zeros(library, 2, 4), labels)).tolist() == [0.25] * 2
    assert as_numpy(F.soft_targets(labels[:, None], _zeros(library, 2, 1), 4)).shape == (2, 4)


@own.both_libraries
@pytest.mark.parametrize("c", [1, 2, 5])
def test_targets_of_an_ignored_row_are_uniform_whatever_its_shares(
    library: Library, c: int
) -> None:
    labels, _ = as_library([[0, -1], [-100, 0], [-1, -1], [0, 0]], "int64", library)
    shares, _ = as_library(
        [[0.75, 0.25], [np.nan, np.inf], [1.0, 0.0], [0.25, 0.75]], "float32", library
    )
    got = as_numpy(F.soft_targets(labels, shares, c))
    np.testing.assert_allclose(got[:3], np.full((3, c), 1 / c), rtol=1e-6)
    np.testing.assert_allclose(got[3], np.eye(c)[0])


@own.both_libraries
def test_a_head_of_one_logit_is_told_of_two_columns(library: Library) -> None:
    labels, _ = as_library([0, 1], "int64", library)
    with pytest.raises(MidasAugError) as error:
        F.true_class_confidence(_zeros(library, 2, 1), labels)
    assert_helpful(str(error.value), "one column", "binary cross-entropy", "2 outputs")
    assert "num_classes" not in str(error.value)


@own.both_libraries
def test_a_label_that_is_no_class_is_refused(library: Library) -> None:
    labels, _ = as_library([0, 7], "int64", library)
    with pytest.raises(MidasAugError) as error:
        F.true_class_confidence(_zeros(library, 2, 3), labels)
    assert_helpful(str(error.value), "7", "3")
    with pytest.raises(MidasAugError) as error:
        F.soft_targets(labels[:, None], _zeros(library, 2, 1), 3)
    assert_helpful(str(error.value), "7", "3")


@pytest.mark.parametrize(
    ("wrong", "way"),
    [
        ({"a": torch.rand(2), "b": torch.rand(2)}, "under one of its keys, 'a', 'b'"),
        (F.SwapPlan(*[torch.zeros(1)] * 3), "in one of its fields, source, anchor, valid"),
        ([[0.5, 0.5]], "torch.as_tensor"),
        (None, "pass the array itself"),
    ],
)
def test_what_is_no_array_is_told_how_to_be_one(wrong: Any, way: str) -> None:
    with pytest.raises(MidasAugError) as error:
        F.label_shares(wrong, torch.tensor([[0, 1]]))
    assert_helpful(str(error.value), type(wrong).__name__, way)
