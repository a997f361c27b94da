"""Does a user's copy have what a run needs? Every file is decoded once, before any training."""

import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common.errors import DataError
from benchmarks.common.records import damaged, read_json, write_json
from benchmarks.paper.datasets.audio import read_sound
from benchmarks.paper.datasets.base import (
    Clip,
    Found,
    Frames,
    PaperData,
    Problem,
    Source,
    describe,
    files_of,
)
from benchmarks.paper.datasets.circulating import compare_copies
from benchmarks.paper.datasets.frames import pictures_of
from benchmarks.paper.datasets.splits import draw_split
from benchmarks.paper.datasets.store import fingerprint

SHOWN = 34  # classes whose clips are counted one by one


def check(data: PaperData, root: Path, console: Console, remembered: Path | None = None) -> Found:
    """List the clips and decode their files; a clip with a broken file becomes a problem.

    Args:
        data: Which data set.
        root: Its folder.
        console: For the progress.
        remembered: A file that keeps the outcome; the same files are not decoded again.
    """
    found = data.scan(root.resolve())
    files = [
        file
        for clip in found.clips
        for source in clip.sources.values()
        for file in files_of(source)
    ]
    key = fingerprint(files)
    broken = None if remembered is None else _remembered(remembered, key, len(found.clips))
    if broken is None:
        broken = dict(_decode(found.clips, f"checking {data.title}", console))
        if remembered is not None:
            write_json(remembered, {"files": key, "broken": broken})
    return _without(found, broken)


def _remembered(file: Path, key: str, n_clips: int) -> dict[int, tuple[str, str]] | None:
    """The outcome for these very files; None where it has to be found out (again).

    Raises:
        DataError: The file is damaged.
    """
    try:
        kept = read_json(file)
    except FileNotFoundError:
        return None
    if kept.get("files") != key:
        return None
    try:
        broken = {
            int(place): (str(what), str(name)) for place, (what, name) in kept["broken"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise damaged(file) from None
    if not all(0 <= place < n_clips for place in broken):
        raise damaged(file)
    return broken


def _without(found: Found, broken: dict[int, tuple[str, str]]) -> Found:
    problems = [Problem(*broken[place]) for place in sorted(broken)]
    clips = [clip for place, clip in enumerate(found.clips) if place not in broken]
    return replace(found, clips=clips, problems=found.problems + problems)


def _decode(
    clips: list[Clip], what: str, console: Console
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Place and problem of the clips with a broken file."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    workers = min(16, os.cpu_count() or 1)
    progress = Progress(*columns, console=console, transient=True)
    with progress, ThreadPoolExecutor(workers) as pool:
        outcomes: Iterable[tuple[str, str] | None] = pool.map(broken_file, clips)
        for place, outcome in enumerate(progress.track(outcomes, total=len(clips))):
            if outcome is not None:
                yield place, outcome


def broken_file(clip: Clip) -> tuple[str, str] | None:
    """What is wrong with a file of the clip and its name, or None."""
    for modality, source in clip.sources.items():
        try:
            _decode_source(source)
        except (DataError, OSError) as error:
            return f"with {modality} that cannot be read", f"{clip.name} ({error})"
    return None


def _decode_source(source: Source) -> None:
    """Decode every file of a source."""
    if isinstance(source, Path) and source.suffix.lower() == ".wav":
        read_sound(source)
    elif isinstance(source, Path | Frames):
        pictures = pictures_of(source)
        for index in range(len(pictures)):
            pictures.picture(index)


def report(data: PaperData, found: Found) -> str:
    """Counts beside those of the paper and of others, of the split of seed 0, and what is wrong."""
    lines = [f"{data.title}: {len(found.clips)} clips can be used, {len(found.problems)} cannot"]
    lines += _classes(data, found)
    try:
        split = draw_split(found.clips, 0)
    except DataError as error:
        lines.append(str(error))
    else:
        lines += [
            f"{part}: {len(ours)} (Table 5 of the paper: {theirs})"
            for part, ours, theirs in zip(split._fields, split, data.published, strict=True)
        ]
    lines += compare_copies(data, found)
    if found.problems:
        lines.append(describe(found.problems))
    return "\n".join(lines)


def _classes(data: PaperData, found: Found) -> list[str]:
    """How many usable clips each class has; of many classes, the smallest and the largest."""
    counts = Counter(dict.fromkeys(range(data.num_classes), 0))
    counts.update(clip.label for clip in found.clips)
    with_clips = sum(count > 0 for count in counts.values())
    lines = [f"classes: {with_clips} of {data.num_classes}"]
    # Without names, the number of a class is all that the lists give.
    names = dict(enumerate(found.classes))
    named = {label: f"{names.get(label, label)}: {count}" for label, count in counts.items()}
    if len(named) <= SHOWN:
        items = ", ".join(text.replace(" ", "\xa0") for text in named.values())  # unbroken
        wrapped = textwrap.wrap(items, 76, initial_indent="  ", subsequent_indent="  ")
        lines += [line.replace("\xa0", " ") for line in wrapped]
    else:
        ordered = counts.most_common()
        lines.append(f"  from {named[ordered[-1][0]]} to {named[ordered[0][0]]}")
    return lines
