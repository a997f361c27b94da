"""Histograms of similarities and of shares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from midas_aug._arrays import NDArray, as_tensor, is_array
from midas_aug.diagnostics import scores
from midas_aug.diagnostics.figures._style import (
    BAND,
    BASELINE,
    COLUMNS,
    GREY,
    SERIES,
    Style,
    finished,
    new_figure,
    plain_data,
    tidy,
    wrapped,
)
from midas_aug.diagnostics.measures import NEAR_EVEN
from midas_aug.errors import MidasAugError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_hardness", "draw_shares"]

BINS = 40  # of a histogram


class Histogram(NamedTuple):
    """Fractions of the values in bins."""

    edges: NDArray
    fractions: NDArray
    mean: float


class Distribution(NamedTuple):
    """A histogram for each column, and the fraction of shares near 1/M."""

    columns: list[Histogram]
    collapsed: float = 0.0


def draw_hardness(values: Any, path: str | Path | None = None) -> "Figure":
    """How alike the swapped features are: the similarities behind the hard-sample weights (Eq. 8).

    In the spirit of the paper's Figure 4. Everything at the right end means that every sample is
    hard and the weights tell nothing apart; a wide spread means that they choose.

    Args:
        values: ``(S,)`` similarities in [−1, 1], which for a batch are ``2 * out.hardness - 3``; a
            mapping of such by name; or a `TrainingLog` or its ``to_dict()``, of which the first and
            the last epoch are drawn.
        path: Where to save it; the ending decides the format.

    Raises:
        MidasAugError: There are no similarities, matplotlib is missing, or the path cannot be
            written.
    """
    series = _distributions(values, [scores.SIMILARITY.key()], (-1, 1))
    figure = new_figure((7.5, 3.6), path)
    axes = figure.subplots()
    _steps(axes, [distribution.columns[0] for distribution in series.values()])
    axes.set_xlim(-1, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("similarity of a feature and the one that replaces it (cosine)", fontsize=9)
    axes.set_ylabel("misaligned rows, %", fontsize=9)
    tidy(axes, "y")
    weight = axes.secondary_xaxis("top", functions=(_weight_of, _similarity_of))
    weight.set_xlabel("hard-sample weight", fontsize=9)
    weight.tick_params(labelsize=8)
    weight.spines["top"].set_visible(False)
    numbers = [f"mean {distribution.columns[0].mean:.2f}" for distribution in series.values()]
    _legend_of_steps(figure, list(series), numbers)
    return finished(figure, path)


def _weight_of(similarity: Any) -> Any:
    return 1 + (similarity + 1) / 2


def _similarity_of(weight: Any) -> Any:
    return 2 * weight - 3


def draw_shares(
    shares: Any, path: str | Path | None = None, *, modalities: Sequence[Any] | None = None
) -> "Figure":
    """Each modality's share in the soft labels, with the band that means collapse: 1/M ± 0.05.

    Shares inside the band make MIDAS a plain swap: the unimodal heads are equally sure of
    everything, mostly because they have memorised the training rows.

    Args:
        shares: ``(S, M)`` shares of misaligned rows, as in ``out.shares[out.misaligned]``; a
            mapping of such by name; or a `TrainingLog` or its ``to_dict()``, of which the first and
            the last epoch are drawn.
        path: Where to save it; the ending decides the format.
        modalities: Their names, where ``shares`` does not bring them.

    Raises:
        MidasAugError: There are no shares, names do not fit, matplotlib is missing, or the
            path cannot be written.
    """
    names = _modality_names(shares, modalities)
    keys = [scores.SHARE.key(name) for name in names]
    series = _distributions(shares, keys, (0, 1))
    middle = 1 / len(names)
    columns = min(COLUMNS, len(names))
    grid_rows = -(-len(names) // columns)
    figure = new_figure((3.2 * columns + 1.5, 2.6 * grid_rows + 0.9), path)
    grid = figure.subplots(grid_rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for number, (axes, name) in enumerate(zip(grid, names, strict=False)):
        axes.axvspan(
            middle - NEAR_EVEN, middle + NEAR_EVEN, facecolor=BAND, edgecolor="#bdbdbd", hatch="//"
        )
        _steps(axes, [distribution.columns[number] for distribution in series.values()])
        axes.set_title(wrapped(name, 30), loc="left", fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share", fontsize=9)
        tidy(axes, "y")
    grid[0].set_ylim(bottom=0)  # of all of them, once all are drawn
    grid[0].set_ylabel("misaligned rows, %", fontsize=9)
    numbers = [f"{100 * found.collapsed:.0f} % in the band" for found in series.values()]
    _legend_of_steps(figure, list(series), numbers)
    figure.supxlabel(
        f"Hatched: within {NEAR_EVEN} of 1/{len(names)}, where the label says nothing about who is "
        "to be trusted.",
        fontsize=9,
        color=GREY,
    )
    return finished(figure, path)


def _modality_names(shares: Any, modalities: Sequence[Any] | None) -> list[str]:
    content = plain_data(shares)
    if _is_log(content):
        return [str(name) for name in content["modalities"]]
    arrays = content.values() if isinstance(content, Mapping) else [content]
    widths = {_table(array).shape[1] for array in arrays}
    if len(widths) != 1 or (modalities is not None and {len(modalities)} != widths):
        raise MidasAugError(
            f"expected shares of one number of modalities, one column each, got {sorted(widths)} "
            f"columns and the names {modalities!r}"
        )
    count = widths.pop()
    return [str(m) for m in modalities or [f"modality {number + 1}" for number in range(count)]]


def _distributions(
    values: Any, keys: Sequence[str], limits: tuple[float, float]
) -> dict[str, Distribution]:
    """Histograms by the name of the series: of arrays, or of a log's first and last epoch."""
    content = plain_data(values)
    if _is_log(content):
        found = _of_log(content, keys)
    else:
        named = content if isinstance(content, Mapping) else {"": content}
        tables = {str(name): _table(array) for name, array in named.items()}
        found = {name: _of_table(table, limits) for name, table in tables.items() if len(table)}
    if not found:
        raise MidasAugError(
            f"expected values of misaligned rows, got none (looked for {', '.join(keys)})"
        )
    return found


