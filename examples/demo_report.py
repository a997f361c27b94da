"""What the demo says in words and numbers: the table and the sentence under it."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import mean, stdev
from typing import NamedTuple, TypeAlias

import torch
from digits import Record
from rich import box
from rich.table import Table

import midas_aug

Runs: TypeAlias = Mapping[str, Sequence[Sequence[Record]]]  # method -> seed -> epoch
Scores: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]  # method -> seed -> score


class Cell(NamedTuple):
    """Mean and standard deviation over seeds, in percent; one seed has no deviation."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f"±{self.std:.1f}")


@dataclass(frozen=True)
class Report:
    """The table, from the test rows after the last epoch."""

    columns: list[str]
    rows: dict[str, dict[str, Cell]]
    seeds: int

    @property
    def caption(self) -> str:
        many = f"mean±standard deviation of {self.seeds} seeds" if self.seeds > 1 else "one seed"
        return (
            f"Test rows after the last epoch, in %, {many}. Misaligned: one view is another "
            "digit's, and the two digits are the top two classes. Removed: the view's feature is "
            "its mean over the training rows. Alone: an encoder and a head trained on one view."
        )


def test_scores(runs: Runs) -> Scores:
    """The scores of the test rows, which there are after the last epoch."""
    return {method: [seed[-1].test or {} for seed in seeds] for method, seeds in runs.items()}


def summarise(scores: Scores, views: Sequence[str]) -> Report:
    """Mean and deviation over seeds of what each method reaches on the test rows."""
    columns = ["accuracy", "macro-F1", "misaligned", *(f"{view} removed" for view in views)]
    rows = {}
    for method, seeds in scores.items():
        if method != "unimodal":
            rows[method] = {column: cell(seeds, column) for column in columns}
    alone = scores["unimodal"]
    for view in views:
        rows[f"{view} alone"] = {
            "accuracy": cell(alone, f"{view} head"),
            "macro-F1": cell(alone, f"{view} head macro-F1"),
        }
    return Report(columns, rows, seeds=len(alone))


def cell(scores: Sequence[Mapping[str, float]], key: str) -> Cell:
    """One score over the seeds."""
    values = [100 * score[key] for score in scores]
    return Cell(mean(values), stdev(values) if len(values) > 1 else None)


def rich_table(report: Report) -> Table:
    """For the terminal; 80 columns are enough for three views."""
    table = Table(
        box=box.SIMPLE_HEAD, caption=report.caption, caption_justify="left", padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for column in report.columns:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, row in report.rows.items():
        table.add_row(name, *(str(row.get(column, "")) for column in report.columns))
    return table


def markdown_table(report: Report) -> list[str]:
    """The same table, for results.md and README.md."""
    lines = [
        "| | " + " | ".join(report.columns) + " |",
        "| --- |" + " ---: |" * len(report.columns),
    ]
    for name, row in report.rows.items():
        cells = (str(row.get(column, "")) for column in report.columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def markdown(report: Report, command: str) -> str:
    """The text of results.md: the table, and what is needed to repeat it."""
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    return "\n".join(
        [
            "# Digits: joint training, plain swap, MIDAS",
            "",
            *markdown_table(report),
            "",
            report.caption,
            "",
            verdict(report),
            "",
            "```console",
            command,
            "```",
            "",
            f"With {used}.",
            "",
        ]
    )


def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    return {
        "midas_aug": midas_aug.__version__,
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "Python": platform.python_version(),
    }


def verdict(report: Report) -> str:
    """What moved and what did not, by the numbers."""
    joint, swap, midas = (report.rows[method] for method in ("joint", "plain swap", "MIDAS"))
    path = {
        score: f"{score} {joint[score].mean:.1f} → {swap[score].mean:.1f} → {midas[score].mean:.1f}"
        for score in report.columns
    }
    start = "From joint to plain swap to MIDAS: "
    if report.seeds == 1:
        return start + ", ".join(path.values()) + ". One seed says nothing about chance."
    moved = [path[score] for score in path if differ(joint[score], midas[score])]
    rest = [path[score] for score in path if not differ(joint[score], midas[score])]
    apart = [
        f"{score} ({'MIDAS' if midas[score].mean > swap[score].mean else 'plain swap'} ahead)"
        for score in path
        if differ(swap[score], midas[score])
    ]
    return (
        f"{start}{', '.join(moved) or 'nothing moves'}; MIDAS within one standard deviation of "
        f"joint: {', '.join(rest) or 'nothing'}; MIDAS and plain swap further apart than that: "
        f"{', '.join(apart) or 'nowhere'}."
    )


def differ(one: Cell, other: Cell) -> bool:
    """Whether two means are further apart than the larger of their standard deviations."""
    return abs(one.mean - other.mean) > max(one.std or 0, other.std or 0)
