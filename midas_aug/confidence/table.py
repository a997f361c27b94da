"""A confidence for every sample of the data set, kept between epochs."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    as_labels,
    as_scores,
    as_tensor,
    check_shape,
    like,
    may_read_values,
    share_memory,
)
from midas_aug.errors import MidasAugError
from midas_aug.tree import get_item

__all__ = ["TableConfidence"]


class TableConfidence:
    """Looks up confidences by data set index; loader workers read what the training loop writes.

    The table lies in shared memory, or in a memory-mapped file, which also outlives the process
    and may be larger than memory.

    Args:
        num_samples: Size of the data set.
        num_modalities: M.
        index: Batch key of the ``(N,)`` integer data set indices.
        path: File to map (created if it is missing, else read and updated in place). None keeps
            the table in shared memory.
        initial: Confidence of samples that have not been updated.

    Attributes:
        table: ``(num_samples, M)`` float32, on the CPU.

    Raises:
        MidasAugError: Sizes are not positive, or the file at ``path`` has another size.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import TableConfidence
        >>> table = TableConfidence(100, 2)
        >>> table.update(torch.tensor([7]), torch.tensor([[0.9, 0.3]]))
        >>> table({"index": torch.tensor([7, 8])}, torch.tensor([0, 1]))
        tensor([[0.9000, 0.3000],
                [1.0000, 1.0000]])
    """

    def __init__(
        self,
        num_samples: int,
        num_modalities: int,
        *,
        index: Hashable = "index",
        path: str | os.PathLike[str] | None = None,
        initial: float = 1.0,
    ) -> None:
        if num_samples < 1 or num_modalities < 2:
            raise MidasAugError(
                "expected at least 1 sample and 2 modalities, got "
                f"{num_samples} and {num_modalities}"
            )
        self.index = index
        self.path = None if path is None else Path(path)
        shape = (num_samples, num_modalities)
        if self.path is None:
            self.table = share_memory(torch.full(shape, float(initial), device="cpu"))
        else:
            self.table = _map_file(self.path, shape, float(initial))

    def __call__(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)`` of the samples whose indices ``batch`` brings."""
        rows = as_labels(get_item(batch, self.index, "data set index"), "the data set index")
        if rows.device.type != "cpu":
            raise MidasAugError(
                f"expected data set indices on the CPU, where the table is, got {rows.device}; "
                f"leave batch[{self.index!r}] on the CPU, or look the table up in collate()"
            )
        self._check(rows)
        found = self.table.index_select(0, rows)
        if isinstance(labels, Tensor):
            return found.to(labels.device, non_blocking=True)
        return like(found, labels)

    def update(self, index: Array, confidence: Array) -> None:
        """Write ``confidence`` ``(N, M)`` for the samples ``index`` ``(N,)``.

        Values on an accelerator are copied to the CPU, which waits for them.
        """
        rows = as_labels(index, "index").cpu()
        values = as_scores(confidence, "confidence").detach().cpu()
        check_shape(values, (len(rows), self.table.shape[1]), "confidence", "one row an index")
        self._check(rows)
        if not bool((values >= 0).all()):
            raise MidasAugError(
                "expected confidences of at least 0, got negative or NaN ones; keep a diverged "
                "classifier's numbers out of the table"
            )
        self.table[rows] = values.to(torch.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file that ``path=`` or `load` reads."""
        as_tensor(self.table, "table").numpy().tofile(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a table of the same size from a file, in place: running workers see it."""
        stored = _map_file(Path(path), tuple(self.table.shape), None)
        self.table.copy_(stored)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the table."""
        return {"table": self.table.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a table of the same size, in place."""
        check_shape(state["table"], tuple(self.table.shape), "table", "the size of the data set")
        self.table.copy_(state["table"])

    def _check(self, rows: Tensor) -> None:
        if not may_read_values(rows) or len(rows) == 0:
            return
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= len(self.table):
            raise MidasAugError(
                f"expected data set indices in 0 … {len(self.table) - 1}, got {low} … {high}; "
                "build the table with num_samples=len(dataset)"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.path is not None:
            state["table"] = tuple(self.table.shape)  # a worker maps the file again
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self.table = _map_file(self.path, state["table"], None)
        else:
            share_memory(self.table)  # it is shared already unless this is a copy

    def __repr__(self) -> str:
        samples, modalities = self.table.shape
        return f"TableConfidence({samples}, {modalities}, index={self.index!r}, path={self.path})"


def _map_file(path: Path, shape: tuple[int, ...], initial: float | None) -> Tensor:
    """Map ``path`` as float32, creating it with ``initial`` where that is given."""
    count = shape[0] * shape[1]
    missing = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    if missing and initial is None:
        raise MidasAugError(f"expected a table file at {path}, found none")
    if not missing and path.stat().st_size != 4 * count:
        raise MidasAugError(
            f"expected {path} to hold {shape[0]} × {shape[1]} float32 numbers ({4 * count} bytes), "
            f"got {path.stat().st_size} bytes; it was made for another data set"
        )
    mapped: Tensor = torch.from_file(
        str(path), shared=True, size=count, dtype=torch.float32, device="cpu"
    )
    table = mapped.view(shape)
    if missing and initial is not None:
        table.fill_(initial)
    return table
