"""CREMA-D: actors who say sentences in six emotions; audio and video.

| file | what is in it |
| --- | --- |
| `AudioWAV/<clip>.wav` | the sound |
| `visual_frames/<clip>/*.jpg` | the frames |
| `train_split.csv`, `val.csv`, `test.csv` | clip, name of its class; with a header or without |
| `stat.csv` | names of the classes in the first column |

The three lists are pooled; a split is drawn for each seed. A clip's name, such as 1001_DFA_ANG_XX,
begins with its speaker, one of 91.
"""

import re
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

TITLE = "CREMA-D"
LISTS = ("train_split.csv", "val.csv", "test.csv")
CLASSES = "stat.csv"
NUM_CLASSES = 6
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
EMOTION = re.compile(rf"\d{{4}}_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_[A-Z]+")
SPEAKER = re.compile(r"[0-9]{4}(?=_)")


def sources_of(root: Path, name: str) -> dict[str, Source]:
    """Where the sound and the frames of a clip lie."""
    return {
        "audio": root / "AudioWAV" / f"{name}.wav",
        "video": list_frames(root / "visual_frames" / name),
    }


def class_names(root: Path) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    classes = [row[0] for row in table(root / CLASSES, ",", 1)]
    if len(classes) == NUM_CLASSES + 1:
        del classes[0]  # a header
    if len(set(classes)) != NUM_CLASSES:
        raise DataError(
            f"{TITLE}: {root / CLASSES} should name {NUM_CLASSES} classes, got {classes}"
        )
    return classes


def listed(root: Path) -> Iterator[tuple[str, str]]:
    """The clips of the three lists, with the numbers of their classes."""
    need(root, TITLE, *LISTS, CLASSES)
    number = {name: str(place) for place, name in enumerate(class_names(root))}

    def is_row(cells: Sequence[str]) -> bool:
        name, label = cells[:2]
        return label in number or label.isdecimal() or has_any(sources_of(root, name))

    for file in LISTS:
        for name, label, *_ in table(root / file, ",", 2, is_row):
            yield name, number.get(label, label)


def scan(root: Path) -> Found:
    """List the clips."""
    need(root, TITLE, *LISTS, CLASSES, "AudioWAV", "visual_frames")
    found = Found(NUM_CLASSES, class_names(root))
    for name, label in listed(root):
        found.add(name, label, sources_of(root, name))
    return found


def names(root: Path) -> list[str] | None:
    """The clips that the lists name; None where none of the lists is there."""
    if not any((root / file).exists() for file in (*LISTS, CLASSES)):
        return None
    return [name for name, _ in listed(root)]


def speaker(name: str) -> str:
    """The four digits of who speaks in a clip.

    Raises:
        DataError: The name does not begin with them.
    """
    found = SPEAKER.match(name)
    if found is None:
        raise DataError(
            f"{TITLE}: expected names of clips that begin with their speaker, such as "
            f"1001_DFA_ANG_XX, got {name}; give the clips the names that they were published under"
        )
    return found[0]


def write_lists(root: Path, clips: Collection[str]) -> None:
    """The lists of clips whose names say what their classes are, such as 1001_DFA_ANG_XX.

    All of them come into the list of training: the lists are pooled anyway.

    Raises:
        DataError: A name says nothing of the kind.
    """
    classes = {name: EMOTION.fullmatch(name) for name in clips}
    if strange := [name for name, found in classes.items() if found is None]:
        raise DataError(
            f"{TITLE}: expected videos with names such as 1001_DFA_ANG_XX, got {strange[0]} and "
            f"{len(strange) - 1} more; name the folder that has them with --videos"
        )
    rows = [f"{name},{found[1]}" for name, found in sorted(classes.items()) if found]
    write_text(root / CLASSES, "\n".join(("emotion", *EMOTIONS)) + "\n")
    for file, lines in zip(LISTS, (rows, [], []), strict=True):
        write_text(root / file, "\n".join(["clip,emotion", *lines]) + "\n")


DATA = PaperData(
    "cremad",
    TITLE,
    {"audio": "sound", "video": "frames"},
    NUM_CLASSES,
    Table5(5209, 744, 1489),
    scan,
    Videos(names, write_lists, sources_of, "%05d.jpg"),
    speaker,
)
