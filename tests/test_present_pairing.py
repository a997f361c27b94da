"""Partners where modalities are missing: who has what is needed, uniformly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from midas_aug import MisalignAugment
from midas_aug import functional as F
from midas_aug.targets import ClassIndex
from tests.helpers import target_reference as slow
from tests.helpers.strategies import as_numpy
from tests.helpers.target_cases import KINDS, PATTERNS, cases, labels_of, target_of
from tests.helpers.target_reference import Kind

every_kind = pytest.mark.parametrize("name", KINDS)
some = settings(max_examples=12)
LEAST_P = 1e-5  # of some dozens of comparisons a test, with fixed seeds


def possible(case):
    """For each modality, the possible partners of each row."""
    return [
        slow.possible_partners(case.kind, case.labels, case.m, case.present, m)
        for m in range(case.m)
    ]


@every_kind
@given(st.data())
@some
def test_each_block_has_a_partner_wherever_one_is_possible(name, data):
    case = data.draw(cases([name], swaps=["each"]))
    out = case.draw()
    source, anchor, valid = (as_numpy(part) for part in out.plan)
    assert anchor.tolist() == list(range(case.n)) * case.m
    for m, partners in enumerate(possible(case)):
        for i, allowed in enumerate(partners):
            row = m * case.n + i
            assert bool(valid[row]) == bool(allowed)
            if allowed:
                assert int(source[row, m]) in allowed
                assert set(np.delete(source[row], m).tolist()) == {i}
            else:
                assert out.weights[case.n + row] == 0


@every_kind
@given(st.data())
@some
def test_one_swap_a_row_takes_what_it_can_get(name, data):
    case = data.draw(cases([name], swaps=["one"]))
    out = case.draw()
    source, _, valid = (as_numpy(part) for part in out.plan)
    partners = possible(case)
    for i in range(case.n):
        replaced = np.flatnonzero(source[i] != i)
        allowed = [bool(partners[m][i]) for m in range(case.m)]
        assert bool(valid[i]) or not all(allowed)
        if valid[i]:
            assert len(replaced) == 1
            assert int(source[i, replaced[0]]) in partners[replaced[0]][i]


LABELS = [0] * 4 + [1] * 3 + [2, 2, -1]
MASK = np.array(
    [[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1],
     [1, 1, 0], [1, 1, 1]], np.bool_,
)  # fmt: skip


def sources(swap, name="class", draws=1200, library="torch"):
    """Sources and validity of many draws of one batch, (draws, S, M) and (draws, S)."""
    rng = np.random.default_rng(0)
    kind = KINDS[name](rng, 3)
    labels = labels_of(kind, np.array(LABELS), rng)
    batch = {key: np.zeros((len(labels), 1), np.float32) for key in "abc"}
    given_labels, given_batch, given_mask = labels, batch, MASK
    if library == "torch":
        given_labels, given_mask = torch.from_numpy(labels), torch.from_numpy(MASK)
        given_batch = {key: torch.from_numpy(value) for key, value in batch.items()}
    augment = MisalignAugment(tuple("abc"), target=target_of(kind), swap=swap, hardness=None)
    generator = torch.Generator().manual_seed(1)
    if library == "numpy":
        generator = np.random.default_rng(1)
    found = []
    for _ in range(draws):
        out = augment.draw(
            given_batch, given_labels, present=given_mask, generator=generator, materialize=False
        )
        found.append((as_numpy(out.plan.source), as_numpy(out.plan.valid)))
    return kind, labels, np.stack([s for s, _ in found]), np.stack([v for _, v in found])


@pytest.mark.parametrize(
    ("name", "library"), [("class", "torch"), ("class", "numpy"), ("continuous", "torch")]
)
def test_partners_of_each_block_are_uniform_by_chi_square(name, library):
    kind, labels, source, valid = sources("each", name, library=library)
    n = len(LABELS)
    for m in range(3):
        for i, allowed in enumerate(slow.possible_partners(kind, labels, 3, MASK, m)):
            row = m * n + i
            assert (valid[:, row] == bool(allowed)).all()
            if len(allowed) > 1:
                counts = np.bincount(source[:, row, m], minlength=n)[sorted(allowed)]
                assert counts.sum() == len(source)
                assert chisquare(counts).pvalue > LEAST_P


def test_blocks_draw_partners_of_their_own():
    kind, labels, source, _ = sources("each")
    n = len(LABELS)
    allowed = [slow.possible_partners(kind, labels, 3, MASK, m)[0] for m in (0, 1)]
    pairs = source[:, 0, 0] * n + source[:, n, 1]
    joint = [one * n + other for one in allowed[0] for other in allowed[1]]
    counts = np.bincount(pairs, minlength=n * n)[joint]
    assert counts.sum() == len(source)
    assert chisquare(counts).pvalue > LEAST_P
    # Rows of one block draw independently, too.
    assert len(np.unique(source[:, : n - 1, 0], axis=0)) > len(source) / 2


def test_partners_of_one_swap_are_uniform_for_every_modality():
    kind, labels, source, valid = sources("one", draws=2500)
    n = len(LABELS)
    for m in range(3):
        for i, allowed in enumerate(slow.possible_partners(kind, labels, 3, MASK, m)):
            swapped = (source[:, i, m] != i) & valid[:, i]
            if not allowed:
                assert not swapped.any()
            elif len(allowed) > 1:
                counts = np.bincount(source[swapped, i, m], minlength=n)[sorted(allowed)]
                assert counts.sum() == swapped.sum() > 100
                assert chisquare(counts).pvalue > LEAST_P


@pytest.mark.parametrize("masked", [True, False])
def test_permuted_sources_are_as_probable_as_they_should_be(masked):
    """Every possible outcome of every row, against the reference's enumeration."""
    labels, draws = np.array([0, 0, 1, 2, 1]), 1500
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], np.bool_)
    present = mask if masked else None
    given_mask = torch.from_numpy(mask) if masked else None
    generator = torch.Generator().manual_seed(2)
    plans = [
        F.plan_swaps(
            torch.from_numpy(labels), 3, swap="permute", present=given_mask, generator=generator
        )
        for _ in range(draws)
    ]
    for i in range(len(labels)):
        wanted = slow.permuted_sources(Kind("class", 3), labels, 3, present, i)
        found = [tuple(plan.source[i].tolist()) for plan in plans if plan.valid[i]]
        assert set(found) <= wanted.keys()
        rest = 1 - sum(wanted.values())
        counts = [found.count(source) for source in wanted] + [draws - len(found)] * (rest > 1e-9)
        chances = [*wanted.values(), *([rest] if rest > 1e-9 else [])]
        assert chisquare(counts, np.array(chances) / sum(chances) * draws).pvalue > LEAST_P


