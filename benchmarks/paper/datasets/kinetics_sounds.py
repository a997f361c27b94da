"""Kinetics-Sounds: clips of 31 actions that can be seen and heard; audio and video.

| file | what is in it |
| --- | --- |
| `videos/train.txt`, `videos/val.txt` | filename, start, end, label; with a header or without |
| `audios/<filename>.wav` | the sound |
| `videos/<filename>/*.jpg` | the frames |

Spaces separate the columns of the lists. The two lists are pooled; a split is drawn for each seed.
Labels are numbers from 0.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.datasets.base import (
    Found,
    PaperData,
    Source,
    Table5,
    has_any,
    list_frames,
    need,
    table,
)

TITLE = "Kinetics-Sounds"
LISTS = ("videos/train.txt", "videos/val.txt")
NUM_CLASSES = 31


def scan(root: Path) -> Found:
    """List the clips."""
    need(root, TITLE, *LISTS, "audios")
    found = Found(NUM_CLASSES)

    def sources_of(name: str) -> dict[str, Source]:
        return {
            "audio": root / "audios" / f"{name}.wav",
            "video": list_frames(root / "videos" / name),
        }

    def is_row(cells: Sequence[str]) -> bool:
        return cells[3].isdecimal() or has_any(sources_of(cells[0]))

    for file in LISTS:
        for name, _start, _end, label, *_ in table(root / file, None, 4, is_row):
            found.offer(name, label, sources_of(name))
    return found


DATA = PaperData(
    "kinetics-sounds",
    TITLE,
    {"audio": "sound", "video": "frames"},
    NUM_CLASSES,
    Table5(16890, 2461, 4778),
    scan,
)
