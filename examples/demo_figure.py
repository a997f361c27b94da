"""The figure of the demo: test accuracy against the best modality alone, and how it came about."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import demo_report
import numpy as np
from demo_report import ENSEMBLE, FUSED, Report, Runs
from kanji import FITTED, SKILL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray


class Style(NamedTuple):
    """A colour that the colour-blind can tell apart, and a dash that does without colour."""

    color: str
    dash: str


STYLES = {
    "joint": Style("#595959", "--"),
    "plain swap": Style("#d55e00", ":"),
    "MIDAS": Style("#0072b2", "-"),
    SKILL: Style("#009e73", "-."),
    FITTED: Style("#009e73", "-"),
}
APART = "#b8b8b8"
ALONE = "#000000"
GREY = "#595959"
LINE_HEIGHT = 0.05  # of a label, as a share of the full height


def draw(runs: Runs, modalities: Sequence[str], path: Path) -> None:
    """Write the figure."""
    report = demo_report.summarise(demo_report.test_scores(runs), modalities)
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=(1.15, 1))
    draw_bars(bars, report)
    draw_curves(curves, runs, report)
    parts = [f"Radical of a kanji, 26 classes; fused: {' + '.join(modalities)}."]
    if report.seeds > 1:
        parts.append(
            f"Mean of {report.seeds} seeds; dots: each seed; bands: from the lowest to the highest."
        )
    figure.supxlabel("  ".join(parts), fontsize=9, color=GREY)
    figure.savefig(path, dpi=150)


def draw_bars(axes: Axes, report: Report) -> None:
    """Accuracy of every row, with a line at the best modality alone."""
    alone = [row for row in report.rows if row.endswith("alone")]
    rows = [*alone, *FUSED, "late fusion", ENSEMBLE]
    groups = [0] * len(alone) + [1] * len(FUSED) + [2, 2]
    places = np.arange(len(rows)) + 0.6 * np.array(groups)
    best = report.rows[report.best_alone]["accuracy"].mean
    for row, place in zip(rows, places, strict=True):
        value = report.rows[row]["accuracy"].mean
        color = STYLES[row].color if row in STYLES else APART
        axes.barh(place, value, color=color, height=0.8)
        seeds = report.accuracies[row]
        axes.plot(seeds, [place] * len(seeds), "o", color="white", markersize=4.5, zorder=3)
        axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=2.5, zorder=4)
        difference = "" if row in alone else f"  {value - best:+.0f}".replace("-", "−")
        label = axes.text(max(*seeds, value) + 1.5, place, f"{value:.0f}{difference}")
        label.set(va="center", fontsize=11, zorder=5)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axvline(best, color=ALONE, linewidth=1.2, linestyle=(0, (2, 2)), zorder=2)
    axes.set_yticks(places, rows)
    axes.tick_params(axis="y", length=0)
    for row, label in zip(rows, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if row in FUSED else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(
        f"Test accuracy (%), and points against {report.best_alone}", loc="left", fontsize=12
    )


def draw_curves(axes: Axes, runs: Runs, report: Report) -> None:
    """Validation accuracy after each epoch, of the models that are trained together."""
    ends = []
    epochs = 1 + np.arange(len(runs["joint"][0]))
    for row, style in STYLES.items():
        curves = accuracy_by_epoch(runs, row)
        axes.fill_between(
            epochs, curves.min(axis=0), curves.max(axis=0), color=style.color, alpha=0.15, lw=0
        )
        middle = curves.mean(axis=0)
        axes.plot(epochs, middle, color=style.color, linestyle=style.dash, linewidth=2)
        ends.append((float(middle[-1]), row, style.color))
    middle = accuracy_by_epoch(runs, report.best_alone).mean(axis=0)
    axes.plot(epochs, middle, color=ALONE, linewidth=1.2, linestyle=(0, (2, 2)))
    ends.append((float(middle[-1]), report.best_alone, ALONE))
    axes.set_xlim(0, epochs[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_title("Validation accuracy (%) during training", loc="left", fontsize=12)
    label_ends(axes, sorted(ends))


def accuracy_by_epoch(runs: Runs, row: str) -> NDArray[np.float64]:
    """(seeds, epochs) in percent; NaN where MIDAS warms up."""
    (seeds,) = (seeds for seeds in runs.values() if row in seeds[0][-1].validation)
    return 100 * np.array(
        [[record.validation.get(row, {}).get("accuracy", np.nan) for record in s] for s in seeds]
    )


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name the lines at their right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = LINE_HEIGHT * (high - low)
    heights = np.array([height for height, _, _ in ends])
    for _ in range(30):
        overlap = np.maximum(0, gap - np.diff(heights)) / 2
        heights[:-1] -= overlap
        heights[1:] += overlap
    for height, (value, name, color) in zip(heights, ends, strict=True):
        axes.annotate(
            f"{name} {value:.0f}",
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
