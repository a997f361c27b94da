"""What the page of the competition suite has beside the others: admission, and Holm's correction.

See its protocol, benchmarks/results/competition/PROTOCOL.md.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.common.markdown import table
from benchmarks.compare.report.runs import TaskRuns
from benchmarks.compare.report.statistics import Difference, estimate, holm, p_value
from benchmarks.compare.tasks import TASKS

Runs = Mapping[str, TaskRuns]
Pairs = tuple[tuple[str, str], ...]  # ours against theirs

ADMISSION = (("joint", "late-fusion"), ("joint", "unimodal-image"))
# The family of comparisons.
PAIRS: Pairs = (
    *(
        ("skill-fitted", theirs)
        for theirs in (
            "joint",
            "plain-swap",
            "midas",
            "late-fusion-fitted",
            "joint-fitted",
            "midas-fitted",
            "plain-swap-fitted",
        )
    ),
    *(("midas", theirs) for theirs in ("joint", "plain-swap", "late-fusion", "unimodal-image")),
    *(("skill", theirs) for theirs in ("joint", "plain-swap", "midas", "late-fusion")),
    ("joint-fitted", "joint"),
    *ADMISSION,
)
# Those between models of all modalities, which have every score.
WHOLE_PAIRS = tuple(pair for pair in PAIRS if pair[1] != "unimodal-image")
# What the rows of fewer seeds are shown with.
KNOWN = ("late-fusion-fitted", "joint", "plain-swap", "midas", "skill")
OPEN_QUESTION = ("joint", "plain-swap", "midas", "late-fusion-fitted")


class Compared(NamedTuple):
    """One comparison of the family."""

    task: str
    ours: str
    theirs: str
    difference: Difference
    p: float


def family(runs: Runs, pairs: Pairs = PAIRS) -> Iterator[Compared]:
    """Every comparison of the protocol in the task's main score, task by task."""
    for name, task in runs.items():
        score = TASKS[name].kind.main
        for ours, theirs in pairs:
            seeds = task.common_seeds(ours, theirs)
            values = (task.values(key, score, seeds) for key in (ours, theirs))
            difference = task.difference(ours, theirs, score)
            yield Compared(name, ours, theirs, difference, p_value(*values))


def admitted(runs: Runs) -> list[str]:
    """Tasks on which joint training is below late fusion or below a modality alone."""
    return [
        name
        for name, task in runs.items()
        if any(
            task.difference("joint", theirs, "accuracy").verdict < 0
            for theirs, row in task.rows.items()
            if theirs == "late-fusion" or row.modality is not None
        )
    ]


def admission(runs: Runs, tasks: list[str]) -> str:
    """Which tasks were admitted, in words."""
    others = [name for name in runs if name not in tasks]
    words = f"Admitted by the rule of the protocol: {', '.join(tasks) or 'none'}."
    return words + (f" Not admitted: {', '.join(others)}." if others else "")


def sections(runs: Runs) -> list[str]:
    """The parts of the page."""
    compared = list(family(runs))
    kept = holm([one.p for one in compared])
    tasks = admitted(runs)
    return [
        "## Where modalities compete",
        admission(runs, tasks),
        "## The family of comparisons, raw and corrected",
        f"Accuracy, points. ▲ and ▼: the raw 95 % interval is clear of zero. ★: it is a difference "
        f"for Holm's correction over all {len(compared)} comparisons too, of which "
        f"{sum(kept)} are.",
        family_table(runs, compared, kept),
        open_question(runs, tasks),
    ]


def beside(runs: Runs) -> list[str]:
    """The part about the rows that were not tuned and have fewer seeds."""
    first = next(iter(runs.values()))
    seeds = sorted(set.intersection(*(set(row.records) for row in first.beside.values())))
    lines = []
    for key in (*KNOWN, *first.beside):
        rows = [(task.rows | task.beside).get(key) for task in runs.values()]
        cells = [f"{estimate(r.score('accuracy', seeds)).mean:.1f}" if r else "" for r in rows]
        title = next(row.title for row in rows if row is not None)
        lines.append([title, *cells])
    return [
        "## Untuned rows, for orientation",
        f"Accuracy, mean of the seeds {', '.join(map(str, seeds))}, %; the first {len(KNOWN)} rows "
        "are those of the tables above on these seeds. The others have the learning rate of joint "
        "training and no tuning of their own; no claim is made about them.",
        table(["method", *runs], lines),
    ]


def family_table(
    runs: Runs, compared: list[Compared], kept: list[bool], title: str = "accuracy, points"
) -> str:
    """The differences by pair and task, marked where they are raw and where corrected ones."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one, star in zip(compared, kept, strict=True):
        mean, margin, won, seeds = one.difference
        mark = {1: " ▲", -1: " ▼", 0: ""}[one.difference.verdict] + ("★" if star else "")
        cell = f"{mean:+.1f} ± {margin:.1f}{mark} ({won}/{seeds})"
        cells.setdefault((one.ours, one.theirs), []).append(cell)
    rows = next(iter(runs.values())).rows
    lines = [
        [f"{rows[ours].title} − {rows[theirs].title}", *line]
        for (ours, theirs), line in cells.items()
    ]
    return table([title, *runs], lines)


def open_question(runs: Runs, tasks: list[str], ours: str = "skill-fitted") -> str:
    """Whether a row is what the protocol asks for, in words: better on these, worse on none."""
    missed = [
        f"{task} against {runs[task].rows[theirs].title}"
        for task in tasks
        for theirs in OPEN_QUESTION
        if runs[task].difference(ours, theirs, "accuracy").verdict <= 0
    ]
    harmed = [
        name
        for name, task in runs.items()
        if task.difference(ours, "joint", "accuracy").verdict < 0
    ]
    if tasks and not missed and not harmed:
        return "The open question is met on these tasks, by the raw intervals."
    reasons = [f"not better on {', '.join(missed)}"] if missed else []
    reasons += [f"harm on {', '.join(harmed)}"] if harmed else []
    reasons = reasons or ["no task was admitted"]
    return f"The open question is not met: {'; '.join(reasons)}."
