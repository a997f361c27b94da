"""The cache: filter banks and resized frames of a modality in one memory-mapped file.

Its folder is named by a digest of the files' names, sizes and times and of the resolution: other
data, another folder. It is filled in blocks, each marked when it is there, so that a stopped build
goes on. Frames are resized to what the encoder takes; of a long clip, `frames.kept` are kept. In
evaluation a cached clip is the same to the byte as one that is read from its files; in training its
crops come from the resized frames, and are a little softer.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import joblib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.common.errors import DataError
from benchmarks.common.records import damaged, is_number, read_json, write_json, write_whole
from benchmarks.paper.datasets.audio import MELS, filter_bank
from benchmarks.paper.datasets.base import Clip, Kind, PaperData, Resolution, Source, files_of
from benchmarks.paper.datasets.frames import Bytes, kept, pictures_of, pictures_seen, resize

BLOCK = 128  # clips
CACHED: tuple[Kind, ...] = ("sound", "frames", "flow", "image")


def build_stores(
    data: PaperData,
    clips: Sequence[Clip],
    resolution: Resolution,
    folder: Path,
    jobs: int,
    console: Console,
) -> dict[str, "Store"]:
    """The cache of every modality that has one; what is missing of it is built, with progress."""
    stores = {}
    for modality, kind in data.modalities.items():
        if kind not in CACHED:
            continue
        sources = [clip.sources[modality] for clip in clips]
        key = fingerprint([file for source in sources for file in files_of(source)], resolution)
        store = Store(folder / data.name / f"{modality}-{key[:16]}", kind, sources, resolution)
        store.build(sources, jobs, f"caching {modality} of {data.title}", console)
        stores[modality] = store
    return stores


def fingerprint(files: Sequence[Path], *more: object) -> str:
    """A digest of names, sizes and times of files, and of what else matters."""
    sha = hashlib.sha256(repr(more).encode())
    for file in files:
        stat = file.stat()
        sha.update(f"\n{file} {stat.st_size} {stat.st_mtime_ns}".encode())
    return sha.hexdigest()


class Store:
    """The cache of one modality.

    Args:
        folder: Its own.
        kind: Of the modality.
        sources: Of every clip, in order.
        resolution: Of what is kept.
    """

    def __init__(
        self, folder: Path, kind: Kind, sources: Sequence[Source], resolution: Resolution
    ) -> None:
        self._folder, self._kind, self._resolution = folder, kind, resolution
        counts = [len(_kept(source, kind)) for source in sources]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._aspects: list[float] = []
        self._values: NDArray[Any] | None = None

    def build(self, sources: Sequence[Source], jobs: int, what: str, console: Console) -> None:
        """Build what is missing, in processes, with progress."""
        marks = [self._folder / f"{block:05d}.json" for block in range(-(-len(sources) // BLOCK))]
        missing = [block for block, mark in enumerate(marks) if not mark.exists()]
        if missing:
            if len(missing) < len(marks) and not self._file.exists():
                raise damaged_cache(self._file, "it is gone")
            self._create()
        with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            built = joblib.Parallel(return_as="generator_unordered")(
                joblib.delayed(fill)(
                    self._file,
                    marks[block],
                    self._kind,
                    sources[block * BLOCK : (block + 1) * BLOCK],
                    int(self._starts[block * BLOCK]),
                    self._resolution,
                )
                for block in missing
            )
            for _ in track(
                built,
                what,
                len(missing),
                console=console,
                transient=True,
                disable=not missing,
            ):
                pass
        self._aspects = [
            aspect
            for block, mark in enumerate(marks)
            for aspect in self._marked(mark, len(sources[block * BLOCK : (block + 1) * BLOCK]))
        ]
        self._mapped()  # what is damaged is told now, and not by a worker process
        self._values = None

    def _marked(self, mark: Path, n_clips: int) -> list[float]:
        """The aspects of a block of clips, from its mark."""
        aspects = read_json(mark).get("aspects")
        count = 0 if self._kind == "sound" else n_clips
        if (
            not isinstance(aspects, list)
            or len(aspects) != count
            or not all(map(is_number, aspects))
        ):
            raise damaged(mark)
        return aspects

    def sound(self, place: int) -> NDArray[np.float32]:
        """The filter bank of a clip ``(T, 128)``."""
        return np.array(self._mapped()[self._starts[place]])

    def pictures(self, place: int) -> "StoredPictures":
        """The kept frames of a clip."""
        frames = self._mapped()[self._starts[place] : self._starts[place + 1]]
        return StoredPictures(frames, self._aspects[place])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_values": None}  # another process maps the file itself

    def _mapped(self) -> NDArray[Any]:
        if self._values is None:
            self._values = open_values(self._file, "r", self._shape, self._dtype)
        return self._values

    def _create(self) -> None:
        """Make the file, with nothing in it, unless it is there or another process makes it."""
        if self._file.exists():
            return
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(header, described)
        size = len(header.getvalue()) + math.prod(self._shape) * self._dtype.itemsize

        def write(file: BinaryIO) -> None:
            file.write(header.getvalue())
            file.truncate(size)

        # Reserved, or a full disk would kill the process that fills the mapped file.
        write_whole(self._file, write, size=size, replace=False)

    @property
    def _shape(self) -> tuple[int, ...]:
        side, rows = self._resolution.pixels, int(self._starts[-1])
        if self._kind == "sound":
            return rows, self._resolution.sound, MELS
        return rows, side, side, 2 if self._kind == "flow" else 3

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<f4" if self._kind == "sound" else "u1")

    @property
    def _file(self) -> Path:
        return self._folder / "values.npy"


def fill(
    file: Path,
    mark: Path,
    kind: Kind,
    sources: Sequence[Source],
    row: int,
    resolution: Resolution,
) -> None:
    """Write a block of clips from a row of the file on, and mark it as built."""
    values = open_values(file, "r+")
    aspects = []
    for source in sources:
        if kind == "sound":
            assert isinstance(source, Path)
            values[row] = filter_bank(source, resolution.sound)
            row += 1
            continue
        pictures = pictures_of(source)
        aspects.append(pictures.aspect())
        for frame in _kept(source, kind):
            values[row] = resize(pictures.picture(frame), resolution.pixels)
            row += 1
    values.flush()
    write_json(mark, {"aspects": aspects})


def open_values(
    file: Path,
    mode: Literal["r", "r+"],
    shape: tuple[int, ...] | None = None,
    dtype: np.dtype[Any] | None = None,
) -> np.memmap[Any, Any]:
    """Map the file of a cache.

    Raises:
        DataError: It is not there, cut short, or of another shape or dtype than asked for.
    """
    try:
        values = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise damaged_cache(file, str(error)) from error
    if not isinstance(values, np.memmap) or shape not in (None, values.shape):
        raise damaged_cache(file, f"shape {values.shape}, expected {shape}")
    if dtype not in (None, values.dtype):
        raise damaged_cache(file, f"dtype {values.dtype}, expected {dtype}")
    return values


def damaged_cache(file: Path, reason: str) -> DataError:
    """What to raise when the values of a cache cannot be read: the marks beside them go too."""
    return DataError(
        f"the cache {file} is damaged ({reason}), delete its folder {file.parent} and run the same "
        f"command again"
    )


def _kept(source: Source, kind: Kind) -> list[int]:
    """The frames of a source that are kept; a sound is one."""
    return [0] if kind == "sound" else kept(len(pictures_of(source)), pictures_seen(kind))


class StoredPictures:
    """Frames from the cache."""

    def __init__(self, frames: Bytes, aspect: float) -> None:
        self._frames = frames
        self._aspect = aspect

    def __len__(self) -> int:
        return len(self._frames)

    def picture(self, index: int) -> Bytes:
        """A frame ``(size, size, C)``."""
        frame: Bytes = self._frames[index]
        return frame

    def aspect(self) -> float:
        """Width by height before it was resized."""
        return self._aspect
