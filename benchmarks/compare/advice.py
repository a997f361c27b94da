"""Does following the advice of a diagnosis beat joint training?

    python -m benchmarks.compare.advice measure kanji:3000 brca:0    # train joint models, TASK:SEED
    python -m benchmarks.compare.advice table                        # from what is kept
    python -m benchmarks.compare.advice page kanji3:3000             # write a report as HTML

They write into runs/compare/diagnosis, or where a last `--out DIR` says, and read what is published
and what is there.

A jointly trained model is diagnosed on its *validation* rows, with logistic regressions on its
features as heads; what the advice leads to is scored on the *test* rows. Fitted weights, late
fusion and a modality less are read off the same model. Training in another way is a run of the
comparison with the same task and seed.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.errors import DataError
from benchmarks.common.markdown import table
from benchmarks.common.metrics import accuracy
from benchmarks.common.model import Features
from benchmarks.common.records import RESULTS, RUNS, need_writable, write_text
from benchmarks.compare.diagnosis import Probes
from benchmarks.compare.kept import Record
from benchmarks.compare.report.statistics import paired_difference
from benchmarks.compare.suite import load_records
from benchmarks.compare.tasks import TASKS, Split, Task, split_of
from benchmarks.compare.train import encode, fit, regime_of
from benchmarks.methods.entries import ENTRIES, Config
from midas_aug.diagnostics import (
    ModalityReport,
    Score,
    advice,
    advise,
    diagnose,
    late_fusion,
)
from midas_aug.diagnostics.findings import find
from midas_aug.functional import fit_fusion_weights

PUBLISHED = RESULTS / "diagnosis"
OUT = RUNS / "compare" / "diagnosis"
NAME = "advice.jsonl"
SUITES = ("full", "skill", "competition")
GAINS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)  # values of the threshold `advice.GAIN` to choose from
POLICIES = ("paper", "skill", "late-fusion", "fit_weights")  # followed whatever the diagnosis says
READ_OFF = ("late_fusion", "fit_weights")  # of the trained model, without training again


Diagnosed: TypeAlias = dict[str, Any]  # task, seed, modalities, scores, test


class Encoded(NamedTuple):
    """A trained model's features and labels of a part of the rows."""

    features: Features
    labels: Tensor


# ---------------------------------------------------------------- measuring


class Trained(NamedTuple):
    """A jointly trained model as the comparison trains it: its features, fusion and probes."""

    parts: Mapping[str, Encoded]
    predict: Any
    probes: Any

    def diagnosed(self, part: str, name: str = "joint training") -> ModalityReport:
        """Diagnose a part of the rows."""
        modalities = tuple(self.parts[part].features)
        loaders = {
            name: [{**rows.features, "label": rows.labels}] for name, rows in self.parts.items()
        }
        return diagnose(
            (lambda batch: {m: batch[m] for m in modalities}, self.predict),
            loaders[part],
            modalities,
            unimodal=self.probes,
            training=loaders["training"],
            name=name,
        )


def trained(task_name: str, seed: int) -> Trained:
    """Train joint as the comparison does, with the learning rate that tuning chose."""
    task = TASKS[task_name]
    config = dict(published_runs()[task_name, "joint", seed]["config"])
    return trained_on(task, split_of(task, seed), config, seed)


def trained_on(task: Task, split: Split, config: Config, seed: int) -> Trained:
    """Train joint on a split, and fit the probes."""
    method = ENTRIES["joint"].build(config)
    fitted = fit(method, split, regime_of(task, config, seed))
    parts = {
        name: Encoded(encode(fitted.model, rows), rows.labels)
        for name, rows in zip(("training", "validation", "test"), split, strict=True)
    }
    return Trained(parts, method.predict, Probes(parts["training"].features, split[0]))


@torch.no_grad()
def look(task_name: str, seed: int, model: Trained) -> Diagnosed:
    """The record of a model: its diagnosis on validation rows, and what can be read off it."""
    parts, predict, probes = model
    modalities = tuple(parts["test"].features)
    report = model.diagnosed("validation")
    heads = {
        name: torch.stack([probes(part.features)[m] for m in modalities])
        for name, part in parts.items()
    }
    known = list(heads["validation"].log_softmax(dim=2).unbind(0))
    weights = fit_fusion_weights(known, parts["validation"].labels)
    here, labels = heads["test"], parts["test"].labels
    scored = {
        "joint": accuracy(predict(parts["test"].features), labels),
        "late_fusion": accuracy(late_fusion(here), labels),
        "fit_weights": accuracy(late_fusion(here, weights), labels),
    }
    alone = {m: accuracy(logits, labels) for m, logits in zip(modalities, here, strict=True)}
    return {
        "task": task_name,
        "seed": seed,
        "modalities": list(modalities),
        "scores": {
            key: [round(number, 5) for number in score] for key, score in report.scores.items()
        },
        "test": {name: round(value, 5) for name, value in (scored | alone).items()},
    }


