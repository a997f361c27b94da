"""The sweep on kanji: what a cell is, resuming, the page and what is published."""

import json
from dataclasses import replace

import pytest

from benchmarks.common.errors import DataError
from benchmarks.compare import sweep
from benchmarks.compare.foretell import Line
from benchmarks.compare.sweep import CELLS, KEPT, PLAN, SEEDS, Cell, Key
from benchmarks.compare.tasks import TASKS, Task


def record_of(key, *, joint=0.5, gain=0.1, score=0.1):
    test = {"joint": joint, "midas": joint + gain, "skill": joint + 2 * gain}
    scores = dict.fromkeys(KEPT, 0.4) | {sweep.foretell.SCORE: score}
    return {**key._asdict(), "test": test, "scores": scores, "versions": {}}


def test_a_cell_changes_one_thing_of_the_task():
    base = CELLS["as it is"]
    assert base == replace(TASKS["kanji"], rows=2000)
    for name, task in CELLS.items():
        changed = [f for f in Task.__dataclass_fields__ if getattr(task, f) != getattr(base, f)]
        assert len(changed) == (name != "as it is"), name


def test_a_cell_is_the_mean_of_its_seeds_and_an_unfinished_one_is_left_out():
    first = record_of(Key("no crops", SEEDS[0]), joint=0.4, score=0.1)
    second = record_of(Key("no crops", SEEDS[1]), joint=0.6, score=0.2)
    alone = record_of(Key("1000 rows", SEEDS[0]))
    found = {Key(one["cell"], one["seed"]): one for one in (first, second, alone)}
    made = sweep.cells(found)
    assert list(made) == ["no crops"]
    assert made["no crops"].test["joint"] == pytest.approx(50)
    assert made["no crops"].gain("skill") == pytest.approx(20)
    assert made["no crops"].score == pytest.approx(15)
    assert made["no crops"].memorised == pytest.approx(40)


def test_the_answer_holds_gains_against_the_line():
    line = Line.through([0.0, 1.0, 2.0, 3.0], [0.0, 1.1, 1.9, 3.0])
    on = Cell({"joint": 50.0, "midas": 51.0}, score=1.0, memorised=10.0)
    off = Cell({"joint": 50.0, "midas": 62.0}, score=2.0, memorised=20.0)
    words = sweep.answer({"a": on, "b": off}, "midas", line)
    assert "Gains are 7.1 points" in words  # of a 0 and of b 10, but for a little
    assert "1 of 2 are within" in words
    assert "is +1.00." in words


def test_a_run_diagnoses_joint_training_and_a_stopped_sweep_goes_on(tmp_path, monkeypatch):
    tiny = Task("digits", ("pix", "fou"), epochs=1, weight=1)
    monkeypatch.setitem(CELLS, "tiny", tiny)
    monkeypatch.setattr(sweep, "KEPT", (sweep.foretell.SCORE, "accuracy"))
    record = sweep.run(Key("tiny", 7000))
    assert record["test"].keys() == {"joint", "midas", "skill"}
    assert all(0 < value <= 1 for value in record["test"].values())
    assert record == sweep.run(Key("tiny", 7000))

    done = []
    monkeypatch.setattr(sweep, "run", lambda key: done.append(key) or record_of(key))
    monkeypatch.setattr(sweep, "PUBLISHED", tmp_path / "none")
    monkeypatch.setattr(sweep.joblib, "delayed", lambda run: lambda key: (run, (key,), {}))
    plan = [Key("no crops", 7000), Key("1000 rows", 7000)]
    assert [*sweep.run_all(tmp_path, plan[:1], workers=1)] == plan[:1]
    assert [*sweep.run_all(tmp_path, plan, workers=1)] == plan[1:]
    assert done == plan
    assert sweep.read(tmp_path).keys() == set(plan)


def test_the_published_page_is_what_the_records_say(tmp_path):
    found = sweep.read(tmp_path)
    assert found.keys() == set(PLAN)
    reading = (sweep.PUBLISHED / "reading.md").read_text(encoding="utf-8")
    page = sweep.page(sweep.cells(found), sweep.lines_of_tasks(), reading)
    assert (sweep.PUBLISHED / sweep.PAGE).read_text(encoding="utf-8") == page
    lines = (sweep.PUBLISHED / sweep.NAME).read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["versions"]["torch"] for line in lines}) == 1


