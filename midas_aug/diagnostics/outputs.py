"""Where reports and figures go: looked at before the work, written in one step after it."""

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from midas_aug._files import write_atomically
from midas_aug.errors import MidasAugError

__all__ = ["check_output", "write_output"]


def check_output(path: str | Path, endings: Sequence[str]) -> Path:
    """Raise unless a file can be written there.

    Args:
        path: Where the file is to go.
        endings: What its name may end in, as ``".md"``.

    Raises:
        MidasAugError: It is no path, the ending is unknown, or the folder missing or read-only.
    """
    if not isinstance(path, str | os.PathLike):
        raise MidasAugError(
            f"expected the path of a file, got {path!r}; pass a string or a pathlib.Path"
        )
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise MidasAugError(
            f"expected a file that ends in one of {', '.join(endings)}, got {path}; the ending "
            "decides the format"
        )
    if path.is_dir():
        raise MidasAugError(f"expected the name of a file, got the folder {path}")
    if not path.parent.is_dir():
        raise MidasAugError(f"expected a file in a folder that is there, got {path}; make it first")
    probe = path.parent / f".{secrets.token_hex(8)}.tmp"  # permissions alone do not tell
    try:
        probe.touch()
    except OSError as error:
        raise MidasAugError(
            f"expected a folder to write to, got {path.parent} ({os.strerror(error.errno or 0)})"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return path


def write_output(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file in one step.

    Raises:
        MidasAugError: The disk is full, or the folder has gone.
    """
    try:
        write_atomically(path, write)
    except OSError as error:
        raise MidasAugError(
            f"expected to write {path}, got {error.strerror or error}; nothing was changed there"
        ) from None
