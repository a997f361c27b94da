"""Operators and host–device syncs of a step: counted, so the same on every machine."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    f"aten.{name}"
    for name in (
        "_unsafe_view",
        "alias",
        "detach",
        "diagonal",
        "expand",
        "permute",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
    )
}
# Operators that make the host wait for the device.
WAITING = {
    "aten._local_scalar_dense",
    "aten.bincount",
    "aten.equal",
    "aten.is_nonzero",
    "aten.item",
    "aten.masked_select",
    "aten.multinomial",
    "aten.nonzero",
    "aten.unique_consecutive",
    "aten._unique2",
    "aten.repeat_interleave",
}


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that do work (not views), and remembers those that wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        name = str(func.overloadpacket)
        self.operators += name not in VIEWS
        masks = args[1] if name == "aten.index" else ()
        by_mask = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        if name in WAITING or by_mask:
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))
