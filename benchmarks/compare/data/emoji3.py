"""`emoji-3`: emoji by three sets of drawings, and by name.

| source | licence |
| --- | --- |
| Noto Emoji, in the npm package emoji-datasource-google 16.0.0 | Apache-2.0 |
| Twemoji, in the npm package emoji-datasource-twitter 16.0.0 | CC BY 4.0 |
| OpenMoji 17.0.0, the npm package openmoji | CC BY-SA 4.0 |
| names and subgroups, emoji.json of the first two | MIT |

A row is one drawing of an emoji; the text is the first words of its name, numbered from 1. The
class is Unicode's subgroup ("face-smiling"), of those with 12 emoji or more that all three sets
have. Flags are left out: one subgroup has nearly all of them. The three drawings of an emoji share
its name, so they are a group that stays together in a split.
"""

import json
import re
from collections import Counter

import numpy as np

from benchmarks.compare.data import images, openmoji
from benchmarks.compare.data.base import Dataset, Recipe, progress
from benchmarks.compare.data.download import download, members, npm
from benchmarks.compare.data.kanji import numbered

PACKAGES = {
    "google": npm(
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "twitter": npm(
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
}

SIZE = 32
WORDS = 12
MIN_EMOJI = 12  # of a class
LEFT_OUT = ("Component", "Flags")


def build() -> Dataset:
    """Draw the emoji that all three sets have."""
    drawings: dict[str, dict[str, bytes]] = {}
    files: dict[str, bytes] = {}
    for name, package in PACKAGES.items():
        files |= members(download(package), rf"package/(emoji\.json|img/{name}/64/[0-9a-f-]+\.png)")
        drawings[name] = {
            code(path): data for path, data in files.items() if f"/{name}/64/" in path
        }
    svg = members(download(openmoji.PACKAGE), r"package/color/svg/[0-9A-F-]+\.svg")
    drawings["openmoji"] = {code(path): data for path, data in svg.items()}
    return assemble(json.loads(files["package/emoji.json"]), drawings)


def assemble(
    emoji: list[dict[str, str]],
    drawings: dict[str, dict[str, bytes]],
    smallest: int = MIN_EMOJI,
) -> Dataset:
    """The data set of the emoji of a list that every set of drawings has, in its order."""
    shared = [
        one
        for one in emoji
        if one["category"] not in LEFT_OUT
        and all(code(one["image"]) in drawn for drawn in drawings.values())
    ]
    sizes = Counter(one["subcategory"] for one in shared)
    shared = [one for one in shared if sizes[one["subcategory"]] >= smallest]
    rows = [(number, drawn) for number in range(len(shared)) for drawn in drawings.values()]
    classes, labels = np.unique([one["subcategory"] for one in shared], return_inverse=True)
    names = [re.findall(r"[a-z0-9]+", one["name"].lower()) for one in shared]
    groups = np.repeat(np.arange(len(shared)), len(drawings))
    return Dataset(
        inputs={
            "image": np.stack(
                [
                    images.draw(drawn[code(shared[number]["image"])], SIZE)
                    for number, drawn in progress(rows, "drawing")
                ]
            ),
            "name": numbered(names, WORDS)[groups],
        },
        labels=labels.astype(np.int64)[groups],
        classes=tuple(classes.tolist()),
        groups=groups.astype(np.int64),
    )


def code(path: str) -> str:
    """The code points of a file's name, without the variation selector, which sets write or not."""
    parts = path.rpartition("/")[2].partition(".")[0].lower().split("-")
    return "-".join(part for part in parts if part != "fe0f")


RECIPE = Recipe(
    build,
    shapes={"image": (3, SIZE, SIZE), "name": (WORDS,)},
    rows="56f1ad5de47a71ef2e027181bfda6366103c29a6beba8f095e8db034205a8cbb",
)
