"""The figures of a suite: all methods, the parts of MIDAS, accuracy against misaligned accuracy."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import palette
from benchmarks.common.records import write_figure
from benchmarks.compare.report.runs import TaskRuns
from benchmarks.compare.report.statistics import estimate

Runs = Mapping[str, TaskRuns]


class Style(NamedTuple):
    """A colour that the colour-blind can tell apart, and a marker that does without colour."""

    color: str
    marker: str


STYLES = {
    "reference": Style(palette.GREY, "s"),
    "augmentation": Style(palette.GREEN, "^"),
    "balancing": Style(palette.ORANGE, "D"),
    "plain swap": Style(palette.RED, "v"),
    "MIDAS": Style(palette.BLUE, "o"),
    "skill": Style(palette.PINK, "P"),
}
FAMILIES = {
    "reference": (
        "late-fusion",
        "late-fusion-fitted",
        "unimodal-image",
        "joint",
        "joint-fitted",
        "unimodal-losses",
        "detached",
        "modality-dropout",
    ),
    "augmentation": ("mixup", "powmix", "lemda", "same-class"),
    "balancing": ("ogm", "ogm-ge", "agm", "smv", "opm", "amco", "lfm", "mcr", "tcmax"),
    "plain swap": (
        "plain-swap",
        "plain-swap-fitted",
        "plain-swap-warmup",
        "plain-swap-half",
        "plain-swap-warmup-half",
    ),
    "MIDAS": ("midas", "midas-fitted", "midas-public-code", "midas-matched"),
    "skill": ("skill", "skill-fitted", "skill-half"),
}
ABLATION = (
    "plain-swap",
    "plain-swap-warmup",
    "midas-000",
    "midas-100",
    "midas-010",
    "midas-001",
    "midas-110",
    "midas-101",
    "midas-011",
    "midas",
)
COLUMNS = 4  # panels in a row of a figure


def draw_methods(runs: Runs, path: Path) -> None:
    """Difference of every method to joint training, in accuracy, with its interval."""
    rows = next(iter(runs.values())).rows
    keys = [key for family in FAMILIES.values() for key in family if key in rows and key != "joint"]
    title = "Accuracy, points above joint training: mean, 95 % interval of paired differences"
    _draw_bars(runs, keys, title, path)


def draw_ablation(runs: Runs, path: Path) -> None:
    """The parts of MIDAS, against joint training, in accuracy."""
    title = "Parts of MIDAS switched off: accuracy, points above joint training"
    _draw_bars(runs, ABLATION, title, path)


def draw_tradeoff(runs: Runs, path: Path) -> None:
    """Accuracy on intact samples against accuracy on misaligned ones."""
    figure, panels = _panels(runs, height=3, share=False)
    for axes, task in zip(panels, runs.values(), strict=False):
        for family, keys in FAMILIES.items():
            style = STYLES[family]
            both = [key for key in keys if key in task.rows and task.rows[key].modality is None]
            places = [_place(task, key) for key in both]
            if not places:
                continue
            across, up = zip(*places, strict=True)
            axes.scatter(
                across, up, s=30, c=style.color, marker=style.marker, alpha=0.85, label=family
            )
        for key in ("late-fusion", "joint", "plain-swap", "midas", "skill", "skill-fitted"):
            if key not in task.rows:
                continue
            axes.annotate(
                task.rows[key].title,
                _place(task, key),
                xytext=(0, 6),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
        axes.set_title(task.name, loc="left", fontsize=9)
        axes.set_xlabel("misaligned accuracy, %", fontsize=8)
        axes.set_ylabel("accuracy, %", fontsize=8)
        axes.grid(color=palette.GRID, linewidth=0.7)
        axes.margins(0.15)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        handletextpad=0.1,
    )
    figure.suptitle(
        "Intact and misaligned test samples, means over the seeds that all methods have",
        fontsize=11,
    )
    write_figure(path, figure, dpi=110)


class Drawing(NamedTuple):
    """How a figure is drawn, and what it shows in words."""

    draw: Callable[[Runs, Path], None]
    alt: str


FIGURES = {
    "methods.png": Drawing(
        draw_methods, "difference of each method to joint training in accuracy, by task"
    ),
    "ablation.png": Drawing(
        draw_ablation, "the parts of MIDAS, difference to joint training in accuracy, by task"
    ),
    "tradeoff.png": Drawing(draw_tradeoff, "accuracy against misaligned accuracy, by task"),
}


def figures_of(runs: Runs) -> dict[str, Drawing]:
    """The figures whose rows are there."""
    rows = next(iter(runs.values())).rows
    parts_are_there = rows.keys() >= set(ABLATION)
    return {
        file: drawing
        for file, drawing in FIGURES.items()
        if parts_are_there or drawing.draw is not draw_ablation
    }


def _place(task: TaskRuns, key: str) -> tuple[float, float]:
    """Misaligned accuracy and accuracy."""
    across, up = (
        estimate(task.values(key, score, task.shared_seeds)).mean
        for score in ("misaligned_accuracy", "accuracy")
    )
    return across, up


def _panels(runs: Runs, height: float, share: bool = True) -> tuple[Figure, Sequence[Axes]]:
    columns = min(COLUMNS, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3 * columns + 1.5, height * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=share, squeeze=False).ravel()
    for axes in panels[len(runs) :]:
        axes.set_axis_off()
    return figure, list(panels)


def _draw_bars(runs: Runs, keys: Sequence[str], title: str, path: Path) -> None:
    figure, panels = _panels(runs, height=0.2 * len(keys) + 0.8)
    for axes, task in zip(panels, runs.values(), strict=False):
        _bars(axes, task, keys)
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure, dpi=110)


def _bars(axes: Axes, task: TaskRuns, keys: Sequence[str]) -> None:
    """A horizontal bar a row, from zero, with its interval."""
    places = np.arange(len(keys))
    found = [task.difference(key, "joint", "accuracy") for key in keys]
    axes.barh(places, [d.mean for d in found], color=[_color(key) for key in keys], height=0.7)
    margins = [d.margin for d in found]
    axes.errorbar(
        [d.mean for d in found],
        places,
        xerr=margins,
        fmt="none",
        ecolor=palette.INK,
        elinewidth=0.9,
    )
    axes.set_yticks(places, [task.rows[key].title for key in keys], fontsize=8)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.axvline(0, color=palette.INK, linewidth=0.8)
    axes.set_title(task.name, loc="left", fontsize=9)
    axes.grid(axis="x", color=palette.GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)


def _color(key: str) -> str:
    for family, keys in FAMILIES.items():
        if key in keys:
            return STYLES[family].color
    return STYLES["MIDAS"].color
