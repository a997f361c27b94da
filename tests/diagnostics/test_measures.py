"""The measures: the worked examples of the specification, slow loops, and the edges."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from midas_aug import MidasAugError, functional
from midas_aug.diagnostics import (
    accuracy,
    accuracy_shapley,
    all_subsets,
    collapsed_share_fraction,
    discrepancy_ratio,
    expected_calibration_error,
    hardness_quantiles,
    measures,
    misaligned_accuracy,
    misaligned_confidence,
    permutation_importance,
    remove_modality,
    sample_shapley,
    shapley,
    share_entropy,
)
from tests.helpers import strategies as own
from tests.helpers.operators import OperatorCount

# Four rows, the second modality permuted by PI; row 4 keeps its own label.
PROBABILITY = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.35, 0.25], [0.2, 0.2, 0.6]])
LABELS, PI = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2, 0, 3])
SOURCES = torch.stack([LABELS, LABELS[PI]], dim=1)

# single a right, single v right, both right; the SMV values; the values of plain 0/1 accuracy
SMV_TABLE = [
    (0, 0, 0, (0, 0), (0, 0)),
    (0, 0, 1, (1, 1), (0.5, 0.5)),
    (0, 1, 0, (-0.5, 0.5), (-0.5, 0.5)),
    (0, 1, 1, (0.5, 1.5), (0, 1)),
    (1, 0, 0, (0.5, -0.5), (0.5, -0.5)),
    (1, 0, 1, (1.5, 0.5), (1, 0)),
    (1, 1, 0, (0, 0), (0, 0)),
    (1, 1, 1, (1, 1), (0.5, 0.5)),
]


def subset(names: str) -> frozenset[str]:
    return frozenset(names)


def test_worked_example_of_misaligned_accuracy_and_confidence():
    logits = PROBABILITY.log()
    skipped = misaligned_accuracy(logits, SOURCES, same_label="skip")
    assert skipped.item() == pytest.approx(2 / 3)
    assert misaligned_accuracy(logits, SOURCES, same_label="wrong").item() == pytest.approx(0.5)
    confidence = misaligned_confidence(logits, SOURCES)
    assert confidence.tolist() == pytest.approx([0.4875, 0.4])


def test_the_normalised_confidence_is_the_credit_of_the_weak_modality_step():
    logits = PROBABILITY[:1].log()
    credit = misaligned_confidence(logits, SOURCES[:1], normalized=True)
    assert credit.tolist() == pytest.approx([0.5 / 0.8, 0.3 / 0.8])


@own.quick
@given(own.seeds(), own.batch_sizes(), own.modality_counts(), st.booleans(), st.booleans())
def test_misaligned_measures_against_loops(seed, s, m, ignored, wrong):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((s, 4)), rng.integers(0, 4, (s, m))
    if ignored:
        labels[rng.random((s, m)) < 0.2] = -1
    valid = rng.random(s) < 0.8
    hits, rows, confidence, kept = 0, 0, np.zeros(m), 0
    for row in range(s):
        if not valid[row] or labels[row].min() < 0:
            continue
        probability = np.exp(logits[row]) / np.exp(logits[row]).sum()
        confidence += probability[labels[row]]
        kept += 1
        wanted = set(labels[row].tolist())
        if len(wanted) == 1:
            rows += wrong
            continue
        rows += 1
        hits += set(np.argsort(-logits[row])[: len(wanted)].tolist()) == wanted
    given_rows = torch.from_numpy(logits), torch.from_numpy(labels)
    mask = torch.from_numpy(valid)
    mode = "wrong" if wrong else "skip"
    found = misaligned_accuracy(*given_rows, valid=mask, same_label=mode).item()
    assert found == pytest.approx(hits / max(rows, 1))
    found = misaligned_confidence(*given_rows, valid=mask).tolist()
    assert found == pytest.approx((confidence / max(kept, 1)).tolist())


def test_where_all_pairs_differ_it_is_the_accuracy_of_functional():
    logits, labels = (
        torch.randn(50, 5),
        torch.stack([torch.arange(50) % 5, torch.arange(1, 51) % 5]),
    )
    labels = labels.T
    expected = functional.misaligned_accuracy(logits, labels).item()
    assert misaligned_accuracy(logits, labels).item() == expected


def test_accuracy_leaves_ignored_rows_out():
    logits = torch.eye(4)
    assert accuracy(logits, torch.tensor([0, 1, 0, -1])).item() == pytest.approx(2 / 3)
    assert accuracy(logits[:0], torch.zeros(0, dtype=torch.long)).item() == 0.0
    assert accuracy(logits, torch.full((4,), -1)).item() == 0.0


def test_a_row_with_a_nan_is_no_prediction_of_a_class():
    logits, labels = torch.eye(4), torch.arange(4)
    logits[1, 1] = logits[2, 0] = torch.nan
    assert accuracy(logits, labels).item() == 0.5
    assert accuracy(torch.full((4, 3), torch.nan), torch.zeros(4).long()).item() == 0.0


def test_worked_example_of_the_accuracy_shapley():
    values = {"": 0.17, "a": 0.42, "v": 0.19, "av": 0.60}
    phi = shapley({subset(names): torch.tensor(value) for names, value in values.items()})
    assert {m: value.item() for m, value in phi.items()} == pytest.approx({"a": 0.33, "v": 0.10})
    assert sum(phi.values()).item() == pytest.approx(0.43)


@pytest.mark.parametrize(("a", "v", "both", "smv", "plain"), SMV_TABLE)
def test_worked_table_of_sample_values(a, v, both, smv, plain):
    correct = {"": 1, "a": a, "v": v, "av": both}  # the empty set's answer does not matter to SMV
    correct = {subset(names): torch.tensor([bool(value)]) for names, value in correct.items()}
    values = sample_shapley(correct)
    assert (values["a"].item(), values["v"].item()) == pytest.approx(smv)
    assert sum(values.values()).item() == 2 * both
    nothing = correct | {subset(""): torch.tensor([False])}
    values = accuracy_shapley(nothing)
    assert (values["a"].item(), values["v"].item()) == pytest.approx(plain)


def test_worked_mean_of_the_sample_values():
    columns = torch.tensor([row[:3] for row in SMV_TABLE], dtype=torch.float32).T
    correct = dict(zip(map(subset, ("a", "v", "av")), columns, strict=True))
    correct[subset("")] = torch.zeros(8)
    assert [value.mean().item() for value in sample_shapley(correct).values()] == [0.5, 0.5]


def test_worked_example_of_three_modalities():
    right = {subset("0"), subset("01"), subset("02"), subset("012")}
    correct = {s: torch.tensor([s in right]) for s in all_subsets(("0", "1", "2"))}
    values = sample_shapley(correct)
    assert [values[m].item() for m in "012"] == pytest.approx([2, 0.5, 0.5])


@own.quick
@given(own.seeds(), st.integers(1, 4))
def test_shapley_is_the_mean_over_orders_of_what_a_modality_adds(seed, count):
    rng = np.random.default_rng(seed)
    names = tuple("abcd"[:count])
    values = {s: rng.standard_normal(3) for s in all_subsets(names)}
    expected = {name: np.zeros(3) for name in names}
    orders = list(permutations(names))
    for order in orders:
        for position, name in enumerate(order):
            before = frozenset(order[:position])
            expected[name] += (values[before | {name}] - values[before]) / len(orders)
    found = shapley({s: torch.from_numpy(v) for s, v in values.items()})
    for name in names:
        np.testing.assert_allclose(found[name].numpy(), expected[name], atol=1e-12)
    total = sum(value.numpy() for value in found.values())
    np.testing.assert_allclose(total, values[frozenset(names)] - values[frozenset()], atol=1e-12)


def test_worked_example_of_the_discrepancy_ratio():
    audio, video = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[0.5, 0], [0, -0.5]])
    labels = torch.tensor([0, 1])
    confidence = [functional.true_class_confidence(u, labels) for u in (audio, video)]
    assert confidence[0].tolist() == pytest.approx([0.880797, 0.731059], abs=1e-5)
    assert confidence[1].tolist() == pytest.approx([0.622459, 0.377541], abs=1e-5)
    ratios = discrepancy_ratio(torch.stack([c.sum() for c in confidence]))
    assert ratios.tolist() == pytest.approx([1.611856, 0.620403], abs=1e-5)
    three = discrepancy_ratio(torch.tensor([3.0, 2.0, 1.0]))
    assert three.tolist() == pytest.approx([2.25, 1.333333, 0.416667], abs=1e-5)
    assert discrepancy_ratio(torch.full((4,), 7.0)).tolist() == pytest.approx([1.0] * 4)
    assert discrepancy_ratio(torch.zeros(3)).tolist() == [1.0] * 3  # nobody is ahead
    assert discrepancy_ratio(torch.tensor([1.0, 0.0]))[1].item() == pytest.approx(0)
    assert discrepancy_ratio(torch.tensor([2, 1])).tolist() == [2.0, 0.5]


@own.quick
@given(own.seeds(), st.integers(1, 64), st.integers(2, 6), st.integers(1, 20))
def test_calibration_error_is_that_of_torchmetrics(seed, n, c, bins):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(3 * rng.standard_normal((n, c))).float()
    labels = torch.from_numpy(rng.integers(0, c, n))
    found = expected_calibration_error(logits, labels, bins=bins).item()
    # Given as probabilities: torchmetrics takes logits that all lie in [0, 1] for such.
    probability = logits.softmax(dim=1)
    theirs = multiclass_calibration_error(probability, labels, num_classes=c, n_bins=bins)
    assert found == pytest.approx(theirs.item(), abs=1e-5)


def test_a_bin_has_its_upper_edge_and_the_last_one_full_confidence():
    half, sure = [0.0, 0.0], [50.0, 0.0]  # probabilities 0.5 and 1
    labels = torch.tensor([0, 1])
    logits = torch.tensor([half, [0.75, 0.25]])
    logits[1] = logits[1].log()
    apart = expected_calibration_error(logits, labels, bins=2).item()
    assert apart == pytest.approx((0.5 + 0.75) / 2)  # 0.5 is in the lower bin
    logits = torch.stack([torch.tensor(sure), logits[1]])
    together = expected_calibration_error(logits, labels, bins=2).item()
    assert together == pytest.approx(0.75 / 2)


def test_ignored_rows_have_no_calibration():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    ignored = torch.where(torch.arange(6) < 4, labels, -1)
    expected = expected_calibration_error(logits[:4], labels[:4]).item()
    assert expected_calibration_error(logits, ignored).item() == pytest.approx(expected)
    assert expected_calibration_error(logits[:0], labels[:0]).item() == 0.0


def test_shares_at_the_ends():
    even, one = torch.full((3, 4), 0.25), torch.tensor([[1.0, 0, 0, 0]])
    assert share_entropy(even).item() == pytest.approx(1.0)
    assert share_entropy(one).item() == 0.0
    assert collapsed_share_fraction(even).item() == 1.0
    assert collapsed_share_fraction(one).item() == 0.0
    mixed = torch.cat([even, one])
    only = torch.tensor([False, False, False, True])
    assert share_entropy(mixed, valid=only).item() == 0.0
    assert collapsed_share_fraction(mixed, valid=~only).item() == 1.0
    near = torch.tensor([[0.3, 0.34, 0.36]])  # 0.033, 0.007 and 0.027 from 1/3
    assert collapsed_share_fraction(near, tolerance=0.03).item() == pytest.approx(2 / 3)
    assert share_entropy(even[:0]).item() == collapsed_share_fraction(even[:0]).item() == 0.0


@own.quick
@given(st.data(), st.integers(1, 30), own.modality_counts())
def test_share_entropy_against_a_loop(data, s, m):
    shares = data.draw(own.shares_arrays(s, m))
    expected = [sum(-p * np.log(p) for p in row if p > 0) / np.log(m) for row in shares]
    found = share_entropy(torch.from_numpy(shares)).item()
    assert found == pytest.approx(np.mean(expected))


def test_hardness_quantiles_leave_out_what_does_not_count():
    weights = torch.tensor([1.0, 1.2, 2.0, 1.4])
    counted = torch.tensor([True, True, False, True])
    found = hardness_quantiles(weights, valid=counted, quantiles=(0, 0.5, 1))
    assert found.tolist() == pytest.approx([1.0, 1.2, 1.4])
    assert hardness_quantiles(weights[:0]).isnan().all()
    assert hardness_quantiles(weights, valid=torch.zeros(4)).isnan().all()


def test_permutation_importance_is_a_ratio_of_accuracies():
    logits, labels = torch.eye(4)[[0, 1, 2, 0]], torch.arange(4)
    assert permutation_importance(logits, logits, labels).item() == 1.0
    shuffled = logits[[0, 2, 1, 3]]
    assert permutation_importance(logits, shuffled, labels).item() == pytest.approx(1 / 3)
    assert permutation_importance(logits[[1, 0, 0, 0]], logits, labels).isnan()


def test_removing_a_modality_leaves_the_rest_and_the_caller_alone():
    audio = {"wave": torch.randn(5, 3), "length": torch.arange(5)}
    batch = {"audio": audio, "video": torch.randn(5, 2)}
    before = {"wave": audio["wave"].clone(), "length": audio["length"].clone()}
    zeros = remove_modality(batch, "audio", "zero")
    assert zeros["video"] is batch["video"]
    assert not zeros["audio"]["wave"].any()
    assert not zeros["audio"]["length"].any()
    assert zeros["audio"]["length"].dtype == torch.int64
    generator = torch.Generator().manual_seed(1)
    permuted = remove_modality(batch, "audio", "permute", generator=generator)["audio"]
    order = permuted["length"]
    assert sorted(order.tolist()) == list(range(5))
    assert order.tolist() != list(range(5))
    assert torch.equal(permuted["wave"], audio["wave"][order])  # whole rows move
    mean = remove_modality(batch, "video", "mean")["video"]
    assert torch.allclose(mean, batch["video"].mean(dim=0).expand(5, 2))
    given = remove_modality(batch, "video", "mean", mean=torch.tensor([4.0, 5.0]))["video"]
    assert given.tolist() == [[4.0, 5.0]] * 5
    assert all(torch.equal(before[key], audio[key]) for key in before)


@pytest.mark.parametrize("function", [misaligned_accuracy, misaligned_confidence])
def test_no_row_and_one_row_work(function):
    assert not function(torch.zeros(0, 3), torch.zeros(0, 2, dtype=torch.long)).any()
    one = torch.tensor([[2.0, 1.0, 0.0]])
    assert function(one, torch.tensor([[0, 1]])).isfinite().all()
    assert not function(one, torch.tensor([[0, -1]])).any()


def test_measures_carry_no_gradient():
    logits = torch.randn(6, 3, requires_grad=True)
    labels = torch.arange(6) % 3
    sources = torch.stack([labels, labels.roll(1)], dim=1)
    for value in (
        accuracy(logits, labels),
        misaligned_accuracy(logits, sources),
        misaligned_confidence(logits, sources),
        expected_calibration_error(logits, labels),
        share_entropy(logits.softmax(dim=1)),
        discrepancy_ratio(logits.exp().sum(dim=0)),
    ):
        assert not value.requires_grad


@pytest.mark.parametrize("name", ["misaligned_confidence", "expected_calibration_error"])
def test_half_precision_is_computed_in_float32(name):
    logits, labels = torch.randn(6, 3).bfloat16(), torch.arange(6) % 3
    if name == "misaligned_confidence":
        labels = torch.stack([labels, labels.roll(1)], dim=1)
    found = getattr(measures, name)(logits, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, getattr(measures, name)(logits.float(), labels))


def test_credit_and_following_of_the_odd_one_out():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log().expand(4, 3)
    sources = torch.tensor([[0, 1, 1], [0, 1, 2], [1, 1, 1], [0, 0, 2]])
    credit, followed, odd = measures.odd_one_out(logits, sources)
    assert odd.tolist() == [
        [True, False, False],
        [True, True, True],
        [False, False, False],
        [False, False, True],
    ]
    expected = [[2 / 3, 0, 0], [0.6, 0.3, 0.1], [0, 0, 0], [0, 0, 1 / 7]]
    assert torch.allclose(credit, torch.tensor(expected))
    assert followed.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    _, tied, _ = measures.odd_one_out(torch.zeros(2, 3), sources[:2])
    assert torch.allclose(tied, torch.tensor([[1 / 2, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))


WORDS = {"a": ["x", "y", "z"], "b": torch.ones(3, 2)}
RAGGED = {"a": [torch.ones(n, 4) for n in (2, 5, 3)], "b": torch.ones(3, 2)}


@pytest.mark.parametrize("removal", ["zero", "mean"])
@pytest.mark.parametrize(
    "value",
    [WORDS["a"], [1, 2, 3], [torch.ones(2), None], {"ids": torch.ones(3), "text": WORDS["a"]}],
)
def test_a_list_that_zeros_cannot_reach_is_no_modality_removed(value, removal):
    with pytest.raises(MidasAugError, match=r"'a' to hold arrays, got a list with .*permute"):
        remove_modality({**WORDS, "a": value}, "a", removal)


@pytest.mark.parametrize("removal", ["zero", "mean", "permute"])
@pytest.mark.parametrize("value", [None, {}, {"x": None}, "words"])
def test_a_modality_without_arrays_is_refused(value, removal):
    with pytest.raises(MidasAugError, match=r"an array with rows, got|hold arrays with one row"):
        remove_modality({"a": value, "b": torch.ones(3)}, "a", removal)


def test_a_list_of_arrays_has_zeros_and_an_order_but_no_mean():
    zeros = remove_modality(RAGGED, "a", "zero")["a"]
    assert [part.shape for part in zeros] == [part.shape for part in RAGGED["a"]]
    assert not any(part.any() for part in zeros)
    assert sorted(map(len, remove_modality(RAGGED, "a", "permute")["a"])) == [2, 3, 5]
    with pytest.raises(MidasAugError, match="got a list, which has a row an item; stack or pad"):
        remove_modality(RAGGED, "a", "mean")


@pytest.mark.parametrize("mean", ["", 0.0, [0.0, 0.0]])
def test_a_mean_that_is_given_is_an_array(mean):
    with pytest.raises(MidasAugError, match="expected mean as what replaces a row of 'b'"):
        remove_modality(WORDS, "b", "mean", mean=mean)
    given = remove_modality(WORDS, "a", "mean", mean=torch.zeros(4))["a"]
    assert given.shape == (3, 4)


def test_a_setting_beside_arrays_stays():
    audio = {"wave": torch.ones(3, 2), "rate": 16_000, "mask": None}
    assert remove_modality({"a": audio}, "a", "zero")["a"]["rate"] == 16_000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(4).long()), ["logits", "(3, 2)"]),
        (lambda: accuracy(torch.zeros(3, 2), torch.tensor([0, 1, 2])), ["2 columns", "label 2"]),
        (
            lambda: misaligned_accuracy(torch.zeros(1, 3), torch.tensor([[0, 1]]), same_label="x"),
            ["skip", "wrong", "'x'"],
        ),
        (lambda: misaligned_confidence(torch.zeros(2, 3), torch.zeros(2).long()), ["2 axes"]),
        (lambda: shapley({subset("ab"): torch.ones(1)}), ["every subset", "['a']"]),
        (lambda: shapley({}), ["every subset"]),
        (lambda: discrepancy_ratio(torch.ones(1)), ["two modalities", "(1,)"]),
        (lambda: remove_modality({"a": torch.ones(2)}, "b", "zero"), ["['a']", "'b'"]),
        (lambda: remove_modality({"a": torch.ones(2)}, "a", "noise"), ["permute", "'noise'"]),
        (lambda: remove_modality({"a": torch.ones(2).long()}, "a", "mean"), ["'a'", "int64"]),
        (lambda: share_entropy(torch.ones(2, 2), valid=torch.ones(3)), ["valid", "(3,)"]),
        (
            lambda: collapsed_share_fraction(torch.ones(2, 2), tolerance="x"),
            ["tolerance", "from 0 to 1", "'x'"],
        ),
        (
            lambda: misaligned_confidence(
                torch.zeros(1, 3), torch.tensor([[0, 1]]), normalized="no"
            ),
            ["normalized", "True or False", "'no'"],
        ),
    ],
)
def test_errors_say_what_came_and_what_to_do(call, words):
    with pytest.raises(MidasAugError) as caught:
        call()
    assert "expected" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_no_measure_waits_for_the_device(monkeypatch):
    monkeypatch.setattr("midas_aug.functional.shares.may_read_values", lambda _: False)
    logits, labels = torch.randn(12, 4), torch.arange(12) % 4
    sources = torch.stack([labels, labels.roll(1)], dim=1)
    shares = logits[:, :2].softmax(dim=1)
    values = {s: torch.rand(12) for s in all_subsets(("a", "b"))}
    with OperatorCount() as log:
        accuracy(logits, labels)
        misaligned_accuracy(logits, sources)
        misaligned_accuracy(logits, sources, same_label="wrong")
        misaligned_confidence(logits, sources, normalized=True)
        permutation_importance(logits, logits, labels)
        expected_calibration_error(logits, labels)
        share_entropy(shares)
        collapsed_share_fraction(shares)
        discrepancy_ratio(shares.sum(dim=0))
        hardness_quantiles(shares[:, 0])
        shapley(values)
        sample_shapley(values)
        accuracy_shapley(values)
        remove_modality({"a": logits, "b": shares}, "b", "permute")
    assert log.operators > 50
    assert log.waiting == []


@pytest.mark.parametrize("bins", [0, -1, 2.5, "15"])
def test_a_number_of_bins_that_is_none_is_refused(bins):
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(MidasAugError, match="bins to be an integer of at least 1"):
        expected_calibration_error(logits, labels, bins=bins)
