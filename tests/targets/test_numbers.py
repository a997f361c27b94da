"""Batches and losses of every kind of label, modalities missing or not: those of the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midas_aug import MidasLoss, MisalignAugment, RatioWeakModalityWeight, SwapPlan
from midas_aug.targets import ClassIndex, Distribution
from tests.helpers import target_reference as slow
from tests.helpers.strategies import as_numpy, plans
from tests.helpers.target_cases import KINDS, cases
from tests.helpers.target_expectations import exact, expect

UNWEIGHTED = [name for name in KINDS if "weighted" not in name and "smoothed" not in name]

every_kind = pytest.mark.parametrize("name", KINDS)
some = settings(max_examples=20)


def close(actual, wanted, where=None, rtol=1e-4, atol=1e-5):
    have = as_numpy(actual)
    assert have.shape == np.shape(wanted)
    assert np.isfinite(have).all()
    if where is not None:
        have, wanted = have[where], np.asarray(wanted)[where]
    np.testing.assert_allclose(have, wanted, rtol=rtol, atol=atol)


@every_kind
@given(st.data())
@some
def test_rows_of_the_mix_are_labelled_by_the_rules(name, data):
    case = data.draw(cases([name]))
    out = case.draw()
    want, kind = expect(case, out), case.kind
    source, shares, valid = want.all_rows
    assert np.array_equal(as_numpy(out.source), source)
    assert np.array_equal(as_numpy(out.valid), valid)
    assert out.source_labels.shape == (len(source), case.m, *case.labels.shape[1:])
    labelled = np.array([not slow.is_ignored(kind, label) for label in case.labels], np.bool_)
    np.testing.assert_array_equal(exact(out.labels)[labelled], exact(case.labels)[labelled])
    np.testing.assert_array_equal(
        exact(out.source_labels)[labelled[source]], exact(case.labels)[source][labelled[source]]
    )
    present = np.ones((case.n, case.m), np.bool_) if case.present is None else case.present
    assert np.array_equal(as_numpy(out.present), present[source, np.arange(case.m)])
    for row in np.flatnonzero(valid):
        misaligned = slow.is_misaligned(kind, case.labels, source[row], case.present)
        assert bool(out.is_misaligned[row]) == misaligned
    unimodal = [exact(values) for values in case.unimodal.values()]
    confidence = slow.confidence(kind, unimodal, case.labels, case.present)
    counted = np.isin(np.arange(case.n), case.counted)
    close(out.confidence, confidence, counted, atol=1e-4)
    close(out.shares, shares, valid, atol=1e-4)
    close(out.shares.sum(dim=1), np.ones(len(source)), valid)
    close(out.hard_weights, want.hard, want.valid)
    close(out.weights, want.weights())
    assert out.weights.dtype == torch.float32
    if name not in ("own",) and "continuous" not in name:
        close(out.targets, want.targets(), valid, atol=1e-4)


@every_kind
@given(st.data())
@some
def test_a_mixed_row_counts_where_the_rules_say_so(name, data):
    case = data.draw(cases([name]))
    out = case.draw()
    source, anchor, valid = (as_numpy(part) for part in out.plan)
    for row, own, counts in zip(source, anchor, valid, strict=True):
        replaced = bool((row != own).any())
        may = replaced and slow.may_count(case.kind, case.labels, row, own, case.present)
        assert bool(counts) == may
        if counts:
            partners = [case.labels[j] for j in set(row.tolist()) - {int(own)}]
            own_label = case.labels[own]
            others = [not slow.is_same(case.kind, own_label, label) for label in partners]
            assert any(others) if case.swap == "permute" else all(others)


@every_kind
@given(st.data(), st.sampled_from([1.0, 0.0, 0.3]))
@some
def test_the_loss_is_that_of_the_rules(name, data, unimodal_weight):
    case = data.draw(cases([name]))
    out = case.draw()
    want = expect(case, out)
    scores = case.scores(out, 0.3 if name == "own" else 1.0).requires_grad_()
    criterion = MidasLoss(case.m, unimodal_weight=unimodal_weight)
    criterion.weak_modality.alpha.copy_(1 + torch.arange(case.m) / 3)
    alpha = criterion.weak_modality.alpha.numpy().copy()
    unimodal = {key: value.requires_grad_() for key, value in case.given(case.unimodal).items()}
    terms = criterion.compute(scores, out, unimodal)
    expected = want.terms(scores, alpha, unimodal_weight)
    for term, value in zip(terms._fields, terms, strict=True):
        if term != "unimodal" or unimodal_weight:
            assert float(value.detach()) == pytest.approx(expected[term], rel=1e-4, abs=1e-5), term
    stepped = want.alpha_after(scores, alpha)
    if stepped.margin > 1e-4:
        close(criterion.weak_modality.alpha, stepped.alpha)
    terms.total.backward()
    gradients = [scores.grad, *(value.grad for value in unimodal.values())]
    for gradient in gradients:
        assert gradient is None or bool(torch.isfinite(gradient).all())
    assert not scores.grad[~out.valid].any()
    gone = ~torch.isin(torch.arange(case.n), torch.tensor(case.counted, dtype=torch.int64))
    for number, gradient in enumerate(gradients[1:]):
        if gradient is not None:
            absent = gone.clone()
            if case.present is not None:
                absent |= ~torch.from_numpy(case.present[:, number])
            assert not gradient[absent].any()


@every_kind
@given(st.data())
@settings(max_examples=8)
def test_the_gradient_is_that_of_the_rules(name, data):
    """Along one direction, by differences of the reference."""
    case = data.draw(cases([name], sizes=(3, 8), poisoned=False))
    out = case.draw()
    want = expect(case, out)
    scores = case.scores(out, 0.3 if name == "own" else 1.0).requires_grad_()
    direction = case.rng.standard_normal(scores.shape)
    criterion = MidasLoss(case.m, unimodal_weight=0)
    criterion(scores, out).backward()
    found = float((scores.grad.double() * torch.from_numpy(direction)).sum())
    values, step = exact(scores), 1e-5
    up, down = (
        want.terms(values + sign * step * direction, unimodal_weight=0)["total"] for sign in (1, -1)
    )
    assert found == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", UNWEIGHTED)
@given(st.data())
@settings(max_examples=15)
def test_any_plan_is_labelled_by_the_rules(name, data):
    """Of any number of samples; a row of the batch may be the anchor of many, or of none."""
    case = data.draw(cases([name], swaps=["each"]))
    plan = data.draw(plans(case.n, case.m))
    replayed = SwapPlan(
        *(torch.from_numpy(part) for part in (plan.source, plan.anchor, plan.valid))
    )
    out = case.draw(plan=replayed)
    want, kind, labels = expect(case, out), case.kind, case.labels
    rows = list(zip(plan.source, plan.anchor, plan.valid, strict=True))
    valid = [
        bool(counts) and slow.may_count(kind, labels, row, own, case.present)
        for row, own, counts in rows
    ]
    assert want.valid.tolist() == valid
    close(out.shares, want.all_rows[1], want.all_rows[2], atol=1e-4)
    close(out.hard_weights, want.hard, want.valid)
    anchored = sum(int(own) in case.counted for _, own, _ in rows)
    total = case.n + len(rows)
    weights = [
        case.lam * total / anchored * want.hard[s] if valid[s] else 0.0 for s in range(len(rows))
    ]
    close(out.weights[case.n :], np.array(weights))


@given(st.data())
@some
def test_looking_at_values_finds_nothing_wrong_where_nothing_may_be_read(data):
    case = data.draw(cases(poisoned=True))
    out = case.draw(validate=True)
    plain = case.draw(plan=out.plan)
    close(out.weights, as_numpy(plain.weights))


@given(st.data())
@some
def test_the_public_codes_rule_takes_every_kind_of_label(data):
    case = data.draw(cases(modalities=(2, 2), swaps=["each"]))
    out = case.draw()
    criterion = MidasLoss(2, weak_modality=RatioWeakModalityWeight(2))
    scores = case.scores(out, 0.3 if case.kind.name == "count" else 1.0)
    loss = criterion(scores, out, case.given(case.unimodal))
    assert torch.isfinite(loss)
    assert torch.isfinite(criterion.weak_modality.alpha).all()


@pytest.mark.parametrize("of", [ClassIndex, Distribution])
def test_credit_sees_no_class_weights_and_no_smoothing(of):
    """The model credits a with 0.2 where its share is 0.3; by weighed losses it would be 0.5."""
    target = of(2, class_weight=[0.01, 100.0], label_smoothing=0.1)
    labels = torch.tensor([0, 1]) if of is ClassIndex else torch.eye(2)
    batch = {"a": torch.rand(2, 3), "b": torch.rand(2, 3)}
    drawn = MisalignAugment(("a", "b"), target=target).draw(batch, labels)
    out = drawn.label(confidence=torch.tensor([[0.3, 0.7]]).expand(2, 2))
    label_of_a = out.source[:, 0]
    probabilities = torch.full((6, 2), 0.8)
    probabilities[torch.arange(6), label_of_a] = 0.2
    criterion = MidasLoss(2)
    criterion.weak_modality.alpha.copy_(torch.tensor([2.0, 1.0]))
    criterion(probabilities.log(), out)
    assert criterion.weak_modality.alpha.tolist() == pytest.approx([2.05, 1.0])
