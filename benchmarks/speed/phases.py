"""Where a drop-in step goes: operators, calls of Python functions, and time of each part."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.speed.operators import OperatorCount
from benchmarks.speed.step import NAMES, Heads

Part = tuple[str, Callable[[], object]]

ROWS, WIDTH, CLASSES = 64, 512, 6


def measure_phases(*, rounds: int = 300) -> dict[str, dict[str, float]]:
    """What each part of a drop-in step takes, at 64 rows of 512 features and 6 classes.

    Operators are those of the meta device, as a GPU would get them; calls of Python functions, of
    PyTorch's, too, and the median time are those of the CPU.
    """
    found: dict[str, dict[str, float]] = {}
    on_meta = Heads.build(ROWS, WIDTH, CLASSES, torch.device("meta"))
    for _ in range(2):  # gradients exist, and are added to, from the second step on
        for name, part in parts(on_meta):
            with OperatorCount() as count:
                part()
            found[name] = {"operators": count.operators}
    heads = Heads.build(ROWS, WIDTH, CLASSES, torch.device("cpu"))
    for _ in range(2):
        for name, part in parts(heads):
            found[name]["calls"] = count_calls(part)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, part in parts(heads):
            begin = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - begin)
    for name, seconds in times.items():
        found[name]["microseconds"] = float(np.median(seconds) * 1e6)
    return found


def parts(heads: Heads) -> Iterator[Part]:
    """The parts of a step in turn; each has to run before the next is asked for."""
    have: dict[str, Any] = {}

    def remember(name: str, make: Callable[[], Any]) -> Part:
        def run() -> None:
            have[name] = make()

        return name, run

    features, augment = heads.features, heads.augment
    yield remember("unimodal heads", lambda: heads.classify(features))
    unimodal = have["unimodal heads"]
    yield remember("draw and swap", lambda: augment.draw(features, heads.labels))
    drawn = have["draw and swap"]
    yield remember("label", lambda: drawn.label(unimodal_logits=unimodal))
    out = have["label"]
    yield remember("fusion", lambda: heads.fusion(torch.cat([out[n] for n in NAMES], dim=1)))
    logits = have["fusion"]
    yield remember("loss and α", lambda: heads.criterion(logits, out, unimodal))
    loss = have["loss and α"]
    yield remember("backward", lambda: loss.backward())


def count_calls(call: Callable[[], object]) -> int:
    """Calls of Python functions while ``call`` runs, itself left out."""
    calls = -1

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls
