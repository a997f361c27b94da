"""`digits`: handwritten digits in four views, from the file that the examples ship.

| source | licence |
| --- | --- |
| R.P.W. Duin, Multiple Features, UCI Machine Learning Repository, 1998 | CC BY 4.0 |

`examples/data/README.md` says more, and what to know before using it.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from benchmarks.common.errors import DataError
from benchmarks.compare.data.base import Dataset, Recipe

FILE = Path(__file__).parents[3] / "examples" / "data" / "digits.npz"
SHA256 = "1b13fe961984aec20b0416ebf802d29825c3fff1085bd5133ae448836005801c"

VIEWS = ("pix", "fou", "zer", "mor")


def build() -> Dataset:
    """Read the four views of `digits.npz`, as float32."""
    if not FILE.exists():
        raise DataError("examples/data/digits.npz is missing; work in a checkout of the repository")
    data = FILE.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise DataError(
            "examples/data/digits.npz is not the original; run python examples/data/build_digits.py"
        )
    with np.load(io.BytesIO(data)) as arrays:
        return Dataset(
            inputs={view: arrays[view].astype(np.float32) for view in VIEWS},
            labels=arrays["label"].astype(np.int64),
            classes=tuple("0123456789"),
        )


RECIPE = Recipe(
    build,
    shapes={"pix": (240,), "fou": (76,), "zer": (47,), "mor": (6,)},
    rows="c7249ad2aeea7d2c7d243ac27d46f8296d55f2e93c0fa007f9b59a9ca5d29b67",
    digest="817f92c2c06c04df5e68d03cfa654d29e0d8212605e1f63358f04fb7eee228c5",
    shipped=True,
)
