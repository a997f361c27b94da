"""Probes of trained models: what they score, that they go on, and the committed page."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.common.errors import DataError
from benchmarks.common.records import RESULTS
from benchmarks.compare import probes
from benchmarks.compare.probes import Key, page, probe, read_probes, run_probes
from benchmarks.compare.suite import SUITES
from benchmarks.compare.tasks import Rows, Split
from benchmarks.compare.train import Regime, encode, fit
from benchmarks.methods.base import Method


def toy_split(seed=0):
    """Three classes, told by the first modality well and by the second badly."""
    generator = torch.Generator().manual_seed(seed)

    def part(count):
        labels = torch.arange(count) % 3
        signal = torch.eye(6)[labels]
        first, second = torch.randn(2, count, 6, generator=generator)
        return Rows({"a": 3 * signal + first, "b": 0.5 * signal + second}, labels)

    return Split(part(90), part(45), part(60))


def record(key, value=0.5, modalities=("image", "meanings", "readings")):
    names = [probes.FUSED, probes.TOGETHER, *modalities]
    scores = {
        f"{name}.{part}": value + number / 100 + (part == "training") / 4
        for number, name in enumerate(names)
        for part in probes.PARTS
    }
    return {**key._asdict(), "config": {}, "epoch": 3, "versions": {}, "scores": scores}


def test_scores_are_those_of_the_model_and_of_a_logistic_regression():
    split, method = toy_split(), Method()
    fitted = fit(method, split, Regime(epochs=4, learning_rate=0.05, seed=0))
    rows = {"training": split.training, "test": split.test}
    features = {part: encode(fitted.model, one) for part, one in rows.items()}
    scores = probe(method, features, split)
    assert scores.keys() == {
        f"{name}.{part}" for name in ("joint logits", "all features", "a", "b") for part in rows
    }
    together = {part: np.hstack(list(one.values())) for part, one in features.items()}
    judged = LogisticRegression(max_iter=5000).fit(together["training"], rows["training"].labels)
    for part, one in rows.items():
        logits = method.predict(features[part])
        right = sum(int(z.argmax()) == int(y) for z, y in zip(logits, one.labels, strict=True))
        assert scores[f"joint logits.{part}"] == pytest.approx(right / len(one.labels))
        other = judged.score(together[part], one.labels)
        assert scores[f"all features.{part}"] == pytest.approx(other, abs=0.1)
    assert scores["a.test"] > scores["b.test"] + 0.2


def test_what_is_probed_already_is_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def train_and_probe(key, root):
        trained.append(key)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return record(key)

    monkeypatch.setattr(probes, "train_and_probe", train_and_probe)
    plan = [Key("kanji", entry, 3010) for entry in ("skill", "joint", "midas")]
    file = tmp_path / "probes.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(run_probes(file, tmp_path, plan))
    assert sorted(read_probes(file)) == sorted(plan[:2])
    assert list(run_probes(file, tmp_path, plan)) == plan[2:]
    assert trained == [*plan, plan[2]]
    assert [*read_probes(file)] == sorted(plan)  # in one order, however it came about


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "probes.jsonl"
    file.write_text('{"task": "kanji", "entry": "joint"}\n')
    with pytest.raises(DataError, match=r"probes\.jsonl is damaged"):
        read_probes(file)


def test_the_page_has_the_means_of_the_seeds():
    plan = [Key("kanji3", entry, seed) for seed in (1, 2) for entry in ("joint", "skill")]
    found = {key: record(key, 0.3 + key.seed / 10) for key in plan}
    lines = page(found, plan).splitlines()
    assert "## kanji3" in lines
    row = next(line for line in lines if line.startswith("| joint |"))
    cells = [f"{45 + number + 25:.1f} / {45 + number:.1f}" for number in range(5)]
    assert row == f"| joint | {' | '.join(cells)} |"


def test_a_page_of_less_than_the_plan_is_refused():
    with pytest.raises(DataError, match="24 of 24 probes are missing; run: python -m benchmarks"):
        page({})


def test_the_seeds_are_those_of_no_suite():
    used = set()
    for suite in SUITES.values():
        used |= {*suite.tuning_seeds, *suite.seeds_of("midas"), *suite.seeds_of("joint")}
    assert not used & set(probes.SEEDS)


def test_the_committed_page_is_what_the_probes_say():
    folder = Path(RESULTS, "competition")
    found = read_probes(folder / "probes.jsonl")
    assert sorted(found) == sorted(probes.PLAN)
    assert (folder / "probes.md").read_text(encoding="utf-8") == page(found)


def test_the_words_about_the_probes_quote_them():
    found = read_probes(Path(RESULTS, "competition", "probes.jsonl"))

    def mean(task, entry, score):
        scores = [row["scores"][score] for key, row in found.items() if key[:2] == (task, entry)]
        return 100 * sum(scores) / len(scores)

    words = " ".join(Path(RESULTS, "competition", "reading.md").read_text("utf-8").split())
    entries = ("joint", "plain-swap", "midas", "skill")
    on_kanji, on_kanji3 = (
        [round(mean(task, entry, "image.test")) for entry in entries]
        for task in ("kanji", "kanji3")
    )
    first, second, third, last = on_kanji
    assert (
        f"{first} % of the test rows after joint training, {second} after the plain swap, " in words
    )
    assert f"{third} after MIDAS and {last} after skill on kanji, and on " in words
    assert "{}, {}, {} and {} on kanji3".format(*on_kanji3) in words
    below = {
        entry: [
            round(mean(task, entry, "image.test") - mean(task, entry, "joint logits.test"))
            for task in ("kanji", "kanji3")
        ]
        for entry in entries
    }
    assert (
        "{} points below the probe of the image with MIDAS on kanji and {} on kanji3".format(
            *below["midas"]
        )
        in words
    )
    assert "{} and {} with skill".format(*below["skill"]) in words
    assert "{} and {} with joint training".format(*below["joint"]) in words
    known = [mean(t, e, "all features.training") for t in ("kanji", "kanji3") for e in entries]
    assert f"right on {round(min(known))} to {round(max(known))} % of the training rows" in words
