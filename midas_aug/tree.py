"""Batches of any structure: look up by key, map over leaves, index rows.

Mappings (``dict``, ``OrderedDict``, Hugging Face ``BatchEncoding``, ``TensorDict``, …), lists,
tuples, named tuples and dataclass instances are containers; everything else is a leaf. A list of
N things (N strings, N clips of different length) is a leaf with N rows, unless each of the things
has N rows itself.
"""

import copy
import dataclasses
import sys
from collections import UserDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import is_array
from midas_aug.errors import MidasAugError

__all__ = [
    "first_rows",
    "get_item",
    "in_order",
    "item_keys",
    "map_arrays",
    "map_items",
    "resolve_key",
    "select_rows",
    "take_rows",
]

Key = Hashable


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


def get_item(batch: Any, key: Key, what: str = "batch key") -> Any:
    """The item ``key`` of a container, with an error that lists the keys there are."""
    found = resolve_key(batch, key)
    if found is None:
        raise MidasAugError(
            f"expected the {what} {key!r}, found {item_keys(batch)!r} "
            f"({type(batch).__name__}); the names of the batch, of its logits or features and of "
            "MisalignAugment have to be the same"
        )
    return _value(batch, found)


def in_order(values: Any, keys: Sequence[Key], what: str) -> list[Any]:
    """One value a key: looked up by it, or in the order of a list, a tuple or a stacked array."""
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
    return _rebuild(batch, [function(key, value) for key, value in _items(batch)])


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """Copy ``tree`` with ``function(array)`` in place of every tensor and NumPy array."""
    if is_array(tree) or _is_tensordict(tree):
        return function(tree)
    if _is_container(tree):
        return map_items(lambda _, value: map_arrays(function, value), tree)
    return tree


def take_rows(
    tree: Any,
    index: Tensor,
    rows: int,
    *,
    path: str,
    strict: bool,
    host_index: Callable[[], Sequence[int]] | None = None,
) -> Any:
    """Index every row-aligned leaf of ``tree`` with ``index``.

    Args:
        tree: One leaf or any nesting of containers.
        index: ``(R,)`` int64 rows in ``0 … rows - 1``.
        rows: N, the number of rows by which a leaf counts as row-aligned.
        path: What an error message calls ``tree``.
        strict: Raise for an array that has not N rows instead of passing it through.
        host_index: Gives ``index`` as Python numbers where they are known without asking the
            device. With it, leaves that stay on the host (lists of strings, lengths on the CPU)
            go along with labels on an accelerator.

    Raises:
        MidasAugError: A leaf has not N rows and ``strict`` is on, or lies on another device.
    """
    if is_array(tree) or _is_tensordict(tree):
        if tree.ndim > 0 and tree.shape[0] == rows:
            return _take(tree, index, path, host_index)
        if strict:
            raise MidasAugError(
                f"expected {path} to have {rows} rows (one a label), got shape "
                f"{tuple(tree.shape)}; every array of a modality needs the batch as its first axis"
            )
        return tree
    if _is_row_list(tree, rows):
        chosen = index.tolist() if host_index is None else host_index()
        return type(tree)(tree[row] for row in chosen)
    if _is_container(tree):

        def inside(key: Any, value: Any) -> Any:
            here = f"{path}[{key!r}]"
            return take_rows(value, index, rows, path=here, strict=strict, host_index=host_index)

        return map_items(inside, tree)
    if strict and tree is not None:
        raise MidasAugError(
            f"expected {path} to hold arrays of {rows} rows, got {type(tree).__name__}; leave "
            "what has no rows out of the modality (other keys of the batch pass through)"
        )
    return tree


def first_rows(tree: Any) -> int:
    """The number of rows of the first array in ``tree``."""
    for leaf in _arrays(tree):
        if leaf.ndim > 0:
            return int(leaf.shape[0])
    raise MidasAugError(
        f"expected an array with rows, got {type(tree).__name__}; pass tensors or NumPy arrays "
        "whose first axis is the batch"
    )


def _arrays(tree: Any) -> Iterator[Any]:
    if is_array(tree) or _is_tensordict(tree):
        yield tree
    elif _is_container(tree):
        for _, value in _items(tree):
            yield from _arrays(value)


def _take(
    array: Any, index: Tensor, path: str, host_index: Callable[[], Sequence[int]] | None
) -> Any:
    device = torch.device("cpu") if isinstance(array, np.ndarray) else array.device
    if device is not None and device != index.device:
        if device.type == "cpu" and host_index is not None:
            on_host = torch.tensor(host_index(), dtype=torch.int64, device="cpu")
            return _take(array, on_host, path, None)
        raise MidasAugError(
            f"expected {path} on the device of the labels, {index.device}, got {device}; "
            "move the whole batch to one device first"
        )
    if isinstance(array, np.ndarray):
        return np.take(array, index.numpy(), axis=0)
    return select_rows(array, index) if isinstance(array, Tensor) else array[index]


def select_rows(array: Tensor, index: Tensor) -> Tensor:
    """``index_select`` of rows, with a backward that is fast on a CPU."""
    if (
        array.requires_grad
        and torch.is_grad_enabled()
        and array.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # torch.func wants its own kind
    ):
        selected: Tensor = _SelectRows.apply(array, index)  # type: ignore[no-untyped-call]
        return selected
    return array.index_select(0, index)


class _SelectRows(torch.autograd.Function):
    """``index_select`` with a backward for what a concatenation sends back.

    The gradient of one modality in ``torch.cat(..., dim=1)`` is a strided slice, on which the CPU's
    ``index_add`` is several times slower than on a contiguous copy, up to a thousand rows or so.
    """

    # Not setup_context: it costs a look at the signature in every call.
    @staticmethod
    def forward(ctx: Any, array: Tensor, index: Tensor) -> Tensor:
        ctx.shape = array.shape
        ctx.save_for_backward(index)
        return array.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        rows = gradient.new_zeros(ctx.shape)
        return rows.index_add_(0, index, gradient.contiguous()), None


def _is_row_list(tree: Any, rows: int) -> bool:
    """A list of ``rows`` things that are not all arrays of ``rows`` rows themselves."""
    if type(tree) not in (list, tuple) or len(tree) != rows:
        return False
    return not all(_has_rows(value, rows) for value in tree)


def _has_rows(tree: Any, rows: int) -> bool:
    if is_array(tree):
        return bool(tree.ndim > 0 and tree.shape[0] == rows)
    return _is_container(tree) and any(_has_rows(value, rows) for _, value in _items(tree))


def _is_container(tree: Any) -> bool:
    return isinstance(tree, Mapping) or _is_sequence(tree) or _is_dataclass(tree)


def _is_sequence(tree: Any) -> bool:
    return isinstance(tree, Sequence) and not isinstance(tree, str | bytes)


def _is_dataclass(tree: Any) -> bool:
    return dataclasses.is_dataclass(tree) and not isinstance(tree, type)


def _is_tensordict(tree: Any) -> bool:
    tensordict = sys.modules.get("tensordict")
    return tensordict is not None and isinstance(tree, tensordict.TensorDictBase)


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
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
    if type(tree) is dict:
        return dict(zip(tree, values, strict=True))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*values)
    if _is_dataclass(tree) and not isinstance(tree, Mapping):
        new = copy.copy(tree)
        for field, value in zip(dataclasses.fields(tree), values, strict=True):
            object.__setattr__(new, field.name, value)  # also if frozen; no second __post_init__
        return new
    if isinstance(tree, dict | UserDict):  # these copy their items, others may share them
        new = copy.copy(tree)
        for key, value in zip(list(tree), values, strict=True):
            new[key] = value
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
