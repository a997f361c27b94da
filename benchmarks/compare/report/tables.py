"""The page of a suite in Markdown: summary, comparisons with the controls, a section a task."""

from collections.abc import Mapping, Sequence

from benchmarks.common.markdown import table
from benchmarks.compare.report import competition
from benchmarks.compare.report.figures import figures_of
from benchmarks.compare.report.runs import WITHOUT, TaskRuns
from benchmarks.compare.report.statistics import Difference, estimate
from benchmarks.methods.entries import config_words

Runs = Mapping[str, TaskRuns]

SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "misaligned_accuracy": "misaligned",
}
COMPARED = {**SCORES, WITHOUT: "one removed"}  # the mean over which one
Pairs = tuple[tuple[str, str], ...]  # ours against theirs
PAIRS: Pairs = (
    ("midas", "late-fusion"),
    ("midas", "joint"),
    ("midas", "unimodal-losses"),
    ("midas", "modality-dropout"),
    ("midas", "plain-swap"),
    ("midas", "plain-swap-warmup"),
    ("plain-swap", "joint"),
    ("plain-swap", "modality-dropout"),
    ("unimodal-losses", "joint"),
)
SKILL_PAIRS: Pairs = (
    *(
        ("skill", theirs)
        for theirs in (
            "joint",
            "unimodal-losses",
            "modality-dropout",
            "plain-swap",
            "plain-swap-warmup",
            "midas",
            "midas-matched",
        )
    ),
    *(
        ("skill-half", theirs)
        for theirs in ("joint", "unimodal-losses", "plain-swap-half", "plain-swap-warmup-half")
    ),
    ("plain-swap", "joint"),
    ("plain-swap-half", "joint"),
    ("plain-swap-warmup", "joint"),
    ("midas", "joint"),
    ("midas-matched", "joint"),
    ("unimodal-losses", "joint"),
)


PAIRS_OF = {"skill": SKILL_PAIRS, "competition": competition.WHOLE_PAIRS}


def page(name: str, runs: Runs, reading: str = "") -> str:
    """All of it; ``reading`` is what a person has to say about the numbers."""
    chosen_pairs = PAIRS_OF.get(name, PAIRS)
    parts = [
        f"# Results of the suite `{name}`",
        "What the columns mean and how it was run: [the protocol](../../README.md). Written by "
        f"`python -m benchmarks freeze {name}`.",
        conditions(runs),
        *([reading.strip()] if reading else []),
        *(f"![{drawing.alt}]({file})" for file, drawing in figures_of(runs).items()),
        *(competition.sections(runs) if name == "competition" else []),
        "## Accuracy",
        summary(runs, "accuracy"),
        "## Misaligned accuracy",
        summary(runs, "misaligned_accuracy"),
        "## Accuracy with one modality removed, the mean over which one",
        summary(runs, WITHOUT),
        LEGEND,
        *(competition.beside(runs) if name == "competition" else []),
        "## The pairs that claims are made about",
        verdicts(runs, chosen_pairs),
        f"On how many of {len(runs)} tasks, by the 95 % interval of the paired difference. The "
        "differences themselves, with the seeds won:",
        *(pairs(runs, score, chosen_pairs) for score in COMPARED),
    ]
    if name == "skill":
        parts += ["## The better of two runs on validation", NO_HARM]
        parts += [no_harm(runs, score) for score in SCORES]
    for task in runs.values():
        parts += [f"## {task.name}", scores(task), diagnosis(task), chosen(task)]
    return "\n\n".join(parts) + "\n"


LEGEND = (
    "Mean over the seeds that all methods have, %. ▲ and ▼: better and worse than joint training, "
    "△ and ▽: than the plain swap, where the 95 % interval of the paired difference is clear of "
    "zero (over all seeds that the two have)."
)

NO_HARM = (
    "What `midas_aug.recipes.no_harm` would have kept: for each seed the run with more validation "
    "accuracy, of equals joint training. Read off the same runs, not in the protocol."
)


def summary(runs: Runs, score: str) -> str:
    """Methods by tasks."""
    rows = alone(runs) if score == "accuracy" else []
    for key, row in next(iter(runs.values())).rows.items():
        if row.modality is None:
            cells = [marked_mean(task, key, score) for task in runs.values()]
            rows.append([row.title, *cells])
    return table(["method", *runs], rows)


def verdicts(runs: Runs, compared: Pairs) -> str:
    """On how many tasks one of a pair is better, tied or worse, for each score."""
    rows = []
    for ours, theirs in compared:
        cells = []
        for score in COMPARED:
            found = [task.difference(ours, theirs, score).verdict for task in runs.values()]
            cells.append(" / ".join(str(found.count(verdict)) for verdict in (1, 0, -1)))
        rows.append([_pair_title(runs, ours, theirs, "against"), *cells])
    return table(["better / tied / worse", *COMPARED.values()], rows)


def pairs(runs: Runs, score: str, compared: Pairs) -> str:
    """Paired differences between the headline entries, by task."""
    rows = []
    for ours, theirs in compared:
        cells = [difference_cell(task.difference(ours, theirs, score)) for task in runs.values()]
        rows.append([_pair_title(runs, ours, theirs, "−"), *cells])
    return table([f"{COMPARED[score]}, points", *runs], rows)


