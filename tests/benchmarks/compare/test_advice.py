"""The advice held against the runs of the comparison: the published table, and how it is made."""

import statistics
from pathlib import Path

import pytest
import torch

from benchmarks.common.errors import DataError
from benchmarks.common.records import RESULTS
from benchmarks.compare import advice
from benchmarks.compare.advice import (
    Encoded,
    Trained,
    actions,
    always,
    followed,
    gain_of,
    left_out,
    load,
    look,
    main,
)
from benchmarks.compare.report.statistics import paired_difference
from benchmarks.compare.suite import load_records
from benchmarks.compare.tasks import COMPETITION, REAL
from midas_aug.diagnostics import advice as rules
from tests.helpers import planted

PAGE = Path(__file__).parents[3] / "docs" / "diagnostics.md"


def test_the_published_table_is_that_of_the_kept_runs():
    text = PAGE.read_text("utf-8")
    between = text.partition("<!-- begin advice -->\n")[2].partition("<!-- end advice -->")[0]
    assert between == "".join(main(["table", "--out", str(advice.PUBLISHED)]))


def test_the_sentences_about_thresholds_hold_on_the_kept_diagnoses():
    text = " ".join(PAGE.read_text("utf-8").split())
    lost, gains, of_stamps = {True: [], False: []}, [], []
    for record in load(advice.PUBLISHED):
        scores = record["scores"]
        for m in record["modalities"]:
            gap, training = scores[f"memorised.{m}"], scores[f"training_skill.{m}"]
            if gap[1] >= rules.MEMORISED:
                named = m in ("meanings", "readings", "noise")
                apart = record["task"] == "stamps-image-speech"  # the page says so
                (of_stamps if apart else lost[named]).append(gap[0] / training[0])
        if record["task"] in ("kanji", "kanji3"):
            gains.append(scores["fitted_fusion_gain"][0])
    assert min(lost[True]) > rules.MEMORISED_PART > max(lost[False])
    low, high, most = 100 * min(lost[True]), 100 * max(lost[True]), 100 * max(lost[False])
    assert f"lose {low:.0f} to {high:.0f} % of their training skill" in text
    assert f"all others {most:.0f} % at most" in text
    few, many = 100 * min(of_stamps), 100 * max(of_stamps)
    assert f"its modalities lose {few:.0f} to {many:.0f} %" in text
    assert f"the {100 * min(gains):.0f} to {100 * max(gains):.0f} that it gains on kanji" in text


def test_every_task_of_the_comparison_is_diagnosed_on_every_seed():
    found = {}
    for record in load(advice.PUBLISHED):
        found.setdefault(record["task"], set()).add(record["seed"])
    firsts = {**dict.fromkeys(REAL, 0), "digits-noise": 2000}
    expected = {task: set(range(first, first + 10)) for task, first in firsts.items()}
    assert found == expected | {task: set(range(3000, 3005)) for task in COMPETITION}


def test_the_sentences_below_the_table_are_those_of_the_runs():
    text = " ".join(PAGE.read_text("utf-8").split())
    cells = [line.strip("| ").split(" | ") for line in main_table().splitlines()]
    header, rows, means = cells[0], {line[0]: line for line in cells[2:-2]}, cells[-1]

    def marked(column, mark="▲"):
        return {task for task, line in rows.items() if mark in line[header.index(column)]}

    columns = header[2:]
    assert not any(marked(column, "▼") for column in columns)
    assert all(marked(column) <= set(COMPETITION) for column in columns)
    kanji_still = {"kanji-still"}
    better = marked("advice")
    assert better == set(COMPETITION) - kanji_still == marked("always MIDAS")
    assert len(marked("advice, left out")) == 3
    for task in better:
        assert points(rows[task][header.index("always MIDAS")]) < points(rows[task][2])
    assert marked("always skill") == set(COMPETITION)
    of = dict(zip(header, means, strict=True))
    assert f"{of['always skill']} points in the mean over tasks" in text
    assert f"against {of['advice']} for the first advice" in text
    assert f"and {of['advice, trained again']} where it is followed" in text
    assert f"as well as the advice, {of['always fitted weights']}." in text


