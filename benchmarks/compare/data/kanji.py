"""`kanji`: Chinese characters of Japanese, by picture, by English meanings and by reading.

| source | licence |
| --- | --- |
| KANJIDIC of the Electronic Dictionary Research and Development Group, \
the Debian package kanjidic-xml 2022.08.23 | EDRDG licence, CC BY-SA |
| IPA Mincho, the Debian package fonts-ipafont-mincho 00303-23 | IPA Font License 1.0 |
| VL Gothic, the Debian package fonts-vlgothic 20220612-1 | BSD, M+ and Sazanami |
| Seto, the Debian package fonts-seto 6.20-8 | SIL Open Font License 1.1 |
| Kouzan brush, the Debian package fonts-kouzan-mouhitsu 20170411-3 | public domain |
| Aoyagi Soseki, the Debian package fonts-aoyagi-soseki 20070207-17 | public domain |

The class is the character's classical radical, the part by which a dictionary lists it, of those
with 120 characters or more. The picture shows the character in one of the fonts that have it, which
one is drawn once for all. The meanings are the first words of the English ones; the readings are
the Japanese ones, letter by letter. Both are numbers of words or letters, from 1; 0 is none.

A radical often hints at what a character means and is nearly always seen in it. Meanings are few
and their words rare, so a model soon knows those of its training rows by heart.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from gzip import decompress
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data.base import Dataset, Recipe, progress
from benchmarks.compare.data.download import debian, download, members

if TYPE_CHECKING:
    from PIL import ImageFont

PACKAGE = debian(
    "kanjidic-xml",
    "2022.08.23",
    "d85c61495d3ea4acd3e7e78a9b6616e5511533d0909120ae038652c97d54e2e9",
)
DICTIONARY = "usr/share/edict/kanjidic2.xml.gz"

FONTS = {
    "usr/share/fonts/opentype/ipafont-mincho/ipam.ttf": debian(
        "fonts-ipafont-mincho",
        "00303-23",
        "6a81c96987d37d48c4e09beb55c06396d1f385f46af86de7c1bd53a82a683c45",
    ),
    "usr/share/fonts/truetype/vlgothic/VL-Gothic-Regular.ttf": debian(
        "fonts-vlgothic",
        "20220612-1",
        "81b0a42456747e7ec2f801028b254c33f8c720a99e15140c23f0861329687448",
    ),
    "usr/share/fonts/truetype/seto/setofont.ttf": debian(
        "fonts-seto",
        "6.20-8",
        "1ce0b6124d635036d64462d7f0bece68d79608713a51d0664d4aa03da882fe2c",
    ),
    "usr/share/fonts/truetype/kouzan-mouhitsu/kouzan-mouhitsu.ttf": debian(
        "fonts-kouzan-mouhitsu",
        "20170411-3",
        "924536ceff9359b99996e56cd24633df67d696a343ba46f9e3106e8cee228dbe",
    ),
    "usr/share/fonts/truetype/aoyagi-soseki/aoyagi-soseki.ttf": debian(
        "fonts-aoyagi-soseki",
        "20070207-17",
        "d5d32b6d26155a5731c1a766d0e66ccd63778c5eebc955cf868a63b86c269585",
    ),
}

SIZE = 32
DRAWN = 56  # pixels an em, before the picture is cut out and scaled
WORDS, LETTERS = 12, 40
MIN_CHARACTERS = 120  # of a class
SEED = 0  # of the fonts


class Character(NamedTuple):
    """An entry of the dictionary."""

    literal: str
    radical: int  # 1 to 214
    meanings: tuple[str, ...]  # the words of the English ones
    readings: str


def build() -> Dataset:
    """Read the dictionary and draw its characters."""
    dictionary = members(download(PACKAGE), re.escape(DICTIONARY))[DICTIONARY]
    fonts = [members(download(FONTS[name]), re.escape(name))[name] for name in FONTS]
    return assemble(characters(decompress(dictionary)), fonts)


def assemble(
    found: Iterable[Character], fonts: Sequence[bytes], smallest: int = MIN_CHARACTERS
) -> Dataset:
    """The data set of the characters that have a meaning and a font, in classes large enough."""
    pictures = draw([entry for entry in found if entry.meanings], fonts)
    sizes = Counter(entry.radical for entry in pictures)
    rows = [entry for entry in pictures if sizes[entry.radical] >= smallest]
    radicals, labels = np.unique([entry.radical for entry in rows], return_inverse=True)
    return Dataset(
        inputs={
            "image": np.stack([pictures[entry] for entry in rows])[:, None],
            "meanings": numbered([entry.meanings for entry in rows], WORDS),
            "readings": numbered([entry.readings for entry in rows], LETTERS)[:, None],
        },
        labels=labels.astype(np.int64),
        classes=tuple(chr(0x2F00 + radical - 1) for radical in radicals.tolist()),
    )


def characters(dictionary: bytes) -> list[Character]:
    """The entries of a KANJIDIC file, in its order."""
    found = []
    for entry in ElementTree.fromstring(dictionary).iter("character"):
        words = [
            word
            for meaning in entry.iter("meaning")
            if "m_lang" not in meaning.attrib
            for word in re.findall(r"[a-z]+", (meaning.text or "").lower())
        ]
        readings = [
            reading.text or ""
            for reading in entry.iter("reading")
            if reading.get("r_type") in ("ja_on", "ja_kun")
        ]
        literal = entry.findtext("literal")
        radical = entry.findtext("radical/rad_value[@rad_type='classical']")
        if literal and radical:
            found.append(Character(literal, int(radical), tuple(words), " ".join(readings)))
    return found


def draw(
    found: Sequence[Character], fonts: Sequence[bytes]
) -> Mapping[Character, NDArray[np.uint8]]:
    """Pictures (32, 32), white on black, of the characters that a font has."""
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
    from PIL import ImageFont

    has = [TTFont(io.BytesIO(font)).getBestCmap().keys() for font in fonts]
    drawn = [ImageFont.truetype(io.BytesIO(font), DRAWN) for font in fonts]
    random = np.random.default_rng(SEED)
    pictures = {}
    for entry in progress(found, "drawing"):
        # The order of the fonts is drawn for every character, so that no other one matters to it.
        for number in random.permutation(len(fonts)):
            if ord(entry.literal) in has[number]:
                picture = fitted(entry.literal, drawn[number])
                if picture is not None:
                    pictures[entry] = picture
                    break
    return pictures


def fitted(literal: str, font: "ImageFont.FreeTypeFont") -> NDArray[np.uint8] | None:
    """A character cut out and fitted to the picture in its proportions; None if it is blank."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (2 * DRAWN, 2 * DRAWN))
    ImageDraw.Draw(canvas).text((DRAWN // 2, DRAWN // 2), literal, fill=255, font=font)
    box = canvas.getbbox()
    if box is None:
        return None
    ink = canvas.crop(box)
    scale = SIZE / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    square = Image.new("L", (SIZE, SIZE))
    scaled = ink.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(scaled, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(square)


def numbered(texts: Sequence[Sequence[str]], length: int) -> NDArray[np.int16]:
    """(N, length) the numbers of a text's first words or letters, in alphabetical order from 1."""
    cut = [text[:length] for text in texts]
    number = {item: place for place, item in enumerate(sorted(set(_all(cut))), start=1)}
    table = np.zeros((len(cut), length), np.int16)
    for row, text in zip(table, cut, strict=True):
        row[: len(text)] = [number[item] for item in text]
    return table


def _all(texts: Iterable[Sequence[str]]) -> Iterable[str]:
    return (item for text in texts for item in text)


RECIPE = Recipe(
    build,
    shapes={"image": (1, SIZE, SIZE), "meanings": (WORDS,), "readings": (1, LETTERS)},
    rows="07376c56122d645bf75f5eefa02472487730a5568bef5318a625580e40cf07ce",
)
