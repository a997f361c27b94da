"""The tasks of the comparison: which modalities of which data set, and how long to train."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.kinds import CLASSES, NUMBER, TAGS, Kind
from benchmarks.compare import data
from benchmarks.compare.augment import InputAugment, RandomCrop, ShiftAndMask, WordDropout


@dataclass(frozen=True)
class Task:
    """What is to be told from what.

    Attributes:
        dataset: One of `benchmarks.compare.data.DATASETS`.
        modalities: Which of its modalities, in order.
        epochs: How long to train.
        weight: Time of a run, roughly, as a multiple of one on digits; for the time left.
        tuned_as: The task whose tuning serves this one, which is planted and no task of its own.
        augment: What training batches go through, by modality; the same for every method.
        rows: How many of the data set's, drawn once for all seeds; None for all.
        group: The suite whose tasks these are.
        kind: Of the labels.
        missing: How often a modality of a row is missing; see `draw_present`.
        common: How many training rows have a word, at least; rarer ones are left out.
        speed: Factor of the gradients of a modality's encoder; 1 for those that are not named.
    """

    dataset: str
    modalities: tuple[str, ...]
    epochs: int
    weight: float
    tuned_as: str | None = None
    augment: Mapping[str, InputAugment] = field(default_factory=dict)
    rows: int | None = None
    group: str = "compare"
    kind: Kind = CLASSES
    missing: float = 0.0
    common: int = 1
    speed: Mapping[str, float] = field(default_factory=dict)


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


def _missing(like: Task, epochs: int, rows: int | None = None) -> dict[str, Task]:
    """The task with modalities missing, more and more often; tuned where 30 % are."""
    tuned_as = f"{like.dataset}-missing-30"
    return {
        f"{like.dataset}-missing-{rate}": replace(
            like,
            epochs=epochs,
            rows=rows,
            missing=rate / 100,
            tuned_as=None if rate == 30 else tuned_as,
            group="labels",
        )
        for rate in (10, 30, 50)
    }


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
        group="augmented",
    ),
    "openmoji-crops": Task(
        "openmoji",
        ("image", "text"),
        epochs=60,
        weight=10,
        augment={"image": CROP},
        group="augmented",
    ),
    "stamps-crops": Task(
        "stamps",
        ("image", "speech"),
        epochs=60,
        weight=8,
        augment={"image": CROP, "speech": SHIFT},
        group="augmented",
    ),
    "watch-shift": Task(
        "watch",
        ("accelerometer", "gyroscope"),
        epochs=40,
        weight=10,
        augment={"accelerometer": SHIFT, "gyroscope": SHIFT},
        group="augmented",
    ),
}
TASKS["kanji-long"] = replace(
    TASKS["kanji"], epochs=120, weight=80, tuned_as="kanji", group="longer"
)
TASKS |= _missing(TASKS["kanji"], epochs=15, rows=2000)
TASKS |= {
    "openmoji-tags": Task(
        "openmoji-tags", ("image", "text"), epochs=30, weight=4, group="labels", kind=TAGS
    ),
    "brca-age": Task(
        "brca-age", ("rna", "methylation"), epochs=60, weight=1, group="labels", kind=NUMBER
    ),
}
TASKS |= _missing(TASKS["openmoji"], epochs=15)
TASKS |= _missing(TASKS["watch"], epochs=6)
COMPARE = tuple(name for name, task in TASKS.items() if task.group == "compare")
COMPETITION = tuple(name for name, task in TASKS.items() if task.group == "competition")
AUGMENTED = tuple(name for name, task in TASKS.items() if task.group == "augmented")
LABELS = tuple(name for name, task in TASKS.items() if task.group == "labels")
REAL = tuple(name for name in COMPARE if TASKS[name].tuned_as is None)


class Rows(NamedTuple):
    """Samples of one part of a split: inputs by modality, and labels.

    Inputs are float32, or int64 where they are numbers of words or letters (0 for none); those of a
    modality that a row does not have are 0.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    present: Tensor | None = None  # (N, M) bool: the modalities that a row has; None for all


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
    dataset_name: str,
    modalities: tuple[str, ...],
    seed: int,
    rows: int | None = None,
    missing: float = 0.0,
    common: int = 1,
) -> Split:
    """The split of a seed: 60/20/20, stratified or by group (`compare.data.splits`).

    Where modalities are missing, numbers are standardised by, and vocabularies made of, the
    training rows that have the modality. Words in fewer than ``common`` training rows are left out.
    """
    dataset = _dataset(dataset_name) if rows is None else draw_rows(_dataset(dataset_name), rows)
    parts = data.split(dataset, seed)
    labels = _labels(dataset, parts[0])
    present = None
    if missing > 0:
        present = draw_present(len(labels), len(modalities), missing, seed)
    inputs = {}
    for place, name in enumerate(modalities):
        values, training = dataset.inputs[name], parts[0]
        if present is None:
            inputs[name] = _prepared(values, training, common)
            continue
        has = present[:, place]
        prepared = _prepared(values, training[has.numpy()[training]], common)
        inputs[name] = torch.where(has.view(-1, *[1] * (prepared.ndim - 1)), prepared, 0)
    return Split(
        *(
            Rows(
                {name: values[rows] for name, values in inputs.items()},
                labels[rows],
                None if present is None else present[rows],
            )
            for rows in map(torch.from_numpy, parts)
        )
    )