def main_table():
    return "".join(main(["table", "--out", str(advice.PUBLISHED)]))


def points(cell):
    return float(cell.split()[0])


def test_the_sentences_about_augmentation_and_models_trained_apart_are_those_of_the_runs():
    text = " ".join(PAGE.read_text("utf-8").split())
    runs = {}
    for record in load_records(RESULTS / "competition"):
        if record["phase"] == "test" and record["entry"] in ("joint", "unimodal"):
            key = record["task"], record["modality"]
            runs.setdefault(key, {})[record["seed"]] = 100 * record["test"]["accuracy"]

    def gained(before, after):
        old, new = runs[before, None], runs[after, None]
        gains = paired_difference([new[s] for s in sorted(new)], [old[s] for s in sorted(new)])
        return f"{abs(gains.mean):.1f} ± {gains.margin:.1f}"

    assert f"worth +{gained('kanji', 'kanji-words')} points of joint training there" in text
    assert f"+{gained('kanji3', 'kanji3-words')} on kanji3" in text
    assert f"they cost {gained('kanji-still', 'kanji')}" in text
    joint, alone = (
        statistics.mean(runs["kanji-still", modality].values()) for modality in (None, "image")
    )
    assert f"trained apart, has {alone:.0f} % and the joint model {joint:.0f} %" in text
    asked = {record["task"]: set(actions(record)) for record in load(advice.PUBLISHED)}
    assert ("augment", "meanings") in asked["kanji"] & asked["kanji3"]
    assert ("augment", "image") not in asked["kanji-still"]


def test_no_kept_diagnosis_is_of_other_rules():
    for record in load(advice.PUBLISHED):
        assert actions(record)
        assert record["test"]["joint"] > 0.2


def record(**scores):
    """A diagnosis of two modalities whose heads do nothing for it."""
    base = {
        key: [0.0, -0.1, 0.1] for key in ("late_fusion_gain", "fitted_fusion_gain", "fitting_gain")
    }
    for m in ("a", "b"):
        base |= {f"head_accuracy.{m}": [0.5, 0.4, 0.6], f"head_gain.{m}": [-0.1, -0.2, 0.0]}
    base |= {"accuracy": [0.6, 0.5, 0.7], "majority": [0.2, 0.1, 0.3]}
    base |= {"late_fusion": [0.6, 0.5, 0.7], "fitted_fusion": [0.6, 0.5, 0.7]}
    test = {"joint": 0.6, "late_fusion": 0.63, "fit_weights": 0.66, "a": 0.58, "b": 0.4}
    return {"task": "t", "seed": 0, "modalities": ["a", "b"], "scores": base | scores, "test": test}


RUNS = {
    ("t", entry, 0): {"test": {"accuracy": value}}
    for entry, value in (("joint", 0.5), ("midas", 0.52), ("late-fusion", 0.49))
}


def test_a_gain_is_over_the_joint_model_that_it_belongs_to():
    one = record()
    assert gain_of(one, "fit_weights", None, RUNS) == pytest.approx(0.06)
    assert gain_of(one, "drop", "b", RUNS) == pytest.approx(-0.02)
    assert gain_of(one, "paper", None, RUNS) == pytest.approx(0.02)
    assert gain_of(one, "late-fusion", None, RUNS) == pytest.approx(-0.01)
    assert gain_of(one, "skill", None, RUNS) is None
    assert gain_of(one, "nothing", None, RUNS) == 0


def test_the_first_advice_with_a_known_outcome_is_followed():
    assert followed(record(), RUNS) == 0
    gaining = record(fitted_fusion_gain=[0.04, 0.01, 0.07])
    assert actions(gaining)[0] == ("fit_weights", None)
    assert followed(gaining, RUNS) == pytest.approx(0.06)
    assert followed(gaining, RUNS, gain=0.05) == 0
    assert rules.GAIN == 0.03  # as it was


