"""Operators and host–device syncs of a step: counted, so the same on every machine."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.step import Heads

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


Recorded = tuple[Any, Any, Any]  # an operator, its arguments, those by name


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operators that do work (not views), and the names of those that wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Recorded] = []
        self.waiting: list[str] = []

    @property
    def operators(self) -> int:
        """How many do work."""
        return len(self.calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Remember, and go on."""
        name = str(func.overloadpacket)
        if name not in VIEWS:
            self.calls.append((func, args, kwargs or {}))
        masks = args[1] if name == "aten.index" else ()
        by_mask = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        if name in WAITING or by_mask:
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))


def count_operators(device: torch.device | None = None) -> dict[str, dict[str, int]]:
    """Heads forward and backward, draws included.

    Ours run on the meta device, where tensors have no values: whatever looks at one would raise
    (and the looks that are free on a CPU are left out, as on a GPU). The public code's structure
    looks at some, so it runs on the CPU.
    """
    counts = {}
    for name in ("joint + unimodal", "ours", "ours, factored", "public code"):
        place = torch.device("meta" if name.startswith("ours") else "cpu")
        step = Heads.build(32, 16, 7, place).variants()[name]
        step()  # gradients exist, and are added to, from the second step on
        with OperatorCount() as count:
            step()
        counts[name] = {"operators": count.operators, "syncs": len(count.waiting)}
    return counts
