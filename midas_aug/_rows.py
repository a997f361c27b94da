"""Which leaves of a batch have rows, and how rows are taken.

A container is a mapping, a tuple, a named tuple, a dataclass or a `Columns`. A tensor, an array or
a TensorDict has one row per entry of its first axis; a list has one row per item. Everything else
has no rows. Nothing is guessed from a size alone: what ought to have rows and has another number of
them is an error at every batch size.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from midas_aug._arrays import is_array
from midas_aug._tree import (
    Columns,
    is_container,
    is_tensordict,
    items,
    map_items,
    select_rows,
)
from midas_aug.errors import MidasAugError

__all__ = ["as_columns", "count_rows", "first_rows", "take_rows"]

HostIndex = Callable[[], Sequence[int]]


def take_rows(
    tree: Any,
    index: Tensor,
    n_rows: int,
    *,
    path: str,
    modality: bool,
    host_index: HostIndex | None = None,
    swapped: int | None = None,
) -> Any:
    """Index every leaf of ``tree`` that has rows with ``index``.

    Args:
        tree: One leaf or any nesting of containers.
        index: ``(R,)`` int64, rows in ``0 … n_rows - 1``.
        n_rows: N.
        path: What an error message calls ``tree``.
        modality: Whether ``tree`` is (a part of) a modality, where every leaf must have rows.
        host_index: Gives ``index`` as Python numbers where they are known without asking the
            device. With it, lists and CPU leaves follow labels on an accelerator.
        swapped: See `select_rows`.

    Raises:
        MidasAugError: A leaf has another number of rows, is of a kind that cannot be indexed by
            row, or lies on another device.
    """
    if isinstance(tree, Tensor):
        if tree.layout is torch.strided and not tree.is_nested:
            shape = tree.shape
            if shape and shape[0] == n_rows:
                if tree.device != index.device:
                    index = _followed(tree, index, path, host_index)
                return select_rows(tree, index, swapped)
            if shape or modality:
                raise MidasAugError(_other_size(path, tuple(shape), n_rows, modality))
            return tree
        raise MidasAugError(_refused(path, tree))
    kind = type(tree)
    if kind is list:
        if len(tree) != n_rows:
            raise MidasAugError(_other_size(path, f"a list of {len(tree)}", n_rows, modality))
        if modality:
            _check_no_none(tree, path)
        chosen = index.tolist() if host_index is None else host_index()
        return [tree[row] for row in chosen]
    if is_container(tree):
        if isinstance(tree, PackedSequence):
            raise MidasAugError(_refused(path, tree))
        if modality and not _holds_something(tree):
            raise MidasAugError(_nothing(path, tree))
        if kind is tuple and tree and all(isinstance(item, str | bytes) for item in tree):
            raise MidasAugError(
                f"expected {path} as a list with one item per row, got a tuple of "
                f"{type(tree[0]).__name__}, which could be either rows or a setting; pass a list, "
                "or name its key in MisalignAugment(keep=...), and it is passed through untouched"
            )

        if kind is tuple and modality and not torch.compiler.is_compiling():
            _warn_of_samples(tree, n_rows, path)

        def inside(key: Any, value: Any) -> Any:
            if value is None:
                return None  # beside arrays, as in the output of a model
            return take_rows(
                value,
                index,
                n_rows,
                path=f"{path}[{key!r}]",
                modality=modality,
                host_index=host_index,
                swapped=swapped,
            )

        return map_items(inside, tree)
    if isinstance(tree, np.ndarray):
        if modality and tree.dtype == object:
            _check_no_none(tree.ravel(), path)
        if tree.ndim > 0 and tree.shape[0] == n_rows:
            return np.take(tree, _on_host(index, path, host_index).numpy(), axis=0)
        if tree.ndim > 0 or modality:
            raise MidasAugError(_other_size(path, tree.shape, n_rows, modality))
        return tree
    if is_tensordict(tree):
        if tree.ndim > 0 and tree.shape[0] == n_rows:
            same = tree.device is None or tree.device == index.device
            return tree[index if same else _on_host(index, path, host_index)]
        raise MidasAugError(_other_size(path, tuple(tree.shape), n_rows, modality))
    if _looks_like_rows(tree) or _holds_rows(tree, n_rows):
        raise MidasAugError(_refused(path, tree))
    if modality:
        raise MidasAugError(_nothing(path, tree))
    return tree


def count_rows(tree: Any) -> int | None:
    """The number of rows of the first leaf that has any; None if there is none."""
    if is_array(tree) or is_tensordict(tree):
        if tree.ndim == 0:
            return None
        rows: int = tree.shape[0]  # not int(rows), which would fix the size of an exported graph
        return rows
    if type(tree) is list:
        return len(tree)
    if is_container(tree):
        for _, value in items(tree):
            found = count_rows(value)
            if found is not None:
                return found
    return None


def first_rows(tree: Any, n_rows: int) -> Any:
    """The first ``n_rows`` rows of every leaf that has rows; tensors and arrays are views."""
    if isinstance(tree, (Tensor, np.ndarray)) or is_tensordict(tree):
        return tree[:n_rows] if tree.ndim > 0 else tree
    if type(tree) is list:
        return tree[:n_rows]
    if is_container(tree):
        return map_items(lambda _, value: first_rows(value, n_rows), tree)
    return tree


def as_columns(batch: Any, sample: Any) -> Any:
    """Mark the lists that ``default_collate`` made of the tuples and lists in ``sample``."""
    if isinstance(sample, str | bytes) and type(batch) is tuple:
        return list(batch)  # one a row, as of samples that are dictionaries
    if isinstance(sample, tuple | list) and type(batch) is list and len(batch) == len(sample):
        parts = zip(batch, sample, strict=True)
        return Columns(as_columns(value, part) for value, part in parts)
    if is_container(batch) and is_container(sample) and not is_array(sample):
        inside = dict(items(sample))
        return map_items(
            lambda key, value: as_columns(value, inside[key]) if key in inside else value, batch
        )
    return batch


def _check_no_none(values: Iterable[Any], path: str) -> None:
    """Raise if a row of a modality holds None, which would be swapped in."""
    row = next((row for row, value in enumerate(values) if value is None), None)
    if row is not None:
        raise MidasAugError(
            f"expected {path} to have something in each of its rows, got None in row {row}; leave "
            "such rows out, or give them a negative label and a placeholder"
        )


def _warn_of_samples(parts: tuple[Any, ...], n_rows: int, path: str) -> None:
    """Warn of N images that a batch of N rows holds in a tuple, where N is that of their channels.

    At any other N they are an error.
    """
    if len(parts) == n_rows and all(
        isinstance(part, Tensor | np.ndarray) and part.ndim > 2 for part in parts
    ):
        warnings.warn(
            f"{path} is a tuple of {n_rows} arrays with {n_rows} rows each, and is taken for "
            f"{n_rows} parts of the modality; if it is one array a row, as of zip(*samples), pass "
            "a list",
            stacklevel=2,
        )


def _followed(tensor: Tensor, index: Tensor, path: str, host_index: HostIndex | None) -> Tensor:
    """``index`` for a tensor on another device, where the host knows it."""
    if tensor.device.type != "cpu" or host_index is None:
        raise MidasAugError(
            f"expected {path} on the device of the labels, {index.device}, got "
            f"{tensor.device}; move the whole batch to one device first"
        )
    return _on_host(index, path, host_index)


def _on_host(index: Tensor, path: str, host_index: HostIndex | None) -> Tensor:
    if index.device.type == "cpu":
        return index
    if host_index is None:
        raise MidasAugError(
            f"expected {path} on the device of the labels, {index.device}, got the CPU; move the "
            "whole batch to one device first"
        )
    return torch.tensor(host_index(), dtype=torch.int64, device="cpu")


def _holds_something(tree: Any) -> bool:
    return any(
        _holds_something(value) if is_container(value) else value is not None
        for _, value in items(tree)
    )


def _looks_like_rows(leaf: Any) -> bool:
    """Whether a leaf of an unknown kind may be an array or a collection of another library."""
    if isinstance(leaf, str | bytes | int | float | complex | type) or leaf is None:
        return False
    return any(
        hasattr(type(leaf), name) for name in ("__array__", "__dlpack__", "__arrow_array__", "iloc")
    ) or (hasattr(type(leaf), "__len__") and hasattr(type(leaf), "__getitem__"))


def _holds_rows(leaf: Any, n_rows: int) -> bool:
    """Whether an object that is no container has an array of N rows, which would stay behind."""
    held = getattr(leaf, "__dict__", None)
    return isinstance(held, dict) and any(
        isinstance(value, Tensor | np.ndarray) and value.shape[:1] == (n_rows,)
        for value in held.values()
    )


def _other_size(path: str, found: Any, n_rows: int, modality: bool) -> str:
    got = found if isinstance(found, str) else f"shape {tuple(found)}"
    if modality:
        return (
            f"expected {path} to have {n_rows} rows (one per label), got {got}; every array of a "
            "modality needs the batch as its first axis, and a list one item per row"
        )
    return (
        f"expected {path} to have {n_rows} rows (one per label), got {got}; if it does not belong "
        "to the rows, name its key in MisalignAugment(keep=...), and it is passed through untouched"
    )


def _nothing(path: str, found: Any) -> str:
    return (
        f"expected {path} to hold arrays with one row per label, got "
        f"{'None' if found is None else f'{type(found).__name__} without any'}; a modality that "
        "the whole batch lacks cannot be swapped: leave the augmentation out for such a batch"
    )


def _refused(path: str, leaf: Any) -> str:
    name = f"{type(leaf).__module__.split('.')[0]}.{type(leaf).__name__}"
    cure = "convert it with numpy.asarray(...) or torch.as_tensor(...) in the collate function"
    if isinstance(leaf, PackedSequence):
        name, cure = "a PackedSequence", "pad it with torch.nn.utils.rnn.pad_packed_sequence first"
    elif isinstance(leaf, Tensor) and leaf.is_nested:
        name, cure = (
            "a nested tensor",
            "pass nested.to_padded_tensor(0.0), or list(nested.unbind())",
        )
    elif isinstance(leaf, Tensor):
        name, cure = f"a {leaf.layout} tensor", "convert it with .to_dense()"
    elif hasattr(leaf, "to_data_list"):
        cure = "pass leaf.to_data_list(), a list with one graph per row"
    elif not _looks_like_rows(leaf):
        cure = "make it a dict or a dataclass"
    return (
        f"expected {path} to be a tensor, a NumPy array or a list with one item per row, got "
        f"{name}, whose rows cannot be taken here; {cure}, or name its key in "
        "MisalignAugment(keep=...) if it has no rows"
    )
