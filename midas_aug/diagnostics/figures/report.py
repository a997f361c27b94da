"""Bars of one report or several."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from midas_aug.diagnostics import scores
from midas_aug.diagnostics.figures._style import (
    BASELINE,
    BLACK,
    GREY,
    SERIES,
    Style,
    finished,
    new_figure,
    plain_data,
    tidy,
    wrapped,
)
from midas_aug.diagnostics.scores import Kind
from midas_aug.errors import MidasAugError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_report"]


class Panel(NamedTuple):
    """Scores of each modality in a report."""

    kind: Kind
    title: str
    is_accuracy: bool = False


PANELS = (
    Panel(scores.WITHOUT, "Accuracy without it, %", True),
    Panel(scores.ALONE, "Accuracy with all others removed, %", True),
    Panel(scores.HEAD_ACCURACY, "Accuracy of its own head, %", True),
    Panel(scores.HEAD_SCORE, "Accuracy of its own head, %", True),
    Panel(scores.CONFIDENCE, "Probability of its label, misaligned, %"),
    Panel(scores.HEAD_SKILL, "Skill of its own head, %"),
    Panel(scores.SHAPLEY, "Shapley value of the accuracy, points"),
)
OVERALL = {scores.ACCURACY.key(): "aligned", scores.MISALIGNED_ACCURACY.key(): "misaligned"}
OF_HEADS = {
    scores.LATE_SCORE.key(): "late fusion of the heads",
    scores.LATE_FUSION.key(): "late fusion of the heads",
    scores.FITTED_FUSION.key(): "late fusion, fitted weights",
}


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
        MidasAugError: There is no report, their modalities differ, matplotlib is missing, or the
            path cannot be written.
    """
    contents = _reports(reports)
    modalities = [str(name) for name in contents[0]["modalities"]]
    styles = _report_styles(len(contents))
    panels = [
        panel
        for panel in PANELS
        if any(panel.kind.key(m) in report["scores"] for m in modalities for report in contents)
    ]
    majority = _majority(contents)
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    grid_rows = -(-len(panels) // columns)
    known = {key for report in contents for key in report["scores"]}
    name = str(contents[0].get("settings", {}).get("score", "accuracy"))  # or macro F1, or R²
    metric = name[0].upper() + name[1:]
    of_score = {scores.SCORE.key(): "intact rows"}
    names = of_score | OVERALL | OF_HEADS
    overall = {key: name for key, name in names.items() if key in known} or OVERALL
    bar = 0.2 if len(contents) > 1 else 0.3
    heights = [_group_height(len(overall), len(contents), bar)]
    heights += [_group_height(len(modalities), len(contents), bar)] * grid_rows
    figure = new_figure((11, sum(heights) + 0.8), path)
    grid = figure.add_gridspec(1 + grid_rows, columns, height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    limit = _common_limit(contents, modalities)
    _bars(axes, contents, styles, overall, f"{metric}, %", limit, room=0.06)  # a wide panel
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[1 + row, column])
        named = {panel.kind.key(name): name for name in modalities}
        end = limit if panel.kind.unit == "percent" else None
        if panel.kind is scores.HEAD_SKILL:
            end = 100
        _bars(axes, contents, styles, named, panel.title.replace("Accuracy", metric), end)
        if column:
            axes.tick_params(axis="y", labelleft=False)
        if panel.kind is scores.WITHOUT:
            _mark_accuracy(axes, contents, len(modalities))
        if panel.kind is scores.HEAD_SKILL:
            _mark_training(axes, contents, modalities)
        if panel.is_accuracy and majority is not None:
            axes.axvline(100 * majority, color=BLACK, linewidth=1, linestyle=":")
    notes = ["Lines across: 95 % intervals."] if _has_intervals(contents) else []
    if panels and panels[0].kind is scores.WITHOUT:
        notes.append(f"Upright: {name} with every modality.")
    if majority is not None and any(panel.is_accuracy for panel in panels):
        notes.append("Dotted: always the most frequent class.")
    if any(scores.TRAINING_SKILL.key(m) in known for m in modalities):
        notes.append("Diamonds: on training rows.")
    figure.supxlabel("  ".join(notes), fontsize=9, color=GREY)
    if len(contents) == 1:
        figure.suptitle(str(contents[0]["name"]), fontsize=12)
    else:
        _legend_of_bars(figure, contents, styles)
    return finished(figure, path)


def _reports(reports: Any) -> list[Mapping[str, Any]]:
    several = (
        reports if isinstance(reports, Iterable) and not isinstance(reports, Mapping) else [reports]
    )
    contents = [plain_data(report) for report in several]
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
    room: float = 0.2,  # for the numbers
) -> None:
    """Horizontal bars: a group for each score, in it a bar for each report, top to bottom."""
    height = 0.8 / len(reports)
    ends = [0.0, limit or 0.0]
    for number, (report, style) in enumerate(zip(reports, styles, strict=True)):
        for group, key in enumerate(named):
            value, low, high = _percent(report, key)
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
    axes.set_xlim(start - (0.03 * span if start < 0 else 0), end + room * span)
    axes.set_xticks([tick for tick in axes.get_xticks() if start <= tick <= end])
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.set_yticks(range(len(named)), [wrapped(name) for name in named.values()], fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    if start < 0:
        axes.axvline(0, color=BLACK, linewidth=0.8)
    tidy(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _common_limit(reports: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> float:
    """The end of the axis of all percentages, so that panels compare."""
    kinds = [panel.kind for panel in PANELS if panel.kind.unit == "percent"]
    kinds.remove(scores.HEAD_SKILL)
    keys = [
        scores.SCORE.key(),
        *OVERALL,
        *OF_HEADS,
        *(kind.key(m) for kind in kinds for m in modalities),
    ]
    parts = [part for report in reports for key in keys for part in _percent(report, key)]
    highest = max((part for part in parts if part is not None), default=100)
    return float(min(100, max(10, 10 * np.ceil(highest / 10))))


def _mark_accuracy(axes: "Axes", reports: Sequence[Mapping[str, Any]], groups: int) -> None:
    """Where the accuracy with every modality is: what is missing to it is the cost."""
    height = 0.8 / len(reports)
    for number, report in enumerate(reports):
        value, _, _ = _percent(report, scores.ACCURACY.key())
        if value is None:
            value, _, _ = _percent(report, scores.SCORE.key())
        if value is None:
            continue
        tops = np.arange(groups) - 0.4 + number * height
        axes.vlines([value] * groups, tops, tops + 0.92 * height, color="white", linewidth=3.5)
        axes.vlines([value] * groups, tops, tops + 0.92 * height, color=BLACK, linewidth=1.6)


def _mark_training(
    axes: "Axes", reports: Sequence[Mapping[str, Any]], modalities: Sequence[str]
) -> None:
    """Skill on training rows, beside the bars of that on the rows at hand."""
    height = 0.8 / len(reports)
    for number, report in enumerate(reports):
        for group, name in enumerate(modalities):
            value, _, _ = _percent(report, scores.TRAINING_SKILL.key(name))
            if value is not None:
                place = group - 0.4 + (number + 0.5) * height
                axes.plot(
                    [value], [place], marker="D", markersize=6, color=BLACK,
                    markeredgecolor="white", linestyle="", clip_on=False,
                )  # fmt: skip


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
        [wrapped(report["name"], 30) for report in reports],
        loc="outside upper left",
        ncols=min(len(reports), 4),
        frameon=False,
        fontsize=10,
        handlelength=2.5,
    )


def _numbers(
    report: Mapping[str, Any], key: str
) -> tuple[float | None, float | None, float | None]:
    """Value, low and high, None for what is not there."""
    found = report["scores"].get(key) or {}
    value, low, high = (_number(found.get(part)) for part in ("value", "low", "high"))
    return value, low, high


def _percent(
    report: Mapping[str, Any], key: str
) -> tuple[float | None, float | None, float | None]:
    value, low, high = (None if part is None else 100 * part for part in _numbers(report, key))
    return value, low, high


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _has_intervals(reports: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        _numbers(report, key)[1] is not None for report in reports for key in report["scores"]
    )


def _majority(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """Accuracy of the most frequent class, where all reports agree on it."""
    found = {_numbers(report, scores.MAJORITY.key())[0] for report in reports}
    return found.pop() if len(found) == 1 else None
