"""The demo: its data, its task, and that a stopped run goes on where it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import common
import demo
import demo_report
import kanji
import numpy as np
import pytest
import torch
from kanji import FITTED, SKILL
from torch.nn import functional as F

from midas_aug.diagnostics import late_fusion

EXAMPLES = Path(__file__).parents[1] / "examples"
TWO, THREE = kanji.MODALITIES[:2], kanji.MODALITIES


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_the_data_file_is_the_one_that_the_script_builds():
    done = run(str(EXAMPLES / "data" / "build_kanji.py"), "--check")
    assert done.returncode == 0, done.stderr
    assert kanji.DATA.stat().st_size < 2e6
    with np.load(kanji.DATA) as file:
        assert file["image"].shape == (4000, 32, 32)
        assert file["image"].max() == 15
        assert len(file["radical"]) == kanji.CLASSES == file["label"].max() + 1


@pytest.mark.parametrize("damage", ["missing", "half"])
def test_data_that_are_missing_or_damaged_are_built_again(damage, tmp_path, monkeypatch):
    data = tmp_path / "kanji.npz"
    if damage == "half":
        data.write_bytes(kanji.DATA.read_bytes()[:100_000])
    monkeypatch.setattr(kanji, "DATA", data)
    with pytest.raises(SystemExit, match=r"kanji.npz is .*; run: python .*build_kanji.py"):
        kanji.load_splits(THREE, torch.Generator())


def test_splits_are_stratified_and_know_the_words_of_the_training_rows_alone():
    splits = kanji.load_splits(THREE, torch.Generator().manual_seed(0))
    assert [len(rows.labels) for rows in splits] == [2400, 800, 800]
    counts = torch.stack([torch.bincount(rows.labels, minlength=26) for rows in splits])
    assert bool((counts * torch.tensor([[1], [3], [3]]) - counts[0]).abs().max() <= 3)
    training = splits[0].inputs
    assert float(training["image"].mean()) == pytest.approx(0, abs=1e-4)
    for name in THREE[1:]:
        seen = training[name].unique()
        assert torch.equal(seen, torch.arange(len(seen)))  # numbered without a gap
        assert all(rows.inputs[name].max() < len(seen) for rows in splits)
    other = kanji.load_splits(TWO, torch.Generator().manual_seed(1))
    assert not torch.equal(other[2].inputs["image"], splits[2].inputs["image"])


def test_symbols_that_no_training_row_has_are_none():
    symbols = torch.tensor([[5, 2, 0], [9, 5, 0], [7, 2, 9]])
    found = kanji.known(symbols, torch.tensor([0, 1]))
    assert found.tolist() == [[2, 1, 0], [3, 2, 0], [0, 1, 3]]


@pytest.fixture(scope="module")
def last():
    """The record of one epoch of each method."""
    return {name: next(kanji.train(name, TWO, seed=0, epochs=1)) for name in kanji.METHODS}


def test_methods_fill_the_rows_that_are_theirs(last):
    rows = {name: set(record.test) for name, record in last.items()}
    assert rows.pop("apart") == {
        "late fusion", "fitted late fusion", "image alone", "meanings alone"
    }  # fmt: skip
    assert rows.pop(SKILL) == {SKILL, FITTED}
    assert rows == {name: {name} for name in ("joint", "plain swap", "MIDAS")}
    for row in (SKILL, FITTED):
        assert set(last[SKILL].test[row]) == {
            "accuracy", "macro-F1", "misaligned", "image removed", "meanings removed"
        }  # fmt: skip


def test_a_fitted_fusion_is_the_layer_with_its_weights_and_no_worse_on_the_rows_it_was_fitted_to():
    (record,) = kanji.train(SKILL, TWO, seed=0, epochs=1)
    before, after = (record.validation[row]["accuracy"] for row in (SKILL, FITTED))
    assert after > before


def test_a_seed_decides_everything(last):
    first, second = (next(kanji.train(SKILL, TWO, seed, epochs=1)) for seed in (0, 1))
    assert first == last[SKILL] != second


def test_the_test_rows_are_looked_at_once():
    before, after = kanji.train("joint", TWO, seed=0, epochs=2)
    assert before.test is None
    assert after.test is not None
    assert set(before.validation) == set(after.validation) == {"joint"}


def test_three_modalities_train():
    (record,) = kanji.train("apart", THREE, seed=0, epochs=1)
    assert {"readings alone", "fitted late fusion"} <= set(record.test)
    assert "readings removed" in record.test["late fusion"]


def test_the_ensemble_is_a_mean_of_probabilities_or_a_weighted_sum_of_their_logarithms():
    logits = {"a": torch.randn(5, 3), "b": torch.randn(5, 3)}
    mean = (logits["a"].softmax(1) + logits["b"].softmax(1)) / 2
    torch.testing.assert_close(late_fusion(kanji.stacked(logits)), mean.log())
    log_p = [F.log_softmax(z, dim=1) for z in logits.values()]
    torch.testing.assert_close(
        late_fusion(kanji.stacked(logits), torch.tensor([2.0, -0.5])), 2 * log_p[0] - 0.5 * log_p[1]
    )


def test_the_verdict_counts_points_and_seeds_against_the_best_modality_alone():
    scores = {
        row: [{"accuracy": accuracy, "macro-F1": 0.0}, {"accuracy": 0.5, "macro-F1": 0.0}]
        for row, accuracy in (
            ("joint", 0.3), ("plain swap", 0.4), ("MIDAS", 0.5), (SKILL, 0.7), (FITTED, 0.8),
            ("fitted late fusion", 0.9), ("image alone", 0.6), ("meanings alone", 0.2),
        )
    }  # fmt: skip
    report = demo_report.summarise(scores, TWO)
    words = demo_report.verdict(report)
    assert words.startswith("image alone has 55.0 %.")
    assert "joint -15.0 (better with 0 of 2 seeds)" in words
    assert f"{SKILL} +5.0 (better with 1 of 2 seeds)" in words
    assert f"{FITTED} +10.0 (better with 1 of 2 seeds)" in words
    assert "fitted late fusion +15.0 (better with 1 of 2 seeds)" in words


def test_a_stopped_demo_goes_on_where_it_was(tmp_path):
    command = [str(EXAMPLES / "demo.py"), "--seeds", "1", "--epochs", "1", "--out", str(tmp_path)]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert "misaligned" in first.stdout
    table = (tmp_path / "results.md").read_text()
    assert "| plain swap |" in table
    assert "One seed says nothing about chance." in table
    assert (tmp_path / "kanji.png").stat().st_size > 10_000
    finished = sorted((tmp_path / "runs").glob("*.json"))
    assert len(finished) == 5
    assert all(len(json.loads(file.read_text())["records"]) == 1 for file in finished)

    gone, half, zeros, whole, _ = finished
    gone.unlink()
    half.write_text(half.read_text()[:100])
    zeros.write_bytes(bytes(1000))
    kept = whole.stat().st_mtime_ns
    second = run(*command)
    assert second.returncode == 0, second.stderr
    assert "2 of 5 runs are there already" in second.stdout.replace("\n", " ")
    for file in (half, zeros):
        assert second.stderr.count(f"{file} is damaged: this run is trained again") == 1
    assert whole.stat().st_mtime_ns == kept
    assert (tmp_path / "results.md").read_text() == table


@pytest.mark.parametrize("option", ["seeds", "epochs", "jobs"])
def test_the_demo_says_what_makes_no_sense(option):
    with pytest.raises(SystemExit, match="--seeds, --epochs and --jobs start at 1"):
        demo.check(demo.Options(**{option: 0}))


def test_only_what_readme_shows_is_frozen():
    with pytest.raises(SystemExit, match="leave out --three"):
        demo.check(demo.Options(three=True, freeze=True))


def test_what_other_runs_write_beside_a_run_is_left_alone(tmp_path, monkeypatch):
    """It may be gone before it could be opened."""
    (tmp_path / "other.json.partial").write_text("half of another run")
    opened = []
    open_file = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest: (opened.append(Path(path).name), open_file(path, *rest))[1]
    )
    with common.replacing(tmp_path / "run.json") as partial:
        partial.write_text("a run")
    assert opened == ["run.json.partial", tmp_path.name]
