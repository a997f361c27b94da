"""`watch`: seven shoulder exercises, from the motion sensors of a smart watch.

| source | licence |
| --- | --- |
| D. Burns et al., Shoulder Physiotherapy Exercise Recognition, 2018, arXiv:1802.01489, \
as the Python package seglearn 1.2.5 bundles it | BSD 3-clause |

Ten people did each exercise with either arm: 140 recordings of accelerometer and gyroscope, at
50 Hz. A row is a window of 3 s of a recording; windows follow each other at 1.5 s, so that
neighbours overlap. The group is the person, whose windows stay together in a split.
"""

import io

import numpy as np

from benchmarks.compare.data.base import Dataset, Recipe
from benchmarks.compare.data.download import Package, download, members

PACKAGE = Package(
    tool="pip",
    name="seglearn",
    version="1.2.5",
    file="seglearn-1.2.5-py3-none-any.whl",
    sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
)

LENGTH = 150
HOP = 75

# The package has abbreviations.
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}


def build() -> Dataset:
    """Cut the recordings into windows."""
    (data,) = members(download(PACKAGE), r"seglearn/data/watch_dataset\.npy").values()
    # A pickle can run code when it is read; the checksum of the package vouches for this one.
    recordings = np.load(io.BytesIO(data), allow_pickle=True).item()
    windows, labels, groups = [], [], []
    for signal, label, subject in zip(
        recordings["X"], recordings["y"], recordings["subject"], strict=True
    ):
        cut = np.lib.stride_tricks.sliding_window_view(signal, LENGTH, axis=0)[::HOP]  # (K, 6, 150)
        windows.append(cut)
        labels.append(np.full(len(cut), label, np.int64))
        groups.append(np.full(len(cut), subject, np.int64))
    rows = np.concatenate(windows).astype(np.float32)
    return Dataset(
        inputs={
            "accelerometer": np.ascontiguousarray(rows[:, :3]),
            "gyroscope": np.ascontiguousarray(rows[:, 3:]),
        },
        labels=np.concatenate(labels),
        classes=tuple(EXERCISES[name] for name in recordings["y_labels"]),
        groups=np.concatenate(groups),
    )


RECIPE = Recipe(
    build,
    shapes={"accelerometer": (3, LENGTH), "gyroscope": (3, LENGTH)},
    rows="009ee31ce227eecf45a5b57982af2fef813844c6d88dee4fc9652a063be5ee95",
    digest="556645e9fa152f86567b97513a3e9e1211c9cad24fb709ad61a82d96734e661c",
)
