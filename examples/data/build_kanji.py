"""Build or check ``kanji.npz``: characters by picture, by English meanings and by reading.

Run without arguments to fetch what it is made of and write ``kanji.npz`` next to this script; run
with ``--check`` to compare an existing file with the recorded checksum, offline. It has the rows of
the task `kanji` of the comparison, whose code it uses: building needs ``pip install '.[bench]'``
and apt-get. See ``README.md`` in this folder for the origin and the licences of the data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from build_digits import pack, sha256

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path(__file__).resolve().with_name("kanji.npz")
OUTPUT_SHA256 = "a1bfa66b5c33c19789a374a58ef4dfee993d3ad8c6a2b2e6f2f3c78b6db978a3"

N_ROWS = 4000
LEVELS = 16  # of grey


def build() -> None:
    """Write ``kanji.npz``, or end with a line if it would differ from the recorded checksum."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.common.errors import DataError
    from benchmarks.compare import data, tasks

    try:
        dataset = tasks.draw_rows(data.fetch("kanji"), N_ROWS)
    except DataError as error:
        sys.exit(f"error: {error}")
    grey = dataset.inputs["image"][:, 0].astype(np.uint16)
    radicals = [ord(radical) - 0x2F00 + 1 for radical in dataset.classes]
    # The byte order is spelled out so that the file is the same on every machine.
    packed = pack(
        {
            "image": ((grey * (LEVELS - 1) + 127) // 255).astype("|u1"),
            "meanings": dataset.inputs["meanings"].astype("<i2"),
            "readings": dataset.inputs["readings"][:, 0].astype("<i2"),
            "label": dataset.labels.astype("|u1"),
            "radical": np.array(radicals, "|u1"),
        }
    )
    found = sha256(packed)
    if found != OUTPUT_SHA256:
        sys.exit(
            f"error: {OUTPUT.name} not written: expected SHA-256 {OUTPUT_SHA256}, got {found}; "
            "if you changed the recipe on purpose, update OUTPUT_SHA256 in this script"
        )
    partial = OUTPUT.with_name(f"{OUTPUT.name}.partial")
    partial.write_bytes(packed)
    partial.replace(OUTPUT)  # at once: the file is never half there


def check() -> None:
    """Compare ``kanji.npz`` with the recorded checksum, or end with a line."""
    rebuild = "run this script without --check to build it again"
    try:
        found = sha256(OUTPUT.read_bytes())
    except OSError as error:
        sys.exit(f"error: cannot read {OUTPUT.name} ({error.strerror}); {rebuild}")
    if found != OUTPUT_SHA256:
        sys.exit(f"error: {OUTPUT.name}: expected SHA-256 {OUTPUT_SHA256}, got {found}; {rebuild}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build or check kanji.npz.")
    parser.add_argument(
        "--check", action="store_true", help="only verify the checksum of the existing file"
    )
    only_check = parser.parse_args().check
    (check if only_check else build)()
    print(f"{OUTPUT.name} {'verified' if only_check else 'written'}: SHA-256 {OUTPUT_SHA256}")


if __name__ == "__main__":
    main()
