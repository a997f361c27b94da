"""Does the diagnosis of a joint model foretell what another training would gain over it?

    python -m benchmarks.compare.foretell               # the page and its figure, from what is kept
    python -m benchmarks.compare.foretell --out DIR

They go to runs/compare/diagnosis, or to DIR. See benchmarks/results/diagnosis/PROTOCOL.md; the
diagnoses are those of `benchmarks.compare.advice`, the gains those of the published suites.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.common import palette
from benchmarks.common.errors import DataError
from benchmarks.common.markdown import table
from benchmarks.common.records import write_figure, write_text
from benchmarks.compare.advice import OUT, Diagnosed, gain_over_joint, load, published_runs
from benchmarks.compare.report.statistics import LEVEL

SCORE = "fitted_fusion_gain"
METHODS = {"midas": "MIDAS", "skill": "skill"}
# The tasks that the score was chosen on, and those that it was then asked for.
CHOSEN_ON = (
    "brca",
    "digits-2",
    "digits-3",
    "digits-noise",
    "kanji",
    "kanji-words",
    "kanji3",
    "openmoji",
    "watch",
)
ASKED = ("kanji3-words", "kanji-still", "stamps-image-text", "stamps-image-speech", "stamps-3")
PAGE, FIGURE = "foretell.md", "foretell.png"


class Point(NamedTuple):
    """A task: the score of its joint models, and what each method gained, in points."""

    score: float
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """A straight line by least squares, and how far a new point may be from it.

    Attributes:
        slope: Points of gain a point of the score.
        offset: The gain at a score of 0.
        spread: Standard deviation of the points around it, with n − 2 degrees of freedom.
        scores: Those that it was fitted to.
    """

    slope: float
    offset: float
    spread: float
    scores: tuple[float, ...]

    @classmethod
    def through(cls, scores: Sequence[float], gains: Sequence[float]) -> "Line":
        """The line of at least three points."""
        slope, offset = np.polyfit(scores, gains, 1)
        rest = np.subtract(gains, slope * np.asarray(scores) + offset)
        spread = float(np.sqrt((rest**2).sum() / (len(scores) - 2)))
        return cls(float(slope), float(offset), spread, tuple(scores))

    def foretell(self, score: float) -> tuple[float, float]:
        """The gain, and half the width of its 95 % prediction interval."""
        known = np.asarray(self.scores)
        away = (score - known.mean()) ** 2 / ((known - known.mean()) ** 2).sum()
        width = stats.t.ppf((1 + LEVEL) / 2, len(known) - 2) * self.spread
        margin = width * np.sqrt(1 + 1 / len(known) + away)
        return self.slope * score + self.offset, float(margin)


class Told(NamedTuple):
    """What came of it on one task, in points."""

    task: str
    score: float
    foretold: float
    margin: float
    gained: float
    ignorant: float  # the mean gain of the tasks that the line was fitted to

    @property
    def within(self) -> bool:
        """Whether the gain is in the prediction interval."""
        return abs(self.gained - self.foretold) <= self.margin


def published_gains() -> dict[tuple[str, str], float]:
    """The mean gain in test accuracy over joint training, by task and method, over all suites."""
    runs, found = published_runs(), dict[tuple[str, str], list[float]]()
    for task, entry, seed in runs:
        gain = gain_over_joint(runs, task, entry, seed) if entry in METHODS else None
        if gain is not None:
            found.setdefault((task, entry), []).append(100 * gain)
    return {key: mean(values) for key, values in found.items()}


def points(
    records: Iterable[Diagnosed], gains: Mapping[tuple[str, str], float]
) -> dict[str, Point]:
    """A point for each task that was diagnosed, the mean over its seeds."""
    scores: dict[str, list[float]] = {}
    for record in records:
        scores.setdefault(record["task"], []).append(100 * record["scores"][SCORE][0])
    return {
        task: Point(mean(values), {m: gains[task, m] for m in METHODS if (task, m) in gains})
        for task, values in scores.items()
    }


def line_of(known: Mapping[str, Point], tasks: Iterable[str], method: str) -> Line:
    """The line through these tasks, for a method."""
    chosen = [known[task] for task in tasks]
    return Line.through([p.score for p in chosen], [p.gains[method] for p in chosen])


def told(known: Mapping[str, Point], method: str) -> list[Told]:
    """What the line through `CHOSEN_ON` says of each task of `ASKED`."""
    line = line_of(known, CHOSEN_ON, method)
    ignorant = mean(known[task].gains[method] for task in CHOSEN_ON)
    return [
        Told(
            task,
            known[task].score,
            *line.foretell(known[task].score),
            known[task].gains[method],
            ignorant,
        )
        for task in ASKED
    ]


def errors(found: Sequence[Told]) -> tuple[float, float]:
    """Root mean square errors, of the line and of the mean gain."""
    return (
        float(np.sqrt(np.mean([(one.gained - one.foretold) ** 2 for one in found]))),
        float(np.sqrt(np.mean([(one.gained - one.ignorant) ** 2 for one in found]))),
    )


def verdict(found: Sequence[Told]) -> str:
    """What the protocol asks, answered."""
    ours, theirs = errors(found)
    within = sum(one.within for one in found)
    can = ours < theirs and within >= len(found) - 1
    return (
        f"root mean square error {ours:.1f} points, of the mean gain {theirs:.1f}; {within} of "
        f"{len(found)} gains within the interval: it {'can' if can else 'cannot'} be foretold, as "
        "the protocol defines it."
    )


def page(known: Mapping[str, Point]) -> str:
    """The tables, and the answers."""
    parts = [
        "# Can a diagnosis foretell the gain?",
        "Question, score and tasks: [the protocol](PROTOCOL.md). Written by `python -m "
        "benchmarks.compare.foretell --out benchmarks/results/diagnosis`. The score is "
        f"`{SCORE}` of jointly trained models on validation rows: accuracy of late fusion of "
        "probes, with fitted weights, less that of the model. Gains are means over seeds, of "
        "accuracy on test rows over joint training, as the suites have published them. All in "
        "points.",
        f"![gain of each method against {SCORE}, a point a task, with the line through all tasks "
        f"and its prediction interval]({FIGURE})",
    ]
    for method, title in METHODS.items():
        found = told(known, method)
        rows = [
            [
                one.task,
                f"{one.score:+.1f}",
                f"{one.foretold:+.1f} ± {one.margin:.1f}",
                f"{one.gained:+.1f}{'' if one.within else ' (outside)'}",
            ]
            for one in found
        ]
        whole = line_of(known, (*CHOSEN_ON, *ASKED), method)
        parts += [
            f"## {title}",
            table(["task that was asked", "score", "gain foretold", "gain"], rows),
            f"{title}: {verdict(found)}",
            f"The line through all {len(whole.scores)} tasks: gain = {whole.slope:.2f} × score "
            f"{whole.offset:+.1f}, and tasks are {whole.spread:.1f} points around it (standard "
            "deviation).",
        ]
    rows = [
        [task, f"{point.score:+.1f}", *(f"{point.gains[m]:+.1f}" for m in METHODS)]
        for task, point in sorted(known.items(), key=lambda item: -item[1].score)
    ]
    parts += ["## Every task", table(["task", "score", *METHODS.values()], rows)]
    return "\n\n".join(parts) + "\n"


def draw(known: Mapping[str, Point], path: Path) -> None:
    """A panel a method: tasks, line and prediction interval."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(METHODS), sharey=True)
    for axes, method in zip(panels, METHODS, strict=True):
        _panel(axes, known, method)
    panels[0].set_ylabel("gain over joint training, points")
    write_figure(path, figure, dpi=110)


