"""UPMC Food-101: recipes of 101 dishes; text and image.

| file | what is in it |
| --- | --- |
| `train.jsonl`, `test.jsonl` | an object a line: `img`, `text`, `label` (the name of the dish) |
| `images/train/<img>`, `images/test/<img>` | the pictures |

The two lists are pooled; a split is drawn for each seed. Classes are numbered in the order of their
names.
"""

import json
from pathlib import Path

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets.base import Found, PaperData, Table5, need, read_lines

TITLE = "UPMC Food-101"
PARTS = ("train", "test")
NUM_CLASSES = 101


def scan(root: Path) -> Found:
    """List the recipes."""
    need(root, TITLE, *(f"{part}.jsonl" for part in PARTS), "images")
    recipes = [(part, *recipe) for part in PARTS for recipe in _recipes(root / f"{part}.jsonl")]
    number = {
        name: str(place) for place, name in enumerate(sorted({label for *_, label in recipes}))
    }
    if len(number) > NUM_CLASSES:
        raise DataError(
            f"{TITLE}: expected at most {NUM_CLASSES} labels, got {len(number)}, among them "
            f"{', '.join(list(number)[:5])}"
        )
    found = Found(NUM_CLASSES, list(number))
    for part, image, text, label in recipes:
        name = f"{part}/{image}"
        found.add(name, number[label], {"text": text, "image": root / "images" / name})
    return found


def _recipes(file: Path) -> list[tuple[str, str, str]]:
    """Image, text and label of each line."""
    recipes = []
    for number, line in read_lines(file):
        try:
            entry = json.loads(line)
            recipes.append((str(entry["img"]), str(entry["text"]), str(entry["label"])))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(
                f"{file}, line {number}: expected an object with img, text and label, got {line!r}"
            ) from None
    return recipes


DATA = PaperData(
    "food101",
    TITLE,
    {"text": "text", "image": "image"},
    NUM_CLASSES,
    Table5(63481, 9069, 18138),
    scan,
)
