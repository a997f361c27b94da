"""The reference of labels itself: against torch's own losses, and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers import reference, strategies
from tests.helpers import target_reference as slow
from tests.helpers.target_cases import KINDS, WITH_CLASSES, labels_of
from tests.helpers.target_reference import Kind

TEMPERATURES = [0.3 * (20 / 0.3) ** (k / 59) for k in range(60)]


@pytest.mark.parametrize("name", WITH_CLASSES)
@given(st.integers(1, 8), st.integers(2, 6), strategies.seeds())
@settings(max_examples=20)
def test_terms_of_classes_are_those_of_torchs_cross_entropy(name, n, classes, seed):
    rng = np.random.default_rng(seed)
    kind = KINDS[name](rng, classes)
    labels = labels_of(kind, rng.integers(0, classes, n), rng)
    scores = rng.normal(size=(n, classes))
    weight = None if kind.class_weight is None else torch.tensor(kind.class_weight).double()
    options = {"weight": weight, "label_smoothing": kind.label_smoothing}
    given_labels = torch.from_numpy(labels)
    if kind.name == "distribution":
        given_labels = given_labels.double()
    terms = [slow.loss_term(kind, scores[i], labels[i]) for i in range(n)]
    mean = sum(terms) / slow.divisor(kind, labels, range(n))
    for reduction, have in (("none", terms), ("mean", mean)):
        want = nn.CrossEntropyLoss(**options, reduction=reduction)(
            torch.from_numpy(scores), given_labels
        )
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-9)
    plain = nn.CrossEntropyLoss(reduction="none")(torch.from_numpy(scores), given_labels)
    have = [slow.plain_loss(kind, scores[i], labels[i]) for i in range(n)]
    np.testing.assert_allclose(have, plain.numpy(), rtol=1e-9)


@given(st.integers(1, 5), strategies.seeds())
def test_other_losses_are_those_of_torch(width, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=width) * 10
    several = rng.integers(0, 2, width)
    z, y = torch.from_numpy(scores), torch.from_numpy(several).double()
    binary = nn.functional.binary_cross_entropy_with_logits(z, y)
    assert slow.plain_loss(Kind("multi-label", width), scores, several) == pytest.approx(
        float(binary), rel=1e-9
    )
    numbers = rng.normal(size=width)
    normal = nn.functional.mse_loss(z, torch.from_numpy(numbers)) / (2 * 3.0**2)
    have = slow.plain_loss(Kind("continuous", width, scale=3.0), scores, numbers)
    assert have == pytest.approx(float(normal), rel=1e-9)
    number = int(rng.integers(5))
    count = nn.functional.poisson_nll_loss(z[:1], torch.tensor([float(number)]), reduction="sum")
    assert slow.plain_loss(Kind("count", 1), scores[:1], number) == pytest.approx(float(count))


@given(st.data(), st.integers(2, 6), st.integers(2, 4))
@settings(max_examples=20)
def test_for_plain_classes_it_is_the_reference_of_the_paper(data, classes, m):
    labels = data.draw(strategies.labels_arrays(data.draw(st.integers(1, 9)), classes))
    labels, n = labels.astype(np.int64), len(labels)
    kind, rng = Kind("class", classes), np.random.default_rng(data.draw(strategies.seeds()))
    plan = data.draw(strategies.plans(n, m))
    counts = (labels[plan.source] >= 0).all(axis=1) & (labels[plan.anchor] >= 0)
    valid = plan.valid & counts
    unimodal = [rng.normal(size=(n, classes)) for _ in range(m)]
    scores = rng.normal(size=(n + len(valid), classes))
    features = [rng.normal(size=(n, 3)) for _ in range(m)]
    alpha = 1 + rng.random(m)
    known = slow.confidence(kind, unimodal, labels, None)
    want = np.stack([reference.true_class_confidence(u, labels) for u in unimodal], axis=1)
    np.testing.assert_allclose(known, want, rtol=1e-9)
    shares = slow.mixed_shares(kind, unimodal, labels, plan.source, valid, None)
    np.testing.assert_allclose(
        shares[valid], reference.label_shares(known, plan.source)[valid], rtol=1e-9
    )
    source_labels = labels[plan.source]
    targets = slow.dense_targets(kind, labels, plan.source, shares, valid)
    dense = reference.soft_targets(source_labels, shares, classes)
    np.testing.assert_allclose(targets[valid], dense[valid], rtol=1e-9)
    credit = slow.credit(kind, scores[n:], labels, plan.source, valid, None)
    fused = reference.fusion_shares(scores[n:], source_labels)
    np.testing.assert_allclose(credit[valid], fused[valid], rtol=1e-9)
    step = reference.weak_modality_step(alpha, shares, scores[n:], source_labels, valid)
    found, margin = slow.alpha_step(alpha, shares, credit, valid)
    if margin > 1e-9:
        np.testing.assert_allclose(found, step, rtol=1e-9)
    hard = slow.hardness(features, plan.source, plan.anchor, None)
    np.testing.assert_allclose(
        hard, reference.cosine_hardness(features, plan.source, plan.anchor), rtol=1e-9
    )
    terms = slow.loss_terms(
        kind, scores, unimodal, labels, plan.source, plan.anchor, valid, shares, hard, alpha,
        1.0, 0.5, None,
    )  # fmt: skip
    whole = reference.eq11_loss(
        scores[:n], scores[n:], unimodal, labels, plan.source, plan.anchor, valid, known, hard,
        alpha, 1.0, 0.5,
    )  # fmt: skip
    assert terms == pytest.approx(whole, rel=1e-9)
    for number in range(m):
        assert slow.possible_partners(kind, labels, m, None, number) == [
            set(each) for each in reference.possible_partners(labels)
        ]


def test_weights_and_losses_have_the_same_mean():
    rng = np.random.default_rng(0)
    for name in ("weighted class", "weighted distribution", "multi-label"):
        kind = KINDS[name](rng, 3)
        labels = labels_of(kind, np.array([0, 1, 2, -1]), rng)
        present = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], np.bool_)
        source = np.array([[1, 0], [0, 1], [0, 2], [3, 3], [0, 2], [1, 1], [2, 0], [3, 3]])
        anchor = np.array([0, 1, 2, 3, 0, 1, 2, 3])
        rows = list(zip(source, anchor, strict=True))
        may = [slow.may_count(kind, labels, row, own, present) for row, own in rows]
        valid = np.array(may) & (source != anchor[:, None]).any(axis=1)
        assert valid.tolist() == [True, False, True, False, True, False, True, False]
        unimodal = [rng.normal(size=(4, 3)) for _ in range(2)]
        shares = slow.mixed_shares(kind, unimodal, labels, source, valid, present)
        scores, hard = rng.normal(size=(12, 3)), 1 + rng.random(8)
        weights = slow.row_weights(kind, labels, valid, 2, hard, 2.0, present)
        terms = slow.loss_terms(
            kind, scores, None, labels, source, anchor, valid, shares, hard, np.ones(2), 2.0, 1.0,
            present,
        )  # fmt: skip
        total = 0.0
        for i in (0, 1, 2):
            total += weights[i] * slow.loss_term(kind, scores[i], labels[i])
        for s in np.flatnonzero(valid):
            for m in range(2):
                label = labels[source[s, m]]
                loss = slow.loss_term(kind, scores[4 + s], label)
                total += weights[4 + s] * shares[s, m] * loss
        assert total / 12 == pytest.approx(terms["total"], rel=1e-9)


def test_absent_modalities_by_hand():
    kind, labels = Kind("class", 2), np.array([0, 1, 0])
    present = np.array([[1, 0], [1, 1], [0, 0]], np.bool_)
    assert slow.counted_rows(kind, labels, 2, present) == [0, 1]
    # Row 0 would keep nothing where its one modality is replaced, and row 0 gives no second one.
    assert slow.possible_partners(kind, labels, 2, present, 0) == [set(), {0}, set()]
    assert slow.possible_partners(kind, labels, 2, present, 1) == [{1}, set(), set()]
    source, anchor = np.array([[0, 1], [0, 1], [0, 0]]), np.array([0, 1, 0])
    eyes = [np.eye(3)[:, :2], np.ones((3, 2))]
    # In the first nothing that both have was replaced, in the second the cosine is 0.
    assert slow.hardness(eyes, source, anchor, present).tolist() == [1.0, 1.5, 2.0]
    logits = [np.log([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])] * 2
    every = np.ones(3, np.bool_)
    shares = slow.mixed_shares(kind, logits, labels, source, every, present)
    np.testing.assert_allclose(shares, [[0.9 / 1.7, 0.8 / 1.7]] * 2 + [[1.0, 0.0]])
    assert slow.aligned_shares(3, 2, present)[:2].tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert np.isnan(slow.aligned_shares(3, 2, present)[2]).all()
    assert [slow.is_misaligned(kind, labels, each, present) for each in source] == [
        True,
        True,
        False,
    ]


def test_skill_by_hand():
    labels = np.array([0, 0, 0, 1])
    frequencies = np.log(np.tile([0.75, 0.25], (4, 1)))
    kind = Kind("class", 2)
    assert slow.skill(kind, frequencies, labels, [1.0]) == pytest.approx(0)
    assert slow.skill(kind, 800 * np.eye(2)[labels], labels, [1.0]) == 1
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 2)) + 2 * np.eye(2)[labels]
    want = reference.skill_score(scores, labels, TEMPERATURES)
    assert slow.skill(kind, scores, labels, TEMPERATURES) == pytest.approx(want)
    # One-hot distributions are class indices; the label itself has no loss beyond its entropy.
    one_hot, soft = np.eye(2)[labels], np.array([[0.9, 0.1], [0.2, 0.8]])
    mixed = Kind("distribution", 2)
    assert slow.skill(mixed, scores, one_hot, TEMPERATURES) == pytest.approx(want)
    assert slow.skill(mixed, np.log(soft), soft, [1.0]) == pytest.approx(1)
    numbers = np.array([1.0, 3.0])
    spread = Kind("continuous", 1, scale=7.0)
    for off, skill in ((0.0, 1.0), (0.5, 0.75), (1.0, 0.0), (9.0, 0.0)):
        assert slow.skill(spread, numbers + off, numbers, [1.0]) == pytest.approx(skill)
    several = np.array([[0, 1], [1, 1]])
    two = Kind("multi-label", 2)
    half = math.log(2) / 2  # of the best constant: one class is a coin, one is known
    flat = (math.log(2) + math.log1p(math.exp(-3))) / 2
    found = slow.skill(two, np.array([[0.0, 3.0]] * 2), several, [1.0])
    assert found == max(0.0, 1 - flat / half)
    assert slow.skill(two, 700.0 * (2 * several - 1), several, [1.0]) == 1
