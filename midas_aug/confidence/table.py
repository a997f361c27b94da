"""A confidence for every sample of the data set, kept between epochs."""

import contextlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
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
)
from midas_aug._checks import check_count, check_number
from midas_aug._files import write_atomically
from midas_aug._shared import SharedNumbers
from midas_aug._tree import get_item
from midas_aug.confidence.base import (
    ConfidenceProvider,
    check_finite,
    check_modalities,
)
from midas_aug.errors import MidasAugError

__all__ = ["TableConfidence"]


class TableConfidence(ConfidenceProvider):
    """Looks up confidences by data set index; loader workers read what the training loop writes.

    The table lies in memory that workers share, or in a memory-mapped file, which also outlives the
    process and may be larger than memory.

    Args:
        modalities: The names of the modalities, one column each.
        num_samples: Size of the data set.
        index: Batch key of the ``(N,)`` integer data set indices.
        path: File to map (created if it is missing, else read and updated in place; several
            processes may do so at once); it stays the same file after a change of directory. None
            keeps the table in memory.
        initial: Confidence of samples that have not been updated.

    Attributes:
        table: ``(num_samples, M)`` float32, on the CPU; write it with `update`.

    Raises:
        MidasAugError: An argument is out of range, or the file at ``path`` has another size or
            cannot be made or mapped.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import TableConfidence
        >>> table = TableConfidence(("image", "text"), num_samples=100)
        >>> table.update(torch.tensor([7]), torch.tensor([[0.9, 0.3]]))
        >>> table({"index": torch.tensor([7, 8])}, torch.tensor([0, 1]))
        tensor([[0.9000, 0.3000],
                [1.0000, 1.0000]])
    """

    modalities: tuple[Any, ...]

    def __init__(
        self,
        modalities: Sequence[Hashable],
        num_samples: int,
        *,
        index: Hashable = "index",
        path: str | os.PathLike[str] | None = None,
        initial: float = 1.0,
    ) -> None:
        self.modalities = check_modalities(modalities)
        self.index = index
        self.path = None if path is None else _as_path(path)
        self._shape = check_count(num_samples, "num_samples"), len(self.modalities)
        first = check_number(initial, "initial confidence", 0, "1 makes all of them even at first")
        self._memory: SharedNumbers | None = None
        self._mapped: Tensor | None = None
        self._file_id: tuple[int, int] | None = None  # of the file that is mapped
        if self.path is None:
            start = torch.tensor(first, dtype=torch.float32, device="cpu")
            self._memory = _reserve_memory(start.expand(self._shape))
        else:
            _create_file(self.path, self._shape, first)
            self._map(self.path)

    @property
    def table(self) -> Tensor:
        """The confidences, ``(num_samples, M)``."""
        mapped = self._mapped
        if mapped is not None:
            return mapped
        if self._memory is None:
            raise MidasAugError("expected a table in memory or in a file, got neither")
        return self._memory.tensor

    def __call__(self, batch: Any, labels: Any, /) -> Any:
        """Confidences ``(N, M)`` of the samples whose indices ``batch`` brings."""
        index = as_labels(get_item(batch, self.index, "data set index"), "the data set index")
        if index.device.type != "cpu":
            raise MidasAugError(
                f"expected data set indices on the CPU, where the table is, got {index.device}; "
                f"leave batch[{self.index!r}] on the CPU, or look the table up in collate()"
            )
        self._check(index)
        found = self.table.index_select(0, index)
        if may_read_values(found):  # a file may hold anything
            check_finite(found, "the confidences in the table to be finite and at least 0")
        if isinstance(labels, Tensor):
            return found.to(labels.device, non_blocking=True)
        return like(found, labels)

    def update(self, index: Array, confidence: Array) -> None:
        """Write ``confidence`` ``(N, M)`` for the samples ``index`` ``(N,)``.

        Values on an accelerator are copied to the CPU, which waits for them.
        """
        rows = as_labels(index, "index").cpu()
        values = as_scores(confidence, "confidence").detach().to("cpu", torch.float32)
        check_shape(values, (len(rows), self._shape[1]), "confidence", "one row an index")
        self._check(rows)
        check_finite(values, "confidence to be finite and at least 0")
        if self._memory is None:
            self.table[rows] = values
        else:
            self._memory.write(values, rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file that ``path=`` or `load` reads.

        The file is replaced when the new one is whole. Where it is the file that this table has
        mapped, which is up to date at all times, what is not on the disk yet is written there.

        Raises:
            MidasAugError: The file cannot be written. What was there is then as it was.
        """
        target = _as_path(path)
        if self._has_mapped(target):
            with target.open("rb+") as file:
                os.fsync(file.fileno())
            return
        numbers = self.table.numpy()
        _write(target, lambda file: file.write(numbers.data), numbers.nbytes)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a table of the same size from a file, in place: running workers see it.

        Raises:
            MidasAugError: The file is missing, has another size, or holds numbers that are no
                confidences. The table is then as it was.
        """
        source = _as_path(path)
        if not self._has_mapped(source):
            numbers = _map_file(source, self._shape, shared=False)
            self._replace(numbers, f"the numbers in {path}")

    def state_dict(self) -> dict[str, Any]:
        """A copy of the table."""
        return {"table": self.table.clone()}

    def load_state_dict(self, state: Any, /) -> None:
        """Take over a table of the same size, in place.

        Raises:
            MidasAugError: There is no such table in ``state``. The table is then as it was.
        """
        if not isinstance(state, Mapping) or set(state) != {"table"}:
            found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise MidasAugError(
                f"expected the state of a TableConfidence with the key 'table', got {found}; pass "
                "what state_dict() gave"
            )
        table = as_scores(as_tensor(state["table"], "table"), "table")
        check_shape(table, self._shape, "table", "the size of the data set and the modalities")
        self._replace(table.detach().to("cpu", torch.float32), "the table")

    def _map(self, path: Path) -> None:
        # The id first: of a file that is replaced in between, `save` then writes another.
        self._file_id = _find_id(path)
        self._mapped = _map_file(path, self._shape, shared=True)

    def _has_mapped(self, path: Path) -> bool:
        """Whether ``path`` is the file that is mapped, and not one that has replaced it."""
        return self._file_id is not None and self._file_id == _find_id(path)

    def _replace(self, table: Tensor, what: str) -> None:
        check_finite(table, f"{what} to be finite and at least 0")
        if self._memory is None:
            self.table.copy_(table)
        else:
            self._memory.write(table)

    def _check(self, index: Tensor) -> None:
        if not may_read_values(index) or len(index) == 0:
            return
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= self._shape[0]:
            raise MidasAugError(
                f"expected data set indices in 0 … {self._shape[0] - 1}, got {low} … {high}; "
                "build the table with num_samples=len(dataset)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:  # a worker maps the file again
            self._map(self.path)

    def __repr__(self) -> str:
        return (
            f"TableConfidence({self.modalities!r}, {self._shape[0]}, index={self.index!r}, "
            f"path={self.path})"
        )


def _reserve_memory(numbers: Tensor) -> SharedNumbers:
    try:
        return SharedNumbers(numbers)
    except (OSError, OverflowError) as error:
        raise MidasAugError(
            f"expected memory for a table of {4 * numbers.numel()} bytes, got: {error}; name a "
            "file with path=..., which may be larger than memory"
        ) from error


def _as_path(path: Any) -> Path:
    """A path from the root, so that it is the same file after a change of directory."""
    try:
        found = Path(path).absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.stat()
    except (TypeError, ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or error  # which has no name that is said already
        raise MidasAugError(
            f"expected path to name a file, got {path!r} ({why}); pass a string or a pathlib.Path "
            "that this system can open"
        ) from error
    return found


def _find_id(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that has replaced it; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _create_file(path: Path, shape: tuple[int, int], initial: float) -> None:
    """Make the file with ``initial`` in it, unless it is there or another process is first."""
    if path.exists():
        return
    count = shape[0] * shape[1]

    def fill(file: BinaryIO) -> None:
        some = np.full(min(count, 1 << 20), initial, dtype=np.float32)
        for start in range(0, count, len(some)):
            file.write(some[: count - start].data)

    _write(path, fill, 4 * count, replace=False)


def _write(
    path: Path, write: Callable[[BinaryIO], object], size: int, *, replace: bool = True
) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write, size=size, replace=replace)
    except OSError as error:
        raise MidasAugError(
            f"expected to write a table file of {size} bytes at {path}, got: {error}; choose a "
            "path on a disk with space that this process may write to"
        ) from error


def _map_file(path: Path, shape: tuple[int, int], *, shared: bool) -> Tensor:
    """Map the float32 numbers of a file: to write them, or for this process to read."""
    count = shape[0] * shape[1]
    if path.is_dir():
        raise MidasAugError(
            f"expected a table file at {path}, found a folder; name a file in it, such as "
            f"{path / 'confidence.bin'}"
        )
    if not path.is_file():
        raise MidasAugError(
            f"expected a table file at {path}, found none; write one with save(path)"
        )
    size = path.stat().st_size
    if size != 4 * count:  # mapping would make a file that is shorter longer
        raise MidasAugError(
            f"expected {path} to hold {shape[0]} × {shape[1]} float32 numbers ({4 * count} bytes), "
            f"got {size} bytes; it was made for another data set, or is not whole: name another "
            "path, or delete it"
        )
    try:
        mapped: Tensor = torch.from_file(
            str(path), shared=shared, size=count, dtype=torch.float32, device="cpu"
        )
    except RuntimeError as error:
        raise MidasAugError(
            f"expected to map {path}, got: {error}; a table file has to be readable, and writable "
            "where it is given as path="
        ) from error
    return mapped.view(shape)
