"""The course of a training run, as a `TrainingLog` saw it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from midas_aug._arrays import NDArray
from midas_aug.diagnostics import scores
from midas_aug.diagnostics.figures._style import (
    BAND,
    BASELINE,
    COLUMNS,
    GREY,
    LINE_HEIGHT,
    SERIES,
    Style,
    finished,
    new_figure,
    tidy,
    wrapped,
)
from midas_aug.diagnostics.learning import read_log
from midas_aug.diagnostics.measures import NEAR_EVEN
from midas_aug.diagnostics.scores import Kind
from midas_aug.errors import MidasAugError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves"]


class Line(NamedTuple):
    """A curve of a panel: the score, what it is called, and how it looks."""

    key: str
    label: str
    style: Style


class Curves(NamedTuple):
    """A panel of curves."""

    title: str
    lines: list[Line]
    scale: float = 1
    low: float = 0
    high: float | None = None
    fill: bool = False  # shade what is between the first two lines
    idle: float | None = None  # a line that stays at this is left out
    is_all_or_none: bool = False  # one line that moves brings the others


def draw_curves(log: Any, path: str | Path | None = None) -> "Figure":
    """The course of training from a `TrainingLog`, one panel a question; warm-up epochs are grey.

    First row: the losses; accuracy on aligned and on misaligned training rows (the paper's Figure
    6 shows misaligned accuracy); the probability that the model gives to each modality's label on
    misaligned rows (Figure 5), or exp(−loss) where labels are no class indices; how many shares
    have collapsed. Below: the weak-modality weight α, and for each modality the share that its
    unimodal confidence earns it against the credit that the model gives it, which is what moves α
    (Eq. 5-7; in the spirit of the paper's Figure 3). Panels without data are left out: training
    without misaligned rows has few.

    Args:
        log: A `TrainingLog` or its ``to_dict()``.
        path: Where to save it; the ending decides the format.

    Raises:
        MidasAugError: It is no log or has nothing to draw yet, matplotlib is missing, or the path
            cannot be written.
    """
    content = read_log(log)
    if not content["scores"]:
        raise MidasAugError(
            "expected a log with scores, got an empty one; call update in every step and end_epoch "
            "after every epoch"
        )
    names = [str(name) for name in content["modalities"]]
    grid = [
        [panel for panel in (_alive(panel, content) for panel in row) if panel.lines]
        for row in (_course_panels(names, content), _weight_panels(names))
    ]
    grid = [row[start : start + COLUMNS] for row in grid for start in range(0, len(row), COLUMNS)]
    if not grid:
        raise MidasAugError(
            f"expected a log with something to draw, got one with {', '.join(content['scores'])} "
            "alone; there is nothing to draw yet: give logits, terms and criterion to update, of "
            "batches with labelled rows"
        )
    figure = new_figure((3.25 * max(map(len, grid)), 2.8 * len(grid) + 0.4), path)
    parts = figure.subfigures(len(grid), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, grid, strict=True):
        for axes, panel in zip(part.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            _curves(axes, panel, content)
    notes = "Training rows, means over an epoch."
    if _warmup(content) is not None:
        notes += "  Grey: warm-up, the fusion head does not learn yet."
    figure.supxlabel(notes, fontsize=9, color=GREY)
    return finished(figure, path)


def _alive(panel: Curves, content: Mapping[str, Any]) -> Curves:
    """The panel with the lines that have data: a loss of 0 or an α of 1 throughout is none."""

    def moves(line: Line) -> bool:
        column = content["scores"].get(line.key, [])
        return any(value is not None and value != panel.idle for value in column)

    if panel.is_all_or_none:
        return panel if any(map(moves, panel.lines)) else panel._replace(lines=[])
    return panel._replace(lines=[line for line in panel.lines if moves(line)])


def _course_panels(names: Sequence[str], content: Mapping[str, Any]) -> list[Curves]:
    losses = [
        Line(scores.LOSS.key("aligned"), "aligned", SERIES[0]),
        Line(scores.LOSS.key("misaligned"), "misaligned", SERIES[1]),
        Line(scores.LOSS.key("unimodal"), "unimodal", BASELINE),
    ]
    accuracies = [
        Line(scores.ACCURACY.key(), "aligned", SERIES[0]),
        Line(scores.MISALIGNED_ACCURACY.key(), "misaligned", SERIES[1]),
    ]
    collapse = [
        Line(scores.COLLAPSED.key(), f"within {NEAR_EVEN} of 1/{len(names)}", SERIES[0]),
        Line(scores.ENTROPY.key(), "entropy", BASELINE),
    ]
    # Both come from the logits, the accuracy of class indices alone.
    is_probability = scores.MISALIGNED_ACCURACY.key() in content["scores"]
    of_label = "Probability of its label" if is_probability else "exp(−loss) of its label"
    return [
        Curves("Losses", losses, idle=0),
        Curves("Accuracy, %", accuracies, 100, high=102),
        Curves(f"{of_label}, misaligned, %", _each(scores.CONFIDENCE, names), 100),
        Curves("Collapse of the shares, %", collapse, 100, high=102),
    ]


def _weight_panels(names: Sequence[str]) -> list[Curves]:
    credits = [
        Curves(
            f"Share in the label: {name}",
            [
                Line(scores.CREDIT.key(name), "model's credit", SERIES[number % len(SERIES)]),
                Line(scores.SHARE.key(name), "label's share", BASELINE),
            ],
            high=1,
            fill=True,
        )
        for number, name in enumerate(names)
    ]
    weights = _each(scores.ALPHA, names)
    return [
        Curves("Weight α of each modality", weights, low=0.95, idle=1, is_all_or_none=True),
        *credits,
    ]


def _each(kind: Kind, names: Sequence[str]) -> list[Line]:
    return [
        Line(kind.key(name), name, SERIES[number % len(SERIES)])
        for number, name in enumerate(names)
    ]


def _curves(axes: "Axes", panel: Curves, content: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.asarray(content["epoch"], dtype=float)
    drawn: list[tuple[NDArray, Line]] = []
    for line in panel.lines:
        column = content["scores"][line.key]
        values = panel.scale * np.array([np.nan if v is None else v for v in column], dtype=float)
        marker = line.style.marker if len(epochs) <= 12 else ""
        axes.plot(
            epochs,
            values,
            color=line.style.color,
            linestyle=line.style.dash,
            linewidth=1.7,
            marker=marker,
            markersize=4,
        )
        drawn.append((values, line))
    if panel.fill and len(drawn) == 2:
        (first, line), (second, _) = drawn
        axes.fill_between(epochs, first, second, color=line.style.color, alpha=0.15, linewidth=0)
    band = _warmup(content)
    if band is not None:
        axes.axvspan(*band, color=BAND, linewidth=0, zorder=0)
    _, high = axes.get_ylim()
    axes.set_ylim(panel.low, high + 0.05 * (high - panel.low) if panel.high is None else panel.high)
    margin = 0.5 if len(epochs) == 1 else 0.02 * (epochs[-1] - epochs[0])
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.set_title(wrapped(panel.title, 32, 2), loc="left", fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    tidy(axes, "y")
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    _label_ends(axes, [(_last(values), line) for values, line in drawn])


def _last(values: NDArray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else 0.0


def _warmup(content: Mapping[str, Any]) -> tuple[float, float] | None:
    """From where to where the warm-up reaches: half way to the neighbouring epochs."""
    epochs = list(content["epoch"])
    column = content["scores"].get(scores.WARMING_UP.key(), [])
    warm = [epoch for epoch, value in zip(epochs, column, strict=False) if value]
    if not warm:
        return None
    after = [epoch for epoch in epochs if epoch > warm[-1]]
    return epochs[0] - 1e6, (warm[-1] + after[0]) / 2 if after else warm[-1] + 1e6


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, Line]]) -> None:
    """Name the lines at their right end, moved apart where they would overlap."""
    ends = sorted(ends, key=lambda end: end[0])
    low, high = axes.get_ylim()
    texts = [wrapped(line.label, 14, 2) for _, line in ends]
    # A panel is about 2 inches high.
    lines = np.array([1 + text.count("\n") for text in texts])
    inch = (high - low) / 2.0
    sizes = LINE_HEIGHT * inch * lines
    heights = np.array([end for end, _ in ends])
    for _ in range(100):
        heights = np.clip(heights, low + sizes / 2, high - sizes / 2)
        overlap = np.maximum(0, (sizes[:-1] + sizes[1:]) / 2 - np.diff(heights)) / 2
        heights[:-1] -= overlap
        heights[1:] += overlap
    for height, text, (_, line) in zip(heights, texts, ends, strict=True):
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            linespacing=1.0,
            color=line.style.color,
        )
