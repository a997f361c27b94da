"""What the library promises about speed, each beside what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.measure import Result


@dataclass(frozen=True)
class Goal:
    """A ratio of two variants that is to stay below a limit, at the worst of some sizes."""

    text: str
    limit: float
    case: str
    variant: str
    over: str
    where: Callable[[dict[str, Any]], bool] = lambda size: True
    of: str = "time"  # or "memory"; "bytes a row" takes no second variant

    def measured(self, results: Sequence[Result]) -> float | None:
        """The worst ratio, or None where nothing was measured."""
        values = [
            self._value(result)
            for result in results
            if result.name == self.case
            and self.where(result.size)
            and self.variant in (result.microseconds if self.of == "time" else result.peak_bytes)
        ]
        return max(values, default=None)

    def _value(self, result: Result) -> float:
        if self.of == "bytes a row":
            return result.peak_bytes[self.variant] / int(result.size["N"])
        if self.of == "memory":
            return result.peak_bytes[self.variant] / result.peak_bytes[self.over]
        if self.over == result.reference:
            return result.ratios[self.variant].median
        return result.microseconds[self.variant].median / result.microseconds[self.over].median


CPU_GOALS = (
    Goal(
        "pairing, C known, N ≥ 65,536: × `torch.sort`",
        2.5,
        "pairing",
        "ours",
        "torch.sort",
        lambda size: size["N"] >= 65_536,
    ),
    Goal(
        "the same, for it sorts int16 keys",
        1.6,
        "pairing",
        "ours",
        "torch.sort",
        lambda size: size["N"] >= 65_536,
    ),
    Goal(
        "pairing, N = 64: × `torch.sort`",
        8,
        "pairing",
        "ours",
        "torch.sort",
        lambda size: size["N"] == 64,
    ),
    Goal(
        "pairing, N = 64: × a Python loop",
        0.06,
        "pairing",
        "ours",
        "loop",
        lambda size: size["N"] == 64,
    ),
    Goal("pairing: a 95 % class × uniform", 1.3, "pairing by skew", "95 %", "uniform"),
    Goal(
        "pairing: bytes a row, N ≥ 65,536",
        96,
        "pairing",
        "ours",
        "",
        lambda size: size["N"] >= 65_536,
        of="bytes a row",
    ),
    Goal("swap of features: × `clone` of the same bytes", 1 / 0.85, "swap", "ours", "clone"),
    Goal(
        "swap with backward: × `repeat` with backward", 1.6, "swap, with backward", "ours", "clone"
    ),
    Goal("loss: × cross-entropy of hard labels", 1.15, "loss", "ours", "hard labels"),
    Goal("loss, peak memory: × hard labels", 1.05, "loss", "ours", "hard labels", of="memory"),
    Goal(
        "loss, C ≥ 1000: × dense soft targets",
        0.75,
        "loss",
        "ours",
        "dense targets",
        lambda size: size["C"] >= 1000,
    ),
    Goal("heads: × the public code's structure", 0.95, "heads", "ours", "public code"),
    Goal(
        "heads, factored, N = 64: × the public code's",
        0.7,
        "heads",
        "ours, factored",
        "public code",
        lambda size: size["N"] == 64,
    ),
    Goal(
        "heads, factored, N ≥ 256: × the public code's",
        0.5,
        "heads",
        "ours, factored",
        "public code",
        lambda size: size["N"] >= 256,
    ),
    Goal(
        "whole step, small ResNets, N = 64: × joint + unimodal",
        1.03,
        "step, ResNet",
        "ours",
        "joint + unimodal",
    ),
    Goal(
        "whole step, MLPs, N = 64: × joint + unimodal",
        1.2,
        "step, MLP",
        "ours",
        "joint + unimodal",
        lambda size: size["N"] == 64,
    ),
    Goal("augment and loss: compiled × eager", 0.8, "augment and loss", "compiled", "eager"),
)

MAX_OPERATORS = 115


@dataclass(frozen=True)
class TimeGoal:
    """A time on one H100 that is to stay below a limit, in microseconds."""

    text: str
    limit: float
    check: str  # its name among the checks of a CUDA run
    unit: str = "µs"


H100_GOALS = (
    TimeGoal("a training step under sync debug mode “error”: failures", 0, "syncs", ""),
    TimeGoal(
        "replays of a captured step with equal draws, or an α that rests", 0, "stale replays", ""
    ),
    TimeGoal("largest error against the CPU in float64", 1e-4, "error", ""),
    TimeGoal(
        "extra time over joint + unimodal, N = 64, D = 512, eager: × the public code's",
        0.6,
        "extra, eager",
        "",
    ),
    TimeGoal("the same extra as a replayed graph", 100, "extra, graph"),
    TimeGoal("swap of 2 × 8192 × 512 to 3N rows (bound 40)", 50, "swap, features"),
    TimeGoal("swap of one 64 × 3 × 224 × 224 modality (bound 23)", 30, "swap, images"),
    TimeGoal("loss, 4096 × 20,000: × hard labels", 1.15, "loss", ""),
    TimeGoal("pairing, N = 1024, eager", 60, "pairing, eager"),
    TimeGoal("pairing, N = 1024, graph", 40, "pairing, graph"),
    TimeGoal("pairing, N = 1,000,000", 400, "pairing, million"),
)
