"""Raw random integers: from a generator of the caller's, or from a counter that is hashed.

A counter (`CounterDraws`) needs no generator: number k of a call is a hash of key + k, and the keys
of two calls are farther apart than a call has numbers. Integer arithmetic alone: it compiles, can
be captured in a CUDA graph, and gives the same numbers on every device and for NumPy.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import Array, Generator
from midas_aug.errors import MidasAugError

__all__ = [
    "CALL_STEP",
    "DRAW_BITS",
    "STEP",
    "CounterDraws",
    "Draws",
    "as_draws",
    "natural_numbers",
    "random_integers",
    "stirred",
]

# A draw times a row count stays below 2^62: exact in int64 for any batch of up to 2^22 rows.
DRAW_BITS = 40
_DRAW_MASK = (1 << DRAW_BITS) - 1

# Odd 64-bit numbers as int64: steps of the golden ratio, and the multipliers of two mixing rounds.
STEP = 0x9E3779B97F4A7C15 - (1 << 64)
# Numbers that are set apart for a lane, one request of a call, and for a call, which has up to 64
# lanes. A lane of 2^22 rows has 16 numbers a row.
_LANE_BITS, _CALL_BITS = 26, 32
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class CounterDraws:
    """Draws of one call, as numbers that depend on ``start`` and nothing else.

    Args:
        start: ``(1,)`` int64, in each call larger by `CALL_STEP`.
        compiling: Whether they are made inside a graph.
    """

    def __init__(self, start: Tensor, *, compiling: bool) -> None:
        self.start = start
        self._compiling = compiling
        self._lane = 0

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """Fresh int64 numbers, uniform in ``0 … 2^40 - 1``."""
        count = 1
        for size in shape:
            count = count * size
        first = self.start + _wrapped((self._lane << _LANE_BITS) * STEP)
        self._lane += 1
        numbers = natural_numbers(count, first, self._compiling)
        hashed = stirred(torch.add(first, numbers, alpha=STEP))
        # The upper bits are the best.
        return hashed.bitwise_right_shift_(64 - DRAW_BITS).bitwise_and_(_DRAW_MASK).view(shape)


Draws: TypeAlias = torch.Generator | np.random.Generator | CounterDraws | None


def natural_numbers(count: int, like: Tensor, compiling: bool) -> Tensor:
    """0 … ``count`` − 1, int64, that can be multiplied by numbers which overflow."""
    numbers = torch.arange(count, device=like.device)
    if compiling:
        # Hides them from a compiler's own arithmetic on indices, which refuses to overflow.
        numbers = numbers.bitwise_or(0)
    return numbers


def _wrapped(number: int) -> int:
    """An integer as int64 holds it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


CALL_STEP = _wrapped(STEP << _CALL_BITS)


def stirred(numbers: Tensor) -> Tensor:
    """Hash int64 numbers, in place, one to one; the upper bits are mixed best."""
    numbers.bitwise_xor_(numbers >> 30).mul_(_MIX_1)
    return numbers.bitwise_xor_(numbers >> 27).mul_(_MIX_2)


def as_draws(labels: Array, generator: Draws) -> Callable[[tuple[int, ...]], Tensor]:
    """A function ``shape -> 40 random bits``; ``labels`` say which generator fits."""
    if isinstance(generator, CounterDraws):
        return generator.bits
    return lambda shape: random_integers(1 << DRAW_BITS, shape, labels, generator)


def random_integers(
    high: int, shape: tuple[int, ...], template: Array, generator: Generator | None
) -> Tensor:
    """Draw int64 numbers uniform in ``0 … high - 1`` on the device of ``template``.

    The library of ``template`` decides which generator is meant: torch or NumPy.
    """
    if isinstance(template, np.ndarray):
        if generator is None:
            return torch.from_numpy(np.random.randint(0, high, shape, dtype=np.int64))  # noqa: NPY002
        if isinstance(generator, np.random.Generator):
            return torch.from_numpy(generator.integers(0, high, shape, dtype=np.int64))
        raise MidasAugError(
            f"expected a numpy.random.Generator for NumPy labels, got {_name(generator)}; "
            "make one with numpy.random.default_rng(seed)"
        )
    if generator is None:
        return torch.randint(high, shape, device=template.device)
    if not isinstance(generator, torch.Generator):
        raise MidasAugError(
            f"expected a torch.Generator for torch labels, got {_name(generator)}; make "
            "one with torch.Generator().manual_seed(seed)"
        )
    drawn = torch.randint(high, shape, generator=generator, device=generator.device)
    return drawn.to(template.device, non_blocking=True)


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