def test_the_command_writes_page_and_figure_of_what_is_there(tmp_path):
    said = list(sweep.main(["--out", str(tmp_path)]))
    assert said == [f"Written: {tmp_path / sweep.PAGE}\n"]
    assert (tmp_path / sweep.FIGURE).stat().st_size > 10_000
    with pytest.raises(DataError, match="--out DIR"):
        list(sweep.main(["page"]))


def test_the_words_about_the_page_are_those_of_its_numbers(tmp_path):
    made, lines = sweep.cells(sweep.read(tmp_path)), sweep.lines_of_tasks()
    words = " ".join((sweep.PUBLISHED / "reading.md").read_text(encoding="utf-8").split())
    said = {method: sweep.answer(made, method, lines[method]) for method in ("midas", "skill")}
    later = ("words of 2 rows", "words of 5 rows", "meanings at ⅓", "picture at ⅓")
    first = {name: cell for name, cell in made.items() if name not in later}
    added = {name: made[name] for name in later}
    assert "; 11 of 11 are within" in sweep.answer(first, "midas", lines["midas"])
    assert "; 2 of 4 are within" in sweep.answer(added, "midas", lines["midas"])
    off = {
        name: cell.gain("midas") - lines["midas"].foretell(cell.score)[0]
        for name, cell in added.items()
    }
    assert off["picture at ⅓"] > 5
    assert min(off, key=off.get) == "meanings at ⅓"
    assert "Gains are 3.6 points" in said["midas"]
    assert "root mean square error is 3.6 points" in words
    assert "Gains are 4.1 points" in said["skill"]
    assert "; 11 of 15 are within" in said["skill"]
    assert "eleven of fifteen are within, and they are 4.1 points off" in words
    assert [text.rpartition("is ")[2] for text in said.values()] == ["+0.66.", "+0.46."]
    assert "is 0.66 for MIDAS and 0.46 for skill" in words

    def gains(cell, digits=0):
        return [f"{made[cell].gain(method):.{digits}f}" for method in ("skill", "midas")]

    joint = [made[cell].test["joint"] for cell in ("as it is", "picture at ⅓", "meanings at ⅓")]
    assert "from {:.0f} % to {:.0f}, and MIDAS is".format(*joint) in words
    assert f"(joint training {joint[2]:.0f} %, MIDAS" in words
    assert "MIDAS is {} points above it, skill".format(gains("picture at ⅓")[1]) in words
    assert "skill {}. Longer".format(gains("picture at ⅓", 1)[0]) in words
    assert "MIDAS {} points above it, skill".format(gains("meanings at ⅓")[1]) in words
    assert "skill {});".format(gains("meanings at ⅓", 1)[0]) in words
    worst = min(made, key=lambda name: made[name].test["joint"])
    assert made[worst].test["joint"] == joint[1]
    rare = [made[f"words of {rows} rows"] for rows in (5, 2)]
    assert "({:.0f} to {:.0f} %; MIDAS".format(*(cell.test["joint"] for cell in rare)) in words
    assert (
        "MIDAS {1:.0f} and {0:.0f} points above it".format(*(cell.gain("midas") for cell in rare))
        in words
    )
    assert "skill {1:.0f} and {0:.1f})".format(*(cell.gain("skill") for cell in rare)) in words
    assert (
        "at 60 epochs skill is {} points above joint training, MIDAS {},".format(
            *gains("60 epochs")
        )
        in words
    )
    assert "at 15 epochs {} and {}.".format(*gains("15 epochs", 1)) in words
    assert (
        "without them skill is {} points above joint training and MIDAS {},".format(
            *gains("no crops")
        )
        in words
    )
    assert f"still {gains('word dropout 0.75')[0]} points ahead" in words
    shrunk = made["word dropout 0.75"].memorised / made["as it is"].memorised
    assert shrunk == pytest.approx(3 / 5, abs=0.05)  # by two fifths