def no_harm(runs: Runs, score: str) -> str:
    """The better of two runs on validation, against joint training."""
    rows = [
        [
            f"{_pair_title(runs, ours, 'joint', 'or')} − joint",
            *(
                difference_cell(task.difference_of_better(ours, "joint", score))
                for task in runs.values()
            ),
        ]
        for ours in ("skill", "skill-half")
    ]
    return table([f"{COMPARED[score]}, points", *runs], rows)


def scores(task: TaskRuns) -> str:
    """Every row of a task with its scores, and the difference to the plain swap."""
    without = [f"without.{m}" for m in task.modalities]
    header = ["method", *SCORES.values(), *(f"without {m}" for m in task.modalities), "seeds"]
    header += ["accuracy − plain swap", "won"]
    rows = []
    for key, row in task.rows.items():
        cells = [mean_std(row.score(name)) for name in (*SCORES, *without)]
        difference = task.difference(key, "plain-swap", "accuracy")
        own = key == "plain-swap"
        rows.append(
            [row.title, *cells, str(len(row.records))]
            + (["", ""] if own else [interval(difference), f"{difference.won}/{difference.seeds}"])
        )
    return table(header, rows)


def diagnosis(task: TaskRuns) -> str:
    """Who is listened to, and what it costs."""
    names = [f"{kind}.{m}" for kind in ("confidence", "shapley", "smv") for m in task.modalities]
    header = ["method"]
    header += [f"{kind} {m}" for kind in ("confidence", "Shapley", "SMV") for m in task.modalities]
    rows = []
    for key, row in task.rows.items():
        cells = [_mean(row.score(name)) for name in names]
        if any(cells):
            cost = [f"{task.cost(key, 'steps'):.1f}", f"{task.cost(key, 'seconds'):.1f}"]
            rows.append([row.title, *cells, *cost])
    return table([*header, "steps", "time"], rows)


def chosen(task: TaskRuns) -> str:
    """What tuning chose."""
    rows = []
    for row in (*task.rows.values(), *task.beside.values()):
        config = next(iter(row.records.values()))["config"]
        rows.append(f"{row.title}: {', '.join(config_words(config.items()))}")
    return "Configurations: " + "; ".join(rows) + "."


def conditions(runs: Runs) -> str:
    """Versions and seeds, as the runs recorded them."""
    records = [
        record
        for task in runs.values()
        for row in (*task.rows.values(), *task.beside.values())
        for record in row.records.values()
    ]
    used: dict[str, set[str]] = {}
    for record in records:
        for name, value in record["versions"].items():
            used.setdefault(name, set()).add(str(value))
    versions = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in used.items())
    return f"{len(records)} test runs; {versions}."


def interval(difference: Difference) -> str:
    """``+0.5 ± 1.2``, with a mark where it is clear of zero."""
    mark = {1: " ▲", -1: " ▼", 0: ""}[difference.verdict]
    return f"{difference.mean:+.1f} ± {difference.margin:.1f}{mark}"


def difference_cell(difference: Difference) -> str:
    """The interval and the seeds won."""
    return f"{interval(difference)} ({difference.won}/{difference.seeds})"


def _pair_title(runs: Runs, ours: str, theirs: str, sign: str) -> str:
    rows = next(iter(runs.values())).rows
    return f"{rows[ours].title} {sign} {rows[theirs].title}"


def marked_mean(task: TaskRuns, key: str, score: str) -> str:
    """A mean over the shared seeds, with the marks of `LEGEND`."""
    mean = estimate(task.values(key, score, task.shared_seeds)).mean
    marks = (_mark(task, key, "joint", score, "▲▼"), _mark(task, key, "plain-swap", score, "△▽"))
    return f"{mean:.1f}{''.join(marks)}"


def _mark(task: TaskRuns, key: str, reference: str, score: str, marks: str) -> str:
    verdict = 0 if key == reference else task.difference(key, reference, score).verdict
    return {1: marks[0], -1: marks[1], 0: ""}[verdict]


def alone(runs: Runs) -> list[list[str]]:
    """The models of one modality, by how good they are: their names differ from task to task."""
    ranked = []
    for task in runs.values():
        means = [
            (estimate(row.score("accuracy", task.shared_seeds)).mean, row.title)
            for row in task.rows.values()
            if row.modality is not None
        ]
        ranked.append(sorted(means, reverse=True))
    rows = []
    for place, words in enumerate(("best", "second", "third")):
        cells = [f"{means[place][0]:.1f}" if place < len(means) else "" for means in ranked]
        if any(cells):
            rows.append([f"{words} modality alone", *cells])
    return rows


def mean_std(values: Sequence[float]) -> str:
    """``50.0±1.0``; nothing of no values."""
    return f"{estimate(values).mean:.1f}±{estimate(values).std:.1f}" if values else ""


def _mean(values: Sequence[float]) -> str:
    return f"{estimate(values).mean:.1f}" if values else ""
