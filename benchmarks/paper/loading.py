"""Batches of clips, read by worker processes.

The draws of a clip depend on the seed, the epoch and its place in the epoch: not on the number of
workers, and not on where a run was stopped and went on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.paper.datasets.base import Clip
from benchmarks.paper.datasets.reading import Reader, collate


class Reading(NamedTuple):
    """A clip to read.

    Attributes:
        place: In the list of clips.
        draw: Seeds of its draws; none in evaluation.
    """

    place: int
    draw: tuple[int, ...] = ()


class Readings(Dataset[dict[str, Tensor]]):
    """Clips to read, in order."""

    def __init__(self, clips: Sequence[Clip], reader: Reader, readings: Sequence[Reading]) -> None:
        self._clips = clips
        self._reader = reader
        self._readings = readings

    def __len__(self) -> int:
        return len(self._readings)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        place, draw = self._readings[number]
        generator = np.random.default_rng(draw) if draw else None
        return self._reader.read(self._clips[place], place, generator)


def load(
    clips: Sequence[Clip],
    reader: Reader,
    batches: Sequence[Sequence[Reading]],
    workers: int,
) -> "DataLoader[dict[str, Tensor]]":
    """The batches, one after the other."""
    readings = [reading for batch in batches for reading in batch]
    ends = np.cumsum([len(batch) for batch in batches])
    numbers = [list(range(end - len(batch), end)) for batch, end in zip(batches, ends, strict=True)]
    options: dict[str, Any] = {"prefetch_factor": 4} if workers else {}
    return DataLoader(
        Readings(clips, reader, readings),
        batch_sampler=numbers,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        **options,
    )
