"""The data sets of the benchmark: `fetch` one once, then `load` it and `split` it.

| name | rows, classes | modalities | licence of the data |
| --- | --- | --- | --- |
| digits | 2000, 10 | pix, fou, zer, mor | CC BY 4.0 |
| openmoji | 1914, 9 | image, text | CC BY-SA 4.0 |
| stamps | 800, 9 | image, text, speech | GPL-2 |
| watch | 3046, 7 | accelerometer, gyroscope | BSD |
| brca | 769, 5 | rna, clinical, methylation, mirna | open; package CC BY-NC-ND 4.0 |
| digits-noise | 2000, 10 | fou, noise (planted) | CC BY 4.0 |
| kanji | 6331, 26 | image, meanings, readings | EDRDG (CC BY-SA); fonts free |
| openmoji-tags | 1306, 35 tags | image, text | CC BY-SA 4.0 |
| brca-age | 769, a number | rna, methylation, mirna | as brca |
| emoji-3 | 4095, 54 | image, name | Apache-2.0, CC BY 4.0, CC BY-SA 4.0 |

The modules of this package say where each comes from and what to know about it. These are small
sets, which are downloaded and fit into memory; the MIDAS paper's own, which a user has on disk,
are in `benchmarks.paper.datasets`.
"""

from pathlib import Path

from benchmarks.common.errors import DataError
from benchmarks.compare.data import (
    brca,
    brca_age,
    digits,
    emoji3,
    kanji,
    openmoji,
    openmoji_tags,
    planted,
    stamps,
    watch,
)
from benchmarks.compare.data.base import (
    Dataset,
    Recipe,
    cache_folder,
    check,
    digest,
    read,
    write,
)
from benchmarks.compare.data.splits import split

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Recipe",
    "cache_folder",
    "digest",
    "fetch",
    "load",
    "split",
]

DATASETS: dict[str, Recipe] = {
    "digits": digits.RECIPE,
    "openmoji": openmoji.RECIPE,
    "stamps": stamps.RECIPE,
    "watch": watch.RECIPE,
    "brca": brca.RECIPE,
    "digits-noise": planted.RECIPE,
    "kanji": kanji.RECIPE,
    "emoji-3": emoji3.RECIPE,
    "openmoji-tags": openmoji_tags.RECIPE,
    "brca-age": brca_age.RECIPE,
}


def fetch(name: str) -> Dataset:
    """Download and build a data set, and keep it in the cache; at once if it is there already.

    Raises:
        DataError: If it cannot be had; the message is one line that says what to do.
    """
    recipe = _recipe(name)
    try:
        return load(name)
    except DataError:
        pass  # not there, or not what it should be
    try:
        dataset = recipe.build()
    except DataError as error:
        raise DataError(f"{name}: {error}, then: python -m benchmarks fetch {name}") from error
    except ModuleNotFoundError as error:
        raise DataError(
            f"{name}: the Python package {error.name} is missing; "
            f"pip install -e '.[bench]', then: python -m benchmarks fetch {name}"
        ) from error
    try:
        check(dataset, recipe)
    except DataError as error:
        raise DataError(
            f"{name}: {error}; benchmarks/compare/data/{name}.py no longer "
            "builds what it did, report it"
        ) from error
    if not recipe.shipped:
        write(dataset, _file(name))
    return dataset


def load(name: str) -> Dataset:
    """Read a data set that was fetched.

    Raises:
        DataError: If it was not, or if the cached file is not what it should be.
    """
    recipe = _recipe(name)
    try:
        dataset = recipe.build() if recipe.shipped else read(_file(name))
        check(dataset, recipe)
    except FileNotFoundError:
        raise DataError(
            f"{name} is not in the cache; run: python -m benchmarks fetch {name}"
        ) from None
    except DataError as error:
        raise DataError(f"{name}: {error}; run: python -m benchmarks fetch {name}") from error
    return dataset


def _file(name: str) -> Path:
    return cache_folder() / f"{name}.npz"


def _recipe(name: str) -> Recipe:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name}; choose from {', '.join(DATASETS)}")
    return DATASETS[name]
