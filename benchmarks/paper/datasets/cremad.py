"""CREMA-D: actors who say sentences in six emotions; audio and video.

| file | what is in it |
| --- | --- |
| `AudioWAV/<clip>.wav` | the sound |
| `visual_frames/<clip>/*.jpg` | the frames |
| `train_split.csv`, `val.csv`, `test.csv` | clip, name of its class; with a header or without |
| `stat.csv` | names of the classes in the first column |

The three lists are pooled; a split is drawn for each seed.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.errors import DataError
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

TITLE = "CREMA-D"
LISTS = ("train_split.csv", "val.csv", "test.csv")
NUM_CLASSES = 6


def scan(root: Path) -> Found:
    """List the clips."""
    need(root, TITLE, *LISTS, "stat.csv", "AudioWAV", "visual_frames")
    classes = [row[0] for row in table(root / "stat.csv", ",", 1)]
    if len(classes) == NUM_CLASSES + 1:
        del classes[0]  # a header
    if len(set(classes)) != NUM_CLASSES:
        raise DataError(
            f"{TITLE}: {root / 'stat.csv'} should name {NUM_CLASSES} classes, got {classes}"
        )
    number = {name: str(place) for place, name in enumerate(classes)}
    found = Found(NUM_CLASSES)

    def sources_of(name: str) -> dict[str, Source]:
        return {
            "audio": root / "AudioWAV" / f"{name}.wav",
            "video": list_frames(root / "visual_frames" / name),
        }

    def is_row(cells: Sequence[str]) -> bool:
        name, label = cells[:2]
        return label in number or label.isdecimal() or has_any(sources_of(name))

    for file in LISTS:
        for name, label, *_ in table(root / file, ",", 2, is_row):
            found.offer(name, number.get(label, label), sources_of(name))
    return found


DATA = PaperData(
    "cremad",
    TITLE,
    {"audio": "sound", "video": "frames"},
    NUM_CLASSES,
    Table5(5209, 744, 1489),
    scan,
)
