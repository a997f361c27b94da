"""Figures of reports and training runs, in one style that reads in grey and for the colour-blind.

Every function takes plain data, returns a ``matplotlib.figure.Figure`` (shown by a notebook, and
by nothing else: no pyplot, no global state) and saves it where a path is given. Colours are those
of Okabe and Ito; a dash, a hatch or a marker tells apart what a colour tells apart.

Needs matplotlib: ``pip install 'midas-aug[diagnostics]'``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from midas_aug._arrays import NDArray, as_tensor, is_array
from midas_aug.diagnostics.measures import NEAR_EVEN
from midas_aug.errors import MidasAugError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_hardness", "draw_report", "draw_shares"]


class Style(NamedTuple):
    """A colour, and a dash, a marker and a hatch that do without it."""

    color: str
    dash: Any  # as matplotlib takes it
    marker: str
    hatch: str


GREY, BLACK, GRID, BAND = "#595959", "#222222", "#e5e5e5", "#f2f2f2"
SERIES = (
    Style("#0072b2", "-", "o", "///"),
    Style("#d55e00", "--", "s", "..."),
    Style("#009e73", "-.", "^", "\\\\\\"),
    Style("#cc79a7", (0, (8, 2)), "D", "xxx"),
    Style("#e69f00", (0, (6, 1, 1, 1, 1, 1)), "v", "---"),
    Style("#56b4e9", (0, (3, 3)), "P", "+++"),
)
BASELINE = Style(GREY, ":", "X", "")
COLUMNS = 4  # panels in a row of curves
NAME_WIDTH = 16  # characters in a line of a name
LINE_HEIGHT = 0.15  # inches, of a label
BINS = 40


# ---------------------------------------------------------------------------------------- report


class Panel(NamedTuple):
    """Scores of each modality in a report."""

    score: str  # the part of its name before the dot
    title: str
    is_accuracy: bool = False
    is_percentage: bool = True


PANELS = (
    Panel("without", "Accuracy without it, %", True),
    Panel("alone", "Accuracy with all others removed, %", True),
    Panel("head_accuracy", "Accuracy of its own head, %", True),
    Panel("confidence", "Probability of its label, misaligned, %"),
    Panel("shapley", "Shapley value of the accuracy, points", is_percentage=False),
)
OVERALL = {"accuracy": "aligned", "misaligned_accuracy": "misaligned"}


def draw_report(reports: Any, path: str | Path | None = None) -> "Figure":
    """Bars with 95 % intervals of one model or several: what each does without each modality.

    The paper's Figure 1: accuracy on aligned against misaligned rows (a), and the probability that
    the model gives to each modality's label on misaligned rows (b). Beside it the accuracy without
    each modality and with each alone (its A.4), and Shapley values, as far as there are any.

    Args:
        reports: A `ModalityReport`, its ``to_dict()``, or a sequence of either, the baseline first.
            Read are ``name``, ``modalities`` and ``scores``, where each score is a dict of
            ``value``, ``low`` and ``high`` (the latter two may be missing or None).
        path: Where to save it; the ending decides the format.

    Raises:
        MidasAugError: There is no report, their modalities differ, or matplotlib is missing.
    """
    contents = _reports(reports)
    modalities = [str(name) for name in contents[0]["modalities"]]
    styles = _report_styles(len(contents))
    panels = [
        panel
        for panel in PANELS
        if any(f"{panel.score}.{m}" in _scores(report) for m in modalities for report in contents)
    ]
    majority = _majority(contents)
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    bar = 0.2 if len(contents) > 1 else 0.3
    heights = [_group_height(len(OVERALL), len(contents), bar)]
    heights += [_group_height(len(modalities), len(contents), bar)] * rows
    figure = _new_figure((11, sum(heights) + 0.8))
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    limit = _common_limit(contents, modalities)
    _bars(axes, contents, styles, OVERALL, "Accuracy, %", limit)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[1 + row, column])
        named = {f"{panel.score}.{name}": name for name in modalities}
        end = limit if panel.is_percentage else None
        _bars(axes, contents, styles, named, panel.title, end)
        if column:
            axes.tick_params(axis="y", labelleft=False)
        if panel.score == "without":
            _mark_accuracy(axes, contents, len(modalities))
        if panel.is_accuracy and majority is not None:
            axes.axvline(100 * majority, color=BLACK, linewidth=1, linestyle=":")
    notes = ["Lines across: 95 % intervals."] if _has_intervals(contents) else []
    if panels and panels[0].score == "without":
        notes.append("Upright: accuracy with every modality.")
    if majority is not None and any(panel.is_accuracy for panel in panels):
        notes.append("Dotted: always the most frequent class.")
    figure.supxlabel("  ".join(notes), fontsize=9, color=GREY)
    if len(contents) == 1:
        figure.suptitle(str(contents[0]["name"]), fontsize=12)
    else:
        _legend_of_bars(figure, contents, styles)
    return _finished(figure, path)


def _reports(reports: Any) -> list[Mapping[str, Any]]:
    several = (
        reports if isinstance(reports, Iterable) and not isinstance(reports, Mapping) else [reports]
    )
    contents = [_content(report) for report in several]
    if not contents:
        raise MidasAugError("expected one report or more, got none; pass a list of reports")
    first = list(contents[0]["modalities"])
    for content in contents:
        if list(content["modalities"]) != first:
            raise MidasAugError(
                f"expected reports of the same modalities {first!r}, got one of "
                f"{list(content['modalities'])!r}; draw them one by one"
            )
    return contents


def _report_styles(count: int) -> list[Style]:
    """The baseline is grey and plain; two reports get the colours furthest apart."""
    if count == 1:
        return [SERIES[0]._replace(hatch="")]
    others = SERIES[:1] if count == 2 else (SERIES[1], SERIES[0], *SERIES[2:])
    return [BASELINE, *(others[number % len(others)] for number in range(count - 1))]


def _group_height(groups: int, count: int, bar: float) -> float:
    """Inches of a panel."""
    return groups * (count * bar + 0.15) + 0.6


def _bars(
    axes: "Axes",
    reports: Sequence[Mapping[str, Any]],
    styles: Sequence[Style],
    named: Mapping[str, str],
    title: str,
    limit: float | None,
) -> None:
    """Horizontal bars: a group for each score, in it a bar for each report, top to bottom."""
    height = 0.8 / len(reports)
    ends = [0.0, limit or 0.0]
    for number, (report, style) in enumerate(zip(reports, styles, strict=True)):
        for group, score in enumerate(named):
            value, low, high = _percent(report, score)
            if value is None:
                continue
            place = group - 0.4 + (number + 0.5) * height
            axes.barh(
                place,
                value,
                height=0.92 * height,
                color=style.color,
                edgecolor="white",
                hatch=style.hatch,
                linewidth=0,
            )
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color="white", linewidth=3)
                axes.plot([low, high], [place, place], color=BLACK, linewidth=1.2)
            ends += [part for part in (value, low, high) if part is not None]
            axes.annotate(
                f"{value:.1f}".replace("-", "−"),
                (1, place),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                fontsize=8,
                color=BLACK,
            )
    start, end = min(ends), limit or max(ends)
    span = end - start or 1
    room = 0.06 if named is OVERALL else 0.2  # for the numbers; that panel is wide
    axes.set_xlim(start - (0.03 * span if start < 0 else 0), end + room * span)
    axes.set_xticks([tick for tick in axes.get_xticks() if start <= tick <= end])
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.set_yticks(range(len(named)), [_wrapped(name) for name in named.values()], fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    if start < 0:
        axes.axvline(0, color=BLACK, linewidth=0.8)
    _plain(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _common_limit(reports: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> float:
    """The end of the axis of all percentages, so that panels compare."""
    names = [*OVERALL, *(f"{p.score}.{m}" for p in PANELS if p.is_percentage for m in modalities)]
    parts = [part for report in reports for name in names for part in _percent(report, name)]
    highest = max((part for part in parts if part is not None), default=100)
    return float(min(100, max(10, 10 * np.ceil(highest / 10))))


def _mark_accuracy(axes: "Axes", reports: Sequence[Mapping[str, Any]], groups: int) -> None:
    """Where the accuracy with every modality is: what is missing to it is the cost."""
    height = 0.8 / len(reports)
    for number, report in enumerate(reports):
        value, _, _ = _percent(report, "accuracy")
        if value is None:
            continue
        tops = np.arange(groups) - 0.4 + number * height
        axes.vlines([value] * groups, tops, tops + 0.92 * height, color="white", linewidth=3.5)
        axes.vlines([value] * groups, tops, tops + 0.92 * height, color=BLACK, linewidth=1.6)


def _legend_of_bars(
    figure: "Figure", reports: Sequence[Mapping[str, Any]], styles: Sequence[Style]
) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=style.color, edgecolor="white", hatch=style.hatch, linewidth=0)
        for style in styles
    ]
    figure.legend(
        handles,
        [_wrapped(report["name"], 30) for report in reports],
        loc="outside upper left",
        ncols=min(len(reports), 4),
        frameon=False,
        fontsize=10,
        handlelength=2.5,
    )


def _scores(report: Mapping[str, Any]) -> Mapping[str, Any]:
    scores: Mapping[str, Any] = report["scores"]
    return scores


def _numbers(
    report: Mapping[str, Any], score: str
) -> tuple[float | None, float | None, float | None]:
    """Value, low and high, None for what is not there."""
    found = _scores(report).get(score) or {}
    value, low, high = (_number(found.get(key)) for key in ("value", "low", "high"))
    return value, low, high


def _percent(
    report: Mapping[str, Any], score: str
) -> tuple[float | None, float | None, float | None]:
    value, low, high = (None if part is None else 100 * part for part in _numbers(report, score))
    return value, low, high


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _has_intervals(reports: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        _numbers(report, score)[1] is not None for report in reports for score in _scores(report)
    )


def _majority(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """Accuracy of the most frequent class, where all reports agree on it."""
    found = {_numbers(report, "majority")[0] for report in reports}
    return found.pop() if len(found) == 1 else None


# ---------------------------------------------------------------------------------------- curves


class Line(NamedTuple):
    """A curve of a panel: the score, what it is called, and how it looks."""

    score: str
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


def draw_curves(log: Any, path: str | Path | None = None) -> "Figure":
    """The course of training from a `TrainingLog`, one panel a question; warm-up epochs are grey.

    First row: the losses; accuracy on aligned and on misaligned training rows (the paper's Figure
    6 shows misaligned accuracy); the probability that the model gives to each modality's label on
    misaligned rows (Figure 5); how many shares have collapsed. Below: the weak-modality weight α,
    and for each modality the share that its unimodal confidence earns it against the credit that
    the model gives it, which is what moves α (Eq. 5-7; in the spirit of the paper's Figure 3).
    Panels without data are left out: training without misaligned rows has few.

    Args:
        log: A `TrainingLog` or its ``to_dict()``.
        path: Where to save it; the ending decides the format.

    Raises:
        MidasAugError: The log is empty, or matplotlib is missing.
    """
    content = _content(log)
    if not content["scores"]:
        raise MidasAugError(
            "expected a log with scores, got an empty one; call update in every step and end_epoch "
            "after every epoch"
        )
    names = [str(name) for name in content["modalities"]]
    rows = [
        [panel for panel in (_alive(panel, content) for panel in row) if panel.lines]
        for row in (_course_panels(names), _weight_panels(names))
    ]
    rows = [row[start : start + COLUMNS] for row in rows for start in range(0, len(row), COLUMNS)]
    figure = _new_figure((3.25 * max(map(len, rows)), 2.8 * len(rows) + 0.4))
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        for axes, panel in zip(part.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            _curves(axes, panel, content)
    notes = "Training rows, means over an epoch."
    if _warmup(content) is not None:
        notes += "  Grey: warm-up, the fusion head does not learn yet."
    figure.supxlabel(notes, fontsize=9, color=GREY)
    return _finished(figure, path)


def _alive(panel: Curves, content: Mapping[str, Any]) -> Curves:
    """The panel with the lines that have data: a loss of 0 or an α of 1 throughout is none."""
    idle = {"loss": 0, "alpha": 1}

    def moves(line: Line) -> bool:
        column = content["scores"].get(line.score, [])
        rest = idle.get(line.score.partition(".")[0])
        return any(value is not None and value != rest for value in column)

    if panel.lines[0].score.startswith("alpha"):
        return panel if any(map(moves, panel.lines)) else panel._replace(lines=[])
    return panel._replace(lines=[line for line in panel.lines if moves(line)])


def _course_panels(names: Sequence[str]) -> list[Curves]:
    losses = [
        Line("loss.aligned", "aligned", SERIES[0]),
        Line("loss.misaligned", "misaligned", SERIES[1]),
        Line("loss.unimodal", "unimodal", BASELINE),
    ]
    accuracies = [
        Line("accuracy", "aligned", SERIES[0]),
        Line("misaligned_accuracy", "misaligned", SERIES[1]),
    ]
    collapse = [
        Line("collapsed", f"within {NEAR_EVEN} of 1/{len(names)}", SERIES[0]),
        Line("entropy", "entropy", BASELINE),
    ]
    return [
        Curves("Losses", losses),
        Curves("Accuracy, %", accuracies, 100, high=102),
        Curves("Probability of its label, misaligned, %", _each("confidence", names), 100),
        Curves("Collapse of the shares, %", collapse, 100, high=102),
    ]


def _weight_panels(names: Sequence[str]) -> list[Curves]:
    credits = [
        Curves(
            f"Share in the label: {name}",
            [
                Line(f"credit.{name}", "model's credit", SERIES[number % len(SERIES)]),
                Line(f"share.{name}", "label's share", BASELINE),
            ],
            high=1,
            fill=True,
        )
        for number, name in enumerate(names)
    ]
    return [Curves("Weight α of each modality", _each("alpha", names), low=0.95), *credits]


def _each(score: str, names: Sequence[str]) -> list[Line]:
    return [
        Line(f"{score}.{name}", name, SERIES[number % len(SERIES)])
        for number, name in enumerate(names)
    ]


def _curves(axes: "Axes", panel: Curves, content: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.asarray(content["epoch"], dtype=float)
    drawn: list[tuple[NDArray, Line]] = []
    for line in panel.lines:
        column = content["scores"][line.score]
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
    axes.set_title(_wrapped(panel.title, 32, 2), loc="left", fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    _plain(axes, "y")
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
    column = content["scores"].get("warming_up", [])
    warm = [epoch for epoch, value in zip(epochs, column, strict=False) if value]
    if not warm:
        return None
    after = [epoch for epoch in epochs if epoch > warm[-1]]
    return epochs[0] - 1e6, (warm[-1] + after[0]) / 2 if after else warm[-1] + 1e6


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, Line]]) -> None:
    """Name the lines at their right end, moved apart where they would overlap."""
    ends = sorted(ends, key=lambda end: end[0])
    low, high = axes.get_ylim()
    texts = [_wrapped(line.label, 14, 2) for _, line in ends]
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


# --------------------------------------------------------------------------------- distributions


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
        MidasAugError: There are no similarities, or matplotlib is missing.
    """
    series = _distributions(values, ["similarity"], (-1, 1))
    figure = _new_figure((7.5, 3.6))
    axes = figure.subplots()
    _steps(axes, [distribution.columns[0] for distribution in series.values()])
    axes.set_xlim(-1, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("similarity of a feature and the one that replaces it (cosine)", fontsize=9)
    axes.set_ylabel("misaligned rows, %", fontsize=9)
    _plain(axes, "y")
    weight = axes.secondary_xaxis("top", functions=(_weight_of, _similarity_of))
    weight.set_xlabel("hard-sample weight", fontsize=9)
    weight.tick_params(labelsize=8)
    weight.spines["top"].set_visible(False)
    numbers = [f"mean {distribution.columns[0].mean:.2f}" for distribution in series.values()]
    _legend_of_steps(figure, list(series), numbers)
    return _finished(figure, path)


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
        MidasAugError: There are no shares, names do not fit, or matplotlib is missing.
    """
    names = _modality_names(shares, modalities)
    keys = [f"share.{name}" for name in names]
    series = _distributions(shares, keys, (0, 1))
    middle = 1 / len(names)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = _new_figure((3.2 * columns + 1.5, 2.6 * rows + 0.9))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for number, (axes, name) in enumerate(zip(grid, names, strict=False)):
        axes.axvspan(
            middle - NEAR_EVEN, middle + NEAR_EVEN, facecolor=BAND, edgecolor="#bdbdbd", hatch="//"
        )
        _steps(axes, [distribution.columns[number] for distribution in series.values()])
        axes.set_title(_wrapped(name, 30), loc="left", fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share", fontsize=9)
        _plain(axes, "y")
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
    return _finished(figure, path)


def _modality_names(shares: Any, modalities: Sequence[Any] | None) -> list[str]:
    content = _content(shares)
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
    content = _content(values)
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
    rows = content["histograms"][keys[0]]["counts"]
    known = [number for number, counts in enumerate(rows) if sum(counts)]
    found = {}
    for number in dict.fromkeys([*known[:1], *known[-1:]]):
        columns = []
        for key in keys:
            edges = np.array(content["histograms"][key]["edges"])
            counts = np.array(content["histograms"][key]["counts"][number])
            fractions = counts / counts.sum()
            columns.append(Histogram(edges, fractions, fractions @ (edges[1:] + edges[:-1]) / 2))
        collapsed = content["scores"]["collapsed"][number]
        found[f"epoch {content['epoch'][number]}"] = Distribution(columns, collapsed)
    return found


def _is_log(content: Any) -> bool:
    return isinstance(content, Mapping) and "histograms" in content


def _table(values: Any) -> NDArray:
    """An array or nested list as ``(rows, columns)`` of finite float64."""
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
            f"{_wrapped(name, 30)}: {number}" if name else number
            for name, number in zip(names, numbers, strict=True)
        ],
        loc="outside upper left",
        ncols=min(len(names), 2),
        frameon=False,
        fontsize=9,
        handlelength=3,
    )


# ---------------------------------------------------------------------------------------- shared


def _content(given: Any) -> Any:
    """What ``to_dict`` of a report or a log says; anything else as it is."""
    return given.to_dict() if hasattr(given, "to_dict") else given


def _new_figure(inches: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError:
        raise MidasAugError(
            "expected matplotlib to draw with, which is not installed; "
            "pip install 'midas-aug[diagnostics]'"
        ) from None
    return Figure(figsize=inches, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))


def _finished(figure: "Figure", path: str | Path | None) -> "Figure":
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _plain(axes: "Axes", grid: Literal["x", "y"]) -> None:
    """The look that all panels share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _wrapped(name: Any, width: int = NAME_WIDTH, most: int | None = None) -> str:
    """A name in lines of about ``width`` characters, broken after blanks, hyphens, underscores."""
    lines = [""]
    for word in re.findall(r"[^ _-]*[ _-]|[^ _-]+", str(name)):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width + 2:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    if most is not None and len(lines) > most:
        lines[most - 1 :] = [lines[most - 1].rstrip() + "…"]
    return "\n".join(line.rstrip() for line in lines)
