"""CMU-MOSI: opinions about films; text, audio and video features of each sentence.

| file | what is in it |
| --- | --- |
| `aligned_50.pkl`, also in `Processed/` | aligned features, as the MMSA project gives them |

A dictionary of `train`, `valid` and `test`, each of `text`, `audio`, `vision` (rows, steps,
numbers), `regression_labels` and `id`. The class is 1 from a sentiment of 0 on. The data set keeps
its own split: the paper's counts are that split's. Numbers that are not finite count as 0, as in
MMSA itself.

A pickle may run code when it is loaded. This one is read by an unpickler that knows NumPy arrays
and plain Python values and refuses everything else.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets.base import Found, PaperData, Part, Table5, need

TITLE = "CMU-MOSI"
FILE = "aligned_50.pkl"
NUM_CLASSES = 2
PARTS: dict[str, Part] = {"train": "train", "valid": "validation", "test": "test"}
FIELDS = {"text": "text", "audio": "audio", "video": "vision"}
LARGEST = 3.0  # sentiment

# What an unpickler meets in bytes that are no pickle.
DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)

# What a pickled array is put together from, by the names of NumPy 1 and 2.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class ArrayUnpickler(pickle.Unpickler):
    """Loads arrays, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse all but the parts of an array."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is no array")
        return super().find_class(module, name)


def scan(root: Path) -> Found:
    """Read the features."""
    nested = not (root / FILE).exists() and (root / "Processed").is_dir()
    (file,) = need(root / "Processed" if nested else root, TITLE, FILE)
    parts = _load(file)
    found = Found(NUM_CLASSES)
    for key, part in PARTS.items():
        features, sentiments, names = _fields(parts, key, file)
        for row, (name, sentiment) in enumerate(zip(names, sentiments, strict=True)):
            sources = {
                modality: np.nan_to_num(values[row], posinf=0, neginf=0)
                for modality, values in features.items()
            }
            inside = abs(sentiment) <= LARGEST
            label = str(int(sentiment >= 0)) if inside else f"sentiment {sentiment}"
            found.add(f"{key}/{name}", label, sources, part)
    return found


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            content = ArrayUnpickler(opened).load()
    except DAMAGE as error:
        raise DataError(f"{file} is refused or damaged: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), dict) for part in PARTS
    ):
        raise DataError(f"{file}: expected a dictionary of dictionaries {', '.join(PARTS)}")
    return content


def _fields(parts: dict[str, Any], key: str, file: Path) -> tuple[Any, Any, list[str]]:
    """Features by modality, sentiments and names of a part, all of one length."""
    part = parts[key]
    wanted = [*FIELDS.values(), "regression_labels"]
    missing = [name for name in wanted if name not in part]
    if missing:
        raise DataError(f"{file}: {key} has no {', no '.join(missing)}")
    try:
        sentiments = np.asarray(part["regression_labels"], dtype=float).reshape(-1)
        features = {name: np.asarray(part[field], np.float32) for name, field in FIELDS.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {key} holds what is no array of numbers ({error})") from None
    shapes = {name: values.shape for name, values in features.items()}
    if any(len(shape) != 3 or shape[0] != len(sentiments) for shape in shapes.values()):
        raise DataError(f"{file}: {key} has {len(sentiments)} labels and features {shapes}")
    names = [str(name) for name in part.get("id", range(len(sentiments)))]
    if len(names) != len(sentiments):
        raise DataError(f"{file}: {key} has {len(sentiments)} labels and {len(names)} ids")
    return features, sentiments, names


DATA = PaperData(
    "mosi",
    TITLE,
    {"text": "series", "audio": "series", "video": "series"},
    NUM_CLASSES,
    Table5(1284, 229, 686),
    scan,
)
