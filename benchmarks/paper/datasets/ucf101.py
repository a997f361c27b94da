"""UCF-101: clips of 101 human actions; optical flow and RGB frames.

| file | what is in it |
| --- | --- |
| `trainlist01_new.txt`, `testlist01_new.txt` | `Class/name.avi label`; with a header or without |
| `classInd.txt` | `index name` of each class |
| `frames_rgb/<name>/img_0000K.jpg` | the frames |
| `flows_u/<name>/frame0000K.jpg`, `flows_v/<name>/…` | the flow to the right and downwards |

The two lists are pooled; a split is drawn for each seed. A label is an index of `classInd.txt`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

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

TITLE = "UCF-101"
LISTS = ("trainlist01_new.txt", "testlist01_new.txt")
NUM_CLASSES = 101


def scan(root: Path) -> Found:
    """List the clips."""
    need(root, TITLE, *LISTS, "classInd.txt", "frames_rgb", "flows_u", "flows_v")
    lines = table(root / "classInd.txt", None, 1)
    classes = [line for line in lines if len(line) == 2 and line[0].isdecimal()]
    indices = [index for index, _ in classes]
    if len(indices) != NUM_CLASSES:
        raise DataError(
            f"{TITLE}: {root / 'classInd.txt'} should have {NUM_CLASSES} lines 'index name', got "
            f"{len(indices)}"
        )
    number = {index: str(place) for place, index in enumerate(indices)}
    found = Found(NUM_CLASSES, [name for _, name in classes])

    def sources_of(name: str) -> dict[str, Source]:
        return {
            "flow": list_frames(root / "flows_u" / name, root / "flows_v" / name),
            "rgb": list_frames(root / "frames_rgb" / name),
        }

    def is_row(cells: Sequence[str]) -> bool:
        return cells[1].isdecimal() or has_any(sources_of(PurePosixPath(cells[0]).stem))

    for file in LISTS:
        for path, label, *_ in table(root / file, None, 2, is_row):
            name = PurePosixPath(path).stem
            label = number.get(label, f"{label} is not in classInd.txt")
            found.add(name, label, sources_of(name))
    return found


DATA = PaperData(
    "ucf101",
    TITLE,
    {"flow": "flow", "rgb": "frames"},
    NUM_CLASSES,
    Table5(9159, 1308, 2618),
    scan,
)
