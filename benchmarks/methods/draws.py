"""Random draws that come from the given generator alone."""

import torch
from torch import Tensor


def dirichlet(concentration: Tensor, generator: torch.Generator) -> Tensor:
    """One Dirichlet draw for each vector along the last dimension."""
    # torch.distributions draws from the global generator only; this is what it calls.
    return torch._sample_dirichlet(concentration, generator)


def permutations(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent permutations of ``0 … size - 1``, as ``(*shape, size)``."""
    return torch.rand(*shape, size, generator=generator).argsort(dim=-1)


def dropout(values: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Set each value to 0 with probability ``rate``; scale the others by 1/(1 - rate)."""
    kept = torch.rand(values.shape, generator=generator) >= rate
    return values * kept / (1 - rate)
