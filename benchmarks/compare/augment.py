"""Input augmentation that belongs to a task: the same for every method, on training batches alone.

Inputs are standardised before they come here, so what a shift or a mask uncovers is filled with 0,
the mean over the training rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

ASPECT = 4 / 3  # the widest crop, width to height, and the reciprocal of the narrowest
SPREAD = 1_000_003  # a prime: (seed, epoch) pairs fall on different seeds


class InputAugment(Protocol):
    """Another view of a batch of one modality, row by row."""

    def __call__(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """``(B, ...)`` in and out; the input is left as it was."""
        ...


@dataclass(frozen=True)
class RandomCrop:
    """A random part of each picture, resized to the whole: ``(B, channels, H, W)``.

    Area and place are uniform; the proportions are log-uniform within 3/4 and 4/3. A crop never
    leaves the picture.

    Attributes:
        smallest: Area of the smallest crop, as a fraction of the picture.
        flip: Whether half of the crops are mirrored, left and right.
    """

    smallest: float
    flip: bool = False

    def __call__(self, values: Tensor, generator: torch.Generator) -> Tensor:
        draws = torch.rand(5, len(values), generator=generator)
        area = self.smallest + (1 - self.smallest) * draws[0]
        stretch = torch.exp((draws[1] - 0.5) * math.log(ASPECT))  # the root of the proportions
        width = (area.sqrt() * stretch).clamp(max=1)
        height = (area.sqrt() / stretch).clamp(max=1)
        across = (2 * draws[2] - 1) * (1 - width)
        down = (2 * draws[3] - 1) * (1 - height)
        if self.flip:
            width = torch.where(draws[4] < 0.5, -width, width)
        none = torch.zeros_like(width)
        frame = torch.stack([width, none, across, none, height, down], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(frame, list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ShiftAndMask:
    """A series moved in time, with one stretch of it blanked: ``(B, channels, T)``.

    Attributes:
        shift: The farthest move either way, as a fraction of T.
        mask: The longest blank, as a fraction of T; its length and place are uniform.
    """

    shift: float
    mask: float

    def __call__(self, values: Tensor, generator: torch.Generator) -> Tensor:
        rows, _, steps = values.shape
        draws = torch.rand(3, rows, 1, generator=generator)
        move = torch.round((2 * draws[0] - 1) * self.shift * steps).long()
        times = torch.arange(steps)
        source = times - move
        length = torch.floor(draws[1] * (self.mask * steps + 1))
        start = torch.floor(draws[2] * (steps - length + 1))
        blank = (times >= start) & (times < start + length)
        seen = (source >= 0) & (source < steps) & ~blank
        place = source.clamp(0, steps - 1)[:, None].expand_as(values)
        return torch.where(seen[:, None], values.gather(2, place), 0)


@dataclass(frozen=True)
class WordDropout:
    """Each word of a row is left out with probability ``rate``: ``(B, L)`` numbers, 0 for none.

    Attributes:
        rate: p.
    """

    rate: float

    def __call__(self, values: Tensor, generator: torch.Generator) -> Tensor:
        dropped = torch.rand(values.shape, generator=generator) < self.rate
        return values.masked_fill(dropped, 0)


class BatchAugment:
    """Augments the batches of a run.

    The draws of an epoch depend on the seed and the epoch alone, so a run that goes on from an
    epoch draws what it would have drawn.

    Args:
        by_modality: What to do with which modality; the others stay as they are. None: nothing.
        seed: Of the run.
    """

    def __init__(self, by_modality: Mapping[str, InputAugment] | None, seed: int) -> None:
        self._by_modality = by_modality or {}
        self._seed = seed
        self._generator = torch.Generator()

    def start_epoch(self, epoch: int) -> None:
        """Draw as this epoch draws from its first batch on; epochs count from 0."""
        self._generator.manual_seed(2_000_000 + self._seed * SPREAD + epoch)

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch, augmented; a modality without an augmentation is passed on as it is."""
        return {
            name: augment(values, self._generator)
            if (augment := self._by_modality.get(name))
            else values
            for name, values in inputs.items()
        }
