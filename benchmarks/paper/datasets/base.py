"""What a data set of the paper is, once its folder has been listed: clips, and what is wrong."""

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from numpy.typing import NDArray

from benchmarks.common.errors import DataError

Kind = Literal["sound", "frames", "flow", "image", "text", "series"]
Part = Literal["train", "validation", "test"]

NAMES_SHOWN = 10
PICTURES = (".jpg", ".jpeg", ".png")


class Frames(NamedTuple):
    """The pictures of a clip, by name in one folder; of flow, in one for u and one for v."""

    folders: tuple[Path, ...]
    names: tuple[str, ...]


# A file, the frames of a clip, a text, or the features themselves.
Source: TypeAlias = Path | Frames | str | NDArray[Any]


class Clip(NamedTuple):
    """A sample: a video clip, a recipe, a tweet."""

    name: str  # unique in its data set
    label: int
    sources: dict[str, Source]  # by modality
    part: Part | None = None  # of a data set that comes with a split of its own


class Problem(NamedTuple):
    """A sample that cannot be used."""

    what: str  # the same words for all samples of which it is true
    name: str


class Table5(NamedTuple):
    """The paper's counts."""

    train: int
    validation: int
    test: int


class Resolution(NamedTuple):
    """How large what the encoders see is; the defaults are the paper's."""

    pixels: int = 224  # height and width
    sound: int = 1024  # frames of 10 ms
    tokens: int = 512  # of a text, at most


@dataclass(frozen=True)
class Videos:
    """How the clips of a data set come out of videos: one with sound for each.

    Attributes:
        names: Of the clips that the lists in a folder name; None: there are no lists.
        write_lists: Writes the lists of these clips into a folder that has none, as far as they
            are of the data set.
        sources: Where the sound and the frames of a clip lie, by modality.
        frame: What the pictures of a clip are called, by their number from 1, as ffmpeg reads it.
    """

    names: Callable[[Path], "list[str] | None"]
    write_lists: Callable[[Path, Collection[str]], None]
    sources: Callable[[Path, str], dict[str, Source]]
    frame: str


@dataclass(frozen=True)
class PaperData:
    """One of the paper's data sets.

    Attributes:
        name: On the command line.
        title: In print.
        modalities: What each holds, in the paper's order.
        num_classes: C.
        published: The paper's counts.
        scan: Lists the clips in a folder; looks for files and does not open those of the clips.
        videos: How the clips come out of videos, where `prepare` can do that.
        speaker: Who speaks in a clip, by its name, where the names say so.
    """

    name: str
    title: str
    modalities: Mapping[str, Kind]
    num_classes: int
    published: Table5
    scan: Callable[[Path], "Found"]
    videos: Videos | None = None
    speaker: Callable[[str], str] | None = None


@dataclass
class Found:
    """What a folder holds: the usable clips, and a problem for each of the others.

    Attributes:
        num_classes: C.
        classes: Their names, where the folder has them.
        clips: The usable ones.
        problems: Of the others.
        listed: How many clips have a label, by label, usable or not.
    """

    num_classes: int
    classes: Sequence[str] = ()
    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    listed: Counter[int] = field(default_factory=Counter)
    _names: set[str] = field(default_factory=set)

    def reject(self, name: str, what: str) -> None:
        """Note a sample that cannot be used."""
        self.problems.append(Problem(what, name))

    def add(
        self, name: str, label: str, sources: Mapping[str, Source], part: Part | None = None
    ) -> None:
        """Take a clip in, or note what is wrong: its label, its files, or that it was there before.

        A path is asked whether it exists.
        """
        if name not in self._names and label.isdecimal():
            self.listed[int(label)] += 1
        missing = [modality for modality, source in sources.items() if not exists(source)]
        if name in self._names:
            self.reject(name, "listed more than once")
        elif not (label.isdecimal() and int(label) < self.num_classes):
            self.reject(f"{name} ({label})", f"label outside of 0 … {self.num_classes - 1}")
        elif missing:
            self.reject(name, f"without {' and '.join(missing)}")
        else:
            self.clips.append(Clip(name, int(label), dict(sources), part))
        self._names.add(name)


