"""The page of the suite about tags, numbers and missing modalities.

See its protocol, benchmarks/results/labels/PROTOCOL.md.
"""

from collections.abc import Mapping

from benchmarks.common.markdown import table
from benchmarks.compare.report.competition import Pairs, family, family_table
from benchmarks.compare.report.runs import TaskRuns
from benchmarks.compare.report.statistics import holm
from benchmarks.compare.report.tables import LEGEND, chosen, conditions, marked_mean, mean_std
from benchmarks.compare.tasks import TASKS

Runs = Mapping[str, TaskRuns]

# The family of comparisons.
PAIRS: Pairs = (
    *(("midas", theirs) for theirs in ("joint", "plain-swap", "modality-dropout")),
    *(("skill", theirs) for theirs in ("joint", "plain-swap", "modality-dropout", "midas")),
    *((ours, "joint") for ours in ("plain-swap", "modality-dropout")),
)


def page(runs: Runs, reading: str = "") -> str:
    """All of it; ``reading`` is what a person has to say about the numbers."""
    compared = list(family(runs, PAIRS))
    kept = holm([one.p for one in compared])
    parts = [
        "# Results of the suite `labels`",
        "What the tasks and rows are and how it was run: [the protocol](PROTOCOL.md). Written by "
        "`python -m benchmarks report --suite labels`.",
        conditions(runs),
        *([reading.strip()] if reading else []),
        "## The score that decides",
        summary(runs),
        f"Accuracy and mean average precision in %, R² times 100. {LEGEND} The learning rates "
        "of tags are ten times those that stand below.",
        "## The family of comparisons, raw and corrected",
        "Points of the score that decides. ▲ and ▼: the raw 95 % interval is clear of zero. ★: it "
        f"is a difference for Holm's correction over all {len(compared)} comparisons too, of which "
        f"{sum(kept)} are. In brackets the seeds won.",
        family_table(runs, compared, kept, "points"),
    ]
    for task in runs.values():
        parts += [f"## {task.name}", scores(task), chosen(task)]
    return "\n\n".join(parts) + "\n"


def summary(runs: Runs) -> str:
    """Methods by tasks."""
    rows = [
        [row.title, *(marked_mean(task, key, TASKS[task.name].kind.main) for task in runs.values())]
        for key, row in next(iter(runs.values())).rows.items()
    ]
    return table(["method", *runs], rows)


def scores(task: TaskRuns) -> str:
    """Every row of a task with its scores, but for the loss."""
    kind = TASKS[task.name].kind
    first = next(iter(task.rows.values()))
    names = [name for name in next(iter(first.records.values()))["test"] if name != "nll"]
    header = [name.replace(kind.main, kind.title).replace("macro_f1", "macro-F1") for name in names]
    rows = [
        [row.title, *(mean_std(row.score(name)) for name in names), str(len(row.records))]
        for row in task.rows.values()
    ]
    return table(["method", *(title.replace(".", ", ") for title in header), "seeds"], rows)
