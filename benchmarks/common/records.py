"""Records of finished runs: their versions, whole or not at all on disk, and read with care."""

import json
import math
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import midas_aug
from benchmarks.common.errors import DataError

RESULTS = Path(__file__).parents[1] / "results"  # the published ones, tracked by git


@cache
def versions() -> dict[str, str | None]:
    """What the numbers may depend on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": git.stdout.strip() or None,
        "midas_aug": midas_aug.__version__,
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "Python": platform.python_version(),
        "processor": platform.machine(),
    }


def finite(scores: dict[str, float] | None) -> dict[str, float | None] | None:
    """Scores for JSON, which has no number for a diverged run's cross-entropy: None instead."""
    if scores is None:
        return None
    return {name: score if math.isfinite(score) else None for name, score in scores.items()}


def write_text(file: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it; its folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def write_json(file: Path, value: object) -> None:
    """`write_text` of a value as indented JSON."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: The file holds something else.
        FileNotFoundError: There is no such file.
    """
    return parse_json(file.read_bytes(), file)


def parse_json(text: bytes | str, file: Path) -> dict[str, Any]:
    """The JSON object in a text that came from ``file``.

    Raises:
        DataError: The text is something else.
    """
    try:
        value = json.loads(text)
    except ValueError:  # neither JSON nor, perhaps, UTF-8
        value = None
    if not isinstance(value, dict):
        raise damaged(file)
    return value


def damaged(file: Path) -> DataError:
    """What to raise when a file that a command of ours wrote cannot be read."""
    return DataError(f"{file} is damaged, delete it and run the command that wrote it again")
