"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_atomically"]


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside ``path`` and put it in its place in one step.

    Whoever reads meanwhile, or after a crash, sees the old file or the whole new one.

    Args:
        path: Where the file goes; its folder has to be there. A link is followed.
        write: Writes the content into the open file that it is given.

    Raises:
        OSError: The folder is missing or read-only, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a pipe or a device has no place to swap
        with target.open("wb") as file:
            write(file)
        return
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as file:  # not tempfile: its files are for their owner alone
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise
