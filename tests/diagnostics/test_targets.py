"""Diagnosis of labels that are no classes: macro F1, R², skill, whom the model follows, advice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import nn
from torchmetrics.functional.classification import multilabel_f1_score

from midas_aug import MidasAugError
from midas_aug.diagnostics import ModalityReport, diagnose
from midas_aug.diagnostics.target_scores import MacroF1, RSquared, difference
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel, Target
from tests.helpers import planted

NAMES = ("a", "b")


def drawn(rows: int = 400, *, noise: bool = False, seed: int = 0):
    """Two modalities of six numbers, and three numbers that both tell of (noise: only ``a``)."""
    generator = torch.Generator().manual_seed(seed)
    data = {m: torch.randn(rows, 6, generator=generator) for m in NAMES}
    weights = {m: torch.randn(6, 3, generator=torch.Generator().manual_seed(9)) for m in NAMES}
    numbers = data["a"] @ weights["a"]
    if not noise:
        numbers = numbers + data["b"] @ weights["b"]
    return data, weights, numbers + 0.1 * torch.randn(rows, 3, generator=generator)


def batches(data, labels, size: int = 100):
    return [
        {**{m: value[rows] for m, value in data.items()}, "label": labels[rows]}
        for rows in torch.arange(len(labels)).split(size)
    ]


def run(
    target: Target,
    labels_of=lambda numbers: numbers,
    *,
    trust: float = 1.0,
    level: str = "feature",
    noise: bool = False,
    **options,
) -> ModalityReport:
    data, weights, numbers = drawn(noise=noise)
    loader = batches(data, labels_of(numbers))

    def fuse(f):
        return f["a"] @ weights["a"] + trust * (f["b"] @ weights["b"])

    def heads(f):
        return {m: f[m] @ weights[m] for m in NAMES}

    model = (lambda b: {m: b[m] for m in NAMES}, fuse) if level == "feature" else fuse
    options = {"resamples": 60, "draws": 2, "unimodal": heads, "training": loader} | options
    return diagnose(model, loader, NAMES, target=target, **options)


def several(numbers):
    return (numbers > 0).float()


# ---------------------------------------------------------------- scores


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(2, 4))
def test_macro_f1_is_torchmetrics(seed, rows, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator)
    labels = torch.randint(2, (rows, classes), generator=generator)
    metric = MacroF1()
    columns = metric.columns(logits, labels.float()).numpy()
    wanted = multilabel_f1_score(logits.sigmoid(), labels, num_labels=classes, average=None)
    seen = ((logits >= 0) | (labels > 0)).any(dim=0)
    wanted = float(wanted[seen].mean()) if seen.any() else 0.0
    assert float(metric.of_sums(columns.sum(axis=0))) == pytest.approx(wanted, abs=1e-6)


@given(st.integers(0, 2**31), st.integers(3, 20), st.integers(1, 3))
def test_r_squared_is_that_of_scikit_learn_weighted_by_variance(seed, rows, width):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    guesses = labels + torch.randn(rows, width, generator=generator)
    metric = RSquared()
    columns = metric.columns(guesses, labels).numpy()
    wanted = r2_score(labels.numpy(), guesses.numpy(), multioutput="variance_weighted")
    assert float(metric.of_sums(columns.sum(axis=0))) == pytest.approx(wanted, abs=1e-9)
    statistic = difference(metric, torch.from_numpy(columns), metric.columns(labels, labels))
    gap = statistic.of_sums(statistic.columns.sum(axis=0))
    assert float(gap) == pytest.approx(wanted - 1, abs=1e-9)


def test_labels_of_one_number_have_no_r_squared():
    metric = RSquared()
    columns = metric.columns(torch.zeros(3, 1), torch.ones(3))
    assert np.isnan(metric.of_sums(columns.sum(dim=0).numpy()))


@pytest.mark.parametrize("level", ["feature", "input"])
def test_scores_of_real_numbers_are_what_a_hand_finds(level):
    found = run(Continuous(3), trust=0.2, level=level).scores
    data, weights, numbers = drawn()
    parts = {m: data[m] @ weights[m] for m in NAMES}
    means = {m: (data[m].mean(dim=0) @ weights[m]).expand(400, 3) for m in NAMES}

    def score(guess):
        return r2_score(numbers, guess, multioutput="variance_weighted")

    whole = score(parts["a"] + 0.2 * parts["b"])
    without = score(parts["a"] + 0.2 * means["b"])
    alone = score(means["a"] + 0.2 * parts["b"])
    assert found["score"].value == pytest.approx(whole, abs=1e-4)
    assert found["without.b"].value == pytest.approx(without, abs=1e-4)
    assert found["cost.b"].value == pytest.approx(whole - without, abs=1e-4)
    assert found["alone.b"].value == pytest.approx(alone, abs=1e-4)
    assert found["head_score.b"].value == pytest.approx(score(parts["b"]), abs=1e-4)
    late = (parts["a"] + parts["b"]) / 2
    assert found["late_score"].value == pytest.approx(score(late), abs=1e-4)
    spread = float((numbers - numbers.mean(dim=0)).square().mean())
    for m in NAMES:
        skill = max(0.0, 1 - float((numbers - parts[m]).square().mean()) / spread)
        assert found[f"head_skill.{m}"].value == pytest.approx(skill, abs=1e-4)
        assert found[f"memorised.{m}"].value == 0
    assert found["followed.a"].value > 0.65 > 0.35 > found["followed.b"].value
    assert found["credit.a"].value + found["credit.b"].value == pytest.approx(1)


def test_scores_of_several_labels_are_what_a_hand_finds():
    found = run(MultiLabel(3), several, trust=0.2).scores
    data, weights, numbers = drawn()
    labels = several(numbers).long()
    logits = {m: data[m] @ weights[m] for m in NAMES}

    def score(guess):
        return float(multilabel_f1_score(guess.sigmoid(), labels, num_labels=3))

    assert found["score"].value == pytest.approx(score(logits["a"] + 0.2 * logits["b"]), abs=1e-6)
    late = torch.stack([logits[m].sigmoid() for m in NAMES]).mean(dim=0).logit()
    assert found["late_score"].value == pytest.approx(score(late), abs=1e-6)
    chance = 0.0
    for c in range(3):
        p = float(labels[:, c].float().mean())
        chance -= (p * math.log(p) + (1 - p) * math.log(1 - p)) / 3
    losses = []
    for number in range(60):
        z = logits["a"] / (0.3 * (20 / 0.3) ** (number / 59))
        losses.append(float(nn.functional.binary_cross_entropy_with_logits(z, labels.float())))
    skill = 1 - min(losses) / chance
    assert found["head_skill.a"].value == pytest.approx(skill, abs=1e-4)


def test_a_distribution_is_diagnosed_by_its_most_probable_class_and_has_a_cross_entropy():
    soft = run(Distribution(3), lambda numbers: numbers.softmax(dim=1))
    hard = run(ClassIndex(3), lambda numbers: numbers.argmax(dim=1))
    assert {key: score for key, score in soft.scores.items() if key != "cross_entropy"} == (
        hard.scores
    )
    data, weights, numbers = drawn()
    logits = data["a"] @ weights["a"] + data["b"] @ weights["b"]
    loss = nn.functional.cross_entropy(logits, numbers.softmax(dim=1))
    assert soft.scores["cross_entropy"].value == pytest.approx(float(loss), abs=1e-5)


def test_class_indices_may_come_as_a_target():
    built = planted.make_case("balanced", rows=100)
    model = (built.model.encode, built.model.fuse)
    options = {"resamples": 20, "draws": 1}
    names = tuple(built.model.scales)
    usual = diagnose(model, built.loader, names, num_classes=5, **options)
    assert diagnose(model, built.loader, names, target=ClassIndex(5), **options).scores == (
        usual.scores
    )


# ---------------------------------------------------------------- words


def test_a_modality_that_is_ignored_is_told_with_the_score_of_the_target():
    for target, labels_of in ((Continuous(3), lambda numbers: numbers), (MultiLabel(3), several)):
        report = run(target, labels_of, trust=0.0)
        kinds = {(finding.kind, finding.modality) for finding in report.findings}
        assert {("ignored", "b"), ("underused", "b")} <= kinds
        metric = "R²" if isinstance(target, Continuous) else "macro F1"
        text = str(report)
        assert f"{metric} of its own head" in text
        assert "accuracy" not in text.split("\n\n- ")[0]
        assert metric in report.to_html()


@pytest.mark.parametrize(
    ("target", "labels_of"), [(Continuous(3), lambda numbers: numbers), (MultiLabel(3), several)]
)
def test_a_model_that_any_modality_is_enough_for_is_told_with_the_score_of_the_target(
    target, labels_of
):
    data, _, numbers = drawn()
    report = diagnose(
        lambda batch: torch.ones(len(batch["a"]), 3),  # hears nothing
        batches(data, labels_of(numbers)),
        NAMES,
        target=target,
        resamples=20,
    )
    (text,) = [finding.text for finding in report.findings if finding.kind == "redundant"]
    percent = 100 * report.scores["score"].value
    assert f"within 2 points of its score with all ({percent:.1f}" in text
    assert text in str(report)


def test_noise_is_dropped_and_what_is_memorised_is_augmented():
    noise = run(Continuous(3), noise=True, trust=0.0)
    assert [(one.action, one.modality) for one in noise.advice] == [("drop", "b")]
    data, weights, numbers = drawn(noise=True)
    easy = {**data, "b": numbers @ torch.linalg.pinv(weights["b"])}  # of training rows it knows all
    found = run(Continuous(3), noise=True, trust=0.3, training=batches(easy, numbers))
    assert found.scores["memorised.b"].low > 0.9


def test_the_json_of_a_report_says_what_was_scored():
    settings = run(Continuous(3)).to_dict()["settings"]
    assert settings["score"] == "R²"
    assert settings["target"] == "Continuous(3, scale=1.0)"
    assert "n_classes" not in settings


# ---------------------------------------------------------------- rows that do not count


def test_rows_without_a_label_do_not_count():
    def hidden(numbers):
        return torch.where((torch.arange(400) < 40)[:, None], torch.nan, numbers)

    report = run(Continuous(3), hidden)
    assert report.settings["n_rows"] == 360
    assert all(np.isfinite(score.value) for score in report.scores.values())


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_rows_that_lack_a_modality_are_left_out_and_counted(level, kind):
    data, weights, numbers = drawn()
    labels = numbers if kind == "numbers" else numbers.argmax(dim=1)
    target = Continuous(3) if kind == "numbers" else ClassIndex(3)
    here = torch.ones(400, 2, dtype=torch.bool)
    here[:100, 1] = False
    loader = [
        {**batch, "here": rows}
        for batch, rows in zip(batches(data, labels), here.split(100), strict=True)
    ]
    loader[0]["b"] = torch.full_like(loader[0]["b"], torch.nan)
    complete = loader[1:]

    def fuse(f):
        return (f["a"] @ weights["a"] + f["b"] @ weights["b"]).nan_to_num()

    model = (lambda b: {m: b[m] for m in NAMES}, fuse) if level == "feature" else fuse
    options = {"target": target, "resamples": 20, "draws": 1, "removal": "zero"}
    found = diagnose(model, loader, NAMES, present="here", **options)
    assert found.settings["n_rows"] == 300
    assert found.settings["incomplete_rows"] == 100
    assert "incomplete_rows: 100" in str(found)
    wanted = diagnose(model, complete, NAMES, **options)
    for key in ("without.a", "alone.b", "cost.b"):
        assert found.scores[key] == pytest.approx(wanted.scores[key], abs=1e-6), key
    by_name = diagnose(
        model,
        loader,
        NAMES,
        present=lambda b: {"a": b["here"][:, 0], "b": b["here"][:, 1]},
        **options,
    )
    assert by_name.scores == found.scores


# ---------------------------------------------------------------- refusals


class Own(Target):
    def check(self, labels, *, force=False):
        return labels

    def label_ids(self, labels):
        return labels.long()

    def log_likelihoods(self, scores, labels):
        return -(scores - labels).abs()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": Own()}, "ClassIndex, Distribution, MultiLabel or Continuous, got Own"),
        ({"num_classes": 3}, "num_classes or target, got both"),
        ({"target": Continuous(2)}, r"the labels of shape \(any, 2\)"),
        (
            {"unimodal": lambda f: {m: f[m][:, :2] for m in NAMES}},
            r"head of 'a'.* of shape \(100, 3\)",
        ),
        (
            {"unimodal": lambda f: {m: f[m][:, :3] * math.nan for m in NAMES}},
            "400 of 400 of the head",
        ),
        ({"present": "absent"}, "absent"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, words):
    with pytest.raises(MidasAugError, match=words):
        run(**{"target": Continuous(3)} | change)


def test_float_labels_without_a_target_are_told_which_there_are():
    data, _, numbers = drawn()
    with pytest.raises(MidasAugError, match="integer dtype"):
        diagnose(lambda b: b["a"], batches(data, numbers[:, 0]), NAMES)


def test_rows_that_are_all_alike_have_no_partners():
    with pytest.raises(MidasAugError, match="at least two different labels"):
        run(Continuous(3), torch.zeros_like)