def _of_table(table: NDArray, limits: tuple[float, float]) -> Distribution:
    edges = np.linspace(*limits, BINS + 1)
    columns = [
        Histogram(edges, np.histogram(column.clip(*limits), edges)[0] / len(column), column.mean())
        for column in table.T
    ]
    near = np.abs(table - 1 / table.shape[1]) <= NEAR_EVEN
    return Distribution(columns, float(near.mean()))


def _of_log(content: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Distribution]:
    of_epochs = content["histograms"][keys[0]]["counts"]
    known = [number for number, counts in enumerate(of_epochs) if sum(counts)]
    found = {}
    for number in dict.fromkeys([*known[:1], *known[-1:]]):
        columns = []
        for key in keys:
            edges = np.array(content["histograms"][key]["edges"])
            counts = np.array(content["histograms"][key]["counts"][number])
            fractions = counts / counts.sum()
            columns.append(Histogram(edges, fractions, fractions @ (edges[1:] + edges[:-1]) / 2))
        collapsed = content["scores"][scores.COLLAPSED.key()][number]
        found[f"epoch {content['epoch'][number]}"] = Distribution(columns, collapsed)
    return found


def _is_log(content: Any) -> bool:
    return isinstance(content, Mapping) and "histograms" in content


def _table(values: Any) -> NDArray:
    """The finite rows of an array or a nested list, as float64 of two axes."""
    array = as_tensor(values, "values").detach().cpu().numpy() if is_array(values) else values
    table = np.asarray(array, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise MidasAugError(f"expected values of 1 or 2 axes, got shape {table.shape}")
    kept: NDArray = table[np.isfinite(table).all(axis=1)]
    return kept


def _steps(axes: "Axes", histograms: Sequence[Histogram]) -> None:
    """Outlines, the last one filled, with the mean marked on the axis."""
    for number, histogram in enumerate(histograms):
        style = _step_style(number, len(histograms))
        values = 100 * histogram.fractions
        if number == len(histograms) - 1:
            axes.stairs(values, histogram.edges, fill=True, color=style.color, alpha=0.18)
        axes.stairs(values, histogram.edges, color=style.color, linestyle=style.dash, linewidth=1.7)
        axes.plot(
            [histogram.mean], [0], color=style.color, marker=style.marker, markersize=7,
            clip_on=False, zorder=5,
        )  # fmt: skip


def _step_style(number: int, count: int) -> Style:
    return BASELINE if count > 1 and number == 0 else SERIES[(number - (count > 1)) % len(SERIES)]


def _legend_of_steps(figure: "Figure", names: Sequence[str], numbers: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    styles = [_step_style(number, len(names)) for number in range(len(names))]
    figure.legend(
        [Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker) for s in styles],
        [
            f"{wrapped(name, 30)}: {number}" if name else number
            for name, number in zip(names, numbers, strict=True)
        ],
        loc="outside upper left",
        ncols=min(len(names), 2),
        frameon=False,
        fontsize=9,
        handlelength=3,
    )
