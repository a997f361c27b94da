"""Kinetics-Sounds: clips of 31 actions that can be seen and heard; audio and video.

| file | what is in it |
| --- | --- |
| `videos/train.txt`, `videos/val.txt` | filename, start, end, label; with a header or without |
| `audios/<filename>.wav` | the sound |
| `videos/<filename>/*.jpg` | the frames |

Spaces separate the columns of the lists. The two lists are pooled; a split is drawn for each seed.
Labels are numbers from 0.

Kinetics-400 is distributed without them, with `train.csv` and `val.csv`: `write_lists` makes them
of these, for the classes of `ACTIONS`, numbered in this order.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmarks.common.errors import DataError
from benchmarks.common.records import write_text
from benchmarks.paper.datasets.base import (
    Found,
    PaperData,
    Source,
    Table5,
    Videos,
    has_any,
    list_frames,
    need,
    table,
)

TITLE = "Kinetics-Sounds"
LISTS = ("videos/train.txt", "videos/val.txt")
ANNOTATIONS = ("train.csv", "val.csv")  # of Kinetics-400, for the two lists
NUM_CLASSES = 31
# AdaMML's (https://github.com/IBM/AdaMML/issues/3); which 31 the paper has is not known.
ACTIONS = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball",
    "laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar",
    "playing clarinet", "playing drums", "playing guitar", "playing harmonica", "playing keyboard",
    "playing organ", "playing piano", "playing saxophone", "playing trombone", "playing trumpet",
    "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards",
    "singing", "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip


def sources_of(root: Path, name: str) -> dict[str, Source]:
    """Where the sound and the frames of a clip lie."""
    return {
        "audio": root / "audios" / f"{name}.wav",
        "video": list_frames(root / "videos" / name),
    }


def listed(root: Path) -> Iterator[tuple[str, str]]:
    """The clips of the two lists, with the numbers of their classes."""
    need(root, TITLE, *LISTS)

    def is_row(cells: Sequence[str]) -> bool:
        return cells[3].isdecimal() or has_any(sources_of(root, cells[0]))

    for file in LISTS:
        for name, _start, _end, label, *_ in table(root / file, None, 4, is_row):
            yield name, label


def scan(root: Path) -> Found:
    """List the clips."""
    need(root, TITLE, *LISTS, "audios")
    found = Found(NUM_CLASSES)
    for name, label in listed(root):
        found.add(name, label, sources_of(root, name))
    return found


def names(root: Path) -> list[str] | None:
    """The clips that the lists name; None where none of the lists is there."""
    if not any((root / file).exists() for file in LISTS):
        return None
    return [name for name, _ in listed(root)]


def write_lists(root: Path, clips: Collection[str]) -> None:
    """The lists of those of the clips that are of `ACTIONS`, by the annotations of Kinetics-400.

    Raises:
        DataError: The annotations are not there, or name none of the clips.
    """
    if missing := [file for file in ANNOTATIONS if not (root / file).is_file()]:
        raise DataError(
            f"{TITLE}: {root} has neither {' and '.join(LISTS)} nor {' and '.join(missing)} of "
            "Kinetics-400, which they can be made from; put one or the other there"
        )
    number = {action: place for place, action in enumerate(ACTIONS)}
    lists = {}
    for file, annotations in zip(LISTS, ANNOTATIONS, strict=True):
        lists[file] = [
            f"{name} {start} {end} {number[action]}"
            for name, start, end, action in _annotated(root / annotations)
            if action in number and name in clips
        ]
    if not any(lists.values()):
        raise DataError(
            f"{TITLE}: none of {len(clips)} videos is a clip of {' or '.join(ANNOTATIONS)} in "
            f"{root}; expected names such as 0ABCdefGH_k_000010_000020"
        )
    for file, lines in lists.items():
        write_text(root / file, "\n".join(["filename start end label", *lines]) + "\n")


def _annotated(file: Path) -> Iterator[tuple[str, int, int, str]]:
    """Name, start, end and action of each clip; a clip is named by its video and both times."""
    for action, video, start, end, *_ in table(file, ",", 4, lambda cells: cells[2].isdecimal()):
        try:
            first, last = int(start), int(end)
        except ValueError:
            raise DataError(f"{file}: expected times in seconds, got {start!r}, {end!r}") from None
        yield f"{video}_{first:06d}_{last:06d}", first, last, action


DATA = PaperData(
    "kinetics-sounds",
    TITLE,
    {"audio": "sound", "video": "frames"},
    NUM_CLASSES,
    Table5(16890, 2461, 4778),
    scan,
    Videos(names, write_lists, sources_of, "frame_%05d.jpg"),
)
