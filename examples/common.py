"""What base.py and the trainer scripts share: rows, scores, checkpoints, options.

A checkpoint is written beside the old one, flushed to the disk and then put in its place. A run
that is killed while it saves goes on from the epoch before.
"""

import argparse
import os
import shutil
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from digits import Rows, accuracy, load_splits
from torch import Tensor

from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps

VIEWS = ("pix", "fou")


def start(path: Path | None) -> tuple[Rows, Rows, torch.Generator]:
    """Seed everything: the training rows, the validation rows, and the generator that shuffles.

    `path` is where checkpoints will go, so that one that cannot be written ends the run here.
    """
    if path is not None:
        check_writable(path)
    torch.set_num_threads(1)  # fast enough, and the same numbers on any number of cores
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    return training, validation, torch.Generator().manual_seed(0)


def widths(rows: Rows) -> dict[str, int]:
    """The number of columns of each view."""
    return {view: values.shape[1] for view, values in rows.views.items()}


@torch.no_grad()
def evaluate(predict: Callable[[Any], Tensor], rows: Rows) -> dict[str, float]:
    """Accuracy, and how often the labels of a misaligned row are the two that score highest."""
    plan = plan_swaps(rows.labels, len(rows.views), generator=torch.Generator().manual_seed(0))
    mixed = {
        view: gather_rows(values, plan.source[:, m])
        for m, (view, values) in enumerate(rows.views.items())
    }
    labels = rows.labels[plan.source]
    return {
        "accuracy": accuracy(predict(rows.views), rows.labels),
        "misaligned": float(misaligned_accuracy(predict(mixed), labels, valid=plan.valid)),
    }


def report(epoch: int, scores: Mapping[str, float], alpha: Tensor) -> None:
    """Print a line."""
    words = [f"{name} {100 * score:.1f} %" for name, score in scores.items()]
    weights = [round(a, 2) for a in alpha.tolist()]
    print(f"epoch {epoch}: {', '.join(words)}, alpha {weights}", flush=True)


def save(
    path: Path | None,
    parts: Mapping[str, Any],
    order: torch.Generator,
    epoch: int,
    *,
    main: bool = True,
) -> None:
    """Keep all that the next epoch depends on. All ranks gather it, the main one writes."""
    if path is None:
        return
    state = {name: part.state_dict() for name, part in parts.items()}
    if main:
        with replacing(path) as partial:
            torch.save({**state, "order": order.get_state(), "epoch": epoch + 1}, partial)


def load(path: Path | None, parts: Mapping[str, Any], order: torch.Generator) -> int:
    """Restore what was kept, if there is a checkpoint; the epoch to go on with."""
    if path is None or not path.exists():
        return 0
    state = read(path, *parts, "order", "epoch")
    with reading(path):
        for name, part in parts.items():
            part.load_state_dict(state[name])
        order.set_state(state["order"])
        return int(state["epoch"])


@contextmanager
def replacing(path: Path, *, main: bool = True) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; at the end it takes the place of `path`.

    Up to then `path` is as it was. Where several processes write to one folder, `main` is one of
    them, and all have finished when its block ends.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        if main:
            flush(partial)
            if path.is_dir():  # os.replace does not replace a folder that has something in it
                shutil.rmtree(path)
            os.replace(partial, path)
            sync(path.parent)  # alone: what others write beside it comes and goes
    except (OSError, RuntimeError) as error:  # PyTorch says RuntimeError when the disk is full
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        sys.exit(f"{path} cannot be written, what it held before is kept: {reason(error)}")


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all its files, is on the disk."""
    files = path.rglob("*") if path.is_dir() else ()
    for entry in (*files, path):
        sync(entry)


def sync(path: Path) -> None:
    """Wait until a file, or which names a folder has, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, *needed: str) -> dict[str, Any]:
    """The checkpoint in a file, once it is certain that the file is whole and has all of it."""
    with reading(path):
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {broken} is wrong")
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if missing := [name for name in needed if name not in state]:
            raise ValueError(f"it has no {', '.join(missing)}")
        return state


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a checkpoint is read ends the run with one line."""
    try:
        yield
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        sys.exit(f"{path} cannot be read: {reason(error)}; choose another --checkpoint")
    except Exception as error:  # a damaged file can raise nearly anything
        sys.exit(
            f"{path} is damaged, or of another script or version ({reason(error)}): delete it and "
            "start again"
        )


def reason(error: Exception) -> str:
    """What happened, in a few words of one line."""
    words = error.strerror if isinstance(error, OSError) else str(error)
    return textwrap.shorten(words or type(error).__name__, width=120, placeholder=" …")


def check_writable(path: Path) -> None:
    """End the run now, not after the training, where its outcome cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        sys.exit(f"{path} cannot be written: {reason(error)}; choose another place")


def parse(description: str | None) -> argparse.Namespace:
    """The options of the command line: epochs, checkpoint."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=positive, default=4)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="where the run is kept after every epoch, and from where it goes on",
    )
    return parser.parse_args()


def positive(word: str) -> int:
    """A whole number of at least 1."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return int(word)