def exists(source: Source) -> bool:
    """Whether a source has its file, or any frames."""
    if isinstance(source, Path):
        return source.is_file()
    return not isinstance(source, Frames) or len(source.names) > 0


def has_any(sources: Mapping[str, Source]) -> bool:
    """Whether one of the sources of a clip is there."""
    return any(map(exists, sources.values()))


def files_of(source: Source) -> list[Path]:
    """The files that a source is read from."""
    if isinstance(source, Path):
        return [source]
    if not isinstance(source, Frames):
        return []
    return [folder / name for folder in source.folders for name in source.names]


def describe(problems: Sequence[Problem]) -> str:
    """Counts of each problem, with the first names of each."""
    lines = []
    for what, count in Counter(problem.what for problem in problems).most_common():
        names = [problem.name for problem in problems if problem.what == what][:NAMES_SHOWN]
        more = ", …" if count > len(names) else ""
        lines.append(f"  {count} {what}: {', '.join(names)}{more}")
    return "\n".join(lines)


def need(root: Path, title: str, *names: str) -> list[Path]:
    """The files or folders of these names under the root.

    Raises:
        DataError: If one is missing; says what the folder has instead.
    """
    if not root.is_dir():
        raise DataError(f"{title}: there is no folder {root}")
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        has = ", ".join(sorted(path.name for path in root.iterdir())[:NAMES_SHOWN]) or "nothing"
        raise DataError(
            f"{title}: {root} has no {' and no '.join(missing)} (it has {has}); "
            f"see docs/reproduce.md for the layout"
        )
    return [root / name for name in names]


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the byte-order mark that it may start with."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1.

    A line ends with a line feed alone (or after a carriage return): a text may hold other
    characters that end a line elsewhere.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def table(
    path: Path,
    separator: str | None,
    columns: int,
    is_row: Callable[[Sequence[str]], bool] | None = None,
) -> Iterator[list[str]]:
    """The rows of a file, cut at the separator (None: white space); cells may be in quotes.

    Args:
        path: The file.
        separator: One character, or None.
        columns: How many cells a row has at least.
        is_row: Told the first line's cells, whether that is a row; if not, it is a header and left
            out. None: there is no header.

    Raises:
        DataError: If a row has fewer columns, or a quote that does not end; says where.
    """
    for place, (number, line) in enumerate(read_lines(path)):
        row = _cells(line, separator)
        if row is None or len(row) < columns:
            raise DataError(f"{path}, line {number}: expected {columns} columns, got {line!r}")
        if place > 0 or is_row is None or is_row(row):
            yield row


def _cells(line: str, separator: str | None) -> list[str] | None:
    """The cells of a line, without their quotes; None if a quote does not end."""
    if separator is None:
        cells = re.findall(r'"([^"]*)"(?=\s|$)|(\S+)', line)
        return [quoted or bare for quoted, bare in cells]
    try:
        (cells,) = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
    except csv.Error:
        return None
    return [cell.strip() for cell in cells]


def list_frames(*folders: Path) -> Frames:
    """The pictures in a folder, in the order of their numbers; none if there is no folder.

    None either if there are several folders and they do not hold the same names.
    """
    names = [_picture_names(folder) for folder in folders]
    return Frames(folders, names[0] if all(one == names[0] for one in names) else ())


def _picture_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        # Interned: all clips have the same few names. Hidden ones are what a system keeps beside
        # them, such as the "._00001.jpg" of another system's attributes.
        names = [
            sys.intern(entry.name)
            for entry in entries
            if entry.name.lower().endswith(PICTURES)
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    return tuple(sorted(names, key=_frame_order))


def _frame_order(name: str) -> tuple[int, str]:
    """2 before 10, also without leading zeros."""
    digits = "".join(char for char in Path(name).stem if char.isdecimal())
    return int(digits or 0), name
