"""From videos to the layout that `check` and `reproduce` read: the sound and frames of each clip.

A clip that is whole is left as it is, so that a stopped command goes on; one with a file that
`check` would refuse is made again.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common.errors import DataError
from benchmarks.common.records import at_work_on, need_writable, write_text
from benchmarks.paper.datasets import PAPER_DATA
from benchmarks.paper.datasets.base import (
    NAMES_SHOWN,
    Clip,
    Frames,
    PaperData,
    Problem,
    Source,
    Videos,
    describe,
    exists,
)
from benchmarks.paper.datasets.check import broken_file
from benchmarks.paper.ffmpeg import (
    BrokenVideoError,
    Missing,
    extract,
    find_ffmpeg,
    remove_unfinished,
)

ENDINGS = (".flv", ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".wmv")

FAILED = "not-prepared.txt"  # in the folder of the data set

Outcome = Literal["made", "there"] | Problem


@dataclass
class Preparation:
    """What came of the clips of a data set.

    Attributes:
        made: How many were made.
        found_whole: How many were whole before.
        problems: Of the others.
        unlisted: Videos that no list names.
    """

    made: int = 0
    found_whole: int = 0
    problems: list[Problem] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


class Work(NamedTuple):
    """What every clip needs to be made."""

    ffmpeg: str
    root: Path
    layout: Videos
    found: dict[str, list[Path]]  # videos by name


def prepare_clips(
    data: PaperData, root: Path, videos: Path, workers: int, console: Console
) -> Preparation:
    """Make the clips of a data set from its videos; lists are written where it comes without.

    Args:
        data: Which data set.
        root: Its folder.
        videos: The folder with the videos, in it or in folders of it.
        workers: How many videos at a time.
        console: For the progress.

    Raises:
        DataError: This data set is not made from videos, its lists are not there, there is no
            ffmpeg or no video, or the disk is full.
    """
    if data.videos is None:
        names = ", ".join(name for name, one in PAPER_DATA.items() if one.videos is not None)
        raise DataError(f"{data.title} cannot be prepared from videos here; choose from {names}")
    if workers < 1:
        raise DataError(f"expected at least one worker, got {workers}")
    ffmpeg, found, root = find_ffmpeg(), find_videos(videos), root.resolve()
    clips = data.videos.names(root)
    need_writable(root)
    if clips is None:
        if not found:
            raise DataError(f"{data.title}: there are no lists in {root} and no videos in {videos}")
        data.videos.write_lists(root, found)
        clips = data.videos.names(root) or []
    clips = list(dict.fromkeys(clips))
    prepared = Preparation(unlisted=sorted(set(found) - {_stem(name) for name in clips}))
    with at_work_on(root, root / ".prepare.lock", advice="wait for it"):
        work = Work(ffmpeg, root, data.videos, found)
        remove_unfinished(*_folders(work))
        for outcome in _outcomes(work, clips, workers, f"preparing {data.title}", console):
            if isinstance(outcome, Problem):
                prepared.problems.append(outcome)
            elif outcome == "made":
                prepared.made += 1
            else:
                prepared.found_whole += 1
        _write_failed(root / FAILED, prepared.problems)
    return prepared


def find_videos(folder: Path) -> dict[str, list[Path]]:
    """The videos in a folder and in the folders of it, by their names without the ending.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; name the one with the videos with --videos")
    found: dict[str, list[Path]] = {}
    for where, folders, files in os.walk(folder.resolve()):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                found.setdefault(_stem(name), []).append(Path(where, name))
    return found


def report(data: PaperData, root: Path, prepared: Preparation) -> str:
    """What came of it, and what to do next."""
    whole, problems = prepared.made + prepared.found_whole, prepared.problems
    lines = [
        f"{data.title}: {whole} clips are whole ({prepared.made} made now), {len(problems)} are not"
    ]
    if prepared.unlisted:
        names = ", ".join(prepared.unlisted[:NAMES_SHOWN])
        more = ", …" if len(prepared.unlisted) > NAMES_SHOWN else ""
        lines.append(f"videos that no list names: {len(prepared.unlisted)} ({names}{more})")
    if problems:
        lines += [describe(problems), f"all of them: {root / FAILED}"]
    else:
        lines.append(f"next: python -m benchmarks check {data.name} --root {root}")
    return "\n".join(lines)


def _write_failed(file: Path, problems: Sequence[Problem]) -> None:
    """Every clip that is not whole, a line each; no file if there is none."""
    if problems:
        write_text(file, "".join(f"{what}: {name}\n" for what, name in problems))
    else:
        file.unlink(missing_ok=True)


def _folders(work: Work) -> list[Path]:
    """What the sounds lie in, and the folders of frames."""
    sources = work.layout.sources(work.root, "any").values()
    return [_place(source).parent for source in sources]


def _place(source: Source) -> Path:
    """The file of a sound, or the folder of frames."""
    assert isinstance(source, Path | Frames)
    return source if isinstance(source, Path) else source.folders[0]


def _stem(name: str) -> str:
    """The name of a video without its ending; other dots are part of it."""
    ending = next((one for one in ENDINGS if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _outcomes(
    work: Work, clips: Sequence[str], workers: int, what: str, console: Console
) -> Iterator[Outcome]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(workers)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            outcomes = pool.map(lambda name: _prepare_clip(work, name), clips)
            yield from progress.track(outcomes, total=len(clips))
    finally:
        pool.shutdown(cancel_futures=True)  # when it is stopped: not the thousands that wait


def _prepare_clip(work: Work, name: str) -> Outcome:
    """Make what is missing of a clip, or what cannot be read."""
    if Path(name).name != name:
        return Problem("with a name that is no file name", name)
    sources = work.layout.sources(work.root, name).items()
    parts = [source for modality, source in sources if not _is_whole(name, modality, source)]
    if not parts:
        return "there"
    videos = work.found.get(_stem(name), [])
    if len(videos) != 1:
        return Problem("without a video" if not videos else "with more than one video", name)
    sound = next((_place(source) for source in parts if isinstance(source, Path)), None)
    folder = next((_place(source) for source in parts if isinstance(source, Frames)), None)
    try:
        extract(work.ffmpeg, videos[0], Missing(sound, folder, work.layout.frame))
    except BrokenVideoError as error:
        return Problem("that could not be made", f"{name} ({error})")
    return "made"


def _is_whole(name: str, modality: str, source: Source) -> bool:
    """Whether `check` would take it."""
    return exists(source) and broken_file(Clip(name, 0, {modality: source})) is None
