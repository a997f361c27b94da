"""`openmoji-tags`: what an emoji is tagged with, from its picture and its name.

The emoji and the licence are those of `openmoji`. A tag is one of either list of OpenMoji's index,
Unicode's and its own, that at least `MIN_EMOJI` emoji have; rows are the emoji with at least one.
The words of a name are often tags ("grinning face" has face), and a few tags are synonyms.
"""

import re
from collections import Counter

import numpy as np

from benchmarks.compare.data import openmoji
from benchmarks.compare.data.base import Dataset, Recipe
from benchmarks.compare.data.download import download, members

MIN_EMOJI = 25  # of a tag


def build() -> Dataset:
    """The emoji of `openmoji` that have a tag."""
    index = members(download(openmoji.PACKAGE), re.escape(openmoji.INDEX))[openmoji.INDEX]
    return tagged(openmoji.build(), [tags(entry) for entry in openmoji.entries(index)])


def tags(entry: dict[str, str]) -> set[str]:
    """All tags of an emoji."""
    words = f"{entry['tags']},{entry['openmoji_tags']}".split(",")
    return {word.strip() for word in words if word.strip()}


def tagged(whole: Dataset, found: list[set[str]], smallest: int = MIN_EMOJI) -> Dataset:
    """The rows with a tag that is frequent enough, and these tags in alphabetical order."""
    counts = Counter(tag for row in found for tag in row)
    kept = sorted(tag for tag, count in counts.items() if count >= smallest)
    answers = np.array([[tag in row for tag in kept] for row in found], np.uint8)
    rows = np.flatnonzero(answers.any(axis=1))
    return whole._replace(
        inputs={name: values[rows] for name, values in whole.inputs.items()},
        labels=whole.labels[rows],
        answers=answers[rows],
    )


RECIPE = Recipe(
    build,
    shapes=openmoji.RECIPE.shapes,
    rows="146c7a0e1a52ac7269607538d2e668cd46213f59a2a0e6af54d7577d91faa6d3",
)
