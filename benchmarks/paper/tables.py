"""The result table: ours beside the paper's."""

from itertools import compress
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common import markdown
from benchmarks.common.records import write_text
from benchmarks.methods.entries import ENTRIES
from benchmarks.paper.datasets.base import PaperData
from benchmarks.paper.kept import read_runs
from benchmarks.paper.protocol import PUBLISHED, Published
from benchmarks.paper.settings import ProtocolName

HEADER = (
    "method",
    "seeds",
    "accuracy",
    "paper",
    "F1",
    "F1 by batch",
    "paper",
    "misaligned",
)
SPLITS: dict[ProtocolName, str] = {
    "paper": "the paper's.",
    "speakers": (
        "every speaker is in training, validation or test alone. Over seeds 0 to 4, which are "
        "five folds, every clip is tested on once. The paper's numbers are of another split and "
        "left out."
    ),
}
SCORES = ("accuracy", "macro_f1", "batch_macro_f1", "misaligned_accuracy")


class Row(NamedTuple):
    """Scores of a method, by run."""

    title: str
    scores: list[dict[str, float | None]]
    published: Published | None


def write_table(
    title: str, data: PaperData, protocol: ProtocolName, folder: Path, console: Console
) -> None:
    """Make the table of all finished runs in a folder, print it, and keep it as Markdown."""
    shown = [name != "paper" or protocol == "paper" for name in HEADER]
    header = tuple(compress(HEADER, shown))
    lines = [tuple(compress(cells(row), shown)) for row in rows(data, folder, protocol)]
    table = Table(*header, title=f"{title}, protocol {protocol}, test clips, %")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    page = folder / "table.md"
    text = (
        f"# {title}\n\nProtocol `{protocol}`: {SPLITS[protocol]}\n\n"
        f"Test clips, %; mean ± standard deviation over seeds. F1 is macro-F1 of all test clips, "
        f"then the mean over batches of 64; the paper's is very probably the latter.\n\n"
        f"{markdown.table(header, lines)}\n"
    )
    write_text(page, text)
    console.print(f"Written: {page}", soft_wrap=True, markup=False)


def rows(data: PaperData, folder: Path, protocol: ProtocolName) -> list[Row]:
    """One row a method with finished runs, in the order of the comparison."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in read_runs(folder / "runs", data, protocol):
        key = run["entry"] if run["modality"] is None else f"{run['entry']} {run['modality']}"
        runs.setdefault(key, []).append(run)
    places = list(ENTRIES)
    of_data = [None, *data.modalities]

    def place(key: str) -> tuple[int, int]:
        run = runs[key][0]
        return places.index(run["entry"]), of_data.index(run["modality"])

    ordered = sorted(runs, key=place)
    published = PUBLISHED[data.name] if protocol == "paper" else {}
    return [
        Row(
            key if runs[key][0]["modality"] else ENTRIES[key].title,
            [run["test"] for run in runs[key]],
            published.get(key),
        )
        for key in ordered
    ]


def cells(row: Row) -> tuple[str, ...]:
    """A row as printed."""
    accuracy, f1, batch_f1, misaligned = (
        spread([score for scores in row.scores if (score := scores.get(name)) is not None])
        for name in SCORES
    )
    paper, paper_f1 = "", ""
    if row.published is not None:
        paper = f"{row.published.accuracy:.2f}"
        if row.published.spread is not None:
            paper += f" ± {row.published.spread:.2f}"
        paper_f1 = "" if row.published.f1 is None else f"{row.published.f1:.2f}"
    return row.title, str(len(row.scores)), accuracy, paper, f1, batch_f1, paper_f1, misaligned


def spread(values: list[float]) -> str:
    """Mean ± standard deviation in %, of one value without the latter."""
    if not values:
        return ""
    text = f"{100 * mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {100 * stdev(values):.2f}"
