"""Whether this process is one of several that train together."""

from torch import distributed

__all__ = ["in_process_group", "several_ranks"]


def in_process_group() -> bool:
    """Whether ``torch.distributed`` was set up, so that this process has a rank."""
    return distributed.is_available() and distributed.is_initialized()


def several_ranks() -> bool:
    """Whether there is another rank to agree with."""
    return in_process_group() and distributed.get_world_size() > 1
