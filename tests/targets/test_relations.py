"""What has to be equal to what, for every kind of label and with missing modalities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from midas_aug import MidasLoss, MisalignAugment, SwapPlan, WeakModalityWeight
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel
from tests.helpers.target_cases import KINDS, PATTERNS, WITH_CLASSES, cases, target_of

DENSE = (*WITH_CLASSES, "multi-label")
every_kind = pytest.mark.parametrize("name", KINDS)
some = settings(max_examples=10)


def numbers(out):
    """What labels a batch, by name."""
    names = ("source", "anchor", "valid", "shares", "weights", "confidence", "is_misaligned")
    return {each: torch.as_tensor(getattr(out, each)) for each in (*names, "present")}


def assert_same_batch(one, other):
    counted = torch.as_tensor(one.valid)
    for key, value in numbers(one).items():
        twin = numbers(other)[key]
        if key in ("shares", "is_misaligned"):
            value, twin = value[counted], twin[counted]
        torch.testing.assert_close(twin, value, equal_nan=True, msg=key)


def assert_same_terms(one, other):
    for key in one._fields:
        torch.testing.assert_close(getattr(other, key), getattr(one, key), rtol=1e-4, atol=1e-5)


def loss_of(case, out, scores):
    criterion = MidasLoss(case.m)
    terms = criterion.compute(scores, out, case.given(case.unimodal))
    return terms, criterion.weak_modality.alpha


@every_kind
@given(st.data())
@some
def test_replayed_draws_give_the_same_batch(name, data):
    case = data.draw(cases([name]))
    out = case.draw()
    again = case.draw(plan=out.plan)
    assert_same_batch(out, again)
    scores = case.scores(out)
    assert_same_terms(loss_of(case, out, scores)[0], loss_of(case, again, scores)[0])


@every_kind
@given(st.data())
@some
def test_a_permuted_batch_gives_permuted_rows_and_the_same_loss(name, data):
    case = data.draw(cases([name], sizes=(1, 10)))
    out = case.draw()
    order = case.rng.permutation(case.n)
    place = torch.from_numpy(np.argsort(order))
    shuffled = replace(
        case,
        labels=case.labels[order],
        features={key: value[order] for key, value in case.features.items()},
        unimodal={key: value[order] for key, value in case.unimodal.items()},
        present=None if case.present is None else case.present[order],
    )
    plan = SwapPlan(place[out.plan.source], place[out.plan.anchor], out.plan.valid)
    twin = shuffled.draw(plan=plan)
    counted = out.valid[case.n :]
    rows = torch.cat([torch.from_numpy(order), torch.arange(case.n, len(out.source))])
    for key in ("valid", "weights", "confidence"):
        value = getattr(out, key)
        moved = value[rows] if len(value) == len(rows) else value[order]
        torch.testing.assert_close(getattr(twin, key), moved)
    torch.testing.assert_close(
        twin.shares[twin.misaligned][counted], out.shares[out.misaligned][counted]
    )
    scores = case.scores(out)
    terms, alpha = loss_of(case, out, scores)
    twin_terms, twin_alpha = loss_of(shuffled, twin, scores[rows])
    assert_same_terms(terms, twin_terms)
    assert (
        torch.equal(alpha, twin_alpha)
        or len(counted) == 0
        or bool((out.shares[out.misaligned][counted].mean(dim=0).diff().abs() < 1e-4).any())
    )


@pytest.mark.parametrize("name", DENSE)
@given(st.data())
@some
def test_a_stock_loss_on_targets_and_weights_is_the_loss(name, data):
    case = data.draw(cases([name], sizes=(1, 12), poisoned=False))
    out = case.draw()
    scores, kind = case.scores(out), case.kind
    criterion = MidasLoss(case.m, unimodal_weight=0).eval()

    def stock(targets, weights):
        if kind.name == "multi-label":
            losses = binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(dim=1)
        else:
            weight = None if kind.class_weight is None else torch.tensor(kind.class_weight)
            losses = cross_entropy(
                scores, targets, weight, label_smoothing=kind.label_smoothing, reduction="none"
            )
        return float((weights * losses).mean())

    assert torch.isfinite(out.targets).all()
    terms = criterion.compute(scores, out)
    both = float(terms.aligned + terms.misaligned)
    assert stock(out.targets, out.weights) == pytest.approx(both, rel=1e-4, abs=1e-5)
    if kind.name != "multi-label":
        torch.testing.assert_close(
            out.targets.sum(dim=1), torch.ones(len(out.source)), rtol=0, atol=1e-5
        )
        folded = float(cross_entropy(scores, out.folded_targets()))
        assert folded == pytest.approx(both, rel=1e-4, abs=1e-5)
    weak = criterion.weak_modality
    assert isinstance(weak, WeakModalityWeight)
    weak.alpha.copy_(1 + torch.arange(case.m) / 2)
    terms = criterion.compute(scores, out)
    both = float(terms.aligned + terms.misaligned)
    assert stock(*weak.fold(out)) == pytest.approx(both, rel=1e-4, abs=1e-5)


@given(st.data(), st.sampled_from([0.0, 0.1]))
@settings(max_examples=30)
def test_one_hot_distributions_are_class_indices_in_every_number(data, smoothing):
    case = data.draw(cases(["class"]))
    kind = replace(case.kind, label_smoothing=smoothing)
    case = replace(case, kind=kind)
    one_hot = np.eye(kind.width, dtype=np.float32)[np.maximum(case.labels, 0)]
    one_hot[case.labels < 0] = -1
    twin = replace(case, kind=replace(kind, name="distribution"), labels=one_hot)
    out = case.draw()
    other = twin.draw(plan=out.plan)
    assert_same_batch(out, other)
    torch.testing.assert_close(out.targets[out.valid], other.targets[out.valid])
    scores = case.scores(out)
    (terms, alpha), (twin_terms, twin_alpha) = (
        loss_of(case, out, scores),
        loss_of(twin, other, scores),
    )
    assert_same_terms(terms, twin_terms)
    torch.testing.assert_close(alpha, twin_alpha)
    drawn = [
        each.augment(seed=3).draw(
            each.given(each.features), each.given(each.labels), present=each.given(each.present)
        )
        for each in (case, twin)
    ]
    assert torch.equal(drawn[0].source, drawn[1].source)


@given(st.data())
@some
def test_a_number_of_classes_is_short_for_class_indices(data):
    case = data.draw(cases(["class"]))
    out = case.draw()
    short = MisalignAugment(
        case.names, case.kind.width, swap=case.swap, misaligned_weight=case.lam
    ).draw(
        case.given(case.features),
        case.given(case.labels),
        present=case.given(case.present),
        plan=out.plan,
    )
    assert isinstance(short.target, ClassIndex)
    assert short.num_classes == case.kind.width
    assert_same_batch(out, short.label(unimodal_logits=case.given(case.unimodal)))


@every_kind
@given(st.data())
@some
def test_numpy_batches_equal_torch_ones(name, data):
    case = data.draw(cases([name]))
    out = case.draw()
    twin = case.draw("numpy", plan=SwapPlan(*(part.numpy() for part in out.plan)))
    arrays = {**numbers(twin), "labels": twin.labels, "source_labels": twin.source_labels}
    for key in arrays:
        assert isinstance(getattr(twin, key), np.ndarray), key
    assert_same_batch(out, twin)
    if name in DENSE:
        assert isinstance(twin.targets, np.ndarray)
        np.testing.assert_allclose(twin.targets[twin.valid], out.targets[out.valid], rtol=1e-5)
    scores = case.scores(out)
    assert_same_terms(loss_of(case, out, scores)[0], loss_of(case, twin, scores)[0])
    drawn = case.draw("numpy")
    assert isinstance(drawn.source, np.ndarray)
    assert isinstance(drawn.weights, np.ndarray)


@every_kind
@given(st.data())
@some
def test_a_mask_without_gaps_changes_nothing(name, data):
    case = data.draw(cases([name], patterns=["none missing"]))
    out = case.draw()
    bare = case.without_mask()
    plain = bare.draw(plan=out.plan)
    assert_same_batch(plain, out)
    scores = case.scores(out)
    (terms, alpha), (bare_terms, bare_alpha) = (
        loss_of(case, out, scores),
        loss_of(bare, plain, scores),
    )
    assert_same_terms(terms, bare_terms)
    torch.testing.assert_close(alpha, bare_alpha)


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
@some
def test_a_mask_by_name_is_a_mask_of_columns(name, data):
    case = data.draw(cases([name], patterns=PATTERNS))
    out = case.draw()
    by_name = {key: case.present[:, number] for number, key in enumerate(case.names)}
    twin = (
        case.augment()
        .draw(
            case.given(case.features),
            case.given(case.labels),
            present=case.given(by_name),
            plan=out.plan,
        )
        .label(unimodal_logits=case.given(case.unimodal))
    )
    assert_same_batch(out, twin)


@every_kind
@given(st.data())
@some
def test_rows_that_do_not_count_are_the_same_as_no_rows(name, data):
    case = data.draw(cases([name], sizes=(1, 10), swaps=["each"]))
    out = case.draw()
    keep = case.counted
    place = torch.full((case.n,), -1)
    place[keep] = torch.arange(len(keep))
    rows = torch.tensor(
        keep + [case.n * (b + 1) + i for b in range(case.m) for i in keep], dtype=torch.int64
    )
    mixed = rows[len(keep) :]
    fewer = replace(
        case,
        labels=case.labels[keep],
        features={key: value[keep] for key, value in case.features.items()},
        unimodal={key: value[keep] for key, value in case.unimodal.items()},
        present=None if case.present is None else case.present[keep],
    )
    plan = SwapPlan(place[out.source[mixed]], place[out.anchor[mixed]], out.valid[mixed])
    if (plan.source < 0).any():  # rows that do not count either
        plan = plan._replace(source=plan.source.clamp(min=0))
    short = fewer.draw(plan=plan)
    scores = case.scores(out)
    assert_same_terms(loss_of(case, out, scores)[0], loss_of(fewer, short, scores[rows])[0])


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@given(st.data())
@settings(max_examples=10)
def test_a_common_factor_of_class_weights_is_divided_out(factor, data):
    case = data.draw(cases(["class", "weighted class"]))
    weights = case.kind.class_weight or (1.0,) * case.kind.width
    twin = replace(
        case, kind=replace(case.kind, class_weight=tuple(factor * each for each in weights))
    )
    out = case.draw()
    other = twin.draw(plan=out.plan)
    scores = case.scores(out)
    assert_same_terms(loss_of(case, out, scores)[0], loss_of(twin, other, scores)[0])


def test_batches_of_the_heaviest_and_the_lightest_class_alone_have_torchs_mean():
    """Weights of which some are 0: a mean over rows of weight 0 is 0 here, and NaN in torch."""
    weight = torch.tensor([0.0, 1e-4, 7.0])
    features = {"a": torch.rand(2, 3), "b": torch.rand(2, 3)}
    unimodal = {key: torch.randn(2, 3) for key in features}
    for label in (0, 1, 2):
        labels = torch.full((2,), label)
        augment = MisalignAugment(("a", "b"), target=ClassIndex(3, class_weight=weight))
        out = augment(features, labels, unimodal_logits=unimodal)
        scores = torch.randn(6, 3, requires_grad=True)
        terms = MidasLoss(2).compute(scores, out, unimodal)
        terms.total.backward()
        assert torch.isfinite(scores.grad).all()
        want = cross_entropy(scores[:2].detach(), labels, weight).nan_to_num(0.0)
        torch.testing.assert_close(terms.aligned.detach(), want)
        heads = sum(cross_entropy(each, labels, weight) for each in unimodal.values())
        torch.testing.assert_close(terms.unimodal, torch.as_tensor(heads).nan_to_num(0.0))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "bool", "float16", "float64"])
def test_zeros_and_ones_of_any_dtype_are_several_labels(dtype):
    labels = torch.tensor([[0, 1], [1, 1], [0, 0]])
    batch = {"a": torch.rand(3, 2), "b": torch.rand(3, 2)}
    augment = MisalignAugment(("a", "b"), target=MultiLabel(2), confidence="uniform")
    want = augment(batch, labels.float(), generator=torch.Generator().manual_seed(0))
    out = augment(
        batch, labels.to(getattr(torch, dtype)), generator=torch.Generator().manual_seed(0)
    )
    assert out.labels.dtype == out.targets.dtype == torch.float32
    assert torch.equal(out.source, want.source)
    assert torch.equal(out.targets, want.targets)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("target", [Distribution(3), Continuous(3)])
def test_float_labels_of_any_dtype_are_taken(target, dtype):
    labels = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [0.125, 0.5, 0.375]])
    batch = {"a": torch.rand(3, 2), "b": torch.rand(3, 2)}
    unimodal = {key: torch.randn(3, 3) for key in batch}
    augment = MisalignAugment(("a", "b"), target=target)
    want = augment(batch, labels, unimodal_logits=unimodal)
    given_labels = labels.to(getattr(torch, dtype))
    out = augment(batch, given_labels, unimodal_logits=unimodal, plan=want.plan)
    assert_same_batch(want, out)
    scores = torch.randn(9, 3)
    losses = [MidasLoss(2).compute(scores, each, unimodal) for each in (want, out)]
    assert_same_terms(*losses)
    assert all(term.dtype == torch.float32 for term in losses[1])


@every_kind
@given(st.data(), st.sampled_from(["float16", "bfloat16"]))
@settings(max_examples=8)
def test_predictions_of_half_precision_are_computed_with_in_float32(name, data, dtype):
    case = data.draw(cases([name], poisoned=False))
    half = getattr(torch, dtype)
    unimodal = {key: value.to(half) for key, value in case.given(case.unimodal).items()}
    whole = {key: value.float() for key, value in unimodal.items()}
    drawn = case.draw()
    pair = [drawn.label(unimodal_logits=each) for each in (unimodal, whole)]
    assert_same_batch(*pair)
    scores = case.scores(drawn).to(half)
    losses = [
        MidasLoss(case.m).compute(scores, pair[0], unimodal),
        MidasLoss(case.m).compute(scores.float(), pair[1], whole),
    ]
    assert losses[0].total.dtype == torch.float32
    assert_same_terms(*losses)


def test_one_number_a_row_may_be_predicted_with_or_without_a_second_axis():
    labels = torch.tensor([0.5, 1.5, -2.0, torch.nan])
    batch = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    unimodal = {key: torch.randn(4, 1) for key in batch}
    flat = {key: value[:, 0] for key, value in unimodal.items()}
    augment = MisalignAugment(("a", "b"), target=Continuous())
    out = augment(batch, labels, unimodal_logits=unimodal)
    scores = torch.randn(12, 1)
    want = MidasLoss(2).compute(scores, out, unimodal)
    twin = augment(batch, labels, unimodal_logits=flat, plan=out.plan)
    assert_same_batch(out, twin)
    assert_same_terms(want, MidasLoss(2).compute(scores[:, 0], twin, flat))
    column = augment(batch, labels[:, None], unimodal_logits=unimodal, plan=out.plan)
    assert_same_batch(out, column)
    assert_same_terms(want, MidasLoss(2).compute(scores, column, unimodal))


def test_targets_say_what_they_are():
    for name, kind_of in KINDS.items():
        target = target_of(kind_of(np.random.default_rng(0), 4))
        out = MisalignAugment(("a", "b"), target=target)
        assert out.target is target
        if name not in ("own", "class"):  # class indices show as their number
            assert type(target).__name__ in repr(out)
