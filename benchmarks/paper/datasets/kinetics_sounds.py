"""Kinetics-Sounds: clips of 31 actions that can be seen and heard; audio and video.

| file | what is in it |
| --- | --- |
| `videos/train.txt`, `videos/val.txt` | filename, start, end, label; with a header or without |
| `audios/<filename>.wav` | the sound |
| `videos/<filename>/*.jpg` | the frames |

Spaces separate the columns of the lists. The two lists are pooled; a split is drawn for each seed.
Labels are numbers from 0.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

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
NUM_CLASSES = 31


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
        found.offer(name, label, sources_of(root, name))
    return found


def names(root: Path) -> list[str]:
    """The clips that the lists name."""
    return [name for name, _ in listed(root)]


DATA = PaperData(
    "kinetics-sounds",
    TITLE,
    {"audio": "sound", "video": "frames"},
    NUM_CLASSES,
    Table5(16890, 2461, 4778),
    scan,
    Videos(names, None, sources_of, "frame_%05d.jpg"),
)