def test_a_model_may_be_trained_again_where_skill_is_advised():
    gaining = record(fitted_fusion_gain=[0.04, 0.01, 0.07])
    assert ("skill", None) in actions(gaining)
    assert followed(gaining, RUNS, again=True) == pytest.approx(0.06)  # no run of skill
    with_skill = RUNS | {("t", "skill", 0): {"test": {"accuracy": 0.7}}}
    assert followed(gaining, with_skill, again=True) == pytest.approx(0.2)
    assert followed(gaining, with_skill) == pytest.approx(0.06)
    assert followed(record(), with_skill, again=True) == 0  # it is not advised


def test_a_policy_is_scored_on_other_splits_where_it_has_no_run_on_these():
    other = {
        ("t", entry, seed): {"test": {"accuracy": value + seed / 1000}}
        for entry, value in (("joint", 0.5), ("skill", 0.6))
        for seed in (7, 8)
    }
    assert always([record()], "skill", RUNS | other) == pytest.approx([0.1, 0.1])
    assert always([record()], "paper", RUNS | other) == pytest.approx([0.02])
    assert always([record()], "fit_weights", RUNS | other) == pytest.approx([0.06])
    assert always([record()], "skill", RUNS) == [None]


def test_dropping_one_of_three_has_no_known_outcome():
    three = record() | {"modalities": ["a", "b", "c"]}
    assert gain_of(three, "drop", "b", RUNS) is None


def test_a_threshold_is_chosen_without_the_task_it_is_for():
    good = record(fitted_fusion_gain=[0.04, 0.01, 0.07])
    bad = {**good, "task": "u", "test": {**good["test"], "fit_weights": 0.5}}
    chosen = left_out([good, bad], RUNS)
    assert chosen["t"] > 0.04 >= chosen["u"]  # the other one's wish


def test_a_trained_model_becomes_a_record():
    built = planted.make_case("memorised", rows=200)
    (training,) = built.training
    rows = {key: torch.cat([batch[key] for batch in built.loader]) for key in training}
    halves = {"training": training, "validation": rows, "test": rows}
    parts = {
        name: Encoded(built.model.encode(part), part["label"]) for name, part in halves.items()
    }
    found = look("planted", 0, Trained(parts, built.model.fuse, built.unimodal))
    assert found["modalities"] == ["audio", "video"]
    assert ("augment", "video") in actions(found)
    assert found["test"]["joint"] == pytest.approx(found["scores"]["accuracy"][0], abs=1e-4)


def test_other_words_are_refused():
    with pytest.raises(DataError, match="measure TASK:SEED"):
        list(main(["follow"]))


def test_records_are_kept_one_a_task_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "PUBLISHED", tmp_path / "published")
    assert load(tmp_path) == []
    advice.keep([{"task": "kanji", "seed": 1}, {"task": "brca", "seed": 2}], tmp_path)
    advice.keep([{"task": "kanji", "seed": 1, "new": True}], tmp_path)
    assert [one["task"] for one in load(tmp_path)] == ["brca", "kanji"]
    assert load(tmp_path)[1]["new"]


def test_kept_records_stand_beside_the_published_ones_and_before_them(tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "PUBLISHED", tmp_path / "published")
    old, new = ({"task": "kanji", "seed": 1, "new": new} for new in (False, True))
    advice.keep([old, {"task": "brca", "seed": 2}], advice.PUBLISHED)
    advice.keep([new], tmp_path / "mine")
    assert load(tmp_path / "mine")[1] == new
    assert load(tmp_path / "nothing")[1] == old
    assert len((tmp_path / "mine" / advice.NAME).read_text().splitlines()) == 1


@pytest.mark.parametrize("words", [["page", "kanji:0"], ["measure", "kanji:0"]])
def test_where_nothing_can_be_written_is_found_out_before_the_training(
    tmp_path, monkeypatch, words
):
    monkeypatch.setattr(advice, "trained", lambda *_: pytest.fail("it trained"))
    file = tmp_path / "no folder"
    file.write_text("")
    with pytest.raises(DataError, match="no folder"):
        list(main([*words, "--out", str(file)]))
