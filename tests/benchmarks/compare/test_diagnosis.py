"""Which models `python -m benchmarks diagnose` trains."""

import pytest

from benchmarks.common.errors import DataError
from benchmarks.common.kinds import CLASSES
from benchmarks.compare import diagnosis
from benchmarks.compare.diagnosis import SHOWN, diagnose_task, tuned_suite
from benchmarks.compare.suite import KEPT, SUITES, best_config
from benchmarks.compare.tasks import TASKS

DIAGNOSED = [name for name, task in TASKS.items() if task.kind is CLASSES and task.missing == 0]


@pytest.mark.parametrize("task", DIAGNOSED)
def test_every_task_of_classes_has_published_tuning(task):
    suite = tuned_suite(task)
    for entry in SHOWN:
        config = best_config(KEPT / suite, task, entry, SUITES[suite].tuning_seeds)
        assert config["learning_rate"] > 0


@pytest.mark.parametrize("task", sorted(set(TASKS) - set(DIAGNOSED)))
def test_a_task_of_other_labels_is_refused_before_anything_is_trained(task, tmp_path):
    with pytest.raises(DataError, match=rf"one class a row.* got {task}; choose another"):
        diagnose_task(task, tmp_path)


def test_it_trains_as_the_task_says(monkeypatch):
    asked = {}

    def split_of(task, seed):
        asked["rows"] = task.rows
        return "the split"

    def fit(method, split, regime):
        asked.update(regime._asdict(), split=split)
        raise InterruptedError

    monkeypatch.setattr(diagnosis, "split_of", split_of)
    monkeypatch.setattr(diagnosis, "fit", fit)
    with pytest.raises(InterruptedError):
        diagnose_task("kanji", KEPT)
    task = TASKS["kanji"]
    assert task.augment
    assert asked["augment"] == task.augment
    assert (asked["rows"], asked["split"], asked["epochs"]) == (4000, "the split", 30)
