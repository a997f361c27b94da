"""Tasks: the splits as training sees them."""

import numpy as np
import pytest
import torch

from benchmarks.compare import tasks
from benchmarks.compare.data import Dataset
from benchmarks.compare.tasks import TASKS, load_split


def test_parts_are_standardised_by_the_training_rows():
    split = load_split("digits", ("fou", "mor"), 0)
    for values in split.training.inputs.values():
        torch.testing.assert_close(
            values.mean(dim=0), torch.zeros(values.shape[1]), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            values.std(dim=0), torch.ones(values.shape[1]), atol=1e-3, rtol=0
        )
    assert [len(part.labels) for part in split] == [1200, 400, 400]


def test_channels_are_standardised_as_a_whole():
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 8, 8)).astype(np.uint8)
    found = tasks._standardised(images, np.arange(10))
    torch.testing.assert_close(found[:10].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    assert found.dtype == torch.float32


@pytest.mark.usefixtures("_no_cache")
def test_a_column_that_is_constant_in_training_does_not_explode(monkeypatch):
    """One held-out patient of brca has a histology that no training patient has."""
    labels = np.arange(50, dtype=np.int64) % 2
    columns = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    columns[:, 1] = 0
    dataset = Dataset({"a": columns}, labels, ("no", "yes"))
    monkeypatch.setattr(tasks.data, "load", lambda name: dataset)
    test = tasks.data.split(dataset, 0)[2]
    columns[test[0], 1] = 1
    split = load_split("rare", ("a",), 0)
    assert float(split.test.inputs["a"].abs().max()) < 10
    assert float(split.test.inputs["a"][:, 1].max()) == 1


@pytest.fixture
def _no_cache():
    tasks._dataset.cache_clear()
    yield
    tasks._dataset.cache_clear()


def test_every_task_names_modalities_of_its_data_set():
    for task in TASKS.values():
        assert set(task.modalities) <= set(tasks.data.DATASETS[task.dataset].shapes)