def test_a_rare_modality_is_given_by_the_one_row_that_has_it():
    labels = torch.tensor([0, 1, 2, 1, 0])
    present = torch.tensor([[1, 0], [1, 0], [1, 1], [1, 0], [0, 0]]).bool()
    batch = {"a": torch.rand(5, 2), "b": torch.rand(5, 2)}
    augment = MisalignAugment(("a", "b"), target=ClassIndex(3), confidence="uniform")
    out = augment(batch, labels, present=present)
    # In the first block only row 2 keeps something when its first modality is replaced.
    first, second = out.plan.valid.view(2, 5).tolist()
    assert first == [False, False, True, False, False]
    assert second == [True, True, False, True, False]
    assert out.plan.source[5:9, 1].tolist()[:2] == [2, 2]
    assert out.plan.source[8, 1] == 2
    assert torch.equal(out["b"][10 + 0], batch["b"][2])


def shifted(labels, *, features, generator):
    """The next row of the batch, whatever its label."""
    n = len(labels)
    partner = (np.arange(n) + 1) % max(n, 1)
    valid = np.ones(n, np.bool_)
    if isinstance(labels, np.ndarray):
        return partner, valid
    return torch.from_numpy(partner), torch.from_numpy(valid)


@pytest.mark.parametrize("swap", ["each", "one"])
@given(st.data())
@some
def test_a_partner_of_another_pairing_that_lacks_the_modality_weighs_nothing(swap, data):
    case = data.draw(cases(["class", "multi-label"], PATTERNS, swaps=[swap], sizes=(2, 10)))
    out = case.draw(pairing=shifted)
    source, anchor, valid = (as_numpy(part) for part in out.plan)
    for row, own, counts, weight in zip(
        source, anchor, valid, out.weights[case.n :].tolist(), strict=True
    ):
        may = slow.may_count(case.kind, case.labels, row, own, case.present)
        replaced = bool((row != own).any())
        assert bool(counts) == (may and replaced)
        assert (weight > 0) == bool(counts)


