"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_atomically"]


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    *,
    size: int | None = None,
    replace: bool = True,
) -> None:
    """Write a file beside ``path`` and put it in its place in one step.

    Whoever reads meanwhile, or after a crash, sees the old file or the whole new one; whoever has
    mapped the old one keeps it.

    Args:
        path: Where the file goes; its folder has to be there. A link is followed.
        write: Writes the content into the open file that it is given.
        size: Bytes to reserve first, so that a full disk is known before anything is written.
        replace: Whether an existing file is replaced. If not, the one that came first stays, also
            where it came while this one was being written.

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
            if size is not None:
                _reserve(file, size)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, target)
        else:
            _put_if_missing(beside, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the space on the disk: a hole in a mapped file kills the process that fills it."""
    if size < 1 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _put_if_missing(beside: Path, target: Path) -> None:
    try:
        os.link(beside, target)  # of two processes, one wins
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not target.exists():
            os.replace(beside, target)
