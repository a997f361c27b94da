"""What the committed runs say about each method: the computed parts of methods.md and protocols.md.

A card of methods.md is one or more entries of the comparison, each against another one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import chain
from statistics import mean, median
from typing import Any

from benchmarks.common.markdown import table
from benchmarks.common.records import RESULTS
from benchmarks.compare.kept import FROZEN, Record, read_runs
from benchmarks.compare.report.statistics import Difference, paired_difference
from benchmarks.compare.suite import SUITES
from benchmarks.compare.tasks import TASKS
from benchmarks.methods.base import Method
from benchmarks.methods.entries import ENTRIES, Entry
from benchmarks.methods.midas import Midas
from benchmarks.methods.suite_entries import DECAYED, RULES
from benchmarks.paper.datasets import paper_data
from benchmarks.paper.protocol import PUBLISHED

MAIN, REMOVED = "main", "without"  # the score that a task is decided by; the mean over modalities
SCORES = {
    MAIN: "accuracy",
    "macro_f1": "macro-F1",
    "misaligned_accuracy": "misaligned",
    REMOVED: "one removed",
}
NO_HARM = "no-harm"  # no entry: of each seed the better of these two on validation
NO_HARM_OF = ("joint", "skill")
NAMED = 2  # as many tasks are named; of more, the range is shown

Pairs = tuple[tuple[str, str], ...]  # an entry, and what it is compared with


def _against_joint(*entries: str) -> Pairs:
    return tuple((entry, "joint") for entry in entries)


PARTS_OF_MIDAS = [entry for entry in ENTRIES if entry.startswith("midas-") and entry[-1].isdigit()]

CARDS: dict[str, Pairs] = {
    "joint": (("joint", "late-fusion"),),
    "one modality alone": _against_joint("unimodal"),
    "late fusion": _against_joint("late-fusion"),
    "fitted fusion weights": (
        *(
            (f"{entry}-fitted", entry)
            for entry in ("late-fusion", "joint", "plain-swap", "midas", "skill")
        ),
        *(
            (f"{entry}-fitted-heads", entry)
            for entry in ("midas", "skill", "plain-swap-heads", "skill-heads")
        ),
    ),
    "unimodal losses": _against_joint("unimodal-losses"),
    "weight decay": tuple(
        (f"{row}-decay{reading}", f"{other}{reading}")
        for row, other, reading in (
            *((row, row, "") for row in DECAYED),
            *((row, "joint-decay", "") for row in ("plain-swap", "midas", "skill-heads")),
            ("late-fusion", "late-fusion", "-fitted"),
            ("skill-heads", "skill-heads", "-fitted-heads"),
        )
    ),
    "detached": _against_joint("detached"),
    "pretrained": _against_joint("pretrained"),
    "zero-ablated": _against_joint("zero-ablated"),
    "modality dropout": _against_joint("modality-dropout"),
    "plain swap": _against_joint(
        "plain-swap",
        "plain-swap-half",
        "plain-swap-warmup",
        "plain-swap-warmup-half",
        "plain-swap-heads",
    ),
    "midas": (
        *_against_joint("midas", "midas-matched"),
        ("midas", "plain-swap"),
        *((entry, "midas") for entry in ("midas-one", "midas-every-2", "midas-every-4")),
    ),
    "parts of midas": _against_joint(*PARTS_OF_MIDAS),
    "public code": (("midas-public-code", "joint"), ("midas-public-code", "midas")),
    "skill": (
        *_against_joint("skill", "skill-half", "skill-heads"),
        ("skill", "plain-swap"),
        ("skill", "midas"),
        ("skill-heads", "skill"),
        ("skill-heads-fitted-heads", "late-fusion-fitted"),
        ("skill-heads-thirds", "skill-heads"),
        ("skill-heads-fitted-heads-apart", "skill-heads-fitted-heads"),
        ("skill-heads-thirds-fitted-heads-apart", "skill-heads-fitted-heads"),
    ),
    "variants of skill": tuple(
        (f"{rule}{reading}", f"skill-heads{reading}")
        for reading in ("", "-fitted-heads")
        for rule in RULES
    ),
    "no harm": _against_joint(NO_HARM),
    "mixup": _against_joint("mixup"),
    "powmix": _against_joint("powmix"),
    "lemda": _against_joint("lemda"),
    "same class": _against_joint("same-class"),
    "smv": _against_joint("smv"),
    "opm": _against_joint("opm"),
    "amco": _against_joint("amco"),
    "remix": _against_joint("remix"),
    "tcmax": _against_joint("tcmax"),
    "lfm": _against_joint("lfm"),
    "mcr": _against_joint("mcr"),
    "aug": _against_joint("aug"),
    "ogm": _against_joint("ogm", "ogm-ge"),
    "agm": _against_joint("agm"),
    "mmpareto": _against_joint("mmpareto"),
    "dgl": _against_joint("dgl"),
    "arl": _against_joint("arl", "arl-released"),
    **{entry: _against_joint(entry) for entry in ("inforeg", "cggm", "pdmp", "masam")},
}


def rows_of_the_comparison() -> dict[str, list[Entry]]:
    """Every entry by its name, in each suite that has it, and those that no suite has yet."""
    found: dict[str, list[Entry]] = {}
    for rows in (_entries(suite) for suite in SUITES if suite != "quick"):
        for name, entry in rows.items():
            found.setdefault(name, []).append(entry)
    return found


def measured(card: str) -> str:
    """The rows of a card, their settings, and how they fared."""
    pairs = CARDS[card]
    entries = [entry for entry in dict(pairs) if entry != NO_HARM]
    lines = [line for suite in SUITES for line in _lines(suite, pairs)]
    header = ["better ▲ and worse ▼, points", *SCORES.values(), "steps", "time"]
    found = table(header, lines) if lines else "**No suite has run this yet.**"
    return f"{_settings(entries)}\n\n{found}" if entries else found


def published() -> str:
    """What the MIDAS paper prints, on all of its data sets."""
    lines = []
    for entry in dict.fromkeys(chain.from_iterable(PUBLISHED.values())):
        cells = [of_set.get(entry) for of_set in PUBLISHED.values()]
        lines.append([ENTRIES[entry].title, *(f"{c.accuracy:.2f}" if c else "" for c in cells)])
    return table(["accuracy, %", *(paper_data(name).title for name in PUBLISHED)], lines)


def _entries(suite: str) -> Mapping[str, Entry]:
    return SUITES[suite].entries or ENTRIES


def _title(entry: str) -> str:
    if entry == NO_HARM:
        return "better of joint and skill"
    title = rows_of_the_comparison()[entry][0].title
    return "best modality alone" if title == "unimodal" else title


def _settings(entries: Sequence[str]) -> str:
    """The names of the entries, what their classes have by default, and what is tuned."""
    rows = [row for entry in entries for row in rows_of_the_comparison()[entry]]
    words = [f"Rows: {', '.join(f'`{entry}`' for entry in entries)}."]
    plain = [row.method() for row in rows if row.read_off is None and not _is_variant(row)]
    defaults = dict.fromkeys(map(_defaults, plain))
    words += [f"Defaults: `{text}`." for text in defaults if not text.endswith("()")]
    for name, values in dict.fromkeys(row.knob for row in rows if row.knob):
        words.append(f"Tuned: `{name}`, {' or '.join(_value(value) for value in values)}.")
    return " ".join(words)


def _is_variant(row: Entry) -> bool:
    """Whether it is MIDAS with parts switched off, which the card tells in words."""
    return issubclass(row.method, Midas) and bool(row.fixed)


def _defaults(method: Method) -> str:
    values = (f"{field.name}={_value(getattr(method, field.name))}" for field in fields(method))
    return f"{type(method).__name__}({', '.join(values)})"


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@cache
def _runs(suite: str) -> dict[tuple[str, str], dict[int, Any]]:
    """The test runs of a suite that are committed, by task and entry, then by seed."""
    apart: dict[tuple[str, str, str | None], dict[int, Record]] = {}
    for record in read_runs(RESULTS / suite / FROZEN).values():
        if record["phase"] == "test":
            key = record["task"], record["entry"], record["modality"]
            apart.setdefault(key, {})[record["seed"]] = record
    runs: dict[tuple[str, str], dict[int, Any]] = {}
    for (task, entry, _), seeds in apart.items():
        best = runs.get((task, entry))  # of one modality alone: the best one
        if best is None or _mean_accuracy(seeds) > _mean_accuracy(best):
            runs[task, entry] = dict(seeds)
    for task in SUITES[suite].tasks:
        both = [runs.get((task, entry), {}) for entry in NO_HARM_OF]
        if "skill-half" in _entries(suite) and all(both):
            runs[task, NO_HARM] = {seed: better(*(one[seed] for one in both)) for seed in both[0]}
    return runs


def _mean_accuracy(seeds: Mapping[int, Record]) -> float:
    return mean(float(record["test"]["accuracy"]) for record in seeds.values())


def better(joint: Record, other: Record) -> Record:
    """The run with the higher validation accuracy, of equals joint training; it costs both."""
    ahead = other["validation"]["accuracy"] > joint["validation"]["accuracy"]
    cost = {name: joint[name] + other[name] for name in ("steps", "seconds")}
    return {"test": (other if ahead else joint)["test"], **cost}


def _lines(suite: str, pairs: Pairs) -> Iterator[list[str]]:
    """A line of the table for each pair that a suite has."""
    runs = _runs(suite)
    for ours, theirs in pairs:
        tasks = [t for t in SUITES[suite].tasks if (t, ours) in runs and (t, theirs) in runs]
        if tasks:
            seeds = sorted({len(runs[t, ours].keys() & runs[t, theirs].keys()) for t in tasks})
            counted = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
            size = f"{counted}, {' to '.join(map(str, seeds))} seeds"
            where = f"[{suite}](../benchmarks/results/{suite}/README.md), {size}"
            yield [
                f"{_title(ours)} against {_title(theirs)}; {where}",
                *(cell(_differences(suite, tasks, ours, theirs, score)) for score in SCORES),
                *(_cost(suite, tasks, ours, name) for name in ("steps", "seconds")),
            ]


def _differences(
    suite: str, tasks: Sequence[str], ours: str, theirs: str, score: str
) -> dict[str, Difference]:
    """Paired by seed, for each task that has the score."""
    found = {}
    for task in tasks:
        one, other = _runs(suite)[task, ours], _runs(suite)[task, theirs]
        seeds = sorted(one.keys() & other.keys())
        columns = [[_score(task, of[seed]["test"], score) for seed in seeds] for of in (one, other)]
        values = [[100 * value for value in column if value is not None] for column in columns]
        if all(len(column) == len(seeds) for column in values):
            found[task] = paired_difference(*values)
    return found


def _score(task: str, test: Mapping[str, float | None], score: str) -> float | None:
    name = TASKS[task].kind.main if score == MAIN else score
    if score == REMOVED:
        removed = [test.get(f"{REMOVED}.{modality}") for modality in TASKS[task].modalities]
        return None if None in removed else mean(value for value in removed if value is not None)
    return test.get(name)


def cell(differences: Mapping[str, Difference]) -> str:
    """On which tasks the interval of the difference is clear of zero, and by how much."""
    if not differences:
        return ""
    words = []
    for mark, verdict in (("▲", 1), ("▼", -1)):
        means = {task: d.mean for task, d in differences.items() if d.verdict == verdict}
        if len(means) > NAMED:
            low, high = min(means.values(), key=abs), max(means.values(), key=abs)
            words.append(f"{mark} {len(means)}: {low:+.1f} to {high:+.1f}")
        elif means:
            words.append(f"{mark} " + ", ".join(f"{t} {d:+.1f}" for t, d in means.items()))
    return "; ".join(words) or "tie"


def _cost(suite: str, tasks: Sequence[str], entry: str, name: str) -> str:
    """Steps or seconds as a multiple of joint training's: the median over tasks and seeds.

    Rows that came to a suite later ran on other machines, so their seconds say nothing.
    """
    if name == "seconds" and entry in SUITES[suite].beside:
        return ""
    ratios = []
    for task in tasks:
        ours, joint = (_runs(suite)[task, key] for key in (entry, "joint"))
        ratios += [ours[seed][name] / joint[seed][name] for seed in ours.keys() & joint.keys()]
    return f"{median(ratios):.1f}×"
