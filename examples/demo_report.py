"""What the demo says in words and numbers: the table and the sentence under it."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import mean, stdev
from typing import NamedTuple, TypeAlias

import torch
from kanji import FITTED, METHODS, Record
from rich import box
from rich.table import Table

import midas_aug

Runs: TypeAlias = Mapping[str, Sequence[Sequence[Record]]]  # method -> seed -> epoch
Scores: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]  # row -> seed -> score

FUSED = (*(name for name in METHODS if name != "apart"), FITTED)  # trained together
ENSEMBLE = "fitted late fusion"


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
    accuracies: dict[str, list[float]]  # seed by seed, in percent
    seeds: int

    @property
    def caption(self) -> str:
        many = f"mean±standard deviation of {self.seeds} seeds" if self.seeds > 1 else "one seed"
        return (
            f"Test rows after the last epoch, in %, {many}. Misaligned: one modality is another "
            "character's, and the two radicals are the top two classes. Removed: the modality's "
            "feature is its mean over the training rows. Heads × 3: three times the weight on the "
            "unimodal losses; fitted: its fusion with one weight a modality and one a head, fitted "
            "on validation rows. Alone: an encoder and a head trained on one modality. Late "
            "fusion: these models' mean probability, or their log-probabilities with one weight a "
            "model, fitted on the same rows."
        )

    @property
    def best_alone(self) -> str:
        """The row of the best modality alone."""
        alone = [row for row in self.rows if row.endswith("alone")]
        return max(alone, key=lambda row: self.rows[row]["accuracy"].mean)


def test_scores(runs: Runs) -> Scores:
    """The scores of the test rows, which there are after the last epoch, by row of the table."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for seeds in runs.values():
        for records in seeds:
            for row, scores in (records[-1].test or {}).items():
                found.setdefault(row, []).append(scores)
    return found


def summarise(scores: Scores, modalities: Sequence[str]) -> Report:
    """Mean and deviation over seeds of what each method reaches on the test rows."""
    columns = ["accuracy", "macro-F1", "misaligned", *(f"{name} removed" for name in modalities)]
    rows = {
        row: {column: cell(seeds, column) for column in columns if column in seeds[0]}
        for row, seeds in scores.items()
    }
    accuracies = {row: [100 * seed["accuracy"] for seed in seeds] for row, seeds in scores.items()}
    return Report(columns, rows, accuracies, seeds=len(scores["joint"]))


def cell(scores: Sequence[Mapping[str, float]], key: str) -> Cell:
    """One score over the seeds."""
    values = [100 * score[key] for score in scores]
    return Cell(mean(values), stdev(values) if len(values) > 1 else None)


def rich_table(report: Report) -> Table:
    """For the terminal; 80 columns are enough for two modalities."""
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
            "# Kanji: where modalities compete",
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
    """Which way of fusing is worth it, by the numbers: against the best modality alone."""
    start = f"{report.best_alone} has {report.rows[report.best_alone]['accuracy'].mean:.1f} %. "
    parts = [
        f"{row} {gain(report, row):+.1f} (better with {wins(report, row)} of {report.seeds} seeds)"
        for row in (*FUSED, ENSEMBLE)
    ]
    chance = " One seed says nothing about chance." if report.seeds == 1 else ""
    return f"{start}With all modalities, points above or below that: {', '.join(parts)}.{chance}"


def gain(report: Report, row: str) -> float:
    """Points of accuracy more than the best modality alone has."""
    return report.rows[row]["accuracy"].mean - report.rows[report.best_alone]["accuracy"].mean


def wins(report: Report, row: str) -> int:
    """The seeds with which a row is better than the best modality alone."""
    pairs = zip(report.accuracies[row], report.accuracies[report.best_alone], strict=True)
    return sum(ours > theirs for ours, theirs in pairs)
