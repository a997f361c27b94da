"""The misaligned loss (Eq. 10), its gradient, and the whole of Eq. 11 put together from parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

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

# ---------------------------------------------------------------- values


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_loss_is_the_share_and_alpha_weighted_cross_entropy(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    dtype = data.draw(own.feature_dtypes(library))
    logits, exact = as_library(data.draw(own.logits(s, c)), dtype, library)
    labels = data.draw(own.source_label_arrays(s, m, c))
    native = as_library(labels, data.draw(own.label_dtypes(c)), library)[0]
    shares, share_values = as_library(
        data.draw(own.shares_arrays(s, m)), own.result_dtype(dtype), library
    )
    rng = np.random.default_rng(data.draw(own.seeds()))
    alpha = (1 + rng.random(m)).astype(np.float32) if data.draw(st.booleans()) else None
    out = F.misaligned_cross_entropy(
        logits, native, shares, None if alpha is None else as_library(alpha, "float32", library)[0]
    )
    assert_kind(out, library, own.result_dtype(dtype))
    wanted = reference.misaligned_cross_entropy(exact, labels, share_values, alpha)
    largest = float(np.abs(exact).max(initial=1.0))
    assert_close(out, wanted, atol=1e-6 + (0.0 if dtype == "float64" else 1e-6 * largest))


@own.both_libraries
def test_loss_worked_by_hand(library: Library) -> None:
    logits, _ = as_library(np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]), "float64", library)
    labels, _ = as_library([[0, 1], [2, 2]], "int64", library)
    shares, _ = as_library([[0.75, 0.25], [0.75, 0.25]], "float64", library)
    alpha, _ = as_library([1.0, 2.0], "float64", library)
    log2 = np.log(2.0)
    plain = F.misaligned_cross_entropy(logits, labels, shares)
    assert_close(plain, [1.25 * log2, 2 * log2], atol=1e-12)
    weighted = F.misaligned_cross_entropy(logits, labels, shares, alpha)
    assert_close(weighted, [0.75 * log2 + 2 * 0.25 * 2 * log2, 2.5 * log2], atol=1e-12)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_loss_is_linear_in_alpha_and_alpha_one_changes_nothing(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    logits, _ = as_library(data.draw(own.logits(s, c)), "float64", library)
    labels, _ = as_library(data.draw(own.source_label_arrays(s, m, c)), "int64", library)
    shares, _ = as_library(data.draw(own.shares_arrays(s, m)), "float64", library)

    def loss(alpha: own.Array) -> own.Array:
        return as_numpy(
            F.misaligned_cross_entropy(
                logits, labels, shares, as_library(alpha, "float64", library)[0]
            )
        )

    plain = as_numpy(F.misaligned_cross_entropy(logits, labels, shares))
    np.testing.assert_allclose(loss(np.ones(m)), plain, rtol=1e-9)
    np.testing.assert_allclose(loss(np.full(m, 2.5)), 2.5 * plain, rtol=1e-9)
    parts = sum(loss(np.eye(m)[k]) for k in range(m))
    np.testing.assert_allclose(parts, plain, rtol=1e-9, atol=1e-9)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_loss_follows_a_permutation_of_rows_and_modalities(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    logits, alpha = data.draw(own.logits(s, c)), 1 + rng.random(m)
    labels = data.draw(own.source_label_arrays(s, m, c))
    shares = data.draw(own.shares_arrays(s, m))
    rows, order = rng.permutation(s), rng.permutation(m)
    arguments = (
        (logits, labels, shares, alpha),
        (logits[rows], labels[rows][:, order], shares[rows][:, order], alpha[order]),
    )
    first, second = (
        F.misaligned_cross_entropy(
            as_library(z, "float64", library)[0],
            as_library(y, "int64", library)[0],
            as_library(share, "float64", library)[0],
            as_library(a, "float64", library)[0],
        )
        for z, y, share, a in arguments
    )
    assert_close(second, as_numpy(first)[rows], rtol=1e-9, atol=1e-9)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_a_negative_source_label_gives_a_finite_loss_and_harms_no_other_row(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    labels = data.draw(own.source_label_arrays(s, m, c, ignored=True))
    logits, exact = as_library(data.draw(own.logits(s, c)), "float64", library)
    shares, share_values = as_library(data.draw(own.shares_arrays(s, m)), "float64", library)
    got = as_numpy(
        F.misaligned_cross_entropy(logits, as_library(labels, "int64", library)[0], shares)
    )
    assert got.shape == (s,)
    assert np.isfinite(got).all()
    kept = (labels >= 0).all(axis=1)
    wanted = reference.misaligned_cross_entropy(exact[kept], labels[kept], share_values[kept])
    np.testing.assert_allclose(got[kept], wanted, rtol=1e-9, atol=1e-9)


@own.both_libraries
def test_a_negative_source_label_adds_nothing(library: Library) -> None:
    logits, _ = as_library(np.log([[0.25, 0.75]] * 3), "float64", library)
    labels, _ = as_library([[0, -1], [-1, -1], [-100, 1]], "int64", library)
    shares, _ = as_library([[0.5, 0.5]] * 3, "float64", library)
    loss = F.misaligned_cross_entropy(logits, labels, shares)
    assert_close(loss, [0.5 * np.log(4), 0.0, 0.5 * np.log(4 / 3)], atol=1e-12)


@own.every_dtype
def test_extreme_logits_give_finite_exact_losses(library: Library, dtype: str) -> None:
    logits, exact = as_library(
        [[65504.0, -65504.0, 0.0], [-65504.0, -65504.0, -65504.0]], dtype, library
    )
    labels = np.array([[0, 1], [0, 2]])
    shares = as_library([[0.5, 0.5], [0.5, 0.5]], "float32", library)[0]
    out = F.misaligned_cross_entropy(logits, as_library(labels, "int64", library)[0], shares)
    assert_close(out, reference.misaligned_cross_entropy(exact, labels, np.full((2, 2), 0.5)))


@own.every_dtype
def test_label_ids_above_2048_stay_exact_in_the_loss(library: Library, dtype: str) -> None:
    labels = np.array([[2049, 4097], [2051, 999]])
    values = np.zeros((2, 4099))
    np.put_along_axis(values, labels, 12.0, axis=1)
    logits, exact = as_library(values, dtype, library)
    shares = as_library(np.full((2, 2), 0.5), "float32", library)[0]
    for label_dtype in ("int16", "int64"):
        native = as_library(labels, label_dtype, library)[0]
        out = F.misaligned_cross_entropy(logits, native, shares)
        wanted = reference.misaligned_cross_entropy(exact, labels, np.full((2, 2), 0.5))
        assert_close(out, wanted, rtol=1e-4)


@own.both_libraries
@pytest.mark.parametrize("dtype", [*own.LABEL_DTYPES, "uint16", "uint32", "uint64"])
def test_loss_takes_labels_of_any_integer_dtype(library: Library, dtype: str) -> None:
    logits, exact = as_library(np.eye(3), "float32", library)
    labels = np.array([[0, 1], [1, 2], [2, 0]])
    shares = as_library(np.tile([0.75, 0.25], (3, 1)), "float32", library)[0]
    out = F.misaligned_cross_entropy(logits, as_library(labels, dtype, library)[0], shares)
    wanted = reference.misaligned_cross_entropy(exact, labels, np.tile([0.75, 0.25], (3, 1)))
    assert_close(out, wanted)


# ---------------------------------------------------------------- gradients


@own.quick
@given(st.data(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_value_and_gradient_equal_those_of_dense_soft_target_cross_entropy(
    data: st.DataObject, s: int, c: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    values = torch.from_numpy(data.draw(own.logits(s, c)))
    labels = data.draw(own.source_label_arrays(s, m, c))
    shares, alpha = data.draw(own.shares_arrays(s, m)), 1 + rng.random(m)
    upstream = torch.from_numpy(rng.standard_normal(s))
    first, second = values.clone().requires_grad_(), values.clone().requires_grad_()
    out = F.misaligned_cross_entropy(
        first, torch.from_numpy(labels), torch.from_numpy(shares), torch.from_numpy(alpha)
    )
    torch.autograd.backward((out * upstream).sum())
    dense = torch.from_numpy(reference.soft_targets(labels, shares * alpha, c))
    wanted = cross_entropy(second, dense, reduction="none")
    torch.autograd.backward((wanted * upstream).sum())
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_gradient_agrees_with_finite_differences(m: int) -> None:
    torch.manual_seed(m)
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels, alpha = torch.randint(0, 4, (5, m)), 1 + torch.rand(m, dtype=torch.float64)
    shares = torch.rand(5, m, dtype=torch.float64).softmax(1)
    assert torch.autograd.gradcheck(
        lambda z: F.misaligned_cross_entropy(z, labels, shares, alpha), (logits,)
    )


@pytest.mark.parametrize("dtype", own.FEATURE_DTYPES)
def test_gradient_of_extreme_and_ignored_rows_is_finite(dtype: str) -> None:
    rows = [[65504.0, -65504.0, 0.0], [-65504.0, 65504.0, 65504.0], [1.0, 2.0, 3.0]]
    logits = torch.tensor(rows, dtype=getattr(torch, dtype), requires_grad=True)
    labels = torch.tensor([[0, 1], [0, 2], [-100, 1]])
    loss = F.misaligned_cross_entropy(logits, labels, torch.full((3, 2), 0.5))
    torch.autograd.backward(loss.sum())
    assert logits.grad is not None
    assert logits.grad.dtype == logits.dtype
    assert bool(logits.grad.isfinite().all())


def test_no_gradient_reaches_what_the_confidences_and_the_hardness_come_from() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    heads = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    features = [torch.randn(4, 6, requires_grad=True) for _ in range(2)]
    labels = torch.tensor([0, 1, 2, 0])
    anchor = torch.arange(4)
    source = torch.stack([anchor, torch.tensor([1, 2, 3, 2])], dim=1)
    plan = F.SwapPlan(source, anchor, torch.ones(4, dtype=torch.bool))
    confidence = torch.stack([F.true_class_confidence(h, labels) for h in heads], dim=1)
    shares = F.label_shares(confidence, source)
    weights = F.hard_sample_weights(features, plan)
    loss = weights * F.misaligned_cross_entropy(logits, labels[source], shares)
    torch.autograd.backward(loss.sum())
    assert logits.grad is not None
    assert bool(logits.grad.abs().sum() > 0)
    assert all(leaf.grad is None for leaf in (*heads, *features))


def test_nothing_is_written_to_the_inputs() -> None:
    inputs = (
        torch.randn(3, 4),
        torch.tensor([[0, 1], [2, 3], [-100, 1]]),
        torch.full((3, 2), 0.5),
        torch.tensor([1.0, 1.5]),
    )
    before = [t.clone() for t in inputs]
    F.misaligned_cross_entropy(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


# ---------------------------------------------------------------- Eq. 11


@own.quick
@given(st.data(), own.batch_sizes(max_value=7), own.modality_counts())
def test_equation_11_put_together_from_the_functions(data: st.DataObject, n: int, m: int) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    c = 4
    labels = data.draw(own.labels_arrays(n, c, dtype="int64"))
    anchor = np.tile(np.arange(n), m)
    partners = reference.possible_partners(labels)
    partner = np.array([rng.choice(sorted(p)) if p else i for i, p in enumerate(partners)], int)
    source = np.repeat(anchor[:, None], m, axis=1)
    for block in range(m):
        source[block * n : (block + 1) * n, block] = partner
    valid = np.tile([bool(p) for p in partners], m).astype(bool)
    features = [rng.standard_normal((n, 3)) for _ in range(m)]
    heads = [rng.standard_normal((n, c)) for _ in range(m)]
    aligned, mixed = rng.standard_normal((n, c)), rng.standard_normal((m * n, c))
    alpha, lam, unimodal_weight = 1 + rng.random(m), 5.0, 0.5

    y = torch.from_numpy(labels)
    plan = F.SwapPlan(*(torch.from_numpy(x) for x in (source, anchor, valid)))
    confidence = torch.stack(
        [F.true_class_confidence(torch.from_numpy(h), y) for h in heads], dim=1
    )
    shares = F.label_shares(confidence, plan.source)
    weights = F.hard_sample_weights([torch.from_numpy(f) for f in features], plan)
    loss = F.misaligned_cross_entropy(
        torch.from_numpy(mixed), y[plan.source], shares, torch.from_numpy(alpha)
    )
    target = y.masked_fill(y < 0, -100)
    counted = max(int((labels >= 0).sum()), 1)
    terms = {
        "aligned": cross_entropy(torch.from_numpy(aligned), target, reduction="sum") / counted,
        "misaligned": (weights * loss)[plan.valid].sum() / m / counted,
        "unimodal": sum(
            (cross_entropy(torch.from_numpy(h), target, reduction="sum") for h in heads),
            torch.zeros((), dtype=torch.float64),
        )
        / counted,
    }
    got = {name: float(value) for name, value in terms.items()}
    got["total"] = got["aligned"] + unimodal_weight * got["unimodal"] + lam * got["misaligned"]
    raw = [reference.true_class_confidence(h, labels) for h in heads]
    wanted = reference.eq11_loss(
        aligned,
        mixed,
        heads,
        labels,
        source,
        anchor,
        valid,
        np.stack(raw, axis=1),
        reference.cosine_hardness(features, source, anchor),
        alpha,
        lam,
        unimodal_weight,
    )
    assert got == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_reference_equation_11_worked_by_hand() -> None:
    # p = 1/2 everywhere but for the last misaligned row; the second row is the first's partner.
    flat, half = np.zeros((2, 2)), np.log(2.0)
    source, anchor = np.array([[1, 0], [0, 1], [0, 1], [1, 0]]), np.array([0, 1, 0, 1])
    mixed = np.log([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75]])
    out = reference.eq11_loss(
        flat,
        mixed,
        [flat, flat],
        np.array([0, 1]),
        source,
        anchor,
        np.array([True, True, False, True]),
        np.array([[0.9, 0.3], [0.9, 0.3]]),
        np.array([2.0, 1.0, 1.5, 1.5]),
        np.array([1.0, 2.0]),
        5.0,
        0.5,
    )
    a = (0.75 + 2 * 0.25) * half  # a row whose classes both have p = 1/2
    last = -(0.75 * np.log(0.75) + 2 * 0.25 * np.log(0.25))  # labels (1, 0)
    misaligned = ((2 * a + 0) / 2 + (1 * a + 1.5 * last) / 2) / 2
    assert out["aligned"] == pytest.approx(half)
    assert out["unimodal"] == pytest.approx(2 * half)
    assert out["misaligned"] == pytest.approx(misaligned)
    assert out["total"] == pytest.approx(half + 0.5 * 2 * half + 5 * misaligned)


# ---------------------------------------------------------------- errors


@own.both_libraries
@pytest.mark.parametrize(
    ("logits", "labels", "shares", "alpha", "dtype", "received"),
    [
        ((4,), (4, 2), (4, 2), None, "int64", ["(4,)"]),
        ((4, 3, 2), (4, 2), (4, 2), None, "int64", ["(4, 3, 2)"]),
        ((4, 3), (4,), (4, 2), None, "int64", ["(4,)"]),
        ((4, 3), (4, 2), (4,), None, "int64", ["(4,)"]),
        ((5, 3), (4, 2), (4, 2), None, "int64", ["5", "4"]),
        ((4, 3), (4, 2), (5, 2), None, "int64", ["5", "4"]),
        ((4, 3), (4, 2), (4, 3), None, "int64", ["(4, 3)", "(4, 2)"]),
        ((4, 3), (4, 2), (4, 2), (3,), "int64", ["3", "2"]),
        ((4, 3), (4, 2), (4, 2), (1,), "int64", ["1", "2"]),
        ((4, 3), (4, 2), (4, 2), (3, 2), "int64", ["(3, 2)"]),
        ((4, 3), (4, 2), (4, 2), (4, 2, 2), "int64", ["(4, 2, 2)"]),
        ((4, 3), (4, 2), (4, 2), (), "int64", ["()"]),
        ((4, 3), (4, 2), (4, 2), None, "float32", ["float32"]),
    ],
)
def test_loss_refuses_what_does_not_fit(
    library: Library,
    logits: tuple[int, ...],
    labels: tuple[int, ...],
    shares: tuple[int, ...],
    alpha: tuple[int, ...] | None,
    dtype: str,
    received: list[str],
) -> None:
    native = as_library(np.zeros(logits), "float32", library)[0]
    weights = None if alpha is None else as_library(np.ones(alpha), "float32", library)[0]
    with pytest.raises(MidasAugError) as error:
        F.misaligned_cross_entropy(
            native,
            as_library(np.zeros(labels), dtype, library)[0],
            as_library(np.zeros(shares), "float32", library)[0],
            weights,
        )
    assert isinstance(error.value, ValueError)
    assert_helpful(str(error.value), *received)


@own.both_libraries
def test_loss_refuses_a_label_that_is_no_class(library: Library) -> None:
    logits, shares = (as_library(np.ones(x), "float32", library)[0] for x in ((2, 3), (2, 2)))
    labels = as_library([[0, 1], [2, 7]], "int64", library)[0]
    with pytest.raises(MidasAugError) as error:
        F.misaligned_cross_entropy(logits, labels, shares)
    assert_helpful(str(error.value), "7", "3")


def test_a_class_that_is_masked_out_costs_nothing_where_it_has_no_share() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]], requires_grad=True)
    labels, shares = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    losses = F.misaligned_cross_entropy(logits, labels, shares)
    assert losses.tolist() == [0.0, torch.inf]
    losses[0].backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))
