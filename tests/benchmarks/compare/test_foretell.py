"""Foretelling the gain of a training: the line, its interval, the page and what is published."""

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.common.errors import DataError
from benchmarks.common.records import RESULTS
from benchmarks.compare import foretell
from benchmarks.compare.advice import load
from benchmarks.compare.foretell import ASKED, CHOSEN_ON, METHODS, Line, Point, Told
from midas_aug.diagnostics import advice

FOLDER = RESULTS / "diagnosis"


def made_up(slope=2.0, noise=0.0):
    """Tasks whose gains lie on a line, but for some noise."""
    draw = np.random.default_rng(0)
    known = {}
    for number, task in enumerate((*CHOSEN_ON, *ASKED)):
        gain = slope * number - 1 + noise * draw.normal()
        known[task] = Point(float(number), dict.fromkeys(METHODS, gain))
    return known


def test_the_line_and_its_interval_are_those_of_linear_regression():
    draw = np.random.default_rng(1)
    scores = draw.normal(size=7)
    gains = 3 * scores + 1 + draw.normal(size=7)
    line = Line.through(scores.tolist(), gains.tolist())
    known = stats.linregress(scores, gains)
    assert (line.slope, line.offset) == pytest.approx((known.slope, known.intercept))
    # at a score of 0 the standard error of the mean is that of the offset
    _, margin = line.foretell(0.0)
    expected = stats.t.ppf(0.975, 5) * np.sqrt(line.spread**2 + known.intercept_stderr**2)
    assert margin == pytest.approx(expected)


def test_prediction_intervals_hold_what_they_promise():
    draw = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        scores = draw.normal(size=10)
        gains = 2 * scores + draw.normal(size=10)
        line = Line.through(scores[:9].tolist(), gains[:9].tolist())
        foretold, margin = line.foretell(scores[9])
        inside += abs(gains[9] - foretold) <= margin
    assert 0.92 < inside / 400 < 0.98


def test_a_line_that_holds_is_better_than_the_mean_gain():
    found = foretell.told(made_up(noise=0.1), "skill")
    ours, theirs = foretell.errors(found)
    assert ours < 1 < theirs
    assert "it can be foretold" in foretell.verdict(found)
    no_line = foretell.told(made_up(slope=0, noise=1), "skill")
    assert [one.ignorant for one in no_line] == pytest.approx(
        [np.mean([made_up(slope=0, noise=1)[task].gains["skill"] for task in CHOSEN_ON])] * 5
    )


def test_more_than_one_gain_outside_the_interval_is_no():
    said = [Told(task, 1.0, 5.0, 1.0, 5.0, 50.0) for task in ASKED]
    assert "5 of 5 gains" in foretell.verdict(said)
    assert "it can be" in foretell.verdict([said[0]._replace(gained=7.0), *said[1:]])
    two = [one._replace(gained=7.0) for one in said[:2]]
    assert "it cannot be" in foretell.verdict([*two, *said[2:]])
    worse = [one._replace(gained=5.5, ignorant=5.5) for one in said]
    assert "it cannot be" in foretell.verdict(worse)


def test_a_point_is_the_mean_over_seeds_in_points():
    records = [{"task": "a", "scores": {foretell.SCORE: [value, 0, 0]}} for value in (0.1, 0.3)]
    (point,) = foretell.points(records, {("a", "midas"): 4.0}).values()
    assert point.score == pytest.approx(20)
    assert point.gains == {"midas": 4.0}


def test_gains_are_differences_of_the_published_runs():
    gains, file = foretell.published_gains(), RESULTS / "competition" / "runs.jsonl"
    runs = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    accuracy = {
        (run["entry"], run["seed"]): run["test"]["accuracy"]
        for run in runs[1:]
        if (run["task"], run["phase"]) == ("kanji", "test")
    }
    differences = [100 * (accuracy["midas", s] - accuracy["joint", s]) for s in range(3000, 3005)]
    assert gains["kanji", "midas"] == pytest.approx(np.mean(differences))


def test_the_published_page_is_what_the_records_say(tmp_path):
    page = foretell.page(foretell.points(load(tmp_path), foretell.published_gains()))
    assert (FOLDER / foretell.PAGE).read_text(encoding="utf-8") == page
    said = list(foretell.main(["--out", str(tmp_path)]))
    assert len(said) == len(METHODS)
    assert (tmp_path / foretell.PAGE).read_text(encoding="utf-8") == page
    assert (tmp_path / foretell.FIGURE).stat().st_size > 10_000


def test_other_words_are_refused():
    with pytest.raises(DataError, match="--out DIR"):
        list(foretell.main(["page"]))


def test_the_advice_of_a_diagnosis_says_what_the_line_through_all_tasks_says(tmp_path):
    known = foretell.points(load(tmp_path), foretell.published_gains())
    assert len(known) == 14
    line = foretell.line_of(known, known, "skill")
    slope, offset = advice.GAIN_OF_SKILL
    assert (slope, 100 * offset) == pytest.approx((line.slope, line.offset), abs=0.05)
    margins = [line.foretell(100 * score)[1] for score in (0, advice.FORETOLD_UP_TO)]
    assert min(margins) > 0.8 * 100 * advice.MARGIN_OF_SKILL
    assert max(margins) == pytest.approx(100 * advice.MARGIN_OF_SKILL, abs=0.5)
    assert max(line.scores) <= 100 * advice.FORETOLD_UP_TO


def test_the_words_of_the_docs_are_those_of_the_page(tmp_path):
    known = foretell.points(load(tmp_path), foretell.published_gains())
    page = " ".join((RESULTS.parents[1] / "docs/diagnostics.md").read_text("utf-8").split())
    section = page.split("**Can it foretell the gain?**")[1].split(" ![gain")[0]
    found = {method: foretell.told(known, method) for method in METHODS}
    ours, theirs = zip(*(foretell.errors(one) for one in found.values()), strict=True)
    assert f"errors are {ours[0]:.1f} and {ours[1]:.1f} points" in section
    assert f"off by {theirs[0]:.1f} and {theirs[1]:.1f}, and nine of the ten" in section
    outside = [(m, one.task) for m in METHODS for one in found[m] if not one.within]
    assert outside == [("skill", "kanji-still")]
    midas, skill = (foretell.line_of(known, known, method) for method in METHODS)
    words = f"MIDAS gains {midas.slope:.2f} times the score, skill {skill.slope:.2f} times"
    assert f"{words} and {skill.offset:.1f} points more" in section
    assert abs(midas.offset) < 0.05
