"""`stamps`: the rubber stamps of Tux Paint, by picture, by English text and by Spanish speech.

| source | licence |
| --- | --- |
| Tux Paint stamps 2022.06.04, the Debian package tuxpaint-stamps-default | GPL-2; some stamps \
CC BY, CC BY-SA or GFDL |

A row is a stamp that has all three: a picture, the first line of its description ("A strawberry."),
and the description spoken in Spanish (only 65 are spoken in English). The class is the stamp's top
folder. Of 961 stamps, 11 are mirror images without a text and 62 have no Spanish recording; 88 more
are in seven folders of fewer than 30 such stamps, which are left out. Where a stamp has a PNG and
an SVG, the PNG is taken.

Several stamps share a text, which is then the same input twice. They form a group that stays
together in a split; capitals and the full stop make no difference.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data import images, speech, text
from benchmarks.compare.data.base import Dataset, Recipe, progress
from benchmarks.compare.data.download import debian, download, members

PACKAGE = debian(
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
FOLDER = "usr/share/tuxpaint/stamps/"

MIN_STAMPS = 30  # of a class


def build() -> Dataset:
    """Read the stamps that have a picture, a text and a recording."""
    files = members(download(PACKAGE), FOLDER + r".*(\.png|\.svg|\.txt|_desc_es\.ogg)")
    files = {name.removeprefix(FOLDER): data for name, data in files.items()}
    stamps = [
        name.removesuffix(".txt")
        for name in files
        if name.endswith(".txt") and has_all(name.removesuffix(".txt"), files)
    ]
    sizes = Counter(folder(stamp) for stamp in stamps)
    stamps = [stamp for stamp in stamps if sizes[folder(stamp)] >= MIN_STAMPS]
    classes, labels = np.unique([folder(stamp) for stamp in stamps], return_inverse=True)
    texts = [files[f"{stamp}.txt"].decode().splitlines()[0].strip() for stamp in stamps]
    _, groups = np.unique([line.casefold().rstrip(".") for line in texts], return_inverse=True)
    return Dataset(
        inputs={
            "image": np.stack([picture(stamp, files) for stamp in progress(stamps, "drawing")]),
            "text": text.encode(texts),
            "speech": np.stack(
                [
                    speech.log_mel(files[f"{stamp}_desc_es.ogg"])
                    for stamp in progress(stamps, "listening")
                ]
            ),
        },
        labels=labels.astype(np.int64),
        classes=tuple(classes.tolist()),
        groups=groups.astype(np.int64),
    )


def has_all(stamp: str, files: dict[str, bytes]) -> bool:
    """Whether a stamp has a picture and a recording beside its text."""
    picture = f"{stamp}.png" in files or f"{stamp}.svg" in files
    return picture and f"{stamp}_desc_es.ogg" in files


def folder(stamp: str) -> str:
    """The top folder of a stamp."""
    return stamp.split("/")[0]


def picture(stamp: str, files: dict[str, bytes]) -> NDArray[np.uint8]:
    """The picture of a stamp."""
    png = files.get(f"{stamp}.png")
    return images.from_svg(files[f"{stamp}.svg"]) if png is None else images.from_png(png)


RECIPE = Recipe(
    build,
    shapes={
        "image": (3, images.SIZE, images.SIZE),
        "text": (text.WIDTH,),
        "speech": (speech.MELS, speech.FRAMES),
    },
    rows="630ed651ff098fa87099c63da7bea61933d6aab43b16fcca773796fb1927af33",
)
