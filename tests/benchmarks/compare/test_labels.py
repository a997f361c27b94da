"""Tasks with tags, a number or missing modalities: data, splits, training and the page."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks.common.kinds import CLASSES, NUMBER, TAGS
from benchmarks.common.records import versions
from benchmarks.compare import data, suite, tasks
from benchmarks.compare.data import brca, brca_age, openmoji_tags
from benchmarks.compare.kept import FROZEN, write_runs
from benchmarks.compare.report import write_report
from benchmarks.compare.report.family import LABEL_PAIRS
from benchmarks.compare.tasks import LABELS, TASKS, Rows, Split, draw_present, load_split
from benchmarks.compare.train import Regime, encode, train
from benchmarks.methods.base import Method
from benchmarks.methods.suite_entries import LABEL_ENTRIES

# ---------------------------------------------------------------- data


def planted(rows=40, **more):
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.normal(size=(rows, 6)).astype(np.float32),
        "b": rng.integers(1, 9, size=(rows, 5)).astype(np.int16),
    }
    return data.Dataset(inputs, np.arange(rows, dtype=np.int64) % 2, ("no", "yes"), **more)


@pytest.fixture
def loads(monkeypatch):
    """Lets a test say what data set is loaded."""

    def use(dataset):
        monkeypatch.setattr(tasks.data, "load", lambda name: dataset)
        for cache in (tasks._dataset, load_split):
            cache.cache_clear()

    yield use
    for cache in (tasks._dataset, load_split):
        cache.cache_clear()


def test_tags_are_of_both_lists_and_frequent_enough():
    entries = [
        {"tags": "face, grin", "openmoji_tags": "smile"},
        {"tags": "face", "openmoji_tags": ""},
        {"tags": "", "openmoji_tags": "smile, face"},
        {"tags": "pear", "openmoji_tags": ""},
    ]
    whole = planted(4)
    found = openmoji_tags.tagged(whole, [openmoji_tags.tags(one) for one in entries], smallest=2)
    assert found.answers.tolist() == [[1, 1], [1, 0], [1, 1]]  # face, smile
    assert np.array_equal(found.inputs["a"], whole.inputs["a"][:3])
    assert found.labels.tolist() == [0, 1, 0]


def test_the_age_is_no_modality(monkeypatch):
    inputs = {name: np.full((3, 2), 1.0, np.float32) for name in brca.MODALITIES}
    inputs["clinical"][:, 0] = [50, 60, 70]
    whole = data.Dataset(inputs, np.array([0, 1, 0]), ("x", "y"))
    monkeypatch.setattr(brca, "build", lambda: whole)
    dataset = brca_age.build()
    assert dataset.answers.tolist() == [50, 60, 70]
    assert "clinical" not in dataset.inputs


def test_answers_are_kept_and_pinned(tmp_path):
    dataset = planted(answers=np.arange(40, dtype=np.float32))
    file = tmp_path / "planted.npz"
    data.base.write(dataset, file)
    again = data.base.read(file)
    assert np.array_equal(again.answers, dataset.answers)
    assert data.digest(again) == data.digest(dataset)
    other = dataset._replace(answers=dataset.answers + 1)
    assert data.digest(other, inputs=False) != data.digest(dataset, inputs=False)
    assert data.digest(dataset._replace(answers=None)) == data.digest(planted())


# ---------------------------------------------------------------- splits


def test_a_number_is_standardised_by_the_training_rows(loads):
    loads(planted(answers=np.arange(40, dtype=np.float32) ** 2))
    split = load_split("planted", ("a",), 0)
    assert split.training.labels.shape == (24,)
    assert float(split.training.labels.mean()) == pytest.approx(0, abs=1e-6)
    assert float(split.training.labels.std()) == pytest.approx(1, abs=1e-6)


def test_tags_are_zeros_and_ones_of_the_rows_that_are_drawn(loads):
    answers = (np.random.default_rng(1).random((40, 3)) < 0.5).astype(np.uint8)
    loads(planted(answers=answers))
    split = load_split("planted", ("a",), 0, 20)
    labels = torch.cat([part.labels for part in split])
    assert labels.shape == (20, 3)
    assert labels.dtype == torch.float32
    chosen = np.sort(np.random.default_rng(0).permutation(40)[:20])
    assert labels.sum(dim=0).tolist() == answers[chosen].sum(axis=0).tolist()


@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("missing", [0.1, 0.5, 0.9])
def test_a_modality_is_missing_as_often_as_the_protocol_says(missing, num_modalities):
    present = draw_present(20_000, num_modalities, missing, seed=4000)
    assert present.any(dim=1).all()
    gone = missing - missing**num_modalities / num_modalities
    found = (~present).float().mean(dim=0)
    torch.testing.assert_close(found, torch.full((num_modalities,), gone), atol=0.015, rtol=0)
    assert torch.equal(present, draw_present(20_000, num_modalities, missing, seed=4000))
    assert not torch.equal(present, draw_present(20_000, num_modalities, missing, seed=4001))


def test_what_a_row_does_not_have_is_zero_in_every_part(loads):
    loads(planted())
    assert load_split("planted", ("a", "b"), 0).test.present is None
    split = load_split("planted", ("a", "b"), 0, None, 0.5)
    assert not torch.cat([part.present for part in split]).all()
    for part in split:
        for number, name in enumerate(("a", "b")):
            has = part.present[:, number]
            assert part.inputs[name][has].any()
            assert not part.inputs[name][~has].any()


def test_numbers_and_words_are_prepared_by_the_training_rows_that_have_them(loads):
    dataset = planted()
    dataset.inputs["b"][:, 0] = 10 + np.arange(40)  # a word in one row alone
    loads(dataset)
    split = load_split("planted", ("a", "b"), 0, None, 0.5)
    training = split.training
    has = training.present[:, 0]
    values = training.inputs["a"][has]
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(dim=0), torch.ones(6), atol=1e-5, rtol=0)
    known = set(training.inputs["b"].unique().tolist())
    assert known == set(range(len(known)))
    for part in split[1:]:
        assert set(part.inputs["b"].unique().tolist()) <= known
        assert not part.inputs["b"][:, 0].any()


# ---------------------------------------------------------------- training


def toy(kind, missing=0.0, rows=120, seed=0):
    """Rows that tell three classes, three tags, or a number."""
    generator = torch.Generator().manual_seed(seed)

    def part(count):
        labels = torch.arange(count) % 3
        signal = torch.eye(3)[labels]
        inputs = {
            name: 2 * signal + torch.randn(count, 3, generator=generator) for name in ("a", "b")
        }
        tags = torch.cat([signal[:, :2], signal[:, :1]], dim=1)
        found = {CLASSES: labels, TAGS: tags, NUMBER: labels - 1.0}[kind]
        if not missing:
            return Rows(inputs, found)
        present = draw_present(count, 2, missing, seed)
        for number, name in enumerate(inputs):
            inputs[name] = inputs[name] * present[:, number, None]
        return Rows(inputs, found, present)

    return Split(part(rows), part(60), part(60))


def run(method, split, kind):
    regime = Regime(epochs=6, learning_rate=kind.rate * 0.03, seed=0, kind=kind)
    return train(method, split, regime, test=True)


@pytest.mark.parametrize("kind", [CLASSES, TAGS, NUMBER], ids=lambda kind: kind.main)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_every_kind_is_learned_and_scored(kind, missing):
    outcome = run(Method(), toy(kind, missing), kind)
    assert outcome.test[kind.main] > (0.3 if missing else 0.6)
    parts = {f"{kind.main}.whole", f"{kind.main}.incomplete"}
    assert parts <= outcome.test.keys() if missing else not parts & outcome.test.keys()
    again = run(Method(), toy(kind, missing), kind)
    assert outcome._replace(seconds=0) == again._replace(seconds=0)


def test_a_method_sees_zeros_and_is_told_of_them():
    split = toy(CLASSES, 0.4)
    seen = []

    @dataclass
    class Watched(Method):
        def loss(self, features, labels):
            seen.append((torch.stack([*features.values()]), self.present))
            return super().loss(features, labels)

    run(Watched(), split, CLASSES)
    gone = 0
    for features, present in seen:
        absent = features[~present.T]
        assert not absent.any()
        gone += len(absent)
    assert gone == 6 * int((~split.training.present).sum())


def test_features_of_what_is_missing_are_zero_in_evaluation():
    split = toy(CLASSES, 0.4)
    models = []

    @dataclass
    class Watched(Method):
        def setup(self, model, setting, generator):
            super().setup(model, setting, generator)
            models.append(model)
            assert torch.equal(setting.present_validation, split.validation.present)

    run(Watched(), split, CLASSES)
    features = encode(models[0], split.test)
    for number, feature in enumerate(features.values()):
        has = split.test.present[:, number]
        assert feature[has].any()
        assert not feature[~has].any()


def test_scores_of_whole_and_incomplete_rows_are_those_of_these_rows():
    split = toy(CLASSES, 0.4)
    outcome = run(Method(), split, CLASSES)
    whole = float(split.test.present.all(dim=1).float().mean())
    parts = outcome.test["accuracy.whole"], outcome.test["accuracy.incomplete"]
    mixed = whole * parts[0] + (1 - whole) * parts[1]
    assert outcome.test["accuracy"] == pytest.approx(mixed)


def test_a_run_that_diverges_ends_and_the_best_epoch_before_counts():
    @dataclass
    class Diverging(Method):
        def on_epoch_start(self, epoch):
            self.epoch = epoch

        def loss(self, features, labels):
            found = super().loss(features, labels)
            return found * float("nan") if self.epoch == 3 else found

    outcome = run(Diverging(), toy(NUMBER), NUMBER)
    assert outcome.epoch < 3
    assert outcome.steps == 3 * 2  # of 120 rows
    assert outcome.test["r2"] > 0


# ---------------------------------------------------------------- the suite and its page


def test_every_row_has_two_rates_and_a_task_is_tuned_where_it_is_said(tmp_path):
    for name, entry in LABEL_ENTRIES.items():
        assert [config["learning_rate"] for config in entry.configs()] == [0.03, 0.1], name
    assert {name: TASKS[name].tuned_as for name in LABELS if TASKS[name].tuned_as} == {
        f"{dataset}-missing-{rate}": f"{dataset}-missing-30"
        for dataset in ("kanji", "openmoji", "watch")
        for rate in (10, 50)
    }
    assert {seed for name in LABEL_ENTRIES for seed in suite.SUITES["labels"].seeds_of(name)} == (
        set(range(4000, 4010))
    )


@pytest.fixture
def finished(tmp_path):
    """The suite with made-up scores; MIDAS is better than joint training on the tags."""
    config = (("learning_rate", 0.03),)
    records = []
    for task, entry, seed in product(LABELS, LABEL_ENTRIES, range(4000, 4010)):
        job = suite.Job(tmp_path / "labels", task, entry, config, seed, "test")
        kind = TASKS[task].kind
        score = 0.5 + 0.001 * (seed % 3)
        if (entry, task) == ("midas", "openmoji-tags"):
            score += 0.2
        parts = {f"{kind.main}.whole": 0.6, f"{kind.main}.incomplete": 0.4}
        scores = {kind.main: score, "nll": 1.0} | (parts if TASKS[task].missing else {})
        record = {**job.identity._asdict(), "config": dict(config), "versions": versions()}
        record |= {"validation": scores, "test": scores, "epoch": 0, "steps": 1, "seconds": 1}
        records.append(record)
    write_runs(tmp_path / "labels" / FROZEN, records)
    return tmp_path


def test_the_page_has_a_column_a_task_and_marks_what_differs(finished):
    files = [file.name for file in write_report("labels", LABELS, finished)]
    assert files == ["README.md"]
    page = (finished / "labels" / "README.md").read_text(encoding="utf-8")
    header = next(line for line in page.splitlines() if line.startswith("| method | kanji"))
    assert header == f"| method | {' | '.join(LABELS)} |"
    summary = next(line for line in page.splitlines() if line.startswith("| MIDAS | "))
    assert summary.split(" | ")[1 + LABELS.index("openmoji-tags")] == "70.1▲△"
    assert f"over all {len(LABEL_PAIRS) * len(LABELS)} comparisons" in page
    assert "+20.0 ± 0.0 ▲★ (10/10)" in page
    assert "| MIDAS against joint | 1 / 10 / 0 | 1 / 10 / 0 | 1 / 10 |" in page
    assert "| skill against MIDAS | 0 / 10 / 1 | 0 / 10 / 1 | 0 / 11 |" in page
    assert "| method | mean average precision | seeds |" in page
    assert "| method | accuracy | accuracy, whole | accuracy, incomplete | seeds |" in page
    assert "nan" not in page