def _panel(axes: Axes, known: Mapping[str, Point], method: str) -> None:
    line = line_of(known, known, method)
    lowest, highest = min(line.scores) - 2, max(line.scores) + 2
    across = np.linspace(lowest, highest, 60)
    middle, margin = np.transpose([line.foretell(score) for score in across])
    axes.fill_between(
        across,
        middle - margin,
        middle + margin,
        color=palette.GRID,
        label="95 % prediction interval",
    )
    axes.plot(across, middle, color=palette.GREY, label="line through all tasks")
    for tasks, marker, words in (
        (CHOSEN_ON, "o", "tasks that the score was chosen on"),
        (ASKED, "D", "tasks that were asked"),
    ):
        shown = [known[task] for task in tasks]
        axes.scatter(
            [p.score for p in shown],
            [p.gains[method] for p in shown],
            s=26,
            c=palette.BLUE if marker == "o" else palette.RED,
            marker=marker,
            label=words,
            zorder=3,
        )
    for task, point in known.items():
        gain = point.gains[method]
        if max(abs(point.score), abs(gain)) > 3:  # the others lie on top of each other
            place, side = ((-6, 4), "right") if task in ASKED else ((6, -8), "left")
            axes.annotate(
                task, (point.score, gain), place, textcoords="offset points", fontsize=7, ha=side
            )
    axes.axhline(0, color=palette.INK, linewidth=0.6)
    axes.set_title(METHODS[method], fontsize=10)
    axes.set_xlabel("fitted late fusion of probes, points above the joint model", fontsize=8)
    axes.legend(fontsize=7, loc="upper left", frameon=False)


def main(words: Sequence[str]) -> Iterator[str]:
    """Run the command, and say what came of it."""
    if words and (len(words) != 2 or words[0] != "--out"):
        raise DataError("expected nothing, or --out DIR")
    folder = Path(words[1]) if words else OUT
    known = points(load(folder), published_gains())
    write_text(folder / PAGE, page(known))
    draw(known, folder / FIGURE)
    for method, title in METHODS.items():
        yield f"{title}: {verdict(told(known, method))}\n"


if __name__ == "__main__":
    for text in main(sys.argv[1:]):
        sys.stdout.write(text)
