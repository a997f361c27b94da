"""The figure of the demo: validation scores after each epoch, and alpha after each step."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from demo_report import Runs
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator


class Style(NamedTuple):
    """A colour that the colour-blind can tell apart, and a dash that does without colour."""

    color: str
    dash: str


class End(NamedTuple):
    """The height at which a line ends, and whose line it is."""

    height: float
    method: str


STYLES = {
    "joint": Style("#595959", "--"),
    "plain swap": Style("#d55e00", ":"),
    "MIDAS": Style("#0072b2", "-"),
}
GREY = "#595959"
LINE_HEIGHT = 0.05  # of a label, as a share of the full height


def draw(runs: Runs, views: Sequence[str], path: Path) -> None:
    """Write the figure."""
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    grid = figure.add_gridspec(1, 3)
    draw_misaligned(figure.add_subfigure(grid[0]), runs)
    draw_removed(figure.add_subfigure(grid[1]), runs, views)
    draw_alpha(figure.add_subfigure(grid[2]), runs, views)
    parts = [f"Validation rows; fused: {' + '.join(views)}."]
    if len(runs["MIDAS"]) > 1:
        parts.append(
            f"Lines: mean of {len(runs['MIDAS'])} seeds, bands: lowest to highest; α: seed 0."
        )
    if warmup_epochs(runs):
        parts.append("Grey: MIDAS warms up.")
    figure.supxlabel("  ".join(parts), fontsize=9, color=GREY)
    figure.savefig(path, dpi=150)


def draw_misaligned(figure: SubFigure, runs: Runs) -> None:
    """Misaligned accuracy of the three methods."""
    figure.suptitle("Both digits of a mixed sample found (%)")
    axes = figure.subplots()
    axes.set_title("misaligned accuracy", loc="left", fontsize=10)
    ends = [add_curves(axes, runs, method, "misaligned") for method in STYLES]
    axes.set_ylim(0, 100)
    finish(axes, len(runs["joint"][0]), warmup_epochs(runs))
    label_ends(axes, ends)
    axes.set_xlabel("epoch")


def draw_removed(figure: SubFigure, runs: Runs, views: Sequence[str]) -> None:
    """One panel a view that is missing, all on one scale."""
    figure.suptitle("Accuracy with one view removed (%)")
    panels = figure.subplots(len(views), sharex=True, sharey=True)
    ends = []
    for axes, view in zip(panels, views, strict=True):
        axes.set_title(f"without {view}", loc="left", fontsize=10)
        ends.append([add_curves(axes, runs, name, f"{view} removed") for name in STYLES])
        finish(axes, len(runs["joint"][0]), warmup_epochs(runs))
    panels[0].set_ylim(top=100)
    for axes, pair in zip(panels, ends, strict=True):  # the common scale stands only now
        label_ends(axes, pair, panels=len(views))
    panels[-1].set_xlabel("epoch")


def draw_alpha(figure: SubFigure, runs: Runs, views: Sequence[str]) -> None:
    """One panel a view, all on one scale; one seed, because seeds swing out of step."""
    figure.suptitle("Weight α of each view in the loss of MIDAS")
    panels = figure.subplots(len(views), sharex=True, sharey=True)
    alpha = np.array([record.alpha for record in runs["MIDAS"][0]])  # (epochs, steps, views)
    epochs, steps, _ = alpha.shape
    for axes, view, line in zip(panels, views, alpha.reshape(epochs * steps, -1).T, strict=True):
        axes.set_title(f"α of {view}", loc="left", fontsize=10)
        axes.plot(1 + np.arange(len(line)), line, color=STYLES["MIDAS"].color, linewidth=1.2)
        finish(axes, len(line), warmup_epochs(runs) * steps)
    panels[0].set_ylim(bottom=0.95)
    panels[-1].set_xlabel("step")


def add_curves(axes: Axes, runs: Runs, method: str, score: str) -> End:
    """Draw the mean over seeds and the band from the lowest to the highest."""
    curves = 100 * np.array(
        [[record.validation.get(score, np.nan) for record in seed] for seed in runs[method]]
    )
    epochs = 1 + np.arange(curves.shape[1])
    style = STYLES[method]
    low, middle, high = curves.min(axis=0), curves.mean(axis=0), curves.max(axis=0)
    axes.fill_between(epochs, low, high, color=style.color, alpha=0.15, linewidth=0)
    axes.plot(epochs, middle, color=style.color, linestyle=style.dash, linewidth=1.8)
    return End(float(middle[-1]), method)


def finish(axes: Axes, last: int, warmup: int) -> None:
    """The look that all panels share; where MIDAS warms up is grey."""
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.axvspan(0, warmup, color="#f2f2f2", linewidth=0, zorder=0)


def label_ends(axes: Axes, ends: Sequence[End], panels: int = 1) -> None:
    """Name the lines at their right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = panels * LINE_HEIGHT * (high - low)
    heights = np.array([end.height for end in sorted(ends)])
    for _ in range(20):
        overlap = np.maximum(0, gap - np.diff(heights)) / 2
        heights[:-1] -= overlap
        heights[1:] += overlap
    for height, end in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            f"{end.method} {end.height:.0f}",
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=STYLES[end.method].color,
        )


def warmup_epochs(runs: Runs) -> int:
    """The epochs of MIDAS that have no fused scores yet."""
    return sum("misaligned" not in record.validation for record in runs["MIDAS"][0])
