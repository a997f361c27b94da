"""Raw random integers, in the library and from the generator that the caller chose."""

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import Array, Generator
from midas_aug.errors import MidasAugError

# A draw times a row count stays below 2^62: exact in int64 for any batch of up to 2^22 rows.
DRAW_BITS = 40


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
