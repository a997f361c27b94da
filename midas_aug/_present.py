"""Which modalities each row of a batch has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, like
from midas_aug._rows import take_rows
from midas_aug._tree import get_item, in_order, map_items
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import check_flags

__all__ = ["as_present", "find_present", "present_at"]


def as_present(present: Any, names: Sequence[Any], n_rows: int) -> Tensor:
    """The mask ``(N, M)`` bool of what was given for it.

    Args:
        present: A mapping from each modality's name to ``(N,)`` bool, or ``(N, M)`` bool.
        names: The names of the modalities, in order.
        n_rows: N.

    Raises:
        MidasAugError: Names, shapes or dtypes do not fit.
    """
    if not isinstance(present, Mapping):
        why = "one flag a row and modality"
        return check_flags(present, (n_rows, len(names)), "present", why)
    columns = in_order(present, names, "present")
    return torch.stack(
        [
            check_flags(_flags(column), (n_rows,), f"present[{name!r}]", "one flag a row")
            for name, column in zip(names, columns, strict=True)
        ],
        dim=1,
    )


def _flags(column: Any) -> Any:
    """A list of flags as a tensor."""
    if not isinstance(column, list | tuple) or not column:
        return column
    if not all(isinstance(flag, bool | np.bool_) for flag in column):
        raise MidasAugError(
            f"expected the flags of present as True and False, got {column!r}; one a row"
        )
    return torch.tensor(column)


def find_present(batch: Any, key: Any, given: Any, names: Sequence[Any], labels: Tensor) -> Tensor:
    """The mask ``(N, M)`` of a call, or the one that the batch has under a key or for a callable.

    Raises:
        MidasAugError: It does not fit, or is on another device than the labels.
    """
    if given is None:
        given = key(batch) if callable(key) else get_item(batch, key, "present")
    has = as_present(given, names, labels.shape[0])
    if has.device != labels.device:
        raise MidasAugError(
            f"expected present on the device of the labels, {labels.device}, got {has.device}; "
            "move it there with the batch"
        )
    return has


def present_at(given: Any, names: Sequence[Any], source: Tensor, n_rows: int) -> Any:
    """The mask of the rows ``source`` ``(R, M)``, in the form and library of that of a batch."""
    if isinstance(given, Mapping):
        columns = dict(zip(names, source.unbind(dim=1), strict=True))

        def flags_of(name: Any, flags: Any) -> Any:
            return take_rows(flags, columns[name], n_rows, path=f"[{name!r}]", modality=False)

        return map_items(flags_of, given)
    return like(as_tensor(given, "present").gather(0, source), given)
