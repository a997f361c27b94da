"""Which modalities each row of a batch has."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._tree import in_order
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import check_present

__all__ = ["as_present"]


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
        return check_present(present, n_rows, len(names))
    columns = in_order(present, names, "present")
    parts = []
    for name, column in zip(names, columns, strict=True):
        flags = torch.as_tensor(column)
        if (*flags.shape,) != (n_rows,):
            raise MidasAugError(
                f"expected present[{name!r}] of shape ({n_rows},), one flag a row, got "
                f"{tuple(flags.shape)}; True where the row has the modality"
            )
        if flags.dtype != torch.bool:
            raise MidasAugError(
                f"expected present[{name!r}] to have the dtype bool, True where the row has the "
                f"modality, got {flags.dtype}; convert it with .bool()"
            )
        parts.append(flags)
    return check_present(torch.stack(parts, dim=1), n_rows, len(names))
