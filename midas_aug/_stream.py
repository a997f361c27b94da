"""A reproducible stream of draws: one seed, different in every call, worker, epoch and rank."""

import hashlib
import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from midas_aug._arrays import Array, Generator
from midas_aug._ranks import in_process_group

__all__ = ["DrawStream"]


class DrawStream:
    """Gives each call a generator of its own, seeded by (seed, worker, rank, call number).

    There is no generator to carry from call to call, so a resumed stream needs one number, fork
    and spawn agree, and torch and NumPy batches share the code. The worker's part is the seed that
    the DataLoader gives it, which is new in every epoch; with persistent workers, which keep
    their seed, the call number goes on.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.calls = 0
        self._worker_seed: int | None = None  # of the process that `calls` counts for
        self._parent_rank: int | None = None  # a spawned worker cannot ask torch.distributed

    def next_generator(self, template: Array) -> Generator | None:
        """A fresh generator for ``template``'s library and device; None without a seed."""
        if self.seed is None:
            return None
        worker = get_worker_info()
        worker_seed = None if worker is None else worker.seed
        if worker_seed != self._worker_seed:
            self._worker_seed, self.calls = worker_seed, 0
        key = (self.seed, worker_seed, self._rank(), self.calls)
        self.calls += 1
        seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")
        if isinstance(template, np.ndarray):
            return np.random.default_rng(seed)
        return torch.Generator(device=template.device).manual_seed(seed >> 1)

    def _rank(self) -> int:
        if in_process_group():
            return torch.distributed.get_rank()
        if self._parent_rank is not None:
            return self._parent_rank
        return int(os.environ.get("RANK", 0))

    def state_dict(self) -> dict[str, int]:
        """The number of draws in this process; with the seed, all that its next one depends on.

        Loader workers count for themselves, from the seed that the loader gives them.
        """
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken, in a loader worker with that worker's seed."""
        worker = get_worker_info()
        self._worker_seed = None if worker is None else worker.seed
        self.calls = int(state["calls"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_parent_rank": self._rank()}