# ---------------------------------------------------------------- following


def actions(record: Diagnosed, gain: float = advice.GAIN) -> list[tuple[str, str | None]]:
    """What the diagnosis of a model advises; ``gain`` stands in for the threshold."""
    modalities = record["modalities"]
    scores = {key: Score(*numbers) for key, numbers in record["scores"].items()}
    given = advise(modalities, scores, find(modalities, scores), gain=gain)
    return [(one.action, one.modality) for one in given]


def gain_of(
    record: Diagnosed, action: str, modality: str | None, runs: Mapping[Any, Record]
) -> float | None:
    """Test accuracy after an action minus that of joint training; None where no run tells."""
    test, task, seed = record["test"], record["task"], record["seed"]
    if action in READ_OFF:
        return float(test[action] - test["joint"])
    if action == "drop":
        left = [m for m in record["modalities"] if m != modality]
        return float(test[left[0]] - test["joint"]) if len(left) == 1 else None
    entry = {"paper": "midas"}.get(action, action)
    if entry in ("midas", "skill", "late-fusion"):
        return gain_over_joint(runs, task, entry, seed)
    return 0.0


def followed(
    record: Diagnosed,
    runs: Mapping[Any, Record],
    gain: float = advice.GAIN,
    *,
    again: bool = False,
) -> float:
    """The gain of the first advice whose outcome is known; more data is none that we can add.

    Args:
        record: A diagnosis.
        runs: The comparison.
        gain: Stands in for the threshold.
        again: Whether a model may be trained again: with skill, where the modalities compete.
    """
    given = actions(record, gain)
    if again and ("skill", None) in given:
        found = gain_of(record, "skill", None, runs)
        if found is not None:
            return found
    for action, modality in given:
        found = gain_of(record, action, modality, runs) if action != "augment" else None
        if found is not None:
            return found
    return 0.0


def left_out(records: Sequence[Diagnosed], runs: Mapping[Any, Record]) -> dict[str, float]:
    """For each task the threshold that is best on all others, of equals the highest."""

    def mean_gain(task: str, gain: float) -> float:
        others = [record for record in records if record["task"] != task]
        tasks = dict.fromkeys(record["task"] for record in others)
        return float(
            np.mean(
                [
                    np.mean([followed(r, runs, gain) for r in others if r["task"] == name])
                    for name in tasks
                ]
            )
        )

    tasks = dict.fromkeys(record["task"] for record in records)
    return {task: max(GAINS, key=lambda gain: (mean_gain(task, gain), gain)) for task in tasks}


def always(
    records: Sequence[Diagnosed], policy: str, runs: Mapping[Any, Record]
) -> list[float | None]:
    """The gains of a policy on a task, whatever the diagnoses say.

    On the splits of the diagnoses; where its runs have others than these, on all that they have.
    """
    gains = [gain_of(record, policy, None, runs) for record in records]
    entry = {"paper": "midas"}.get(policy, policy)
    if None not in gains or policy in READ_OFF:
        return gains
    seeds = [seed for task, of, seed in runs if (task, of) == (records[0]["task"], entry)]
    return [gain_over_joint(runs, records[0]["task"], entry, seed) for seed in seeds] or gains


def gain_over_joint(runs: Mapping[Any, Record], task: str, entry: str, seed: int) -> float | None:
    """Test accuracy minus that of joint training on one split; None where a run is missing."""
    ours, joint = runs.get((task, entry, seed)), runs.get((task, "joint", seed))
    if ours is None or joint is None:
        return None
    return float(ours["test"]["accuracy"] - joint["test"]["accuracy"])


def published_runs() -> dict[tuple[str, str, int], Record]:
    """The test runs of all suites by task, entry and seed; seeds of suites differ."""
    found = {}
    for suite in SUITES:
        for record in load_records(RESULTS / suite):
            if record["phase"] == "test" and record["modality"] is None:
                found[record["task"], record["entry"], record["seed"]] = record
    return found


