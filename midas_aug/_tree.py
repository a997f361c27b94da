"""Batches of any structure: look up by key, map over leaves, rebuild.

Mappings (``dict``, ``OrderedDict``, Hugging Face ``BatchEncoding``, …), tuples, named tuples,
dataclass instances and `Columns` are containers; everything else is a leaf. A plain list is a leaf
with one row per item, except at the top of a batch, where it is a tuple batch.
"""

import copy
import dataclasses
import functools
import sys
from collections import UserDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import is_array
from midas_aug.errors import MidasAugError

__all__ = [
    "Columns",
    "get_groups",
    "get_item",
    "in_order",
    "is_container",
    "is_tensordict",
    "item_keys",
    "items",
    "map_arrays",
    "map_items",
    "resolve_key",
    "resolve_keys",
    "select_rows",
]

Key = Hashable


class Columns(list[Any]):
    """A list that is a container of columns, as ``default_collate`` makes of tuple samples."""


def item_keys(batch: Any) -> list[Any]:
    """The keys of a mapping, field names of a dataclass or named tuple, positions of a list."""
    if isinstance(batch, Mapping):
        return list(batch.keys())
    if _is_dataclass(batch):
        return [field.name for field in dataclasses.fields(batch)]
    if hasattr(batch, "_fields"):
        return list(batch._fields)
    if _is_sequence(batch):
        return list(range(len(batch)))
    if hasattr(batch, "folded_targets"):
        raise MidasAugError(
            "expected a batch that is not augmented, got one that is augmented already; pass a "
            "loader without augment.collate()"
        )
    raise MidasAugError(
        f"expected a batch that is a mapping, a sequence or a dataclass, got "
        f"{type(batch).__name__}; put the modalities into a dict such as "
        "{'image': ..., 'text': ..., 'label': ...}"
    )


def resolve_key(batch: Any, key: Key) -> Any:
    """``key`` as `item_keys` spells it; None if ``batch`` has no such item."""
    keys = item_keys(batch)
    if key in keys:
        return key
    if isinstance(key, int) and not isinstance(batch, Mapping) and _is_sequence(batch):
        return keys[key] if -len(keys) <= key < len(keys) else None  # also -1, or a field's number
    return None


def resolve_keys(batch: Any, keys: Sequence[Key]) -> Collection[Any]:
    """Those of ``keys`` that ``batch`` has, as `item_keys` spells them."""
    return [found for key in keys if (found := resolve_key(batch, key)) is not None]


def get_item(batch: Any, key: Key, what: str = "batch key") -> Any:
    """The item ``key`` of a container, with an error that lists the keys there are."""
    if type(batch) is dict and key in batch:
        return batch[key]
    found = resolve_key(batch, key)
    if found is None:
        raise MidasAugError(
            f"expected the {what} {key!r}, found {item_keys(batch)!r} "
            f"({type(batch).__name__}); the names of the batch, of its logits or features and of "
            "MisalignAugment have to be the same"
        )
    return _value(batch, found)


def get_groups(batch: Any, keys: Mapping[Any, Sequence[Any]]) -> list[Any]:
    """What each modality holds: an item of ``batch``, or a mapping where it has several keys."""
    return [
        get_item(batch, group[0], "modality")
        if len(group) == 1
        else {key: get_item(batch, key, "modality") for key in group}
        for group in keys.values()
    ]


def in_order(values: Any, keys: Sequence[Key], what: str) -> list[Any]:
    """One value a key: looked up by it, or in the order of a list, a tuple or a stacked array."""
    if type(values) is dict and values.keys() >= set(keys):
        return list(map(values.__getitem__, keys))
    if is_array(values) or (type(values) in (list, tuple)):
        if len(values) != len(keys):
            raise MidasAugError(
                f"expected one of {what} for each of {list(keys)!r}, got {len(values)}; pass them "
                "in this order, or as a mapping"
            )
        return list(values)
    return [get_item(values, key, f"entry of {what}") for key in keys]


def map_items(function: Callable[[Any, Any], Any], batch: Any) -> Any:
    """Copy the container ``batch`` with ``function(key, value)`` in place of every value."""
    if type(batch) is dict:
        return {key: function(key, value) for key, value in batch.items()}
    return _rebuild(batch, [function(key, value) for key, value in items(batch)])


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """Copy ``tree`` with ``function(array)`` in place of every tensor and NumPy array."""
    if is_array(tree) or is_tensordict(tree):
        return function(tree)
    if type(tree) is list:
        return [map_arrays(function, item) for item in tree]
    if is_container(tree):
        return map_items(lambda _, value: map_arrays(function, value), tree)
    return tree


