"""Finished runs of `reproduce` on disk, one JSON file each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.errors import DataError
from benchmarks.common.records import check_fields, damaged, is_number, is_scores, read_json
from benchmarks.methods.entries import ENTRIES
from benchmarks.paper.datasets.base import PaperData
from benchmarks.paper.settings import ProtocolName


def read_run(file: Path, data: PaperData) -> dict[str, Any]:
    """The run in a file, with everything that the table and a second run ask for.

    Raises:
        DataError: The file is damaged.
        FileNotFoundError: There is no such file.
    """
    run = check_fields(read_json(file), _FIELDS, file)
    if run["modality"] is not None and run["modality"] not in data.modalities:
        raise damaged(file)
    return run


def read_runs(folder: Path, data: PaperData, protocol: ProtocolName) -> Iterator[dict[str, Any]]:
    """The runs in a folder, in the order of their names; hidden files are not ours.

    Raises:
        DataError: A file is damaged, or a run by another protocol.
    """
    for file in sorted(folder.glob("*.json")):
        if file.name.startswith("."):
            continue
        run = read_run(file, data)
        other = run["protocol"].get("name")
        if other != protocol:
            raise DataError(
                f"{file}: expected a run by the protocol {protocol}, got one by {other}; "
                f"move it away"
            )
        yield run


def _is_scored(value: object) -> bool:
    """Whether a value of JSON is scores, an accuracy among them."""
    return is_scores(value) and is_number(value.get("accuracy"))


_FIELDS = {
    "entry": lambda value: isinstance(value, str) and value in ENTRIES,
    "modality": lambda value: value is None or isinstance(value, str),
    "seed": lambda value: type(value) is int,
    "config": lambda value: isinstance(value, dict),
    "protocol": lambda value: isinstance(value, dict),
    "precision": lambda value: isinstance(value, str),
    "cached": lambda value: isinstance(value, bool),
    "clips": lambda value: type(value) is int,
    "epoch": lambda value: type(value) is int,
    "steps": is_number,
    "validation": _is_scored,
    "test": _is_scored,
}
