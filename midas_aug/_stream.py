"""A reproducible stream of draws: one seed, different in every call, worker, epoch and rank."""

import functools
import hashlib
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from midas_aug._arrays import Array, Generator, is_integer
from midas_aug._draws import CALL_STEP, CounterDraws
from midas_aug._ranks import in_process_group
from midas_aug._replay import Replay, in_backward
from midas_aug._state import StatefulModule
from midas_aug.errors import MidasAugError

__all__ = ["DrawStream", "check_calls"]


class DrawStream(StatefulModule):
    """Gives each call draws of its own, by a hash of (seed, worker, rank, number of the call).

    The number of the call is a tensor that is counted up where the draws are made, so the stream
    compiles, can be captured in a CUDA graph, and resumes from one number. The worker's part is the
    seed that the DataLoader gives it, which is new in every epoch; with persistent workers, which
    keep their seed, the count goes on. A forward pass that activation checkpointing repeats gets
    the draws of the first.

    Args:
        seed: None: there are no draws here, and the global generators serve.

    Attributes:
        calls: ``(1,)`` int64 buffer, the number of calls.
        rank: Whose stream this is. None: this process's rank. Ranks that share a batch (tensor
            parallel) set the same number.

    Raises:
        MidasAugError: ``rank`` is set to something else.
    """

    calls: Tensor

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed
        self._own_rank: int | None = None
        zero = functools.partial(torch.zeros, 1, dtype=torch.int64)
        self.register_state("calls", zero, lowest=0)
        self._worker_seed: int | None = None  # of the process that `calls` counts for
        self._parent_rank: int | None = None  # a spawned worker cannot ask torch.distributed
        self._replay = Replay()
        self._launched_rank = int(os.environ.get("RANK", 0))

    @property
    def rank(self) -> int | None:
        """Whose stream this is; None: this process's."""
        return self._own_rank

    @rank.setter
    def rank(self, rank: int | None) -> None:
        if rank is not None and (not is_integer(rank) or rank < 0):
            raise MidasAugError(
                f"expected the rank of a draw stream as an integer of at least 0, or None for this "
                f"process's, got {rank!r}"
            )
        self._own_rank = rank

    def next_draws(self, ids: Tensor, given: Array | None = None) -> CounterDraws | None:
        """The draws of the next call, on the device of the labels; None without a seed.

        Args:
            ids: ``(N,)``, one number a label.
            given: The labels as the caller passed them; None: ``ids``.
        """
        if self.seed is None:
            return None
        compiling = torch.compiler.is_compiling()
        key = self._traced_key(self._own_rank) if compiling else self._find_key()
        labels = given if isinstance(given, Tensor) else ids
        if not compiling and in_backward():
            start = self._replay.recall(labels, ids, "the draws of a seeded call")
            return CounterDraws(start, compiling=False)
        calls = self.calls
        if calls.device != ids.device:
            self.calls = calls = _moved(calls, ids.device)
        start = calls * CALL_STEP + key
        calls.add_(1)
        if not compiling:  # a compiled graph repeats itself
            self._replay.keep(labels, ids, start)
        return CounterDraws(start, compiling=compiling)

    def next_generator(self, labels: Array) -> Generator | None:
        """A generator of the library of ``labels``, for a pairing of the user's own.

        It takes a number from the device, which waits for it.
        """
        of = torch.from_numpy(labels) if isinstance(labels, np.ndarray) else labels
        draws = self.next_draws(of)
        if draws is None:
            return None
        seed = int(draws.bits((1,)))
        if isinstance(labels, np.ndarray):
            return np.random.default_rng(seed)
        return torch.Generator(device=labels.device).manual_seed(seed)

    def set_calls(self, calls: int) -> None:
        """Go on after ``calls`` calls, in a loader worker with that worker's seed."""
        check_calls(calls)
        worker = get_worker_info()
        self._worker_seed = None if worker is None else worker.seed
        if worker is not None:  # a spawned worker shares this memory with the others
            self.calls = torch.zeros_like(self.calls)
        self.calls.fill_(calls)

    def _traced_key(self, own_rank: int | None) -> int:
        """The key as it is when a call is compiled; another ``own_rank`` compiles it again."""
        return self._find_key()

    # As by torch.compiler.assume_constant_result, which would load the compiler.
    _traced_key._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _find_key(self) -> int:
        worker = get_worker_info()
        worker_seed = None if worker is None else worker.seed
        if worker_seed != self._worker_seed:
            self._worker_seed = worker_seed
            self.calls = torch.zeros_like(self.calls)
        rank = self._own_rank
        return _key(self.seed, worker_seed, self._rank() if rank is None else rank)

    def _rank(self) -> int:
        if in_process_group():
            return torch.distributed.get_rank()
        if self._parent_rank is not None:
            return self._parent_rank
        return self._launched_rank

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_parent_rank": self._rank()}


def check_calls(calls: Any) -> None:
    """Raise unless a stream can have made so many calls."""
    if not is_integer(calls) or not 0 <= calls < 1 << 63:
        raise MidasAugError(
            f"expected the number of calls of a draw stream as an integer of at least 0, in "
            f"int64, got {calls!r}; pass what state_dict() gave"
        )


def _moved(calls: Tensor, device: torch.device) -> Tensor:
    """The count on another device, to be counted up outside of inference mode, too."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return calls.to(device)
    return calls.to(device)


@functools.lru_cache(maxsize=256)
def _key(*parts: Any) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
