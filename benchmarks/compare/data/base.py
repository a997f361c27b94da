"""What a data set is, and the cache folder in which the built ones are kept."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.common.errors import DataError
from benchmarks.common.records import write_whole

T = TypeVar("T")

console = Console(stderr=True)


class Dataset(NamedTuple):
    """A data set; row i of every array is the same sample.

    What is to be told is the class, unless there are ``answers``; then classes only stratify.
    """

    inputs: dict[str, NDArray[Any]]  # by modality, (N, ...)
    labels: NDArray[np.int64]  # (N,), places in `classes`
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = None  # (N,); rows of one group stay in one part of a split
    answers: NDArray[Any] | None = None  # (N, C) zeros and ones, or (N,) float32


class Recipe(NamedTuple):
    """How to build a data set, and what has to come out.

    Pictures and features from a neural network differ in their last digits between machines and
    library versions. Their recipes therefore pin the downloads, the shapes, and `rows`; the others
    pin every byte in `digest` as well.
    """

    build: Callable[[], Dataset]
    shapes: dict[str, tuple[int, ...]]  # of one row, by modality
    rows: str  # digest of labels, classes, groups and answers
    digest: str | None = None  # digest of the inputs too
    shipped: bool = False  # with this repository: nothing to download, nothing to cache


def cache_folder() -> Path:
    """Where downloads and built data sets are kept: $MIDAS_AUG_DATA, or ~/.cache/midas_aug."""
    return Path(os.environ.get("MIDAS_AUG_DATA") or "~/.cache/midas_aug").expanduser()


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items, with a bar that is gone afterwards if standard error is a terminal."""
    hidden = not console.is_terminal
    yield from track(list(items), what, console=console, transient=True, disable=hidden)


def digest(dataset: Dataset, *, inputs: bool = True) -> str:
    """SHA-256 over the arrays of a data set; without the inputs if `inputs` is false."""
    arrays: dict[str, NDArray[Any]] = {"labels": dataset.labels}
    arrays |= _optional(dataset)
    if inputs:
        arrays |= {f"input_{name}": array for name, array in sorted(dataset.inputs.items())}
    sha = hashlib.sha256(json.dumps(dataset.classes).encode())
    for name, array in arrays.items():
        # Little-endian on every machine.
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        sha.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def _optional(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """The arrays that not every data set has."""
    found = {"groups": dataset.groups, "answers": dataset.answers}
    return {name: array for name, array in found.items() if array is not None}


def check(dataset: Dataset, recipe: Recipe) -> None:
    """Compare a data set with what its recipe promises.

    Raises:
        DataError: If anything differs.
    """
    shapes = {name: array.shape for name, array in dataset.inputs.items()}
    expected = {name: (len(dataset.labels), *shape) for name, shape in recipe.shapes.items()}
    if shapes != expected:
        raise DataError(f"the arrays have shapes {shapes}, not {expected}")
    for name, array in dataset.inputs.items():
        if not np.isfinite(array).all():
            raise DataError(f"{name} holds values that are not finite")
    for inputs, pinned in ((False, recipe.rows), (True, recipe.digest)):
        found = digest(dataset, inputs=inputs)
        if pinned is not None and found != pinned:
            what = "data" if inputs else "labels, classes, groups and answers"
            raise DataError(f"the {what} have SHA-256 {found}, not {pinned}")


def write(dataset: Dataset, path: Path) -> None:
    """Write a data set as npz; another process sees the whole file or none."""
    arrays: dict[str, Any] = {f"input_{name}": array for name, array in dataset.inputs.items()}
    arrays |= {"labels": dataset.labels, "classes": np.array(dataset.classes)}
    arrays |= _optional(dataset)
    write_whole(path, lambda opened: np.savez_compressed(opened, **arrays))


def read(path: Path) -> Dataset:
    """Read what `write` wrote.

    Raises:
        DataError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Dataset(
                inputs={
                    name.removeprefix("input_"): arrays[name]
                    for name in arrays
                    if name.startswith("input_")
                },
                labels=arrays["labels"],
                classes=tuple(arrays["classes"].tolist()),
                groups=arrays.get("groups"),
                answers=arrays.get("answers"),
            )
    except FileNotFoundError:
        raise
    except Exception as error:  # of zipfile, zlib, numpy, ...: whatever damage makes them raise
        raise DataError("the file in the cache is damaged") from error
