"""What an eager step stands on: its operators alone, and pages that the allocator keeps.

An eager step can hardly be faster than its operators, called with their arguments and with nothing
between them. And on Linux a large block that is freed may go back to the system, so that the next
step pays for fresh pages: that is a matter of the allocator, which a user may choose.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.speed.measure import Call, Case
from benchmarks.speed.operators import OperatorCount
from benchmarks.speed.pairing import draw_labels
from benchmarks.speed.step import Heads
from midas_aug.functional import sample_partners

ALONE = ", operators alone"
KEPT = ", pages kept"
HEADS, PAIRING = "heads" + ALONE, "pairing of 64 rows"
HEADS_KEPT = "heads" + KEPT
COMPARED = ("public code", "ours", "ours, factored")
CPU = torch.device("cpu")  # a GPU's host runs ahead of its operators


def operators_alone(call: Call) -> Call:
    """The operators that a call makes, backward pass included, one after another.

    Views are left out. Each operator is called from Python, which those of a backward pass are not.
    """
    recorded = _recorded(call).calls

    @torch.no_grad()
    def replay() -> None:
        for operator, args, kwargs in recorded:
            operator(*args, **kwargs)

    return replay


def _recorded(call: Call) -> OperatorCount:
    call()  # gradients exist, and are added to, from the second time on
    count = OperatorCount()
    with count:
        call()
    return count


def cases(small: bool) -> Iterator[Case]:
    """Heads and the pairing of 64 rows."""
    for size, variants in _heads(small):
        both = {f"{name}{ALONE}": operators_alone(call) for name, call in variants.items()}
        yield Case(HEADS, size, {**variants, **both}, reference="public code")
    labels = draw_labels(64, 10, "uniform", CPU)

    def ours() -> object:
        return sample_partners(labels, num_classes=10)

    yield Case(
        PAIRING,
        {"N": 64, "C": 10, "operators": _recorded(ours).operators},
        {
            "torch.sort": lambda: torch.sort(labels),
            "ours": ours,
            "one addition": lambda: labels + 1,
        },
        reference="torch.sort",
    )


def cases_with_pages_kept(small: bool) -> Iterator[Case]:
    """Heads again; to be run inside `pages_kept`."""
    for size, variants in _heads(small):
        yield Case(HEADS_KEPT, size, variants, reference="public code")


def _heads(small: bool) -> Iterator[tuple[dict[str, int | str], dict[str, Call]]]:
    for rows in (8,) if small else (64, 256, 1024):
        for width, classes in ((16, 4),) if small else ((512, 6), (512, 101)):
            variants = Heads.build(rows, width, classes, CPU).variants()
            size: dict[str, int | str] = {"N": rows, "D": width, "C": classes}
            yield size, {name: variants[name] for name in COMPARED}


# Of glibc's malloc.h, with the values that stand there as defaults.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEPING = {_TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20, _MMAP_MAX: 0}
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 0, _MMAP_MAX: 65_536}


@contextmanager
def pages_kept() -> Iterator[bool]:
    """Within it glibc gives no memory back to the system; yields whether it can be told so."""
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        yield False
        return
    try:
        yield all(tell(option, value) for option, value in _KEEPING.items())
    finally:
        for option, value in _DEFAULTS.items():
            tell(option, value)
