"""Missing modalities: never donated, no share, no loss, and nothing of theirs is ever read."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, recipes
from midas_aug import functional as F
from midas_aug.confidence import HeadConfidence, SkillConfidence, TableConfidence
from midas_aug.targets import ClassIndex
from tests.helpers import target_reference as slow
from tests.helpers.target_cases import NONSENSE, PATTERNS, cases
from tests.helpers.target_expectations import exact, expect

NAMES = ("a", "b")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
MASK = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1], [0, 0], [1, 1]]).bool()
N, C = 6, 3


def batch():
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(N, 4, generator=generator) for name in NAMES}


def heads():
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(N, C, generator=generator) for name in NAMES}


def nonsense_where_absent(values):
    """The same with NaN and infinity in rows that lack the modality."""
    out = {}
    for number, (name, value) in enumerate(values.items()):
        out[name] = value.clone()
        gone = ~MASK[:, number]
        filler = torch.from_numpy(NONSENSE).repeat(value.shape[1])[: value.shape[1]]
        out[name][gone] = filler
    return out


def test_a_batch_by_hand():
    augment = MisalignAugment(NAMES, C, hardness=None)
    out = augment(batch(), LABELS, present=MASK, unimodal_logits=heads())
    assert out.valid[:N].tolist() == [True, True, True, True, False, True]
    # Who keeps nothing where a is replaced: rows 1 and 4; where b is: rows 3 and 4.
    first, second = out.valid[N:].view(2, N).tolist()
    assert first == [True, False, True, True, False, True]
    assert second == [True, True, True, False, False, True]
    # 5 rows count, of 18: 18 / 5 for the aligned ones, λ · N/S of that for mixed ones.
    assert out.weights[0] == pytest.approx(18 / 5)
    assert out.weights[N] == pytest.approx(18 / 5 / 2)
    assert out.weights[4] == out.weights[N + 1] == 0
    assert out.shares[:4].tolist() == [[0.5, 0.5], [1, 0], [0.5, 0.5], [0, 1]]
    assert out.confidence[1, 1] == out.confidence[3, 0] == out.confidence[4].sum() == 0
    # Row 3 has no a of its own: with a of another row, both have a share.
    assert (out.shares[N + 3] > 0).all()
    assert torch.equal(out.present[:N], MASK)
    assert out.present[N + 3].tolist() == [True, True]
    assert torch.equal(out.is_misaligned[N:], out.valid[N:])


def test_a_kept_modality_that_is_absent_has_no_say():
    """With three modalities a mixed row may lack one of those that it keeps."""
    labels = torch.tensor([0, 1])
    present = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    data = {name: torch.rand(2, 2) for name in "abc"}
    logits = {name: torch.randn(2, 2) for name in "abc"}
    out = MisalignAugment(tuple("abc"), 2)(data, labels, present=present, unimodal_logits=logits)
    first = out.shares[2]  # a of row 1, b of row 0, and no c
    losses = [cross_entropy(logits["a"][1], labels[1]), cross_entropy(logits["b"][0], labels[0])]
    torch.testing.assert_close(first[:2], torch.stack(losses).neg().softmax(dim=0))
    assert first[2] == 0
    assert out.present[2].tolist() == [True, True, False]
    # c of row 1 in row 0, which has none to compare it with: it weighs 1.
    assert out.hard_weights[4] == 1
    assert out.valid[6]
    # c cannot come from row 0.
    assert not out.valid[7]


def test_only_what_is_there_says_whether_a_row_is_misaligned():
    labels = torch.tensor([0, 1])
    present = torch.tensor([[1, 0], [1, 1]]).bool()
    data = {name: torch.rand(2, 2) for name in NAMES}
    plan = F.SwapPlan(
        torch.tensor([[1, 0], [0, 1]]), torch.tensor([0, 0]), torch.tensor([True, True])
    )
    out = MisalignAugment(NAMES, 2, confidence="uniform")(data, labels, present=present, plan=plan)
    assert out.is_misaligned[2:].tolist() == [False, True]
    assert out.valid[2:].tolist() == [False, True]


@pytest.mark.parametrize("confidence", ["logits", "uniform", "heads", "table", "callable", "skill"])
@pytest.mark.parametrize("swap", ["each", "one", "permute"])
def test_nothing_of_what_is_absent_is_read_whoever_is_confident(confidence, swap):
    torch.manual_seed(1)
    options = {"confidence": confidence}
    if confidence == "heads":
        options["confidence"] = HeadConfidence({"a": 4, "b": 4}, C)
    if confidence == "skill":
        options["confidence"] = SkillConfidence(NAMES, C)
    if confidence == "callable":
        options["confidence"] = lambda batch, labels: torch.stack(
            [batch[name].mean(dim=1).exp() for name in NAMES], dim=1
        )
    if confidence == "table":
        table = TableConfidence(NAMES, N)
        table.update(torch.arange(N), torch.rand(N, 2))
        options["confidence"] = table
    augment = MisalignAugment(NAMES, C, swap=swap, **options)
    extra = {"index": torch.arange(N)}
    logits = {"unimodal_logits": heads()} if confidence == "logits" else {}
    whole = augment(batch() | extra, LABELS, present=MASK, **logits)
    logits = {"unimodal_logits": nonsense_where_absent(heads())} if logits else {}
    plan = whole.plan
    out = augment(nonsense_where_absent(batch()) | extra, LABELS, present=MASK, plan=plan, **logits)
    counted = out.valid
    assert torch.equal(counted, whole.valid)
    torch.testing.assert_close(out.shares[counted], whole.shares[counted])
    torch.testing.assert_close(out.weights, whole.weights)
    assert not out.shares[counted][~out.present[counted]].any()
    torch.testing.assert_close(out.shares[counted].sum(dim=1), torch.ones(int(counted.sum())))
    assert torch.isfinite(out.targets).all()


@given(st.data())
@settings(max_examples=20)
def test_by_skill_the_modalities_of_one_source_that_are_there_have_one_vote(data):
    """As if the absent one did not exist: the mean skill of the others of its source."""
    case = data.draw(cases(["class"], PATTERNS, modalities=(3, 4), sizes=(6, 12)))
    provider = SkillConfidence(case.names, case.kind.width)
    provider.skill.copy_(torch.from_numpy(case.rng.random(case.m).astype(np.float32)))
    skill = provider.skill.double().numpy() + provider.eps
    out = case.draw().label(provider, features=case.given(case.features))
    source, _, valid = (np.asarray(part) for part in out.plan)
    for s in np.flatnonzero(valid):
        there = [m for m in range(case.m) if case.present[source[s, m], m]]
        want, votes = np.zeros(case.m), {}
        for row in {int(source[s, m]) for m in there}:
            own = [m for m in there if source[s, m] == row]
            votes[row] = float(np.mean(skill[own]))
            want[own] = votes[row] / len(own)
        want /= sum(votes.values())
        np.testing.assert_allclose(out.shares[case.n + s].numpy(), want, atol=1e-5)


@given(st.data())
@settings(max_examples=30)
def test_shares_of_given_confidences_are_in_proportion_over_what_is_there(data):
    case = data.draw(cases(["class", "multi-label", "continuous"], PATTERNS))
    numbers = case.rng.random((case.n, case.m)).astype(np.float32)
    drawn = case.draw()
    out = drawn.label(confidence=torch.from_numpy(numbers), features=case.given(case.features))
    want = expect(case, out)
    for s in np.flatnonzero(want.valid):
        there = [
            float(numbers[j, m]) if case.present[j, m] else 0.0
            for m, j in enumerate(want.source[s].tolist())
        ]
        shares = np.array(there) / sum(there)
        np.testing.assert_allclose(out.shares[case.n + s].numpy(), shares, atol=1e-5)
    even = drawn.label(confidence=torch.ones(case.n, case.m), features=case.given(case.features))
    source, _, valid = want.all_rows
    for row in np.flatnonzero(valid):
        there = case.present[source[row], np.arange(case.m)]
        np.testing.assert_allclose(even.shares[row].numpy(), there / there.sum(), atol=1e-6)


@pytest.mark.parametrize("name", ["class", "weighted class", "distribution", "continuous"])
@given(st.data())
@settings(max_examples=20)
def test_each_unimodal_loss_is_a_mean_over_the_rows_that_have_the_modality(name, data):
    case = data.draw(cases([name], PATTERNS))
    out, kind = case.draw(), case.kind
    want = 0.0
    for m, values in enumerate(case.unimodal.values()):
        rows = [i for i in case.counted if case.present[i, m]]
        if rows:
            losses = [slow.loss_term(kind, exact(values)[i], case.labels[i]) for i in rows]
            want += sum(losses) / slow.divisor(kind, case.labels, rows)
    criterion = MidasLoss(case.m, warmup_steps=1)
    found = criterion(case.scores(out), out, case.given(case.unimodal))  # the unimodal loss alone
    assert float(found) == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_gradients_of_a_training_step_are_finite_and_0_where_nothing_is():
    features = {
        name: value.requires_grad_() for name, value in nonsense_where_absent(batch()).items()
    }
    unimodal = {
        name: value.requires_grad_() for name, value in nonsense_where_absent(heads()).items()
    }
    out = MisalignAugment(NAMES, C)(features, LABELS, present=MASK, unimodal_logits=unimodal)
    # A fusion that leaves out what is absent, as a model for missing modalities does.
    fused = sum(
        torch.where(out.present[:, [number]], out[name], 0.0) @ torch.ones(4, C)
        for number, name in enumerate(NAMES)
    )
    loss = MidasLoss(2)(fused, out, unimodal)
    loss.backward()
    assert torch.isfinite(loss)
    for number, name in enumerate(NAMES):
        for value in (features[name], unimodal[name]):
            assert torch.isfinite(value.grad).all()
            assert not value.grad[~MASK[:, number]].any()
        assert unimodal[name].grad[MASK[:, number]].any()


def test_the_mask_may_lie_in_the_batch():
    data = batch() | {"label": LABELS, "there": MASK}
    plan = MisalignAugment(NAMES, C).draw(data, present=MASK).plan
    want = MisalignAugment(NAMES, C).draw(data, present=MASK, plan=plan)
    by_key = MisalignAugment(NAMES, C, present="there")
    by_call = MisalignAugment(NAMES, C, present=lambda batch: batch["there"])
    by_name = MisalignAugment(
        NAMES, C, present=lambda batch: {n: batch["there"][:, k] for k, n in enumerate(NAMES)}
    )
    for augment in (by_key, by_call, by_name):
        out = augment.draw(data, plan=plan)
        assert torch.equal(out.present, want.present)
        assert torch.equal(out.valid, want.valid)
        # What the call is given wins.
        every = augment.draw(data, present=torch.ones(N, 2).bool(), plan=plan)
        assert every.present.all()
        assert every.valid[:N].all()
    out = by_key.draw(data, plan=plan)
    assert torch.equal(out["there"], out.present)  # it says what the mixed rows have
    assert not torch.equal(out["there"], MASK[out.anchor])
    assert torch.equal(data["there"], MASK)
    flags = {name: MASK[:, number].tolist() for number, name in enumerate(NAMES)}
    named = by_key.draw(data | {"there": flags}, plan=plan)["there"]
    assert torch.equal(torch.tensor([named[name] for name in NAMES]).T, out.present)
    arrays = by_key.draw(
        {key: value.numpy() for key, value in data.items()}, plan=type(plan)(*map(np.asarray, plan))
    )
    assert isinstance(arrays["there"], np.ndarray)
    assert np.array_equal(arrays["there"], out.present.numpy())
    with pytest.raises(MidasAugError, match="'there'"):
        by_key.draw(batch(), LABELS)


def test_collate_and_loaders_take_the_mask_from_the_batch():
    rows = [
        {name: batch()[name][i] for name in NAMES}
        | {"label": int(LABELS[i]), "there": {n: bool(MASK[i, k]) for k, n in enumerate(NAMES)}}
        for i in range(N)
    ]
    augment = MisalignAugment(NAMES, C, present="there", seed=0)
    loader = torch.utils.data.DataLoader(rows, batch_size=N, collate_fn=augment.collate())
    (out,) = list(loader)
    assert torch.equal(out.present[:N], MASK)
    assert out.valid[:N].tolist() == MASK.any(dim=1).tolist()
    logits = nonsense_where_absent(heads())
    labelled = out.label(unimodal_logits=logits)
    assert torch.isfinite(labelled.weights).all()
    assert torch.isfinite(MidasLoss(2)(torch.randn(18, C), labelled, logits))


def test_the_mask_travels_with_the_batch():
    out = MisalignAugment(NAMES, C)(batch(), LABELS, present=MASK, unimodal_logits=heads())
    scores = torch.randn(18, C)
    want = MidasLoss(2)(scores, out, heads())
    for twin in (pickle.loads(pickle.dumps(out)), out.to("cpu"), out.with_data({})):
        assert torch.equal(twin.present, out.present)
        assert torch.equal(MidasLoss(2)(scores, twin, heads()), want)
    assert out.to("meta").present.device.type == "meta"
    lazy = MisalignAugment(NAMES, C).draw(
        batch(), LABELS, present=MASK, plan=out.plan, materialize=False
    )
    relabelled = lazy.label(unimodal_logits=heads())
    assert torch.equal(relabelled.weights, out.weights)
    torch.testing.assert_close(lazy.gather("a", batch()["a"]), out["a"])


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_what_the_mask_is_made_of_belongs_to_the_caller(library):
    mask = MASK.clone() if library == "torch" else MASK.clone().numpy()
    data, labels = batch(), LABELS
    if library == "numpy":
        data, labels = {name: value.numpy() for name, value in data.items()}, labels.numpy()
    out = MisalignAugment(NAMES, C, confidence="uniform").draw(data, labels, present=mask)
    before = torch.as_tensor(out.present).clone()
    assert torch.equal(torch.as_tensor(mask), MASK)
    mask[:] = False  # the caller may reuse the memory
    assert torch.equal(torch.as_tensor(out.present), before)
    labelled = out.label(
        confidence=np.ones((N, 2), np.float32) if library == "numpy" else torch.ones(N, 2)
    )
    assert torch.as_tensor(labelled.weights).sum() > 0


def test_switched_off_there_are_aligned_rows_alone():
    augment = MisalignAugment(NAMES, C)
    augment.enabled = False
    out = augment(batch(), LABELS, present=MASK, unimodal_logits=heads())
    assert len(out.source) == N
    assert out.shares[1].tolist() == [1, 0]
    assert out.weights.tolist() == pytest.approx([6 / 5] * 4 + [0, 6 / 5])
    scores = torch.randn(N, C)
    scores[4] = torch.nan
    terms = MidasLoss(2).compute(scores, out, nonsense_where_absent(heads()))
    keep = torch.tensor([0, 1, 2, 3, 5])
    torch.testing.assert_close(terms.aligned, cross_entropy(scores[keep], LABELS[keep]))
    assert torch.isfinite(terms.total)


@pytest.mark.parametrize("rows", [[4], [1], [1, 4], []])
def test_batches_in_which_nothing_can_be_swapped(rows):
    data = {name: value[rows] for name, value in nonsense_where_absent(batch()).items()}
    logits = {name: value[rows] for name, value in nonsense_where_absent(heads()).items()}
    out = MisalignAugment(NAMES, C)(data, LABELS[rows], present=MASK[rows], unimodal_logits=logits)
    assert not out.valid[len(rows) :].any()
    scores = torch.full((3 * len(rows), C), torch.nan)
    some = MASK[rows].any(dim=1)
    scores[: len(rows)][some] = 0.0
    criterion = MidasLoss(2)
    terms = criterion.compute(scores.requires_grad_(), out, logits)
    assert float(terms.misaligned.detach()) == 0
    want = np.log(3) if some.any() else 0.0
    assert float(terms.aligned.detach()) == pytest.approx(want)
    assert torch.isfinite(terms.total)
    terms.total.backward()
    assert torch.isfinite(scores.grad).all()
    assert torch.equal(criterion.weak_modality.alpha, torch.ones(2))


def test_alpha_sees_no_credit_for_what_is_absent():
    """Were credit given to an absent modality, α would rise for it."""
    labels = torch.arange(12) % 3
    present = torch.ones(12, 3).bool()
    present[:, 2] = False
    data = {name: torch.rand(12, 2) for name in "abc"}
    logits = {name: torch.zeros(12, 3) for name in "abc"}
    out = MisalignAugment(tuple("abc"), 3)(data, labels, present=present, unimodal_logits=logits)
    criterion = MidasLoss(3)
    before = torch.tensor([1.0, 1.0, 1.5])
    criterion.weak_modality.alpha.copy_(before)
    criterion(torch.randn(48, 3), out, logits)
    # The share of c is 0 and so is its credit: the weakest modality, and no step.
    assert torch.equal(criterion.weak_modality.alpha, before)


def test_recipes_take_masks_as_well():
    augment, criterion = recipes.paper(NAMES, C, warmup_epochs=0)
    logits = nonsense_where_absent(heads())
    out = augment(nonsense_where_absent(batch()), LABELS, present=MASK, unimodal_logits=logits)
    assert torch.isfinite(criterion(torch.randn(18, C), out, logits))


@given(st.data())
@settings(max_examples=20)
def test_a_modality_nobody_has_is_the_same_as_one_less(data):
    """Of three modalities, one that no row has: shares, weights and loss of the other two."""
    case = data.draw(cases(["class", "distribution"], ["some"], modalities=(3, 3), swaps=["each"]))
    present = case.present.copy()
    present[:, 2] = False
    case = case.with_mask(present)
    out = case.draw()
    fewer = replace(
        case,
        features=dict(list(case.features.items())[:2]),
        unimodal=dict(list(case.unimodal.items())[:2]),
        present=present[:, :2],
    )
    plan = F.SwapPlan(*(part[: 2 * case.n] for part in out.plan))
    short = fewer.draw(plan=F.SwapPlan(plan.source[:, :2], plan.anchor, plan.valid))
    rows = slice(case.n, 3 * case.n)
    assert not out.valid[3 * case.n :].any()
    counted = short.valid[rows]
    assert torch.equal(out.valid[rows], counted)
    torch.testing.assert_close(out.shares[rows][counted][:, :2], short.shares[rows][counted])
    if not case.counted:
        return
    # S is 3 N instead of 2 N: each mixed row is one of three of its anchor.
    torch.testing.assert_close(out.weights[rows] / 4 * 3, short.weights[rows] / 3 * 2)


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (torch.ones(6, 3).bool(), ["(6, 2)", "(6, 3)"]),
        (torch.ones(5, 2).bool(), ["(6, 2)", "(5, 2)"]),
        (torch.ones(6).bool(), ["(6, 2)", "(6"]),
        (torch.ones(6, 2), ["bool", "float32"]),
        (torch.ones(6, 2).long(), ["bool", "int64"]),
        ({"a": torch.ones(6).bool()}, ["'b'", "'a'"]),
        ({"a": torch.ones(6).bool(), "c": torch.ones(6).bool()}, ["'b'"]),
        ({"a": torch.ones(6).bool(), "b": torch.ones(5).bool()}, ["'b'", "6", "5"]),
        ({"a": torch.ones(6).bool(), "b": torch.ones(6)}, ["bool", "float32"]),
        ("a", ["str"]),
    ],
)
def test_masks_that_do_not_fit_are_named(present, words):
    augment = MisalignAugment(NAMES, C)
    with pytest.raises(MidasAugError) as error:
        augment.draw(batch(), LABELS, present=present)
    message = str(error.value)
    assert "present" in message
    assert "expected" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("present", ["a", "b"])
def test_a_key_of_the_mask_is_not_that_of_a_modality(present):
    with pytest.raises(MidasAugError, match="present"):
        MisalignAugment(NAMES, target=ClassIndex(C), present=present)
