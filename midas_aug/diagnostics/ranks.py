"""Processes that diagnose one model together: what each of them has seen goes to the first."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from midas_aug.errors import MidasAugError

__all__ = ["AllRanks", "OneProcess", "Ranks", "loader_order"]

T = TypeVar("T")
R = TypeVar("R")


class Ranks(Protocol):
    """One process or several that take the same steps.

    Attributes:
        rank: Number of this process, from 0.
    """

    rank: int

    def shared(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives on each rank, in their order, on every rank."""
        ...

    def at_first(self, work: Callable[[], list[T]], finish: Callable[[list[list[T]]], R]) -> R:
        """What ``finish`` makes, on the first rank, of what ``work`` gives on each; on every rank.

        The list that ``work`` gave is emptied on all other ranks.
        """
        ...


class OneProcess:
    """No other ranks: nothing is sent, and errors are raised where they are."""

    rank = 0

    def shared(self, work: Callable[[], T]) -> list[T]:
        """See `Ranks`."""
        return [work()]

    def at_first(self, work: Callable[[], list[T]], finish: Callable[[list[list[T]]], R]) -> R:
        """See `Ranks`."""
        return finish([work()])


class AllRanks:
    """The ranks of the default process group.

    An exception on one rank is raised there, and told to all others, which raise a `MidasAugError`
    in place of waiting. Tensors arrive on the CPU.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self._count = distributed.get_world_size()

    def shared(self, work: Callable[[], T]) -> list[T]:
        """See `Ranks`."""
        try:
            packed = _packed(work())
        except Exception as error:
            self._agreed(None, error)
            raise
        return [_unpacked(value) for value in self._agreed(packed)]

    def at_first(self, work: Callable[[], list[T]], finish: Callable[[list[list[T]]], R]) -> R:
        """See `Ranks`. Lists are sent item by item, so that no rank holds all of them twice."""
        try:
            parts = work()
        except Exception as error:
            self._agreed(None, error)
            raise
        every = self._gathered(parts, max(self._agreed(len(parts))))
        if self.rank > 0:
            result: R = _unpacked(self._from_first(None))
            return result
        try:
            result = finish(_opened(every))
            packed = _packed(result)
        except Exception as error:
            self._from_first(None, error)
            raise
        self._from_first(packed)
        return result

    def _gathered(self, parts: list[T], rounds: int) -> list[list[Any]]:
        """On the first rank its own parts and, not unpacked yet, those of the others."""
        every: list[list[Any]] = [[] for _ in range(self._count)]
        for _ in range(rounds):
            message: _Message | None = None
            if self.rank > 0 and parts:
                try:
                    message = _Message(_packed(parts.pop(0)))
                except Exception as error:  # raised when all are in step again
                    message = _Message(None, _words(error))
            received: list[Any] | None = [None] * self._count if self.rank == 0 else None
            distributed.gather_object(message, received)
            for of_rank, sent in zip(every, received or (), strict=False):
                of_rank += [] if sent is None else [sent]
        return [parts, *every[1:]]

    def _agreed(self, value: Any, error: Exception | None = None) -> list[Any]:
        """The values of all ranks; raise where another one failed, unless this one did, too."""
        messages: list[Any] = [None] * self._count
        distributed.all_gather_object(messages, _Message(value, _words(error)))
        for rank, (_, failure) in enumerate(messages):
            if failure is not None and error is None:
                raise MidasAugError(
                    f"expected every rank to get through its rows, got an error on rank {rank}: "
                    f"{failure}"
                )
        return [value for value, _ in messages]

    def _from_first(self, packed: bytes | None, error: Exception | None = None) -> Any:
        """What the first rank says; raise on the others where it failed."""
        messages: list[Any] = [_Message(packed, _words(error))]
        distributed.broadcast_object_list(messages, src=0)
        packed, failure = messages[0]
        if failure is not None and self.rank > 0:
            raise MidasAugError(failure)
        return packed


def loader_order(counts: Sequence[int]) -> Tensor:
    """The order in which a sampler deals rows to ranks: the first row of each, then the second.

    Args:
        counts: How many rows each rank has.

    Returns:
        ``(N,)`` int64: places of rows where those of one rank lie behind those of another.

    Example:
        >>> from midas_aug.diagnostics.ranks import loader_order
        >>> loader_order([3, 2]).tolist()
        [0, 3, 1, 4, 2]
    """
    ranks = range(len(counts))
    dealt = [torch.arange(counts[rank]) * len(counts) + rank for rank in ranks]
    return torch.cat(dealt).argsort()


# ---------------------------------------------------------------- errors and messages


class _Message(NamedTuple):
    """A value, or the words of an error, as an exception may hold anything."""

    value: Any
    failure: str | None = None


def _words(error: Exception | None) -> str | None:
    if error is None or isinstance(error, MidasAugError):
        return None if error is None else str(error)
    return f"{type(error).__name__}: {error}"


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Any:
    # It comes from a process of the same program.
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)


def _opened(every: list[list[Any]]) -> list[list[Any]]:
    """Unpack what the other ranks have sent.

    Raises:
        MidasAugError: One of them could not pack it.
    """
    for rank, sent in enumerate(every[1:], 1):
        for place, (packed, failure) in enumerate(sent):
            if failure is not None:
                raise MidasAugError(
                    f"expected features and scores that can be sent, got an error on rank {rank}: "
                    f"{failure}; use tensors in dicts, lists or tuples"
                )
            sent[place] = _unpacked(packed)
    return every
