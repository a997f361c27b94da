"""What Sarcasm and Twitter2015 have in common: tweets with a picture.

| file | what is in it |
| --- | --- |
| `train.json`, `valid.json`, `test.json` | a list of `[image file, text, label]` |
| `images/<image file>` | the pictures |

The three lists are pooled; a split is drawn for each seed. Labels are numbers from 0. A tweet is
named by its list and its place in it, as several of Twitter2015 share a picture.
"""

import json
from functools import partial
from pathlib import Path

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets.base import Found, PaperData, Table5, need, read_text

LISTS = ("train.json", "valid.json", "test.json")


def scan(title: str, num_classes: int, root: Path) -> Found:
    """List the tweets."""
    need(root, title, *LISTS, "images")
    found = Found(num_classes)
    for file in LISTS:
        for place, (image, text, label) in enumerate(_tweets(root / file)):
            name = f"{Path(file).stem}/{place}/{image}"
            found.add(name, label, {"image": root / "images" / image, "text": text})
    return found


def _tweets(file: Path) -> list[tuple[str, str, str]]:
    try:
        entries = json.loads(read_text(file))
        return [(str(image), str(text), str(label)) for image, text, label in entries]
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: expected a list of [image file, text, label] ({error})") from None


def tweets(name: str, title: str, num_classes: int, published: Table5) -> PaperData:
    """A data set of this layout."""
    kinds = {"image": "image", "text": "text"}
    return PaperData(
        name,
        title,
        kinds,  # type: ignore[arg-type]
        num_classes,
        published,
        partial(scan, title, num_classes),
    )
