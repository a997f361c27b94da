"""The tasks of the comparison: which modalities of which data set, and how long to train."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.compare import data
from benchmarks.compare.augment import InputAugment, RandomCrop, ShiftAndMask, WordDropout


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        dataset: One of `benchmarks.compare.data.DATASETS`.
        modalities: Which of its modalities, in order.
        epochs: How long to train.
        weight: Time of a run, roughly, as a multiple of one on digits; for the time left.
        tuned_as: The task whose tuning serves this one, which is planted and no task of its own.
        augment: What training batches go through, by modality; the same for every method.
        rows: How many of the data set's, drawn once for all seeds; None for all.
        group: "competition" for the tasks of that suite, "candidate" for those that it has not run.
    """

    dataset: str
    modalities: tuple[str, ...]
    epochs: int
    weight: float
    tuned_as: str | None = None
    augment: Mapping[str, InputAugment] = field(default_factory=dict)
    rows: int | None = None
    group: str = "compare"


KANJI_CROP = RandomCrop(smallest=0.5)  # a mirrored character is none
CROP = RandomCrop(smallest=0.35, flip=True)
SHIFT = ShiftAndMask(shift=0.1, mask=0.2)


def _kanji(*texts: str, like: str | None = "kanji", **augment: InputAugment) -> Task:
    return Task(
        "kanji",
        ("image", *texts),
        epochs=30,
        weight=20,
        tuned_as=like,
        augment=augment,
        rows=4000,
        group="competition",
    )


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
    "kanji": _kanji("meanings", like=None, image=KANJI_CROP),
    "kanji3": _kanji("meanings", "readings", image=KANJI_CROP),
    "kanji-words": _kanji("meanings", image=KANJI_CROP, meanings=WordDropout(0.5)),
    "kanji3-words": _kanji("meanings", "readings", image=KANJI_CROP, meanings=WordDropout(0.5)),
    "kanji-still": _kanji("meanings"),
    "emoji-3": Task(
        "emoji-3",
        ("image", "name"),
        epochs=30,
        weight=20,
        augment={"image": CROP},
        group="candidate",
    ),
    "openmoji-crops": Task(
        "openmoji",
        ("image", "text"),
        epochs=60,
        weight=10,
        augment={"image": CROP},
        group="candidate",
    ),
    "stamps-crops": Task(
        "stamps",
        ("image", "speech"),
        epochs=60,
        weight=8,
        augment={"image": CROP, "speech": SHIFT},
        group="candidate",
    ),
    "watch-shift": Task(
        "watch",
        ("accelerometer", "gyroscope"),
        epochs=40,
        weight=10,
        augment={"accelerometer": SHIFT, "gyroscope": SHIFT},
        group="candidate",
    ),
}
COMPARE = tuple(name for name, task in TASKS.items() if task.group == "compare")
COMPETITION = tuple(name for name, task in TASKS.items() if task.group == "competition")
REAL = tuple(name for name in COMPARE if TASKS[name].tuned_as is None)


class Rows(NamedTuple):
    """Samples of one part of a split: inputs by modality, and labels.

    Inputs are float32, or int64 where they are numbers of words or letters (0 for none).
    """

    inputs: dict[str, Tensor]
    labels: Tensor


class Split(NamedTuple):
    """The three parts: numbers standardised by the training rows, symbols of their vocabulary."""

    training: Rows
    validation: Rows
    test: Rows


@lru_cache(maxsize=1)  # the runs of a suite come task by task
def _dataset(name: str) -> data.Dataset:
    return data.load(name)


@lru_cache(maxsize=1)
def load_split(
    dataset_name: str, modalities: tuple[str, ...], seed: int, rows: int | None = None
) -> Split:
    """The split of a seed: 60/20/20, stratified or by group (`compare.data.splits`)."""
    dataset = _dataset(dataset_name) if rows is None else draw_rows(_dataset(dataset_name), rows)
    parts = data.split(dataset, seed)
    inputs = {name: _prepared(dataset.inputs[name], parts[0]) for name in modalities}
    labels = torch.from_numpy(dataset.labels)
    return Split(
        *(
            Rows({name: values[rows] for name, values in inputs.items()}, labels[rows])
            for rows in map(torch.from_numpy, parts)
        )
    )


def draw_rows(dataset: data.Dataset, rows: int) -> data.Dataset:
    """That many rows, the same for all seeds."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset.labels))[:rows])
    return dataset._replace(
        inputs={name: values[chosen] for name, values in dataset.inputs.items()},
        labels=dataset.labels[chosen],
        groups=None if dataset.groups is None else dataset.groups[chosen],
    )


def _prepared(values: NDArray[Any], training: NDArray[np.int64]) -> Tensor:
    """Standardised numbers (bytes are those of a picture), or symbols numbered anew."""
    if np.issubdtype(values.dtype, np.signedinteger):
        return _known(values, training)
    return _standardised(values, training)


def _known(values: NDArray[Any], training: NDArray[np.int64]) -> Tensor:
    """Symbols in the training rows, from 1 in their old order; 0 for none and for all others."""
    vocabulary = np.unique(values[training])
    vocabulary = vocabulary[vocabulary > 0]
    number = np.zeros(int(values.max(initial=0)) + 1, np.int64)
    number[vocabulary] = np.arange(1, len(vocabulary) + 1)
    return torch.from_numpy(number[values])


def _standardised(values: NDArray[Any], training: NDArray[np.int64]) -> Tensor:
    """Zero mean and unit variance over the training rows, per column or per channel.

    What is constant in the training rows is not scaled: another value elsewhere is no outlier.
    """
    tensor = torch.from_numpy(values).float()
    axes = [0, *range(2, tensor.ndim)]
    std, mean = torch.std_mean(tensor[torch.from_numpy(training)], dim=axes, keepdim=True)
    return (tensor - mean) / torch.where(std > 0, std.clamp(min=1e-6), 1.0)