def select_rows(array: Tensor, index: Tensor, swapped: int | None = None) -> Tensor:
    """``index_select`` of rows, with a backward that is fast on a CPU.

    Args:
        array: ``(N, …)``.
        index: ``(R,)`` int64.
        swapped: ``index`` is blocks of N rows, all of them the rows in order but this one; None:
            nobody knows.
    """
    if (
        array.requires_grad
        and torch.is_grad_enabled()
        and array.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # torch.func wants its own kind
    ):
        selected: Tensor = _SelectRows.apply(array, (index, swapped))  # type: ignore[no-untyped-call]
        return selected
    return array.index_select(0, index)


class _SelectRows(torch.autograd.Function):
    """``index_select`` with a backward for what a concatenation sends back.

    The gradient of one modality in ``torch.cat(..., dim=1)`` is a strided slice, on which the CPU's
    ``index_add`` is several times slower than on a contiguous copy, up to a thousand rows or so.
    Blocks that are the rows in order need none of it: they are added up as they stand.
    """

    # Not setup_context: it costs a look at the signature in every call. A pair: torch looks at each
    # argument twice.
    @staticmethod
    def forward(ctx: Any, array: Tensor, rows: tuple[Tensor, int | None]) -> Tensor:
        index, swapped = rows
        ctx.shape = array.shape
        ctx.swapped = swapped
        ctx.save_for_backward(index)
        ctx.index = index  # forward mode asks before it gives what was saved
        return array.index_select(0, index)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.index_select(0, ctx.index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        n_rows, swapped = ctx.shape[0], ctx.swapped
        if swapped is None or n_rows == 0:
            rows = gradient.new_zeros(ctx.shape)
            return rows.index_add_(0, index, gradient.contiguous()), None
        blocks = torch.split(gradient, n_rows)
        plain = [block for number, block in enumerate(blocks) if number != swapped]
        rows = plain[0].clone() if len(plain) == 1 else functools.reduce(torch.add, plain)
        donors = index[swapped * n_rows : (swapped + 1) * n_rows]
        return rows.index_add_(0, donors, blocks[swapped].contiguous()), None


def is_container(tree: Any) -> bool:
    """Whether ``tree`` is made of items that are looked at one by one."""
    kind = type(tree)
    if kind is dict or kind is tuple or kind is Columns:
        return True
    if kind is list or isinstance(tree, Tensor | np.ndarray) or is_tensordict(tree):
        return False
    return isinstance(tree, Mapping | tuple) or _is_dataclass(tree)


def _is_sequence(tree: Any) -> bool:
    return isinstance(tree, Sequence) and not isinstance(tree, str | bytes)


def _is_dataclass(tree: Any) -> bool:
    return dataclasses.is_dataclass(tree) and not isinstance(tree, type)


def is_tensordict(tree: Any) -> bool:
    """Whether ``tree`` is a TensorDict or an instance of a tensorclass."""
    tensordict = sys.modules.get("tensordict")
    if tensordict is None:
        return False
    return isinstance(tree, tensordict.TensorDictBase) or bool(tensordict.is_tensorclass(tree))


def items(tree: Any) -> Iterator[tuple[Any, Any]]:
    """The keys and values of a container."""
    for key in item_keys(tree):
        yield key, _value(tree, key)


def _value(tree: Any, key: Any) -> Any:
    if isinstance(tree, Mapping):
        return tree[key]
    if _is_dataclass(tree) or hasattr(tree, "_fields"):
        return getattr(tree, key)
    return tree[key]


def _rebuild(tree: Any, values: list[Any]) -> Any:
    """A container like ``tree`` with new ``values``, in the order of its keys."""
    if isinstance(tree, Columns):
        return Columns(values)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tuple.__new__(type(tree), values)  # past a __new__ of its own
    if _is_dataclass(tree) and not isinstance(tree, Mapping):
        new = copy.copy(tree)
        for field, value in zip(dataclasses.fields(tree), values, strict=True):
            object.__setattr__(new, field.name, value)  # also if frozen; no second __post_init__
        return new
    if isinstance(tree, dict | UserDict):  # these copy their items, others may share them
        try:
            new = copy.copy(tree)
            for key, value in zip(list(tree), values, strict=True):
                new[key] = value
        except TypeError:  # it refuses to be written to
            return dict(zip(tree, values, strict=True))
        return new
    if isinstance(tree, Mapping):
        items = dict(zip(tree.keys(), values, strict=True))
        try:
            return type(tree)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(tree, tuple):
        return tuple(values)
    return list(values)
