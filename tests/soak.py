"""Random batches of every swap, provider, dtype and library against the oracle, for hours.

    python -m tests.soak --batches 200000 [--seed 0] [--state FILE]

Batch k of a seed is the same in every run. What is done is kept in FILE (runs/soak-SEED.json by
default): a run that was stopped goes on where it was, and a mismatch in it is not forgotten. Exit
status 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.helpers.soak_batch import draw_batch, draw_settings
from tests.helpers.soak_check import mismatches

COUNTED = (
    "swap",
    "pairing",
    "hardness",
    "provider",
    "way",
    "rule",
    "library",
    "dtype",
    "n_modalities",
)
SAVED_EVERY = 500
TOO_MANY = 20


@dataclass
class Progress:
    """How far a soak has come."""

    seed: int
    done: int = 0
    found: list[str] = field(default_factory=list)

    @classmethod
    def of_file(cls, path: Path, seed: int) -> Progress:
        """What the file says; from the start, where there is none."""
        if not path.exists():
            return cls(seed)
        progress = cls(**json.loads(path.read_text()))
        if progress.seed != seed:
            raise SystemExit(
                f"{path} is of the seed {progress.seed}, not {seed}; name another file"
            )
        return progress

    def save(self, path: Path) -> None:
        """Replace the file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps(self.__dict__, indent=1))
        beside.replace(path)


def check(seed: int, number: int) -> list[str]:
    """The mismatches of one batch, each a line; an exception is one, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(mismatches(draw_batch(seed, number)))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        found = [f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}"]
    settings = draw_settings(seed, number)[0]
    return [f"batch {number}: {line} [{settings}]" for line in found]


def soak(progress: Progress, batches: int, path: Path) -> Progress:
    """Go on to ``batches``; stop early where nearly everything is wrong."""
    start, first = time.monotonic(), progress.done
    for number in range(progress.done, batches):
        found = check(progress.seed, number)
        for line in found:
            _say(f"MISMATCH {line}")
        progress.found += found
        progress.done = number + 1
        if len(progress.found) >= TOO_MANY:
            break
        if progress.done % SAVED_EVERY == 0 or found:
            progress.save(path)
        if progress.done % (10 * SAVED_EVERY) == 0:
            each = (time.monotonic() - start) / (progress.done - first)
            left = each * (batches - progress.done) / 60
            _say(
                f"{progress.done} of {batches} batches, {len(progress.found)} mismatches, "
                f"{1000 * each:.1f} ms each, {left:.0f} min left"
            )
    progress.save(path)
    return progress


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _covered(seed: int, done: int) -> str:
    """How many batches there were of each kind."""
    counts: dict[str, Counter[Any]] = {name: Counter() for name in COUNTED}
    for number in range(done):
        settings = draw_settings(seed, number)[0]
        for name in COUNTED:
            counts[name][getattr(settings, name)] += 1
    return "\n".join(
        f"  {name}: " + ", ".join(f"{value} {count}" for value, count in counter.most_common())
        for name, counter in counts.items()
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--batches", type=int, required=True, help="the number to get to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="file that keeps what is done")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.state or Path("runs") / f"soak-{options.seed}.json"
    progress = soak(Progress.of_file(path, options.seed), options.batches, path)
    _say(f"{progress.done} batches, seed {progress.seed}, {len(progress.found)} mismatches")
    _say(_covered(progress.seed, min(progress.done, 20_000)))
    return 1 if progress.found else 0


if __name__ == "__main__":
    sys.exit(main())
