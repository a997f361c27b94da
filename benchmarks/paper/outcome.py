"""One file that says everything about what `reproduce` did with a data set, to send to others.

It names no folder of this machine.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common.records import read_json, write_json
from benchmarks.paper.datasets.base import Found, PaperData
from benchmarks.paper.datasets.circulating import compare_copies
from benchmarks.paper.kept import read_runs
from benchmarks.paper.settings import ProtocolName

FILE = "report.json"


def write_outcome(data: PaperData, found: Found, protocol: ProtocolName, folder: Path) -> Path:
    """Put the counts of the data, the splits and all finished runs in a folder into one file.

    Args:
        data: Which data set.
        found: What the copy holds.
        protocol: Of the runs.
        folder: Of the splits and runs; the file goes there, too.
    """
    runs = list(read_runs(folder / "runs", data, protocol))
    seeds = sorted({run["seed"] for run in runs})
    file = folder / FILE
    write_json(
        file,
        {
            "data": {
                "name": data.name,
                "clips": len(found.clips),
                "clips of a class": _by_class(found),
                "cannot be used": dict(Counter(problem.what for problem in found.problems)),
                "copies": compare_copies(data, found),
            },
            "protocol": protocol,
            "splits": {seed: _digest(folder / "splits" / f"seed={seed}.json") for seed in seeds},
            "runs": [_without_folders(run) for run in runs],
        },
    )
    return file


def _by_class(found: Found) -> dict[str, int]:
    counts = sorted(Counter(clip.label for clip in found.clips).items())
    names = dict(enumerate(found.classes))
    return {names.get(label, str(label)): count for label, count in counts}


def _digest(file: Path) -> str | None:
    """A digest of the names of the clips in each part: the same split of the same lists has it."""
    if not file.exists():  # of runs that were brought here without their splits
        return None
    return hashlib.sha256(json.dumps(read_json(file), sort_keys=True).encode()).hexdigest()[:16]


def _without_folders(run: dict[str, Any]) -> dict[str, Any]:
    """The run; of an encoder in a folder of this machine, the last name alone."""
    encoders = {key: run.get(key) for key in ("text_encoder", "image_encoder")}
    shown = {
        key: name if name is None or not Path(name).exists() else Path(name).name
        for key, name in encoders.items()
    }
    return run | shown
