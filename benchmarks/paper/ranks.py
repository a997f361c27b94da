"""Several processes, one a GPU: the encoders share the rows, all else is done by all alike.

Each process encodes its rows of a batch; the features are gathered, and heads, losses and methods
work on the whole batch in every process, with the same draws. So a method needs not know of it,
partners come from the whole batch, and the step is that of one process with a batch of the same
size. (On CPUs, batch norm sees the process's own rows alone.)
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from benchmarks.common.model import Features

T = TypeVar("T")

PATIENCE = timedelta(hours=12)  # the first process checks the files while the others wait


class Ranks(NamedTuple):
    """This process among all of them; alone by default."""

    rank: int = 0
    size: int = 1

    def share(self, rows: Sequence[T]) -> list[T]:
        """This process's part of the rows, as many as everyone's: the last row may come twice."""
        missing = -len(rows) % self.size
        return [*rows, *[rows[-1]] * missing][self.rank :: self.size]

    def gather(self, features: Features, rows: int) -> Features:
        """The features of all rows of a batch, from each process's `share`.

        Gradients reach the own rows: those of the encoders are to be summed (`sum_gradients`).
        """
        if self.size == 1:
            return features
        gathered = {}
        for name, own in features.items():
            parts = [torch.empty_like(own) for _ in range(self.size)]
            dist.all_gather(parts, own.detach().contiguous())
            parts[self.rank] = own
            gathered[name] = torch.stack(parts, dim=1).flatten(0, 1)[:rows]
        return gathered

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up the gradients of all processes, in one message."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def share_buffers(self, module: nn.Module) -> None:
        """Take the first process's buffers: the running statistics of batch norm."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """For all the others."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """For what writes files: the other processes find it done."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def leave(self) -> None:
        """Take leave of the others."""
        if self.size > 1:
            dist.destroy_process_group()


def start_ranks() -> Ranks:
    """Join the processes that torchrun started; alone if it did not."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Ranks()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size())
