"""Forward passes that are run again inside a backward pass, as by activation checkpointing."""

from typing import Any

import torch
from torch import Tensor

from midas_aug.errors import MidasAugError

__all__ = ["Replay", "in_backward", "recomputing"]


def recomputing() -> bool:
    """Whether this code runs inside a backward pass, where a forward can only be a repetition."""
    return not torch.compiler.is_compiling() and in_backward()


def in_backward() -> bool:
    """`recomputing` where nothing is compiled."""
    return torch._C._current_graph_task_id() != -1


class Replay:
    """Remembers what the last forward passes used, to hand it out when one of them is repeated.

    A pass is known by its labels, which activation checkpointing hands over as they were. A label
    tensor that is used in several passes before one backward pass cannot tell them apart; asking
    for it twice is an error.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._kept: list[tuple[Tensor, Any]] = []
        self._task = -1  # the backward pass that asked last, and for which labels
        self._asked: list[Tensor] = []
        self.last: Any = None  # for the owner: what the last pass gave

    def keep(self, labels: Tensor, value: Any) -> None:
        """Remember ``value`` of a pass with these ``labels``."""
        self._kept.append((labels, value))
        if len(self._kept) > self._size:
            del self._kept[0]

    def recall(self, labels: Tensor, what: str) -> Any:
        """The value of the last pass with these ``labels``.

        Raises:
            MidasAugError: There was none, or it was asked for already in this backward pass.
        """
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._asked = task, []
        if not any(_same(asked, labels) for asked in self._asked):
            for kept, value in reversed(self._kept):
                if _same(kept, labels):
                    self._asked.append(labels)
                    return value
        raise MidasAugError(
            f"expected the labels of one earlier forward pass, to repeat {what} inside a backward "
            "pass (activation checkpointing), got labels that belong to none or to several; pass "
            "the labels into the checkpointed function as they are, or pass plan=..."
        )

    def __deepcopy__(self, memo: Any) -> "Replay":
        return Replay(self._size)

    def __reduce__(self) -> Any:
        return Replay, (self._size,)


def _same(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    if one.shape != other.shape or one.device != other.device:
        return False
    if one.device.type == "cpu" and type(one) is type(other) is Tensor:
        return torch.equal(one, other)
    return not one.is_meta and one.data_ptr() == other.data_ptr()
