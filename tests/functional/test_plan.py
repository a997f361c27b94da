"""Swap plans: which row supplies each modality."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from midas_aug import MidasAugError, SwapPlan
from midas_aug import functional as F
from tests.helpers import strategies


@given(st.data(), st.integers(2, 12), st.integers(2, 4), strategies.libraries())
def test_each_block_takes_one_modality_from_the_partner(data, num_classes, modalities, library):
    labels, values = strategies.as_library(
        data.draw(strategies.labels_arrays(num_classes=num_classes)), "int64", library
    )
    plan = SwapPlan(*map(strategies.as_numpy, F.plan_swaps(labels, modalities)))
    rows = len(values)
    assert plan.source.shape == (modalities * rows, modalities)
    assert plan.anchor.tolist() == list(range(rows)) * modalities
    for block, row in itertools.product(range(modalities), range(rows)):
        sample = block * rows + row
        kept = np.delete(plan.source[sample], block)
        assert (kept == row).all()
        partner = plan.source[sample, block]
        assert partner == plan.source[row, 0]  # one partner a row, the same in every block
        if plan.valid[sample]:
            assert values[partner] != values[row] >= 0
            assert values[partner] >= 0
        else:
            assert partner == row


@given(st.data(), st.integers(2, 12), st.integers(2, 4))
def test_one_replaces_one_modality_a_row(data, num_classes, modalities):
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    plan = F.plan_swaps(torch.as_tensor(values), modalities, swap="one")
    replaced = plan.source != plan.anchor[:, None]
    assert plan.anchor.tolist() == list(range(len(values)))
    assert torch.equal(replaced.sum(dim=1), plan.valid.long())


def test_one_chooses_modalities_uniformly():
    generator = torch.Generator().manual_seed(0)
    plan = F.plan_swaps(torch.arange(9000) % 2, 3, swap="one", generator=generator)
    counts = (plan.source != plan.anchor[:, None]).sum(dim=0)
    assert chisquare(counts.numpy()).pvalue > 1e-4


@given(st.data(), st.integers(2, 12), st.integers(2, 4), strategies.libraries())
def test_permute_deals_distinct_rows_with_two_labels(data, num_classes, modalities, library):
    labels, values = strategies.as_library(
        data.draw(strategies.labels_arrays(num_classes=num_classes)), "int64", library
    )
    plan = SwapPlan(*map(strategies.as_numpy, F.plan_swaps(labels, modalities, swap="permute")))
    assert plan.anchor.tolist() == list(range(len(values)))
    enough = (values >= 0).sum() >= modalities
    for row, source in enumerate(plan.source):
        if not plan.valid[row]:
            assert (source == row).all()
            continue
        assert row in source
        assert len(set(values[source])) >= 2
        assert (values[source] >= 0).all()
        if enough:
            assert len(set(source)) == modalities


def test_permute_is_uniform_over_the_other_rows_and_over_positions():
    """Row 0 of class 0 among five: partner uniform over class 1, third row over what is left."""
    labels = torch.tensor([0, 0, 1, 1, -1, 1])
    generator = torch.Generator().manual_seed(0)
    hands: dict[tuple[int, ...], int] = {}
    places = np.zeros(3)
    for _ in range(6000):
        source = F.plan_swaps(labels, 3, swap="permute", generator=generator).source[0].tolist()
        places[source.index(0)] += 1
        hand = tuple(sorted(source))
        hands[hand] = hands.get(hand, 0) + 1
    assert chisquare(places).pvalue > 1e-4
    # {0, 1, p}: the partner is p for sure (1/3 · 1/3); {0, p, q}: either is the partner (2 · 1/9).
    expected = {(0, 1, 2): 1, (0, 1, 3): 1, (0, 1, 5): 1}
    expected |= {(0, 2, 3): 2, (0, 2, 5): 2, (0, 3, 5): 2}
    assert hands.keys() == expected.keys()
    total = np.array([expected[hand] for hand in hands]) / 9 * 6000
    assert chisquare(list(hands.values()), total).pvalue > 1e-4


def test_permute_with_two_rows_and_three_modalities_deals_the_partner_twice():
    plan = F.plan_swaps(torch.tensor([4, 9]), 3, swap="permute")
    assert [sorted(row) for row in plan.source.tolist()] == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("swap", ["each", "one", "permute"])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_one_row_have_nothing_to_swap(swap, rows):
    plan = F.plan_swaps(torch.zeros(rows, dtype=torch.int64), 3, swap=swap)
    assert plan.source.shape == (rows * (3 if swap == "each" else 1), 3)
    assert not plan.valid.any()
    assert (plan.source == 0).all()


def test_a_plan_reads_its_randomness_from_the_generator_alone():
    labels = torch.arange(40) % 5
    for swap in ("each", "one", "permute"):
        first, second = (
            F.plan_swaps(labels, 3, swap=swap, generator=torch.Generator().manual_seed(7))
            for _ in range(2)
        )
        assert all(map(torch.equal, first, second))


def test_a_custom_pairing_gets_what_it_was_promised_and_decides_the_plan():
    labels = torch.tensor([0, 1, 2, -1])
    generator = torch.Generator()
    seen = {}

    def nearest(labels, *, features, generator):
        seen.update(labels=labels, features=features, generator=generator)
        return torch.tensor([1, 2, 3, 0]), torch.tensor([True, True, True, True])

    plan = F.plan_swaps(labels, 2, pairing=nearest, features=["f"], generator=generator)
    assert seen == {"labels": labels, "features": ["f"], "generator": generator}
    # Row 2's partner and row 3 itself are ignored rows: never donors, never valid.
    assert plan.valid.tolist() == [True, True, False, False] * 2
    assert plan.source[:4, 0].tolist() == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ((torch.zeros(2, dtype=torch.int64), torch.ones(3).bool()), ["(3)", "(2,)"]),
        ((torch.zeros(3), torch.ones(3).bool()), ["integer dtype", "float32"]),
        ((torch.zeros(3, dtype=torch.int64), torch.ones(3)), ["bool", "float32"]),
        ((torch.tensor([0, 1, 3]), torch.ones(3).bool()), ["0 … 2", "0 … 3"]),
        (None, ["two arrays", "None"]),
        ((torch.zeros(3, dtype=torch.int64),), ["two arrays", "tensor([0, 0, 0])"]),
    ],
)
def test_a_pairing_that_returns_nonsense_is_named(returned, words):
    with pytest.raises(MidasAugError) as error:
        F.plan_swaps(torch.tensor([0, 1, 2]), 2, pairing=lambda *_, **__: returned)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_modalities": 1}, ["at least 2", "got 1"]),
        ({"num_modalities": ("a", "b")}, ["integer of at least 2", "('a', 'b')"]),
        ({"num_modalities": 2, "num_classes": 2.5}, ["num_classes", "2.5"]),
        ({"num_modalities": 2, "swap": "both"}, ["each", "permute", "'both'"]),
        ({"num_modalities": 2, "pairing": "near"}, ["'uniform'", "callable", "'near'"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(MidasAugError) as error:
        F.plan_swaps(torch.tensor([0, 1]), **arguments)
    assert all(word in str(error.value) for word in words)


def test_permute_reaches_every_row_when_a_pairing_names_the_row_itself():
    labels = torch.tensor([0, 1, 2, 3])
    generator = torch.Generator().manual_seed(0)

    def itself(labels, *, features, generator):
        return torch.arange(len(labels)), torch.ones(len(labels), dtype=torch.bool)

    counts = torch.zeros(4)
    for _ in range(900):
        plan = F.plan_swaps(labels, 3, swap="permute", pairing=itself, generator=generator)
        others = plan.source[0][plan.source[0] != 0]
        assert len(others) == 1
        counts[others] += 1
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy()).pvalue > 1e-4