def split_of(task: Task, seed: int, modalities: tuple[str, ...] | None = None) -> Split:
    """The split of a task; ``modalities`` are those to look at, None: all of the task's."""
    names = task.modalities if modalities is None else modalities
    return load_split(task.dataset, names, seed, task.rows, task.missing, task.common)


def draw_present(num_rows: int, num_modalities: int, missing: float, seed: int) -> Tensor:
    """``(N, M)`` bool, which modalities a row has.

    Each is missing with probability ``missing``, independently of the others; a row that would have
    none keeps one, each as likely. With one seed, what is missing at a rate is missing at every
    higher one, but for the modality that such a row keeps.
    """
    random = np.random.default_rng(seed + 3_000_000)
    present = random.random((num_rows, num_modalities)) >= missing
    keeps = random.integers(num_modalities, size=num_rows)
    none = np.flatnonzero(~present.any(axis=1))
    present[none, keeps[none]] = True
    return torch.from_numpy(present)


def _labels(dataset: data.Dataset, training: NDArray[np.int64]) -> Tensor:
    """Classes, tags, or numbers, which are standardised by the training rows."""
    if dataset.answers is None:
        return torch.from_numpy(dataset.labels)
    if dataset.answers.ndim == 2:
        return torch.from_numpy(dataset.answers).float()
    return _standardised(dataset.answers[:, None], training)[:, 0]


def draw_rows(dataset: data.Dataset, rows: int) -> data.Dataset:
    """That many rows, the same for all seeds."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset.labels))[:rows])
    return dataset._replace(
        inputs={name: values[chosen] for name, values in dataset.inputs.items()},
        labels=dataset.labels[chosen],
        answers=None if dataset.answers is None else dataset.answers[chosen],
        groups=None if dataset.groups is None else dataset.groups[chosen],
    )


def _prepared(values: NDArray[Any], training: NDArray[np.int64], common: int) -> Tensor:
    """Standardised numbers (bytes are those of a picture), or symbols numbered anew."""
    if np.issubdtype(values.dtype, np.signedinteger):
        return _known(values, training, common)
    return _standardised(values, training)


def _known(values: NDArray[Any], training: NDArray[np.int64], common: int) -> Tensor:
    """Symbols of enough training rows, from 1 in their old order; 0 for none and for all others."""
    once_a_row = [np.unique(row) for row in values[training]]
    vocabulary, rows = np.unique(np.concatenate(once_a_row), return_counts=True)
    vocabulary = vocabulary[(vocabulary > 0) & (rows >= common)]
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
