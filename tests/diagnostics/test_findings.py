"""Findings on models built to be balanced, dominated, fed with noise or with a copy; thresholds."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import midas_aug
from midas_aug.diagnostics import ModalityReport, Score, advise, diagnose, findings
from midas_aug.diagnostics.findings import find
from tests.helpers import planted


@cache
def report(case: str, modalities: int = 2, heads: bool = True) -> ModalityReport:
    built = planted.make_case(case, modalities=modalities)
    return diagnose(
        (built.model.encode, built.model.fuse),
        built.loader,
        tuple(built.model.scales),
        unimodal=built.unimodal if heads else None,
        training=built.training,
        resamples=300,
    )


def kinds(found) -> set[tuple[str, str | None]]:
    return {(finding.kind, finding.modality) for finding in found}


EXPECTED = {
    "balanced": {("balanced", None)},
    "dominated": {("ignored", "video"), ("leans", "audio"), ("underused", "video")},
    "noise": {("no_signal", "video")},
    "copied": {("redundant", None)},
    "memorised": {("leans", "audio")},
    "missing": {("balanced", None)},
}


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("case", planted.CASES)
def test_a_planted_case_is_recognised(case, modalities):
    found = kinds(report(case, modalities).findings)
    found -= {kind for kind in found if kind[0] == "miscalibrated"}
    expected = EXPECTED[case]
    if modalities == 3:  # the third modality is heard, too
        expected = expected - {("leans", "audio")} or {("balanced", None)}
    assert found == expected


def test_the_ignored_modality_is_named_with_numbers_and_how_sure_they_are():
    scores = report("dominated").scores
    (text,) = [f.text for f in report("dominated").findings if f.kind == "ignored"]
    cost, head = scores["cost.video"], scores["head_accuracy.video"]
    assert f"removing video costs {100 * cost.value:.1f} ± {100 * cost.margin:.1f} points" in text
    assert f"video alone reaches {100 * head.value:.1f} ± {100 * head.margin:.1f} %" in text
    assert head.value > 0.7


def test_without_heads_an_ignored_modality_cannot_be_told_from_noise():
    for case in ("dominated", "noise"):
        found = report(case, heads=False).findings
        assert ("unused", "video") in kinds(found)
        assert "unimodal=" in found[0].text
        assert not {"ignored", "no_signal"} & {finding.kind for finding in found}


def test_heads_that_are_sure_of_everything_collapse_the_shares():
    labels = torch.arange(200) % 4
    sure = 30.0 * torch.nn.functional.one_hot(labels, 4)
    batch = {"a": sure, "b": sure, "label": labels}
    found = diagnose(
        (lambda batch: {"a": batch["a"], "b": batch["b"]}, lambda f: f["a"] + f["b"]),
        [batch],
        ("a", "b"),
        unimodal=lambda features: features,
        resamples=50,
    ).findings
    (text,) = [finding.text for finding in found if finding.kind == "collapsed_shares"]
    assert "100.0 ± 0.0 %" in text
    for name in ("FrozenConfidence", "CalibratedConfidence", "TableConfidence", "SkillConfidence"):
        assert name in text
        assert hasattr(midas_aug.confidence, name)


def score(value: float, margin: float = 0.01) -> Score:
    return Score(value, value - margin, value + margin)


def scores_of(**changes: Score) -> dict[str, Score]:
    """A model in balance, with heads; changes are ``cost_b=…`` for ``cost.b``."""
    base = {"accuracy": score(0.9), "majority": score(0.2)}
    for m in ("a", "b"):
        base |= {
            f"cost.{m}": score(0.2),
            f"followed.{m}": score(0.5),
            f"alone.{m}": score(0.7),
            f"alone_signal.{m}": score(0.5),
            f"head_accuracy.{m}": score(0.75),
            f"headroom.{m}": score(0.05),
            f"signal.{m}": score(0.55),
            f"head_ece.{m}": score(0.03),
        }
    base |= {"share_collapsed": score(0.4), "shared_errors.a+b": score(0.3)}
    for key, value in changes.items():
        name = (
            "shared_errors.a+b"
            if key == "shared_errors"
            else f"{key[:-2]}.b"
            if key.endswith("_b")
            else key
        )
        base[name] = value
    return base


@pytest.mark.parametrize(
    ("changes", "kind", "beyond"),
    [
        ({"cost_b": 0.009, "headroom_b": 0.2}, "ignored", {"cost_b": 0.011}),
        ({"cost_b": 0.0, "headroom_b": 0.111}, "ignored", {"headroom_b": 0.109}),
        ({"followed_b": 0.761}, "leans", {"followed_b": 0.759}),
        ({"headroom_b": 0.111}, "underused", {"headroom_b": 0.109}),
        ({"signal_b": 0.009}, "no_signal", {"signal_b": 0.011}),
        ({"shared_errors": 0.761}, "redundant", {"shared_errors": 0.759}),
        ({"share_collapsed": 0.811}, "collapsed_shares", {"share_collapsed": 0.809}),
        ({"head_ece_b": 0.111}, "miscalibrated", {"head_ece_b": 0.109}),
    ],
)
def test_the_whole_interval_has_to_be_beyond_the_threshold(changes, kind, beyond):
    def found(numbers):
        return {f.kind for f in find("ab", scores_of(**{k: score(v) for k, v in numbers.items()}))}

    assert kind in found(changes)
    assert kind not in found(changes | beyond)


def test_a_wide_interval_around_a_signal_is_no_finding():
    assert "no_signal" not in {f.kind for f in find("ab", scores_of(signal_b=score(0.06, 0.1)))}
    assert "no_signal" in {f.kind for f in find("ab", scores_of(signal_b=score(0.04, 0.1)))}


def test_heads_without_a_signal_are_no_copies_though_they_share_their_errors():
    scores = scores_of(shared_errors=score(0.9), signal_b=score(0.0))
    assert "redundant" not in {f.kind for f in find("ab", scores)}


def test_heads_that_are_mostly_wrong_are_no_copies_though_they_are_wrong_together():
    scores = scores_of(shared_errors=score(0.8))
    scores |= {"head_accuracy.a": score(0.21), "head_accuracy.b": score(0.14)}
    assert "redundant" not in {f.kind for f in find("ab", scores)}
    scores |= {"head_accuracy.a": score(0.4)}  # by chance they would share 60 %
    assert "redundant" not in {f.kind for f in find("ab", scores)}
    scores["shared_errors.a+b"] = score(0.82)
    assert "redundant" in {f.kind for f in find("ab", scores)}


def test_any_of_two_is_enough():
    changes = scores_of(cost_b=score(0.0)) | {"cost.a": score(0.0)}
    changes |= {"alone.a": score(0.885), "alone.b": score(0.89)}
    (first,) = find("ab", changes)
    (advice,) = advise("ab", changes, [first])
    assert first.kind == "redundant"
    assert "a and b" in advice.text
    changes["alone.a"] = score(0.87)
    assert "redundant" not in {f.kind for f in find("ab", changes)}


def test_a_model_that_hears_a_modality_it_could_do_without_does_not_ignore_it():
    found = find("ab", scores_of(cost_b=score(0.0), followed_b=score(0.3)))
    assert {f.kind for f in found} == {"balanced"}


def test_without_heads_what_the_model_makes_of_it_alone_tells_or_else_the_cost():
    scores = scores_of(cost_b=score(0.0))
    keep = ("accuracy", "majority", "cost", "alone_signal", "followed")
    scores = {key: value for key, value in scores.items() if key.partition(".")[0] in keep}
    assert "unused" not in {f.kind for f in find("ab", scores)}
    scores["alone_signal.b"] = score(0.089)
    assert "unused" in {f.kind for f in find("ab", scores)}
    scores["alone_signal.b"] = score(0.091)
    assert "unused" not in {f.kind for f in find("ab", scores)}
    bare = {key: scores[key] for key in ("accuracy", "majority", "cost.a", "cost.b")}
    assert {f.kind for f in find("ab", bare)} == {"unused"}


def test_a_model_that_is_never_sure_can_still_be_deaf():
    inputs, labels = torch.eye(4).repeat(30, 1), torch.arange(120) % 4
    batch = {"a": inputs, "b": inputs, "label": labels}  # logits of 0 and 1: at most 48 % sure
    found = kinds(diagnose(lambda batch: batch["a"], [batch], ("a", "b"), resamples=100).findings)
    assert found == {("unused", "b"), ("leans", "a")}


def test_nothing_to_go_by_finds_nothing():
    assert find("ab", {"accuracy": score(0.9), "majority": score(0.2)}) == []


def test_every_threshold_is_on_the_page():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    names = [name for name in vars(findings) if name.isupper()]
    assert len(names) == 10
    for name in names:
        assert f"`{name}` {getattr(findings, name):g}" in page, name
