"""Removing a modality: zeros, a mean, or other rows' values in its place.

Results of the three differ, so every report names the way.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor
from midas_aug._rows import count_rows, take_rows
from midas_aug._tree import map_arrays
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
        MidasAugError: There is no such modality or way, or a mean of integers (token ids) is asked
            for.

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
        return map_arrays(lambda array: torch.zeros_like(as_tensor(array, name)), value)
    if removal == "permute":
        n_rows = rows_of_modality(value, name)
        order = torch.randperm(n_rows, generator=generator)
        return take_rows(value, order_like(order, value), n_rows, path=name, modality=True)
    means = mean_of(value, name) if mean is None else mean
    return spread(means, rows_of_modality(value, name))


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


def mean_of(tree: Any, name: str) -> Any:
    """The mean row of every array in ``tree``."""

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
        raise MidasAugError(
            f"expected {name!r} to hold an array with rows, got {type(value).__name__}; pass "
            "tensors or NumPy arrays whose first axis is the batch"
        )
    return n_rows
