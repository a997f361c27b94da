"""Finished runs on disk: one JSON file each while a suite runs, one ``runs.jsonl`` once frozen.

The first line of a ``runs.jsonl`` lists the versions that its runs were made with; every other line
is a run, which names its versions by their place in that list.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from benchmarks.common.kinds import MAIN_SCORES
from benchmarks.common.records import (
    check_fields,
    damaged,
    is_number,
    is_scores,
    parse_json,
    read_json,
    write_text,
)

Record: TypeAlias = Mapping[str, Any]
Value: TypeAlias = "float | str | bool"

FROZEN = "runs.jsonl"


class Identity(NamedTuple):
    """What makes two runs the same one: everything that was chosen for it, and nothing measured.

    Attributes:
        task: Its name.
        phase: "tune" or "test".
        entry: The row of the comparison.
        modality: Of an entry that looks at one alone.
        config: Hyper-parameters, sorted by name, at full precision.
        seed: Of the split, the weights and the draws.
        epochs: How long it trains.
    """

    task: str
    phase: str
    entry: str
    modality: str | None
    config: tuple[tuple[str, Value], ...]
    seed: int
    epochs: int

    @property
    def digest(self) -> str:
        """Twelve digits that tell it from every other run, for a file name."""
        return hashlib.sha256(self.sort_key.encode()).hexdigest()[:12]

    @property
    def sort_key(self) -> str:
        """A text that equal identities share; 1 and 1.0 are equal."""
        config = [
            (name, value if isinstance(value, str | bool) else float(value))
            for name, value in self.config
        ]
        return json.dumps(
            [self.task, self.phase, self.entry, self.modality, config, self.seed, self.epochs]
        )


def identity(record: Record) -> Identity:
    """The identity of a finished run."""
    return Identity(
        task=record["task"],
        phase=record["phase"],
        entry=record["entry"],
        modality=record["modality"],
        config=tuple(sorted(record["config"].items())),
        seed=record["seed"],
        epochs=record["epochs"],
    )


def read_run(file: Path) -> Record:
    """The run in a file of its own.

    Raises:
        DataError: The file is damaged.
        FileNotFoundError: There is no such file.
    """
    return _checked(read_json(file), file)


def read_runs(file: Path) -> Mapping[Identity, Record]:
    """The runs of a ``runs.jsonl``; none where there is no such file.

    Raises:
        DataError: The file is damaged.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        return {}
    return _read_runs(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read_runs(file: Path, _modified: int, _size: int) -> Mapping[Identity, Record]:
    """As `read_runs`; a file that was changed is read again."""
    header, *lines = file.read_bytes().splitlines() or [b""]
    versions = parse_json(header, file).get("versions")
    if not isinstance(versions, list):
        raise damaged(file)
    runs: dict[Identity, Record] = {}
    for line in lines:
        record = parse_json(line, file)
        place = record.get("versions")
        if type(place) is not int or not 0 <= place < len(versions):
            raise damaged(file)
        record["versions"] = versions[place]
        key = identity(_checked(record, file))
        if key in runs:
            raise damaged(file)
        runs[key] = record
    return runs


def write_runs(file: Path, records: Iterable[Record]) -> None:
    """Write a ``runs.jsonl``: sorted, one run a line, the same runs always in the same bytes."""
    ordered = sorted(records, key=lambda record: identity(record).sort_key)
    versions = sorted({_line(record["versions"]) for record in ordered})
    lines = [f'{{"versions":[{",".join(versions)}]}}']
    for record in ordered:
        lines.append(_line({**record, "versions": versions.index(_line(record["versions"]))}))
    write_text(file, "\n".join(lines) + "\n")


def read_folder(frozen: Path, single: Path) -> dict[Identity, Record]:
    """All runs of a suite: those in its frozen file, and those below ``single`` beside them.

    Raises:
        DataError: A file is damaged.
    """
    runs = dict(read_runs(frozen))
    for file in sorted(single.glob("*/*/*.json")):
        if file.name.startswith("."):  # what a file system or a file manager keeps beside it
            continue
        record = read_run(file)
        runs.setdefault(identity(record), record)
    return runs


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _checked(record: dict[str, Any], file: Path) -> Record:
    """The record, if it has everything that tuning and the report ask for."""
    check_fields(record, _FIELDS, file)
    if record["phase"] == "test" and record["test"] is None:
        raise damaged(file)
    return record


def _is_scored(value: object) -> bool:
    """Whether a value of JSON is scores, the main one of a kind of labels among them."""
    return is_scores(value) and any(name in value for name in MAIN_SCORES)


_FIELDS = {
    "task": lambda value: isinstance(value, str),
    "entry": lambda value: isinstance(value, str),
    "modality": lambda value: value is None or isinstance(value, str),
    "phase": lambda value: value in ("tune", "test"),
    "seed": lambda value: type(value) is int,
    "config": lambda value: (
        isinstance(value, dict)
        and all(isinstance(setting, str | int | float) for setting in value.values())
    ),
    "epochs": lambda value: type(value) is int,
    "versions": lambda value: isinstance(value, dict),
    "validation": lambda value: _is_scored(value) and "nll" in value,
    "test": lambda value: value is None or _is_scored(value),
    "steps": is_number,
    "seconds": is_number,
}
