"""Removing a modality: zeros, a mean, or other rows' values in its place.

Results of the three differ, so every report names the way.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, is_array
from midas_aug._rows import count_rows, take_rows
from midas_aug._tree import is_container, is_tensordict, items, map_arrays
from midas_aug.errors import MidasAugError

__all__ = ["Removal", "remove_modality"]

Removal: TypeAlias = Literal["zero", "mean", "permute"]
REMOVALS = ("zero", "mean", "permute")


def remove_modality(
    modalities: Mapping[str, Any],
    name: str,
    removal: Removal,
    *,
    mean: Any = None,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Copy ``modalities`` with ``name`` removed: its rows say nothing about their labels any more.

    Args:
        modalities: Features or inputs, each an array or a nested structure of arrays with N rows.
        name: The key to remove.
        removal: ``"zero"``: zeros. ``"mean"``: the mean of other rows, one for all. ``"permute"``:
            each row gets another row's (or, rarely, its own).
        mean: What replaces a row, in the structure of ``modalities[name]`` without the axis of
            rows; for ``"mean"``. None takes the mean of the rows given.
        generator: For ``"permute"``; None takes the global one.

    Returns:
        A new dict. The caller's is not changed.

    Raises:
        MidasAugError: There is no such modality or way; or what is no array is to become zeros, or
            token ids or a list a mean.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import remove_modality
        >>> batch = {"a": torch.tensor([[1.0], [3.0]]), "b": torch.tensor([[5.0], [7.0]])}
        >>> remove_modality(batch, "b", "mean")["b"].tolist()
        [[6.0], [6.0]]
    """
    if name not in modalities:
        raise MidasAugError(f"expected one of {list(modalities)!r}, got {name!r}")
    value = modalities[name]
    return {**modalities, name: absent(value, removal, name, mean=mean, generator=generator)}


def absent(
    value: Any,
    removal: str,
    name: str,
    *,
    mean: Any = None,
    generator: torch.Generator | None = None,
) -> Any:
    """What stands in for the modality ``value`` when it is removed."""
    check_removal(removal)
    if removal == "zero":
        check_arrays(value, f"the modality {name!r}")
        return map_arrays(lambda array: torch.zeros_like(as_tensor(array, name)), value)
    if removal == "permute":
        n_rows = rows_of_modality(value, name)
        order = torch.randperm(n_rows, generator=generator)
        return take_rows(value, order_like(order, value), n_rows, path=name, modality=True)
    if mean is None:
        mean = mean_of(value, name)
    elif holds_list(mean) or not _holds_array(mean):
        raise MidasAugError(
            f"expected mean as what replaces a row of {name!r}, an array or a structure of arrays, "
            f"got {type(mean).__name__}; convert it with torch.as_tensor"
        )
    return spread(mean, rows_of_modality(value, name))


def check_removal(removal: str) -> None:
    """Raise unless there is this way to remove a modality."""
    if removal not in REMOVALS:
        raise MidasAugError(
            f"expected removal to be one of {list(REMOVALS)!r}, got {removal!r}; it says what "
            "stands in for a modality that is removed"
        )


def order_like(order: Tensor, tree: Any) -> Tensor:
    """``order`` on the device of the first tensor in ``tree``."""
    devices: list[torch.device] = []
    map_arrays(lambda array: devices.append(as_tensor(array, "a modality").device), tree)
    return order.to(devices[0]) if devices else order


def check_arrays(value: Any, what: str) -> None:
    """Raise where zeros or a mean would leave rows as they are, as those of a list of words."""
    kept = _kept_rows(value)
    if kept is not None:
        raise MidasAugError(
            f"expected {what} to hold arrays, got a list with {kept}, for which neither zeros nor "
            "a mean can stand in; use removal='permute', or pass a tensor of numbers"
        )
    if not _holds_array(value):
        raise MidasAugError(_no_arrays(value, what))


def holds_list(tree: Any) -> bool:
    """Whether there is a list in ``tree``, which holds a row an item."""
    if type(tree) is list:
        return True
    return is_container(tree) and any(holds_list(value) for _, value in items(tree))


def _holds_array(tree: Any) -> bool:
    found: list[Any] = []
    map_arrays(found.append, tree)
    return bool(found)


def _kept_rows(tree: Any, *, in_list: bool = False) -> str | None:
    """The kind of what is a row, or a part of one, and no array; None: there is nothing."""
    if is_array(tree) or is_tensordict(tree):
        return None
    if type(tree) is list:
        parts, in_list = tree, True
    elif is_container(tree):
        parts = [value for _, value in items(tree)]
    else:
        return type(tree).__name__ if in_list else None  # a setting beside arrays has no rows
    return next((kind for part in parts if (kind := _kept_rows(part, in_list=in_list))), None)


def _no_arrays(value: Any, what: str) -> str:
    return (
        f"expected {what} to hold an array with rows, got {type(value).__name__}; pass tensors or "
        "NumPy arrays whose first axis is the batch"
    )


def mean_of(tree: Any, name: str) -> Any:
    """The mean row of every array in ``tree``.

    Raises:
        MidasAugError: There is a list in it, whose arrays are a row each, there are no arrays, or
            these hold integers.
    """
    check_arrays(tree, f"the modality {name!r}")
    if holds_list(tree):
        raise MidasAugError(
            f"expected the modality {name!r} as arrays whose first axis is the batch to take the "
            "mean of, got a list, which has a row an item; stack or pad the items, or use "
            "removal='permute'"
        )

    def mean(array: Any) -> Tensor:
        values = as_tensor(array, name)
        if not values.is_floating_point():
            raise MidasAugError(
                f"expected {name!r} to hold floats to take the mean of, got {values.dtype}; use "
                "removal='permute' for token ids, or work at feature level"
            )
        return values.detach().mean(dim=0)

    return map_arrays(mean, tree)


def spread(means: Any, n_rows: int) -> Any:
    """``means`` (one row without its axis) repeated ``n_rows`` times."""

    def repeated(mean: Any) -> Tensor:
        row = as_tensor(mean, "the mean")
        return row.expand(n_rows, *row.shape)

    return map_arrays(repeated, means)


def rows_of_modality(value: Any, name: str) -> int:
    """The number of rows of a modality."""
    n_rows = count_rows(value)
    if n_rows is None:
        raise MidasAugError(_no_arrays(value, repr(name)))
    return n_rows
