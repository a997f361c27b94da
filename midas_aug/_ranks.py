"""Processes that train together: whether there are several, and sums over them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

__all__ = ["add_up", "in_process_group", "several_ranks"]

_AVAILABLE = distributed.is_available()  # of how PyTorch was built


def in_process_group() -> bool:
    """Whether ``torch.distributed`` was set up, so that this process has a rank."""
    return _AVAILABLE and distributed.is_initialized()


def several_ranks(process_group: Any = None) -> bool:
    """Whether there is another rank to agree with."""
    return in_process_group() and distributed.get_world_size(process_group) > 1


def add_up(tensors: Sequence[Tensor], process_group: Any = None) -> list[Tensor]:
    """Sums over the ranks, in one all-reduce; the tensors themselves where there is one rank.

    Also where ranks run out of batches one by one (``DistributedDataParallel.join``): those that
    are done answer DDP's own collectives and no others.
    """
    if not several_ranks(process_group) or _joining():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat, group=process_group)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view_as(given) for part, given in zip(parts, tensors, strict=True)]


def _joining() -> bool:
    if torch.compiler.is_compiling():
        return False
    # torch has no public way to ask for the DDP module whose forward is running.
    active = getattr(DistributedDataParallel, "_active_ddp_module", None)
    config = getattr(active, "_join_config", None)
    return bool(getattr(config, "enable", False))
