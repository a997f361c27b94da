"""Numbers and switches among the arguments, checked where they are given."""

from numbers import Real
from typing import Any

import numpy as np
import torch

from midas_aug._arrays import is_integer
from midas_aug.errors import MidasAugError

__all__ = ["check_count", "check_number", "check_switch", "is_real"]


def is_real(value: object) -> bool:
    """Whether ``value`` is a real number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_count(value: Any, name: str, low: int = 1, why: str = "") -> int:
    """An integer of at least ``low``; ``why`` is the end of the message."""
    if not is_integer(value) or value < low:
        raise MidasAugError(
            f"expected {name} to be an integer of at least {low}, got {value!r}"
            + (f"; {why}" if why else "")
        )
    return int(value)


def check_number(value: Any, name: str, low: float, why: str, *, exclusive: bool = False) -> float:
    """A number of at least ``low``, or above it, that is finite and no 0 in float32, too."""
    if is_real(value):
        limits = torch.finfo(torch.float32)
        lowest = max(low, limits.tiny) if exclusive else low
        if lowest <= value <= limits.max:  # before float(), which 10**400 overflows
            return float(value)
    least = f"above {low:g}" if exclusive else f"of at least {low:g}"
    raise MidasAugError(f"expected a finite {name} {least} in float32, got {value!r}; {why}")


def check_switch(value: Any, name: str) -> bool:
    """A switch as a bool: a word such as "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise MidasAugError(f"expected {name} to be True or False, got {value!r}")
    return bool(value)
