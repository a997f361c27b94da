"""Partners: another class, exactly uniform, whatever the batch looks like."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from midas_aug import MidasAugError
from midas_aug import functional as F
from midas_aug._draws import DRAW_BITS
from midas_aug.functional import pairing
from midas_aug.functional.pairing import partners_from_draws
from tests.helpers import reference, strategies


@given(st.data(), st.integers(2, 50), strategies.libraries())
def test_every_partner_has_another_label_and_no_partner_means_itself(data, num_classes, library):
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    labels, values = strategies.as_library(
        values, data.draw(strategies.label_dtypes(num_classes, signed=True)), library
    )
    partner, valid = map(strategies.as_numpy, F.sample_partners(labels))
    for row, allowed in enumerate(reference.possible_partners(values)):
        assert bool(valid[row]) == bool(allowed)
        assert int(partner[row]) in (allowed or {row})


@given(st.lists(st.integers(-1, 3), max_size=9), st.randoms())
def test_every_allowed_partner_is_hit_by_the_same_number_of_draws(labels, rng):
    """Exhaustive over the scaled draw: K allowed partners split the draws into K equal parts."""
    classes = torch.tensor(labels, dtype=torch.int64)
    for row, allowed in enumerate(reference.possible_partners(np.array(labels))):
        if not allowed:
            continue
        # The middle of each of K equal parts of the range of draws.
        middles = [
            (2 * part + 1) * (1 << DRAW_BITS) // (2 * len(allowed)) for part in range(len(allowed))
        ]
        hit = set()
        for draw in middles:
            draws = torch.full_like(classes, draw)
            hit.add(int(partners_from_draws(classes, draws)[0][row]))
        assert hit == allowed


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_partners_are_uniform_by_chi_square(library):
    labels = np.array([0] * 5 + [1] * 3 + [2] + [-1])
    given_labels = torch.as_tensor(labels) if library == "torch" else labels
    generator = torch.Generator().manual_seed(1) if library == "torch" else np.random.default_rng(1)
    counts = np.zeros((len(labels), len(labels)))
    for _ in range(4000):
        partner, _ = F.sample_partners(given_labels, generator=generator)
        counts[np.arange(len(labels)), strategies.as_numpy(partner)] += 1
    for row, allowed in enumerate(reference.possible_partners(labels)):
        if allowed:
            assert chisquare(counts[row, sorted(allowed)]).pvalue > 1e-4


@given(st.lists(st.integers(-3, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_a_table_of_classes_finds_the_same_partners(labels, seed):
    """What large batches use where C is known, here forced on small ones."""
    classes = torch.tensor(labels)
    draws = torch.randint(1 << DRAW_BITS, (len(labels),), generator=torch.manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "_TABLE_ROWS", 0)
        patch.setattr(pairing, "_NARROW_ROWS", seed % 2 * 1000)
        have = partners_from_draws(classes.repeat(2), draws.repeat(2), num_classes=5)
        want = partners_from_draws(classes.repeat(2), draws.repeat(2))
    assert torch.equal(have[1], want[1])
    assert torch.equal(have[0], want[0])


@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_most_negative_label_is_an_ignored_row(num_classes, monkeypatch):
    monkeypatch.setattr(pairing, "_TABLE_ROWS", 0)
    labels = torch.tensor([0, 1, torch.iinfo(torch.int64).min, 2, 1])
    for _ in range(50):
        partner, valid = F.sample_partners(labels, num_classes=num_classes)
        assert valid.tolist() == [True, True, False, True, True]
        assert 2 not in partner[valid]


def test_large_batches_with_known_classes_pair_as_without():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 300, (40_000,), generator=generator)
    first, second = (
        F.sample_partners(labels, num_classes=classes, generator=torch.Generator().manual_seed(1))
        for classes in (None, 300)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    with pytest.raises(MidasAugError, match="below num_classes=10"):
        F.sample_partners(labels, num_classes=10)


@pytest.mark.parametrize("num_classes", [32_767, 32_768, 32_769, 40_000])
def test_class_numbers_that_a_short_integer_cannot_hold_pair_as_without(num_classes, monkeypatch):
    """A key is a class, or the number of classes for an ignored row."""
    monkeypatch.setattr(pairing, "_NARROW_ROWS", 0)
    labels = torch.arange(num_classes - 40_004, num_classes).clamp(min=-1)
    labels[1::2] = num_classes - 1
    labels[::1000] = -1
    draws = torch.randint(1 << DRAW_BITS, (len(labels),), generator=torch.manual_seed(0))
    have = partners_from_draws(labels, draws, num_classes=num_classes)
    want = partners_from_draws(labels, draws)
    assert torch.equal(have[0], want[0])
    assert torch.equal(have[1], want[1])


def test_the_number_of_classes_itself_is_no_class():
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(MidasAugError, match="labels below num_classes=2, got 2"):
        F.sample_partners(labels, num_classes=2)
    assert F.sample_partners(labels, num_classes=3)[1].all()


def test_rows_draw_independently():
    labels = torch.tensor([0, 0, 1, 1])
    generator = torch.Generator().manual_seed(0)
    pairs = {tuple(F.sample_partners(labels, generator=generator)[0].tolist()) for _ in range(600)}
    assert len(pairs) == 2**4  # every combination of two partners for four rows


@given(st.data(), st.integers(2, 10))
def test_permuting_the_batch_permutes_the_partners(data, num_classes):
    """With one draw for all rows, the class that a row meets depends on its own class alone."""
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    order = np.random.default_rng(len(values)).permutation(len(values))
    draws = torch.full((len(values),), data.draw(st.integers(0, (1 << DRAW_BITS) - 1)))
    labels = torch.as_tensor(values, dtype=torch.int64)
    partner, valid = partners_from_draws(labels, draws)
    moved, still_valid = partners_from_draws(labels[order], draws)
    assert torch.equal(valid[order], still_valid)
    assert torch.equal(labels[partner][order], labels[order][moved])


def test_the_same_generator_state_gives_the_same_partners_and_the_global_one_advances():
    labels = torch.arange(50) % 7
    draws = [
        F.sample_partners(labels, generator=torch.Generator().manual_seed(3))[0] for _ in range(2)
    ]
    assert torch.equal(*draws)
    torch.manual_seed(0)
    assert not torch.equal(F.sample_partners(labels)[0], F.sample_partners(labels)[0])
    np.random.seed(0)  # noqa: NPY002
    first = F.sample_partners(labels.numpy())[0]
    np.random.seed(0)  # noqa: NPY002
    assert np.array_equal(first, F.sample_partners(labels.numpy())[0])


@given(st.data(), st.integers(2, 6), strategies.libraries())
def test_a_permutation_uses_every_labelled_row_once(data, num_classes, library):
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    labels, values = strategies.as_library(values, "int64", library)
    partner, valid = map(strategies.as_numpy, F.permutation_partners(labels))
    assert np.array_equal(valid, values >= 0)
    assert sorted(partner[valid]) == list(np.flatnonzero(valid))
    assert np.array_equal(partner[~valid], np.flatnonzero(~valid))


def test_permutations_are_uniform():
    labels = torch.tensor([0, -1, 0, 1])
    generator = torch.Generator().manual_seed(0)
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        partner = tuple(F.permutation_partners(labels, generator=generator)[0].tolist())
        seen[partner] = seen.get(partner, 0) + 1
    assert len(seen) == 6
    assert chisquare(list(seen.values())).pvalue > 1e-4


@given(st.data(), st.integers(2, 6), strategies.libraries())
def test_a_same_class_partner_is_another_row_of_the_own_class(data, num_classes, library):
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    labels, values = strategies.as_library(values, "int64", library)
    partner, valid = map(strategies.as_numpy, F.same_class_partners(labels))
    own, size = np.arange(len(values)), (values[:, None] == values).sum(axis=1)
    assert np.array_equal(valid, (values >= 0) & (size > 1))
    assert np.array_equal(partner[~valid], own[~valid])
    assert (partner[valid] != own[valid]).all()
    assert np.array_equal(values[partner], values)


@pytest.mark.parametrize("library", strategies.LIBRARIES)
def test_same_class_partners_are_uniform_over_the_other_rows_of_the_class(library):
    labels, _ = strategies.as_library([1, 0, 1, -1, 1, 0, 1, -1], "int64", library)
    counts = np.zeros((8, 8))
    for seed in range(600):
        draws = np.random.default_rng(seed) if library == "numpy" else torch.manual_seed(seed)
        partner, _ = F.same_class_partners(labels, generator=draws)
        counts[np.arange(8), strategies.as_numpy(partner)] += 1
    assert counts[1, 5] == counts[5, 1] == counts[3, 3] == counts[7, 7] == 600
    for row in (0, 2, 4, 6):
        others = [other for other in (0, 2, 4, 6) if other != row]
        assert counts[row, others].sum() == 600
        assert chisquare(counts[row, others]).pvalue > 1e-4


@pytest.mark.parametrize("function", [F.permutation_partners, F.same_class_partners])
def test_no_rows_have_no_partners(function):
    partner, valid = function(torch.zeros(0, dtype=torch.int64))
    assert partner.shape == valid.shape == (0,)


@pytest.mark.parametrize(
    ("labels", "generator", "words"),
    [
        (torch.zeros(3), None, ["integer dtype", "float32", "Continuous", "MultiLabel"]),
        (torch.zeros(3, dtype=torch.bool), None, ["integer dtype", "bool"]),
        (torch.zeros(3, 1, dtype=torch.int64), None, ["1 axes", "(3, 1)"]),
        ([0, 1], None, ["torch tensor or a NumPy array", "list"]),
        (torch.tensor([0, 1]), np.random.default_rng(0), ["torch.Generator", "Generator"]),
        (np.array([0, 1]), torch.Generator(), ["numpy.random.Generator", "default_rng"]),
    ],
)
def test_bad_labels_and_generators_are_named(labels, generator, words):
    for function in (F.sample_partners, F.permutation_partners, F.same_class_partners):
        with pytest.raises(MidasAugError) as error:
            function(labels, generator=generator)
        assert all(word in str(error.value) for word in words)


def test_more_rows_than_the_draw_is_exact_for_are_refused():
    labels = torch.zeros((1 << 22) + 1, dtype=torch.int8)
    with pytest.raises(MidasAugError, match="at most 4194304 labels"):
        F.sample_partners(labels)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of loops needs one of C++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_same_class_partners_compile_where_the_rows_fill_no_vector() -> None:
    """The lanes beyond the last row divided by a size of 0."""
    labels = torch.arange(13) % 4
    partner, valid = torch.compile(F.same_class_partners)(labels)
    assert torch.equal(labels[partner], labels)
    assert valid.all()
    assert not (partner == torch.arange(13)).any()
