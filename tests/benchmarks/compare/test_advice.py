"""The advice held against the runs of the comparison: the published table, and how it is made."""

from pathlib import Path

import pytest
import torch

from benchmarks.common.errors import DataError
from benchmarks.compare import advice
from benchmarks.compare.advice import (
    Encoded,
    Trained,
    actions,
    followed,
    gain_of,
    left_out,
    load,
    look,
    main,
)
from midas_aug.diagnostics import advice as rules
from tests.helpers import planted

PAGE = Path(__file__).parents[3] / "docs" / "diagnostics.md"


def test_the_published_table_is_that_of_the_kept_runs():
    text = PAGE.read_text("utf-8")
    between = text.partition("<!-- begin advice -->\n")[2].partition("<!-- end advice -->")[0]
    assert between == "".join(main(["table", "--out", str(advice.PUBLISHED)]))


def test_the_sentences_about_thresholds_hold_on_the_kept_diagnoses():
    text = " ".join(PAGE.read_text("utf-8").split())
    lost, gains = {True: [], False: []}, []
    for record in load(advice.PUBLISHED):
        scores = record["scores"]
        for m in record["modalities"]:
            gap, training = scores[f"memorised.{m}"], scores[f"training_skill.{m}"]
            if gap[1] >= rules.MEMORISED:
                named = m in ("meanings", "readings", "noise")
                lost[named].append(gap[0] / training[0])
        if record["task"] in ("kanji", "kanji3"):
            gains.append(scores["fitted_fusion_gain"][0])
    assert min(lost[True]) > rules.MEMORISED_PART > max(lost[False])
    low, high, most = 100 * min(lost[True]), 100 * max(lost[True]), 100 * max(lost[False])
    assert f"lose {low:.0f} to {high:.0f} % of their training skill" in text
    assert f"all others {most:.0f} % at most" in text
    assert f"the {100 * min(gains):.0f} to {100 * max(gains):.0f} that it gains on kanji" in text


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