# ---------------------------------------------------------------- the table


def outcome(records: Sequence[Diagnosed], runs: Mapping[Any, Record]) -> list[list[str]]:
    """A line a task: what was advised, and the gains in points of following it and of the rest."""
    chosen = left_out(records, runs)
    lines = []
    for task in dict.fromkeys(record["task"] for record in records):
        own = [record for record in records if record["task"] == task]
        first = [actions(record)[0] for record in own]
        words = [" ".join(part for part in one if part) for one in first]
        named = [f"{word} ×{words.count(word)}" for word in dict.fromkeys(words)]
        gains: list[Sequence[float | None]] = [
            [followed(record, runs) for record in own],
            [followed(record, runs, chosen[task]) for record in own],
            [followed(record, runs, again=True) for record in own],
            *(always(own, policy, runs) for policy in POLICIES),
        ]
        lines.append([task, ", ".join(named), *(_points(column) for column in gains)])
    return lines


def written(records: Sequence[Diagnosed], runs: Mapping[Any, Record]) -> str:
    """The table, and on how many tasks each policy is ahead of joint training."""
    header = ["task", "advised first", "advice", "advice, left out", "advice, trained again"]
    header += [
        "always MIDAS",
        "always skill",
        "always late fusion, trained apart",
        "always fitted weights",
    ]
    lines = outcome(records, runs)
    columns = list(zip(*lines, strict=True))[2:]
    total, means = ["better, worse, of", ""], ["mean of all tasks", ""]
    for column in columns:
        known = [cell for cell in column if cell]
        marks = [sum(mark in cell for cell in known) for mark in "▲▼"]
        total.append(f"{marks[0]}, {marks[1]}, {len(known)}")
        mean = np.mean([float(cell.split()[0]) for cell in known]) if known else 0.0
        means.append(f"{mean:+.1f}" if len(known) == len(column) else "")
    return table(header, [*lines, total, means]) + "\n"


def _points(gains: Sequence[float | None]) -> str:
    known = [100 * gain for gain in gains if gain is not None]
    if len(known) < len(gains):
        return ""
    found = paired_difference(known, [0.0] * len(known))
    mark = {1: " ▲", 0: "", -1: " ▼"}[found.verdict]
    return f"{found.mean:+.1f} ± {found.margin:.1f}{mark}"


# ---------------------------------------------------------------- the command


def load(folder: Path) -> list[Diagnosed]:
    """The diagnoses that are published or kept in a folder, in the order of the tasks."""
    known = _by_task_and_seed([*_read(PUBLISHED), *_read(folder)])
    return [known[key] for key in sorted(known, key=lambda key: (list(TASKS).index(key[0]), key))]


def keep(records: Sequence[Diagnosed], folder: Path) -> None:
    """Write them beside those in the folder; a record of the same task and seed is replaced."""
    known = _by_task_and_seed([*_read(folder), *records])
    lines = [json.dumps(known[key], ensure_ascii=False) for key in sorted(known)]
    write_text(folder / NAME, "".join(f"{line}\n" for line in lines))


def _read(folder: Path) -> list[Diagnosed]:
    file = folder / NAME
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _by_task_and_seed(records: Sequence[Diagnosed]) -> dict[tuple[str, int], Diagnosed]:
    return {(record["task"], record["seed"]): record for record in records}


def main(words: Sequence[str]) -> Iterator[str]:
    """Run the command, and say what came of it."""
    folder = OUT
    if words[-2:-1] == ["--out"]:
        words, folder = words[:-2], Path(words[-1])
    match words:
        case ["measure", *wanted] if wanted:
            need_writable(folder)
            for one in wanted:
                task, _, seed = one.partition(":")
                keep([look(task, int(seed), trained(task, int(seed)))], folder)
                yield f"{one}\n"
        case ["page", one]:
            need_writable(folder)
            task, _, seed = one.partition(":")
            report = trained(task, int(seed)).diagnosed("test", f"joint training on {task}")
            report.save(folder / f"{task}.html")
            yield str(report)
        case ["table"]:
            yield written(load(folder), published_runs())
        case _:
            raise DataError("expected `measure TASK:SEED …`, `page TASK:SEED` or `table`")


if __name__ == "__main__":
    for text in main(sys.argv[1:]):
        sys.stdout.write(text)
