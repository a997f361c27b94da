"""`brca-age`: how old a patient of `brca` was at diagnosis, from two measurements of her tumour.

Source and licence are those of `brca`. The age, in years, is a column of `clinical`, which is
therefore no modality here. Classes are the subtypes; they only stratify the split.
"""

from benchmarks.compare.data import brca
from benchmarks.compare.data.base import Dataset, Recipe

AGE = 0  # the column of clinical, years_to_birth
MODALITIES = ("rna", "methylation", "mirna")


def build() -> Dataset:
    """The rows of `brca`, with the age as what is to be told."""
    whole = brca.build()
    return whole._replace(
        inputs={name: whole.inputs[name] for name in MODALITIES},
        answers=whole.inputs["clinical"][:, AGE].copy(),
    )


RECIPE = Recipe(
    build,
    shapes={name: brca.RECIPE.shapes[name] for name in MODALITIES},
    rows="db67d453d463b70ced9de6e9c04aba599a0b84e69dda60cbec82ad2dbceddd31",
    digest="14f5094587d9d609eca557a550736462bb8a7b9bee9fd6349322f32b0e737eba",
)
