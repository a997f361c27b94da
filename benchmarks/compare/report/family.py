"""The page of a suite whose claims are one family of comparisons, corrected for by Holm."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.common.markdown import table
from benchmarks.compare.report.competition import (
    Compared,
    Pairs,
    admission,
    admitted,
    family,
    family_table,
    open_question,
)
from benchmarks.compare.report.runs import TaskRuns
from benchmarks.compare.report.statistics import holm
from benchmarks.compare.report.tables import (
    LEGEND,
    alone,
    chosen,
    conditions,
    diagnosis,
    marked_mean,
    mean_std,
    scores,
)
from benchmarks.compare.tasks import COMPETITION, TASKS
from benchmarks.methods.suite_entries import DECAYED, OLDER, RIVALS, RULES

Runs = Mapping[str, TaskRuns]

CANDIDATE = "skill-heads-fitted-heads"  # about which the open question is asked

LABEL_PAIRS: Pairs = (
    *(("midas", theirs) for theirs in ("joint", "plain-swap", "modality-dropout")),
    *(("skill", theirs) for theirs in ("joint", "plain-swap", "modality-dropout", "midas")),
    *((ours, "joint") for ours in ("plain-swap", "modality-dropout")),
)
HEADS_PAIRS: Pairs = (
    *(
        (CANDIDATE, theirs)
        for theirs in (
            "joint",
            "plain-swap",
            "midas",
            "late-fusion-fitted",
            "joint-fitted",
            "midas-fitted-heads",
            "skill-fitted-heads",
            "plain-swap-heads-fitted-heads",
        )
    ),
    *(("skill-heads", theirs) for theirs in ("joint", "late-fusion", "skill", "plain-swap-heads")),
    *(("midas", theirs) for theirs in ("joint", "plain-swap")),
)
AUGMENTED_PAIRS: Pairs = (*HEADS_PAIRS, ("joint", "late-fusion"))
APART_PAIRS: Pairs = (
    *(
        (CANDIDATE, theirs)
        for theirs in (
            "skill-heads-fitted-heads-apart",
            "skill-heads-thirds-fitted-heads-apart",
            "joint",
            "late-fusion-fitted",
        )
    ),
    ("skill-heads", "skill-heads-thirds"),
)
RIVALS_PAIRS: Pairs = (
    *(
        (CANDIDATE, theirs)
        for theirs in ("joint", "plain-swap", "midas", "late-fusion-fitted", *RIVALS)
    ),
    *(("midas", theirs) for theirs in ("joint", "plain-swap", *RIVALS)),
)
OLDER_PAIRS: Pairs = (
    *((CANDIDATE, theirs) for theirs in ("joint", "plain-swap", "midas", *OLDER)),
    *(("midas", theirs) for theirs in ("joint", "plain-swap", *OLDER)),
)
RULES_PAIRS: Pairs = (
    *((rule, "skill-heads") for rule in RULES),
    *((f"{rule}-fitted-heads", CANDIDATE) for rule in RULES),
    *((f"{rule}-fitted-heads", "late-fusion-fitted") for rule in RULES),
    *((rule, "joint") for rule in ("skill-heads", *RULES)),
)
DECAY_PAIRS: Pairs = (
    *((f"{name}-decay", name) for name in DECAYED),
    ("joint-decay", "unimodal-image"),
    *((f"{name}-decay", "joint-decay") for name in ("plain-swap", "midas", "skill-heads")),
    ("midas-decay", "plain-swap-decay"),
    ("skill-heads-decay", "midas-decay"),
    *(
        ("skill-heads-decay-fitted-heads", theirs)
        for theirs in ("joint-decay", "plain-swap-decay", "midas-decay", "late-fusion-decay-fitted")
    ),
)
CHEAPER_PAIRS: Pairs = (
    *((ours, "midas") for ours in ("midas-one", "midas-every-2", "midas-every-4")),
    *((ours, "joint") for ours in ("midas", "midas-one", "midas-every-2", "midas-every-4")),
    ("midas", "plain-swap"),
)


class Family(NamedTuple):
    """What is said of a suite on its page.

    Attributes:
        pairs: The family of comparisons.
        note: Beneath the first table.
        details: What the section of a task has.
        candidate: The row about which the open question is asked, where it is.
        competing: The tasks on which it has to be better; None for those that the rule admits.
    """

    pairs: Pairs
    note: str = f"Accuracy in %. {LEGEND}"
    details: Callable[[TaskRuns], list[str]] = lambda task: [scores(task), diagnosis(task)]
    candidate: str = ""
    competing: tuple[str, ...] | None = ()


FAMILIES = {
    "labels": Family(
        LABEL_PAIRS,
        f"Accuracy and mean average precision in %, R² times 100. {LEGEND} The learning rates "
        "of tags are ten times those that stand below.",
        details=lambda task: [all_scores(task)],
    ),
    "heads": Family(HEADS_PAIRS, candidate=CANDIDATE, competing=COMPETITION),
    "rivals": Family(RIVALS_PAIRS, candidate=CANDIDATE, competing=COMPETITION),
    "augmented": Family(AUGMENTED_PAIRS, candidate=CANDIDATE, competing=None),
    "longer": Family(HEADS_PAIRS, candidate=CANDIDATE, competing=("kanji-long",)),
    "apart": Family(APART_PAIRS),
    "older-rivals": Family(OLDER_PAIRS),
    "rules": Family(RULES_PAIRS),
    "decay": Family(DECAY_PAIRS),
    "cheaper": Family(CHEAPER_PAIRS),
}


def page(name: str, runs: Runs, reading: str = "") -> str:
    """All of it; ``reading`` is what a person has to say about the numbers."""
    said = FAMILIES[name]
    compared = list(family(runs, said.pairs))
    kept = holm([one.p for one in compared])
    parts = [
        f"# Results of the suite `{name}`",
        "What the tasks and rows are and how it was run: [the protocol](PROTOCOL.md). Written by "
        f"`python -m benchmarks freeze {name}`.",
        conditions(runs),
        *([reading.strip()] if reading else []),
        "## The score that decides",
        summary(runs),
        said.note,
        "## The family of comparisons, raw and corrected",
        "Points of the score that decides. ▲ and ▼: the raw 95 % interval is clear of zero. ★: it "
        f"is a difference for Holm's correction over all {len(compared)} comparisons too, of which "
        f"{sum(kept)} are. In brackets the seeds won.",
        family_table(runs, compared, kept, "points"),
    ]
    if len(runs) > 1:
        parts += [
            f"On how many of the {len(runs)} tasks, by the raw interval, by Holm's correction, "
            "and by the mean alone:",
            counts(runs, said.pairs, compared, kept),
        ]
    competing = [task for task in said.competing or () if task in runs]
    if said.competing is None:
        competing = admitted(runs)
        parts += [admission(runs, competing)]
    if said.candidate:
        parts += [open_question(runs, competing, said.candidate)]
    for task in runs.values():
        parts += [f"## {task.name}", *said.details(task), chosen(task)]
    return "\n\n".join(parts) + "\n"


def summary(runs: Runs) -> str:
    """Methods by tasks, the models of one modality alone first."""
    rows = [
        *alone(runs),
        *(
            [
                row.title,
                *(marked_mean(task, key, TASKS[task.name].kind.main) for task in runs.values()),
            ]
            for key, row in next(iter(runs.values())).rows.items()
            if row.modality is None
        ),
    ]
    return table(["method", *runs], rows)


def counts(runs: Runs, pairs: Pairs, compared: list[Compared], kept: list[bool]) -> str:
    """On how many tasks the first of a pair is better, tied or worse."""
    rows = []
    titles = next(iter(runs.values())).rows
    for ours, theirs in pairs:
        signs = [
            (one.difference.verdict, star, one.difference.mean > 0)
            for one, star in zip(compared, kept, strict=True)
            if (one.ours, one.theirs) == (ours, theirs)
        ]
        verdicts = [verdict for verdict, _, _ in signs]
        corrected = [verdict if star else 0 for verdict, star, _ in signs]
        higher = sum(up for _, _, up in signs)
        rows.append(
            [
                f"{titles[ours].title} against {titles[theirs].title}",
                *(
                    " / ".join(str(found.count(sign)) for sign in (1, 0, -1))
                    for found in (verdicts, corrected)
                ),
                f"{higher} / {len(signs) - higher}",
            ]
        )
    header = ["better / tied / worse", "raw", "corrected", "mean higher / lower"]
    return table(header, rows)


def all_scores(task: TaskRuns) -> str:
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
