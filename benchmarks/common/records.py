"""Records of finished runs: their versions, whole or not at all on disk, and read with care."""

import glob
import json
import math
import platform
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import torch

import midas_aug
from benchmarks.common.errors import DataError
from midas_aug._files import write_atomically

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parents[1] / "results"  # published, tracked by git
RUNS = Path(__file__).parents[2] / "runs"  # where commands write unless told otherwise; ignored


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


def write_whole(
    file: Path,
    write: Callable[[BinaryIO], object],
    *,
    size: int | None = None,
    replace: bool = True,
) -> None:
    """Write a file so that nobody ever sees half of it; its folder is made where it is missing.

    Args:
        file: Where it goes.
        write: Writes the content into the open file that it is given.
        size: Bytes to reserve on the disk first.
        replace: Whether a file that is there is replaced.

    Raises:
        DataError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, write, size=size, replace=replace)
    except OSError as error:
        raise unwritable(file, error) from error


def write_text(file: Path, text: str) -> None:
    """`write_whole` of a text."""
    write_whole(file, lambda opened: opened.write(text.encode("utf-8")))


def write_json(file: Path, value: object) -> None:
    """`write_text` of a value as indented JSON."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_figure(file: Path, figure: "Figure", dpi: int) -> None:
    """`write_whole` of a figure as PNG."""
    write_whole(file, lambda opened: figure.savefig(opened, format="png", dpi=dpi))


def need_writable(*folders: Path) -> None:
    """Make folders and write a byte into each, before any work whose outcome goes there.

    Raises:
        DataError: One cannot be written to.
    """
    for folder in folders:
        probe = folder / f"probe-{secrets.token_hex(4)}"
        write_whole(probe, lambda opened: opened.write(b"."))
        probe.unlink()


@contextmanager
def at_work_on(
    file: Path, lock: Path, *, advice: str = "wait for it, or write elsewhere with --out"
) -> Iterator[None]:
    """Keep other processes from making the same file; the lock goes when this process does.

    Where the file system or the system has no locks, nobody is kept from it.

    Args:
        file: What is made.
        lock: The file to lock; it is empty.
        advice: What to do if another process is at work on it.

    Raises:
        DataError: Another process is at work on it.
    """
    if fcntl is None:
        yield
        return
    write_whole(lock, lambda opened: None, replace=False)
    with lock.open("ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is at work on {file}; {advice}") from None
        except OSError:
            pass
        yield


def remove_leftovers(file: Path) -> None:
    """Remove what processes that were killed while they wrote the file have left beside it."""
    for left in file.parent.glob(f".{glob.escape(file.name)}.*.tmp"):
        left.unlink(missing_ok=True)


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
    except (ValueError, RecursionError):  # neither JSON nor, perhaps, UTF-8
        value = None
    if not isinstance(value, dict):
        raise damaged(file)
    return value


def check_fields(
    record: dict[str, Any], fields: Mapping[str, Callable[[Any], bool]], file: Path
) -> dict[str, Any]:
    """The record of a file, if it has all fields and each is what it should be.

    Raises:
        DataError: It has not.
    """
    if not all(name in record and fits(record[name]) for name, fits in fields.items()):
        raise damaged(file)
    return record


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_scores(value: object) -> TypeGuard[dict[str, float | None]]:
    """Whether a value of JSON is scores as `finite` gives them."""
    return isinstance(value, dict) and all(
        score is None or is_number(score) for score in value.values()
    )


def damaged(file: Path) -> DataError:
    """What to raise when a file that a command of ours wrote cannot be read."""
    return DataError(f"{file} is damaged, delete it and run the command that wrote it again")


def unwritable(file: Path, error: Exception) -> DataError:
    """What to raise when a file cannot be written."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(
        f"{file} cannot be written ({reason.lower()}); make room there, or name another folder"
    )
