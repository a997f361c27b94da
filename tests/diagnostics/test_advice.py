"""Advice on models built to be balanced, dominated, memorised, noise, a copy, missing; rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from midas_aug import recipes
from midas_aug.diagnostics import Score, advice, advise, diagnose
from midas_aug.diagnostics.findings import Finding
from tests.helpers import planted

MAIN = {
    "balanced": [("nothing", None)],
    "dominated": [("paper", None)],
    "noise": [("drop", "video")],
    "copied": [("nothing", None)],
    "memorised": [("skill", None), ("augment", "video")],
    "missing": [("nothing", None)],
}


PAGE = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text("utf-8")
BUILT = {  # as the page calls them
    "balanced": "both modalities know as much",
    "dominated": "audio is clear and learned long before video",
    "noise": "video is noise",
    "copied": "video is audio once more",
    "memorised": "video tells the training rows apart",
    "missing": "every other row has zeros for video",
}


def said(pairs) -> str:
    return ", ".join(" ".join(filter(None, pair)) for pair in pairs)


@pytest.mark.parametrize("case", planted.CASES)
def test_a_planted_case_gets_its_advice(case):
    built = planted.make_case(case)
    report = diagnose(
        (built.model.encode, built.model.fuse),
        built.loader,
        tuple(built.model.scales),
        unimodal=built.unimodal,
        training=built.training,
        resamples=300,
    )
    assert [(one.action, one.modality) for one in report.advice] == MAIN[case]
    findings = said(
        (one.kind, one.modality) for one in report.findings if one.kind != "miscalibrated"
    )
    assert f"| {BUILT[case]} | {findings} | {said(MAIN[case])} |" in PAGE
    gains = [score.value for key, score in report.scores.items() if key.endswith("fusion_gain")]
    if case != "memorised":
        assert max(gains) < 0.0251  # the 2.5 points of the page
    for one in report.advice:
        assert one.because
        assert set(one.because) <= set(report.scores)
    assert report.to_dict()["advice"] == [one.to_dict() for one in report.advice]
    assert f"\nWhat to do:\n\n1. {report.advice[0].text}" in str(report)
    assert f"1. {report.advice[0].text}" in report.to_markdown()


def score(value: float, margin: float = 0.01) -> Score:
    return Score(value, value - margin, value + margin)


def actions(scores, *findings: tuple[str, str | None]) -> list[tuple[str, str | None]]:
    found = [Finding(kind, modality, "") for kind, modality in findings]
    return [(one.action, one.modality) for one in advise("ab", scores, found)]


def heads(**changes: Score) -> dict[str, Score]:
    """A model whose heads are all known and lose to it; changes are ``head_gain_a=…``."""
    base = {"accuracy": score(0.9), "majority": score(0.2)}
    for m in "ab":
        base |= {
            f"head_accuracy.{m}": score(0.7),
            f"head_gain.{m}": score(-0.2),
            f"cost.{m}": score(0.2),
            f"signal.{m}": score(0.5),
            f"headroom.{m}": score(0.0),
            f"head_skill.{m}": score(0.6),
            f"training_skill.{m}": score(0.7),
            f"memorised.{m}": score(0.1),
        }
    base |= {"late_fusion": score(0.9), "fitted_fusion": score(0.9)}
    base |= {"late_fusion_gain": score(0.0), "fitted_fusion_gain": score(0.0)}
    base["fitting_gain"] = score(0.0)
    names = {key: key for key in base} | {key.replace(".", "_"): key for key in base}
    return base | {names[key]: value for key, value in changes.items()}


NOTHING = [("nothing", None)]


def test_heads_that_lose_to_the_model_need_nothing():
    assert actions(heads()) == NOTHING


@pytest.mark.parametrize("key", ["late_fusion_gain", "fitted_fusion_gain", "head_gain_b"])
def test_a_gain_counts_from_three_points_if_it_is_surely_one(key):
    assert advice.GAIN == 0.03
    assert actions(heads(**{key: score(0.029)})) == NOTHING
    assert actions(heads(**{key: score(0.031, 0.032)})) == NOTHING
    found = actions(heads(**{key: score(0.031, 0.030)}))
    assert found[-1] == ("skill", None)
    assert found[:-1] == {
        "late_fusion_gain": [("late_fusion", None)],
        "fitted_fusion_gain": [("fit_weights", None)],
        "head_gain_b": [],
    }.get(key)


def test_of_two_gains_weights_are_fitted_unless_fitting_costs():
    both = {"late_fusion_gain": score(0.1), "fitted_fusion_gain": score(0.1)}
    assert actions(heads(**both, fitting_gain=score(0.0)))[0] == ("fit_weights", None)
    assert actions(heads(**both, fitting_gain=score(-0.001)))[0] == ("late_fusion", None)


def test_memorised_is_a_wide_gap_of_most_of_what_is_known_of_training_rows():
    def with_gap(gap: Score, training: float):
        return actions(heads(memorised_b=gap, training_skill_b=score(training)))

    assert with_gap(score(0.209), 0.3) == NOTHING  # not surely 0.2
    assert with_gap(score(0.211), 0.3) == [("augment", "b")]
    assert with_gap(score(0.5), 0.8) == NOTHING  # of 0.8 no more than 0.533
    assert with_gap(score(0.54), 0.8) == [("augment", "b")]
    assert actions(heads(memorised_b=score(0.9)), ("no_signal", "b"))[0] == NOTHING[0]


def test_early_learning_is_told_where_it_is_known():
    changes = {"memorised_b": score(0.6), "training_skill_b": score(0.7)}
    (one,) = advise("ab", heads(**changes) | {"learned_at.b": Score(1.5, 0, 0)}, [])
    assert "by epoch 1.5" in one.text


def test_a_modality_without_signal_is_dropped_unless_the_model_needs_it():
    silent = ("no_signal", "b")
    assert actions(heads(cost_b=score(0.02)), silent) == [("drop", "b")]
    assert actions(heads(cost_b=score(0.021)), silent) == NOTHING
    without_cost = {key: value for key, value in heads().items() if key != "cost.b"}
    assert actions(without_cost, silent) == [("drop", "b")]


def test_an_ignored_modality_is_for_midas_unless_modalities_compete_or_are_silent():
    ignored = ("ignored", "b")
    assert actions(heads(headroom_b=score(0.3)), ignored) == [("paper", None)]
    competing = heads(headroom_b=score(0.3), late_fusion_gain=score(0.1))
    assert actions(competing, ignored) == [("late_fusion", None), ("skill", None)]
    found = [Finding("no_signal", "c", ""), Finding("underused", "b", "")]
    third = {f"{kind}.c": score(0.01) for kind in ("signal", "cost", "head_accuracy")}
    mixed = advise("abc", heads(headroom_b=score(0.3)) | third, found)
    assert [(one.action, one.modality) for one in mixed] == [("drop", "c"), ("skill", None)]
    copies = heads(headroom_b=score(0.3)) | {"shared_errors.a+b": score(0.9)}
    assert actions(copies, ignored) == NOTHING


def test_without_heads_they_are_asked_for_where_something_is_odd():
    scores = {"accuracy": score(0.9), "cost.b": score(0.0), "followed.a": score(0.9)}
    assert actions(scores, ("unused", "b")) == [("ask_heads", None)]
    assert actions(scores, ("leans", "a")) == [("ask_heads", None)]
    assert actions(scores) == []
    assert actions({}) == []


def test_the_numbers_that_led_to_it_are_in_the_text_with_their_intervals():
    scores = heads(fitted_fusion_gain=score(0.1078, 0.031), fitting_gain=score(0.04))
    first, second = advise("ab", scores, [])
    assert "10.8 ± 3.1 points above the model" in first.text
    assert first.because == second.because == ("fitted_fusion_gain",)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.1078, "gained about 16 points by it, give or take 6."),  # 1.3 × 10.78 + 1.9
        (0.3, "gained about 41 points by it, give or take 6."),
        (0.301, None),  # no task was like it
        (-0.02, None),
    ],
)
def test_what_skill_is_likely_to_gain_is_told_within_what_was_measured(gain, words):
    scores = heads(fitted_fusion_gain=score(gain), head_gain_b=score(0.1))
    (text,) = (one.text for one in advise("ab", scores, []) if one.action == "skill")
    assert (words in text) if words else ("fourteen" not in text)


def test_what_the_advice_names_is_there():
    from midas_aug import functional

    text = " ".join(
        one.text
        for scores, findings in (
            (heads(fitted_fusion_gain=score(0.1)), []),
            (heads(headroom_b=score(0.3)), [Finding("ignored", "b", "")]),
            (heads(cost_b=score(0.0)), [Finding("no_signal", "b", "")]),
        )
        for one in advise("ab", scores, findings)
    )
    for recipe in ("paper", "plain_swap", "skill"):
        assert f"recipes.{recipe}" in text
        assert hasattr(recipes, recipe)
    assert "fit_fusion_weights" in text
    assert hasattr(functional, "fit_fusion_weights")
