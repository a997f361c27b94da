"""Interleaved timing: ratios between variants that ran a moment apart, not microseconds alone."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Variants of one thing at one size; the ratios are to ``reference``."""

    name: str
    size: dict[str, int | str]
    variants: Mapping[str, Call]
    reference: str
    memory: Sequence[str] = ()  # the variants whose peak is measured, too


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Spread":
        """The spread of some numbers."""
        low, median, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Result:
    """What a case gave."""

    name: str
    size: dict[str, int | str]
    reference: str
    microseconds: dict[str, Spread]
    ratios: dict[str, Spread]  # of each variant to the reference, round by round
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """The reverse of `to_json`."""
        spreads = {
            key: {name: Spread(**spread) for name, spread in data[key].items()}
            for key in ("microseconds", "ratios")
        }
        return cls(**{**data, **spreads})


def measure(case: Case, device: torch.device, *, rounds: int, seconds: float) -> Result:
    """Time the variants of a case in turn, ``rounds`` times.

    Args:
        case: What to run.
        device: Its device; on CUDA, events time the stream.
        rounds: Each gives one ratio a variant.
        seconds: What a variant may take in all; a slow one has one call a round at least.
    """
    for call in case.variants.values():
        call()  # warm: allocations, kernels, compilation
    repeats = {}
    for name, call in case.variants.items():
        once = min(_time(call, 1, device) for _ in range(2))
        repeats[name] = max(1, min(2000, int(seconds / rounds / max(once, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in case.variants}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in case.variants.items():
                times[name].append(_time(call, repeats[name], device) / repeats[name])
    finally:
        gc.enable()
    table = {name: np.array(values) * 1e6 for name, values in times.items()}
    reference = table[case.reference]
    return Result(
        name=case.name,
        size=case.size,
        reference=case.reference,
        microseconds={name: Spread.of(values) for name, values in table.items()},
        ratios={name: Spread.of(values / reference) for name, values in table.items()},
        peak_bytes={name: peak_bytes(case.variants[name], device) for name in case.memory},
    )


def _time(call: Call, repeats: int, device: torch.device) -> float:
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - begin


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most memory that a call holds beyond what there was before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    for change in _allocations(profiler):
        now += change
        peak = max(peak, now)
    return peak


def _allocations(profiler: Any) -> Iterator[int]:
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            yield event.nbytes()
