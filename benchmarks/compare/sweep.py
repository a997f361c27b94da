"""What makes modalities compete: the task kanji with one thing changed at a time.

    python -m benchmarks.compare.sweep              # train what is missing; page and figure
    python -m benchmarks.compare.sweep --out DIR

Runs, page and figure go to runs/compare/sweep, or to DIR; published runs count as finished. See
benchmarks/results/sweep/PROTOCOL.md.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, TypeAlias

import joblib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import palette
from benchmarks.common.errors import DataError
from benchmarks.common.markdown import table
from benchmarks.common.metrics import accuracy
from benchmarks.common.records import (
    RESULTS,
    RUNS,
    json_line,
    need_writable,
    parse_json,
    versions,
    write_figure,
    write_text,
)
from benchmarks.compare import foretell
from benchmarks.compare.advice import PUBLISHED as DIAGNOSES
from benchmarks.compare.advice import load, trained_on
from benchmarks.compare.augment import RandomCrop, WordDropout
from benchmarks.compare.tasks import TASKS, Task, split_of
from benchmarks.compare.train import regime_of, train
from benchmarks.methods.entries import LEARNING_RATE, Config
from benchmarks.methods.suite_entries import COMPETITION_LEADERS

PUBLISHED = RESULTS / "sweep"
OUT = RUNS / "compare" / "sweep"
NAME, PAGE, FIGURE = "sweep.jsonl", "README.md", "sweep.png"
SEEDS = (7000, 7001)
RATE = 0.03

BASE = replace(TASKS["kanji"], rows=2000)
CROPS = BASE.augment
CELLS: dict[str, Task] = {
    "as it is": BASE,
    "no crops": replace(BASE, augment={}),
    "crops from ¾": replace(BASE, augment={"image": RandomCrop(smallest=0.75)}),
    "crops from ¼": replace(BASE, augment={"image": RandomCrop(smallest=0.25)}),
    **{
        f"word dropout {rate}": replace(BASE, augment={**CROPS, "meanings": WordDropout(rate)})
        for rate in (0.25, 0.5, 0.75)
    },
    "1000 rows": replace(BASE, rows=1000),
    "4000 rows": replace(BASE, rows=4000),
    "15 epochs": replace(BASE, epochs=15),
    "60 epochs": replace(BASE, epochs=60),
    **{f"words of {rows} rows": replace(BASE, common=rows) for rows in (2, 5)},
    "meanings at ⅓": replace(BASE, speed={"meanings": 1 / 3}),
    "picture at ⅓": replace(BASE, speed={"image": 1 / 3}),
}
MEMORISED = "memorised.meanings"
KEPT = (foretell.SCORE, "memorised.image", MEMORISED, "accuracy", "late_fusion")

Record: TypeAlias = dict[str, Any]  # cell, seed, scores, test, versions


class Key(NamedTuple):
    """One cell with one seed."""

    cell: str
    seed: int


PLAN = tuple(Key(cell, seed) for seed in SEEDS for cell in CELLS)


def run(key: Key) -> Record:
    """Diagnose joint training, and score it and the other trainings on the test rows."""
    torch.set_num_threads(1)
    task = CELLS[key.cell]
    split = split_of(task, key.seed)
    config: Config = {LEARNING_RATE: RATE}
    joint = trained_on(task, split, config, key.seed)
    scores = joint.diagnosed("validation").scores
    rows = joint.parts["test"]
    test = {"joint": accuracy(joint.predict(rows.features), rows.labels)}
    for method in foretell.METHODS:
        outcome = train(
            COMPETITION_LEADERS[method].build({}),
            split,
            regime_of(task, config, key.seed),
            test=True,
        )
        test[method] = (outcome.test or {})["accuracy"]
    return {
        **key._asdict(),
        "scores": {name: round(scores[name].value, 5) for name in KEPT},
        "test": {name: round(value, 5) for name, value in test.items()},
        "versions": versions(),
    }


def read(folder: Path) -> dict[Key, Record]:
    """The runs that are published or in a folder."""
    found = {}
    for file in (PUBLISHED / NAME, folder / NAME):
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                record = parse_json(line, file)
                found[Key(record["cell"], record["seed"])] = record
    return found


def run_all(folder: Path, plan: Iterable[Key] = PLAN, workers: int = 2) -> Iterator[Key]:
    """Run what is missing; the file is whole after every one."""
    found = read(folder)
    missing = [key for key in plan if key not in found]
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        runs = joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(run)(key) for key in missing
        )
        for record in runs:
            key = Key(record["cell"], record["seed"])
            found[key] = record
            lines = (json_line(found[one]) for one in sorted(found))
            write_text(folder / NAME, "".join(f"{line}\n" for line in lines))
            yield key


class Cell(NamedTuple):
    """Means over the seeds, in points."""

    test: Mapping[str, float]
    score: float
    memorised: float

    def gain(self, method: str) -> float:
        """Over joint training."""
        return self.test[method] - self.test["joint"]


def cells(found: Mapping[Key, Record]) -> dict[str, Cell]:
    """Every cell of the plan that has all its seeds."""
    made = {}
    for name in CELLS:
        records = [found[Key(name, seed)] for seed in SEEDS if Key(name, seed) in found]
        if len(records) < len(SEEDS):
            continue
        test = {
            method: 100 * mean(record["test"][method] for record in records)
            for method in ("joint", *foretell.METHODS)
        }
        score, memorised = (
            100 * mean(record["scores"][key] for record in records)
            for key in (foretell.SCORE, MEMORISED)
        )
        made[name] = Cell(test, score, memorised)
    return made


def page(made: Mapping[str, Cell], lines: Mapping[str, foretell.Line], reading: str = "") -> str:
    """Table, answers and figure; ``reading`` is what a person has to say."""
    rows = [
        [
            name,
            *(f"{cell.test[method]:.1f}" for method in ("joint", *foretell.METHODS)),
            *(f"{cell.gain(method):+.1f}" for method in foretell.METHODS),
            f"{cell.score:+.1f}",
            f"{cell.memorised:.1f}",
        ]
        for name, cell in made.items()
    ]
    titles = list(foretell.METHODS.values())
    header = ["kanji, 2000 rows", "joint", *titles, *(f"{title} − joint" for title in titles)]
    parts = [
        "# What makes modalities compete",
        f"Means of the seeds {' and '.join(map(str, SEEDS))}, accuracy on test rows in %, "
        "differences in points; what was run is in [the protocol](PROTOCOL.md). Written by `python "
        "-m benchmarks.compare.sweep --out benchmarks/results/sweep`.",
        *([reading.strip()] if reading else []),
        f"![gain of each method against two scores of the joint model, a point a cell]({FIGURE})",
        table([*header, f"`{foretell.SCORE}`", f"`{MEMORISED}`"], rows),
        *(answer(made, method, lines[method]) for method in foretell.METHODS),
    ]
    return "\n\n".join(parts) + "\n"


def answer(made: Mapping[str, Cell], method: str, line: foretell.Line) -> str:
    """What the protocol looks at, for a method."""
    gains = [cell.gain(method) for cell in made.values()]
    told = [line.foretell(cell.score) for cell in made.values()]
    off = np.subtract(gains, [middle for middle, _ in told])
    within = sum(abs(off) <= [margin for _, margin in told])
    memorised = np.corrcoef([cell.memorised for cell in made.values()], gains)[0, 1]
    return (
        f"**{foretell.METHODS[method]}.** Gains are {np.sqrt(np.mean(off**2)):.1f} points (root "
        "mean square) from the line through the fourteen tasks, which was fitted without these "
        f"cells; {within} of {len(made)} are within its prediction interval. Their correlation "
        f"with `{MEMORISED}` is {memorised:+.2f}."
    )


def draw(made: Mapping[str, Cell], lines: Mapping[str, foretell.Line], path: Path) -> None:
    """The gains against both scores."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for method, color, marker in (("midas", palette.BLUE, "o"), ("skill", palette.PINK, "P")):
        gains = [cell.gain(method) for cell in made.values()]
        for axes, across in (
            (left, [cell.score for cell in made.values()]),
            (right, [cell.memorised for cell in made.values()]),
        ):
            title = foretell.METHODS[method]
            axes.scatter(across, gains, s=26, c=color, marker=marker, label=title, zorder=3)
        _line(left, lines[method], [cell.score for cell in made.values()], color)
    for axes in (left, right):
        axes.axhline(0, color=palette.INK, linewidth=0.6)
    left.set_ylabel("gain over joint training, points")
    left.set_xlabel("fitted late fusion of probes, points above the joint model", fontsize=8)
    right.set_xlabel("meanings memorised: skill on training less held-out rows", fontsize=8)
    left.legend(fontsize=7, loc="upper left", frameon=False)
    places = [cell.memorised for cell in made.values()]
    right.set_xlim(min(places) - 6, max(places) + 12)
    figure.draw_without_rendering()  # so that points have their places
    _name(right, made)
    write_figure(path, figure, dpi=110)


