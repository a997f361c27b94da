"""Run all cases on a device and keep what they gave as one JSON file."""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.common.records import versions, write_json
from benchmarks.speed import beyond, cuda, floor, loader, losses, pairing, step, swap
from benchmarks.speed.measure import Case, measure
from benchmarks.speed.operators import count_operators
from benchmarks.speed.phases import measure_phases
from benchmarks.speed.report import write_speed_report


def run_speed(
    device: torch.device, out: Path, console: Console, *, small: bool = False
) -> list[Path]:
    """Measure, write ``cpu.json`` and ``floor.json``, or ``cuda.json``, and the page."""
    record = _start(device, small)
    record["operators"] = count_operators()
    rounds, seconds = _effort(small)
    file = out / f"{device.type}.json"
    if device.type == "cpu":
        record["phases"] = measure_phases(rounds=20 if small else 300)
    elif device.type == "cuda":  # first, and kept: it is what a GPU is needed for
        record["checks"] = cuda.run_checks(device, rounds=rounds, seconds=seconds, small=small)
        write_json(file, record)
    record["results"] += _measured(list(_cases(device, small)), device, console, small)
    write_json(file, record)
    if device.type == "cpu":
        return [file, *run_floor(out, console, small=small)]
    return [file, *write_speed_report(out)]


def run_floor(out: Path, console: Console, *, small: bool = False) -> list[Path]:
    """Measure what the missed goals of the CPU stand on, write ``floor.json`` and the page."""
    record = _start(floor.CPU, small)
    record["results"] += _measured(list(floor.cases(small)), floor.CPU, console, small)
    with floor.pages_kept() as kept:
        again = list(floor.cases_with_pages_kept(small)) if kept else []
        record["results"] += _measured(again, floor.CPU, console, small)
    file = out / "floor.json"
    write_json(file, record)
    return [file, *write_speed_report(out)]


def _start(device: torch.device, small: bool) -> dict[str, Any]:
    """A record without results, which says where and with what it is measured.

    Two threads beside any busy process make every parallel region wait for the scheduler, so all
    cases run with one.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory, silently
    return {
        "device": device_name(device),
        "threads": 1,
        "rounds": _effort(small)[0],
        "versions": versions(),
        "results": [],
    }


def _effort(small: bool) -> tuple[int, float]:
    """Rounds of a case, and seconds of a variant in all of them."""
    return (2, 0.01) if small else (15, 0.4)


def _measured(
    todo: Sequence[Case], device: torch.device, console: Console, small: bool
) -> list[dict[str, Any]]:
    """The results of cases, with the time left."""
    rounds, seconds = _effort(small)
    results = []
    with Progress(console=console) as bar:
        task = bar.add_task("speed", total=len(todo))
        for case in todo:
            bar.update(task, description=f"{case.name} {case.size}")
            results.append(measure(case, device, rounds=rounds, seconds=seconds).to_json())
            bar.advance(task)
    return results


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
