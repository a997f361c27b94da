"""Which modalities each row of a batch has."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._tree import in_order
from midas_aug.functional.plan import check_flags

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
        why = "one flag a row and modality"
        return check_flags(present, (n_rows, len(names)), "present", why)
    columns = in_order(present, names, "present")
    return torch.stack(
        [
            check_flags(torch.as_tensor(column), (n_rows,), f"present[{name!r}]", "one flag a row")
            for name, column in zip(names, columns, strict=True)
        ],
        dim=1,
    )
