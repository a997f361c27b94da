"""A few numbers that a process and its workers see alike."""

import mmap
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from midas_aug._arrays import share_memory

__all__ = ["SharedNumbers"]


class SharedNumbers:
    """Numbers in memory that forked and spawned workers share with this process.

    They lie in an anonymous mapping, which costs no file descriptor and no named shared memory;
    only when a worker is spawned do they move to shared memory of torch. This process writes, and
    its workers, also those that run already, read. Any other copy has memory of its own.

    Args:
        initial: The numbers at first; shape and dtype stay those of this tensor.
    """

    def __init__(self, initial: Tensor) -> None:
        with torch.device("cpu"):  # whatever the default device is
            memory = mmap.mmap(-1, max(initial.numel(), 1) * initial.element_size())
            flat = torch.frombuffer(memory, dtype=initial.dtype)
            self._tensor = flat[: initial.numel()].view(initial.shape)
        self._tensor.copy_(initial.detach())
        self._spawned: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The numbers, on the CPU: a view, not a copy."""
        return self._tensor

    def write(self, values: Tensor, index: Tensor | None = None) -> None:
        """Replace the numbers, here and in the workers; values on an accelerator are waited for.

        Args:
            values: The new numbers.
            index: ``(R,)`` int64 on the CPU, the only rows that are replaced; None: all.
        """
        given = values.detach().to("cpu", self._tensor.dtype)
        for memory in {id(m): m for m in (self._tensor, self._spawned) if m is not None}.values():
            if index is None:
                memory.copy_(given)
            else:
                memory[index] = given

    def for_spawned(self) -> Tensor:
        """The numbers in shared memory of torch, which `write` keeps up to date."""
        if self._spawned is None:
            self._spawned = share_memory(self._tensor.clone())
        return self._spawned

    @classmethod
    def of_spawned(cls, tensor: Tensor) -> Self:
        """The numbers in a process that was handed ``for_spawned()`` of another."""
        numbers = cls.__new__(cls)
        numbers._tensor = numbers._spawned = tensor
        return numbers

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._tensor)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Tensor]]:
        return type(self), (self._tensor.clone(),)


def _reduce_for_spawn(numbers: SharedNumbers) -> tuple[Callable[..., Any], tuple[Tensor]]:
    return SharedNumbers.of_spawned, (numbers.for_spawned(),)


# multiprocessing alone pickles with this one: the workers share, a checkpoint or a copy does not.
ForkingPickler.register(SharedNumbers, _reduce_for_spawn)
