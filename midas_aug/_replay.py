"""Forward passes that are run again inside a backward pass, as by activation checkpointing."""

import weakref
from typing import Any, TypeAlias

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

    A pass is known by its labels, which activation checkpointing hands over as they were: on the
    CPU by their values, elsewhere by the memory of the caller's tensor, which is not kept alive.
    Labels that are used in several passes before one backward pass cannot tell them apart; asking
    for them twice is an error.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._kept: list[tuple[_Labels, Any]] = []
        self._task = -1  # the backward pass that asked last, and for which labels
        self._asked: list[_Labels] = []
        self.last: Any = None  # for the owner: what the last pass gave

    def keep(self, given: Tensor, ids: Tensor, value: Any) -> None:
        """Remember ``value`` of a pass.

        Args:
            given: The labels as the caller passed them.
            ids: ``(N,)``, one number a label, in memory that nobody else writes to.
            value: Anything.
        """
        by_value = given.device.type == "cpu" and type(given) is Tensor
        self._kept.append((ids if by_value else weakref.ref(given), value))
        if len(self._kept) > self._size:
            del self._kept[0]

    def recall(self, given: Tensor, ids: Tensor, what: str) -> Any:
        """The value of the last pass with these labels.

        Raises:
            MidasAugError: There was none, or it was asked for already in this backward pass.
        """
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._asked = task, []
        by_value = given.device.type == "cpu" and type(given) is Tensor
        labels = ids if by_value else weakref.ref(given)
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


_Labels: TypeAlias = Tensor | weakref.ref[Tensor]  # by value, or by memory


def _same(one: _Labels, other: _Labels) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    first, second = one(), other()
    if first is None or second is None:
        return False
    if first is second:
        return True
    if first.shape != second.shape or first.device != second.device or first.is_meta:
        return False
    return first.data_ptr() == second.data_ptr()
