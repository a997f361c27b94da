"""The tasks of the comparison: which modalities of which data set, and how long to train."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.compare import data


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        dataset: One of `benchmarks.compare.data.DATASETS`.
        modalities: Which of its modalities, in order.
        epochs: How long to train.
        weight: Time of a run, roughly, as a multiple of one on digits; for the time left.
        tuned_as: The task whose tuning serves this one, which is planted and no task of its own.
    """

    dataset: str
    modalities: tuple[str, ...]
    epochs: int
    weight: float
    tuned_as: str | None = None


TASKS = {
    "digits-2": Task("digits", ("pix", "fou"), epochs=30, weight=1),
    "digits-3": Task("digits", ("fou", "zer", "mor"), epochs=30, weight=1),
    "openmoji": Task("openmoji", ("image", "text"), epochs=30, weight=4),
    "stamps-image-text": Task("stamps", ("image", "text"), epochs=40, weight=3),
    "stamps-image-speech": Task("stamps", ("image", "speech"), epochs=40, weight=4),
    "stamps-3": Task("stamps", ("image", "text", "speech"), epochs=40, weight=4),
    "watch": Task("watch", ("accelerometer", "gyroscope"), epochs=20, weight=5),
    "brca": Task("brca", ("rna", "clinical"), epochs=60, weight=1),
    "digits-noise": Task(
        "digits-noise", ("fou", "noise"), epochs=30, weight=1, tuned_as="digits-3"
    ),
}
REAL = tuple(name for name, task in TASKS.items() if task.tuned_as is None)


class Rows(NamedTuple):
    """Samples of one part of a split: inputs by modality, float32, and labels."""

    inputs: dict[str, Tensor]
    labels: Tensor


class Split(NamedTuple):
    """The three parts, standardised by the training rows."""

    training: Rows
    validation: Rows
    test: Rows


@lru_cache(maxsize=1)  # the runs of a suite come task by task
def _dataset(name: str) -> data.Dataset:
    return data.load(name)


@lru_cache(maxsize=1)
def load_split(dataset_name: str, modalities: tuple[str, ...], seed: int) -> Split:
    """The split of a seed: 60/20/20, stratified or by group (`compare.data.splits`)."""
    dataset = _dataset(dataset_name)
    parts = data.split(dataset, seed)
    inputs = {name: _standardised(dataset.inputs[name], parts[0]) for name in modalities}
    labels = torch.from_numpy(dataset.labels)
    return Split(
        *(
            Rows({name: values[rows] for name, values in inputs.items()}, labels[rows])
            for rows in map(torch.from_numpy, parts)
        )
    )


def _standardised(values: NDArray[Any], training: NDArray[np.int64]) -> Tensor:
    """Zero mean and unit variance over the training rows, per column or per channel.

    What is constant in the training rows is not scaled: another value elsewhere is no outlier.
    """
    tensor = torch.from_numpy(values).float()
    axes = [0, *range(2, tensor.ndim)]
    std, mean = torch.std_mean(tensor[torch.from_numpy(training)], dim=axes, keepdim=True)
    return (tensor - mean) / torch.where(std > 0, std.clamp(min=1e-6), 1.0)
