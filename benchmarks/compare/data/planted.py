"""`digits-noise`: the digits' Fourier view beside a view of noise, to see who is led astray.

The second view is drawn once, without regard to class or row. Whatever a method does with
it can only cost.
"""

import numpy as np

from benchmarks.compare.data import digits
from benchmarks.compare.data.base import Dataset, Recipe

WIDTH, SEED = 76, 0  # as wide as `fou`


def build() -> Dataset:
    """`fou` of the digits, and as many columns of standard normal numbers."""
    dataset = digits.build()
    rows = len(dataset.labels)
    noise = np.random.default_rng(SEED).standard_normal((rows, WIDTH)).astype(np.float32)
    return dataset._replace(inputs={"fou": dataset.inputs["fou"], "noise": noise})


RECIPE = Recipe(
    build,
    shapes={"fou": (76,), "noise": (WIDTH,)},
    rows=digits.RECIPE.rows,
    shipped=True,
)