@pytest.mark.parametrize("pairing", [F.permutation_partners, F.same_class_partners])
@given(st.data())
@some
def test_the_packages_other_pairings_obey_the_mask(pairing, data):
    case = data.draw(cases(["class"], PATTERNS))
    out = case.draw(pairing=pairing)
    source, anchor, valid = (as_numpy(part) for part in out.plan)
    for row, own, counts in zip(source, anchor, valid, strict=True):
        if counts:
            assert slow.may_count(case.kind, case.labels, row, own, case.present)
    scores = case.scores(out)
    assert torch.isfinite(out.weights).all()
    assert torch.isfinite(scores[out.valid]).all()


@pytest.mark.parametrize("library", ["torch", "numpy"])
@given(st.data())
@some
def test_the_function_that_plans_swaps_takes_the_mask_too(library, data):
    case = data.draw(cases(["class"], PATTERNS))
    plan = F.plan_swaps(
        case.given(case.labels, library),
        case.m,
        swap=case.swap,
        present=case.given(case.present, library),
    )
    source, anchor, valid = map(as_numpy, plan)
    for row, own, counts in zip(source, anchor, valid, strict=True):
        replaced = bool((row != own).any())
        may = slow.may_count(case.kind, case.labels, row, own, case.present)
        assert bool(counts) == (may and replaced)
    features = list(case.given(case.features, library).values())
    hard = F.hard_sample_weights(features, plan, present=case.given(case.present, library))
    exact = [value.astype(np.float64) for value in case.features.values()]
    want = slow.hardness(exact, source, anchor, case.present)
    np.testing.assert_allclose(as_numpy(hard)[valid], want[valid], atol=1e-5)


@pytest.mark.parametrize("swap", ["each", "one", "permute"])
def test_seeded_draws_with_a_mask_are_reproducible_and_differ_from_call_to_call(swap):
    labels = torch.arange(24) % 4
    present = torch.rand(24, 3) < 0.7
    batch = {key: torch.rand(24, 2) for key in "abc"}
    first, second = (MisalignAugment(tuple("abc"), 4, swap=swap, seed=5) for _ in range(2))
    drawn = [first.draw(batch, labels, present=present).source for _ in range(3)]
    again = [second.draw(batch, labels, present=present).source for _ in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert not torch.equal(drawn[0], drawn[1])


@given(st.data())
@some
def test_the_class_table_of_large_batches_finds_partners_as_well(data):
    """Other ways to sort, in batches of a thousand rows."""
    case = data.draw(cases(["class"], ["some"], swaps=["each"], sizes=(600, 700)))
    out = case.draw()
    labels, present = case.labels, case.present
    source, _, valid = (as_numpy(part) for part in out.plan)
    counted = (labels >= 0) & present.any(axis=1)
    for m in range(case.m):
        block = slice(m * case.n, (m + 1) * case.n)
        partner, counts = source[block, m], valid[block]
        assert present[partner[counts], m].all()
        assert counted[partner[counts]].all()
        assert (labels[partner] != labels)[counts].all()
        donors = counted & present[:, m]
        kept = np.delete(present, m, axis=1).any(axis=1)
        classes = {int(label) for label in labels[donors]}
        exists = np.array([bool(classes - {int(label)}) for label in labels])
        assert np.array_equal(counts, counted & kept & exists)


def test_a_large_batch_is_uniform_too():
    n, rng = 1500, np.random.default_rng(0)
    labels, present = rng.integers(0, 3, n), rng.random((n, 2)) < 0.5
    batch = {key: torch.zeros(n, 1) for key in "ab"}
    augment = MisalignAugment(("a", "b"), target=ClassIndex(3), hardness=None)
    hits = np.zeros(n)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        out = augment.draw(
            batch, torch.from_numpy(labels), present=torch.from_numpy(present),
            generator=generator, materialize=False,
        )  # fmt: skip
        block = as_numpy(out.plan.source)[:n, 0]
        asks = as_numpy(out.plan.valid)[:n] & (labels == 0)
        hits += np.bincount(block[asks], minlength=n)
    donors = present[:, 0] & (labels != 0)
    assert hits[~donors].sum() == 0
    assert chisquare(hits[donors]).pvalue > LEAST_P
