"""Tables and figures of a suite, from the finished runs alone."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.records import write_text
from benchmarks.compare.report import family, figures, tables
from benchmarks.compare.report.runs import load_runs

__all__ = ["write_report"]


def write_report(name: str, tasks: tuple[str, ...], root: Path) -> Iterator[Path]:
    """Write README.md and the figures into the suite's folder; yields what was written.

    Raises:
        ValueError: A run is missing.
    """
    folder = root / name
    runs = load_runs(folder, tasks)
    page = folder / "README.md"
    reading = folder / "reading.md"  # by hand
    words = reading.read_text(encoding="utf-8") if reading.exists() else ""
    if name in family.FAMILIES:
        write_text(page, family.page(name, runs, words))
    else:
        for file, drawing in figures.figures_of(runs).items():
            drawing.draw(runs, folder / file)
            yield folder / file
        write_text(page, tables.page(name, runs, words))
    yield page
