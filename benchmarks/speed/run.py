"""Run all cases on a device and keep what they gave as one JSON file."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.common.records import versions, write_json
from benchmarks.speed import beyond, cuda, loader, losses, pairing, step, swap
from benchmarks.speed.measure import Case, measure
from benchmarks.speed.operators import count_operators
from benchmarks.speed.phases import measure_phases
from benchmarks.speed.report import write_speed_report


def run_speed(
    device: torch.device, out: Path, console: Console, *, small: bool = False
) -> list[Path]:
    """Measure, write ``cpu.json`` or ``cuda.json``, and the page.

    Two threads beside any busy process make every parallel region wait for the scheduler, so all
    cases run with one.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory, silently
    rounds, seconds = (2, 0.01) if small else (15, 0.4)
    record: dict[str, Any] = {
        "device": device_name(device),
        "threads": 1,
        "rounds": rounds,
        "versions": versions(),
        "operators": count_operators(),
        "results": [],
    }
    file = out / f"{device.type}.json"

    def keep() -> None:
        write_json(file, record)

    if device.type == "cpu":
        record["phases"] = measure_phases(rounds=20 if small else 300)
    elif device.type == "cuda":  # first, and kept: it is what a GPU is needed for
        record["checks"] = cuda.run_checks(device, rounds=rounds, seconds=seconds, small=small)
        keep()
    todo = list(_cases(device, small))
    with Progress(console=console) as bar:
        task = bar.add_task("speed", total=len(todo))
        for case in todo:
            bar.update(task, description=f"{case.name} {case.size}")
            result = measure(case, device, rounds=rounds, seconds=seconds)
            record["results"].append(result.to_json())
            bar.advance(task)
    keep()
    return [file, *write_speed_report(out)]


def _cases(device: torch.device, small: bool) -> Iterator[Case]:
    for module in (pairing, swap, losses, step, beyond, loader):
        yield from module.cases(device, small)


def device_name(device: torch.device) -> str:
    """What the numbers were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