def _name(axes: Axes, made: Mapping[str, Cell]) -> None:
    """Write the name of each cell beside its point, where it covers neither a point nor a name."""
    to_points = 72 / axes.figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y)) * to_points
        return float(across), float(up)

    gains = [(cell.memorised, cell.gain(m)) for cell in made.values() for m in foretell.METHODS]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in (at(*gain) for gain in gains)]
    for name, cell in sorted(made.items(), key=lambda item: item[1].memorised):
        words, (x, y) = name.replace("word ", ""), at(cell.memorised, cell.gain("skill"))
        width = 3.2 * len(words)
        boxes = [
            (x + dx, y + dy, x + dx + width, y + dy + 6)
            for dy in (-3, 4, -10, 11, -17, 18)
            for dx in (5, -5 - width, -width / 2)
        ]
        box = min(boxes, key=lambda one: sum(_overlap(one, other) for other in taken))
        taken.append(box)
        offset = (box[0] - x, box[1] - y)
        axes.annotate(
            words,
            (cell.memorised, cell.gain("skill")),
            offset,
            textcoords="offset points",
            fontsize=6,
        )


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (left, low, right, high) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _line(axes: Axes, line: foretell.Line, scores: Sequence[float], color: str) -> None:
    ends = [min(scores) - 1, max(scores) + 1]
    told = [line.foretell(score)[0] for score in ends]
    axes.plot(ends, told, color=color, linewidth=1, label="line through the fourteen tasks")


def lines_of_tasks() -> dict[str, foretell.Line]:
    """The line through all tasks of the comparison, for each method."""
    known = foretell.points(load(DIAGNOSES), foretell.published_gains())
    return {method: foretell.line_of(known, known, method) for method in foretell.METHODS}


def main(words: Sequence[str]) -> Iterator[str]:
    """Run the command, and say what came of it."""
    if words and (len(words) != 2 or words[0] != "--out"):
        raise DataError("expected nothing, or --out DIR")
    folder = Path(words[1]) if words else OUT
    need_writable(folder)
    for key in run_all(folder):
        yield f"{key.cell}, seed {key.seed}: done\n"
    made, lines = cells(read(folder)), lines_of_tasks()
    reading = folder / "reading.md"
    said = reading.read_text(encoding="utf-8") if reading.exists() else ""
    write_text(folder / PAGE, page(made, lines, said))
    draw(made, lines, folder / FIGURE)
    yield f"Written: {folder / PAGE}\n"


if __name__ == "__main__":
    for text in main(sys.argv[1:]):
        sys.stdout.write(text)
        sys.stdout.flush()
