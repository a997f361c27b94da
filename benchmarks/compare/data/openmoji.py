"""`openmoji`: emoji in nine groups, by picture and by name.

| source | licence |
| --- | --- |
| OpenMoji 17.0.0, the npm package openmoji | CC BY-SA 4.0 |

The picture is the colour drawing; the text is what the emoji is called ("grinning face"). The
variants by skin tone are left out, and so are the groups that Unicode does not have
(extras-openmoji, extras-unicode) and the parts of other emoji (component).

No two names are the same, but 65 emoji share their picture with another one (the flags of Norway
and of Svalbard, "cook" and "man cook"), always within a class, and many more resemble each other
("man running", "woman running"). A random split may put such a pair on different sides.
"""

import json
import re
from typing import Any

import numpy as np

from benchmarks.compare.data import images, text
from benchmarks.compare.data.base import Dataset, Recipe, progress
from benchmarks.compare.data.download import download, members, npm

PACKAGE = npm(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
)

INDEX = "package/data/openmoji.json"
LEFT_OUT = {"extras-openmoji", "extras-unicode", "component"}


def entries(index: bytes) -> list[dict[str, Any]]:
    """What the index has to say of each emoji that is a row."""
    return [
        entry
        for entry in json.loads(index)
        if not entry["skintone"] and entry["group"] not in LEFT_OUT
    ]


def build() -> Dataset:
    """Draw the emoji and encode their names."""
    files = members(download(PACKAGE), rf"{re.escape(INDEX)}|package/color/svg/[0-9A-F-]+\.svg")
    emoji = entries(files[INDEX])
    classes, labels = np.unique([entry["group"] for entry in emoji], return_inverse=True)
    drawings = [files[f"package/color/svg/{entry['hexcode']}.svg"] for entry in emoji]
    return Dataset(
        inputs={
            "image": np.stack([images.from_svg(svg) for svg in progress(drawings, "drawing")]),
            "text": text.encode([entry["annotation"] for entry in emoji]),
        },
        labels=labels.astype(np.int64),
        classes=tuple(classes.tolist()),
    )


RECIPE = Recipe(
    build,
    shapes={"image": (3, images.SIZE, images.SIZE), "text": (text.WIDTH,)},
    rows="cb36a1e5504b743ac5a8701d4df31babaab070a93efa7a4fdabf37fd0f6f2abd",
)
