"""What encoders have learned, and what fusion makes of it: linear probes of trained models.

For each modality, and for all features together, a logistic regression is fitted to the features of
the training rows. Beside it stands the accuracy of the model's own joint logits. All are scored on
the training rows and on the test rows, without augmentation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from benchmarks.common.errors import DataError
from benchmarks.common.markdown import table
from benchmarks.common.metrics import accuracy
from benchmarks.common.model import Features
from benchmarks.common.records import (
    check_fields,
    is_scores,
    json_line,
    parse_json,
    versions,
    write_text,
)
from benchmarks.compare.suite import SUITES, best_config
from benchmarks.compare.tasks import TASKS, Split, split_of
from benchmarks.compare.train import encode, fit, regime_of
from benchmarks.methods.base import Method
from benchmarks.methods.suite_entries import COMPETITION_ENTRIES
from midas_aug.diagnostics import linear_probes

SUITE = "competition"
PROBED = ("kanji", "kanji3")
SHOWN = ("joint", "plain-swap", "midas", "skill")
SEEDS = (3010, 3011, 3012)  # of no other run

FUSED = "joint logits"
TOGETHER = "all features"
PARTS = ("training", "test")

Record = Mapping[str, Any]


class Key(NamedTuple):
    """Which training was probed."""

    task: str
    entry: str
    seed: int


PLAN = tuple(Key(task, entry, seed) for task in PROBED for seed in SEEDS for entry in SHOWN)


def probe(method: Method, model_features: Mapping[str, Features], split: Split) -> dict[str, float]:
    """Accuracies by ``NAME.PART`` of a trained method.

    Args:
        method: As fitted.
        model_features: Of the training rows and of the test rows, by `PARTS`.
        split: Where their labels are.
    """
    rows = {"training": split.training, "test": split.test}
    together = {part: _with_all(features) for part, features in model_features.items()}
    training = {**together["training"], "label": rows["training"].labels}
    probes = linear_probes(
        lambda batch: batch,
        [training],
        tuple(together["training"]),
        num_classes=method.model.num_classes,
        progress=False,
    )
    scores = {}
    with torch.no_grad():
        for part in PARTS:
            outputs = {FUSED: method.predict(model_features[part]), **probes(together[part])}
            for name, logits in outputs.items():
                scores[f"{name}.{part}"] = accuracy(logits, rows[part].labels)
    return scores


def _with_all(features: Features) -> Features:
    return {**features, TOGETHER: torch.cat(list(features.values()), dim=1)}


def train_and_probe(key: Key, root: Path) -> Record:
    """Train as the suite does, with the configuration that its tuning under ``root`` chose."""
    torch.set_num_threads(1)
    task = TASKS[key.task]
    config = best_config(root / SUITE, key.task, key.entry, SUITES[SUITE].tuning_seeds)
    method = COMPETITION_ENTRIES[key.entry].build(config)
    split = split_of(task, key.seed)
    fitted = fit(method, split, regime_of(task, config, key.seed))
    features = {
        "training": encode(fitted.model, split.training),
        "test": encode(fitted.model, split.test),
    }
    return {
        **key._asdict(),
        "config": config,
        "epoch": fitted.epoch,
        "versions": versions(),
        "scores": probe(method, features, split),
    }


def read_probes(file: Path) -> dict[Key, Record]:
    """The finished ones of a file, none where there is no such file.

    Raises:
        DataError: The file is damaged.
    """
    if not file.exists():
        return {}
    found: dict[Key, Record] = {}
    for line in file.read_bytes().splitlines():
        record = check_fields(parse_json(line, file), _FIELDS, file)
        found[Key(record["task"], record["entry"], record["seed"])] = record
    return found


def run_probes(file: Path, root: Path, plan: Iterable[Key] = PLAN) -> Iterator[Key]:
    """Train and probe what the file does not have yet; it is whole after every one of them."""
    found = read_probes(file)
    for key in plan:
        if key not in found:
            found[key] = train_and_probe(key, root)
            ordered = [found[one] for one in sorted(found)]
            write_text(file, "".join(f"{json_line(record)}\n" for record in ordered))
            yield key


def page(found: Mapping[Key, Record], plan: Sequence[Key] = PLAN) -> str:
    """The tables.

    Raises:
        DataError: One of the plan is missing.
    """
    missing = [key for key in plan if key not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(plan)} probes are missing; run: python -m benchmarks probes"
        )
    seeds = sorted({key.seed for key in plan})
    parts = [
        "# Probes of the suite `competition`",
        "Accuracy on training rows / on test rows, %, mean of the seeds "
        f"{', '.join(map(str, seeds))}, without augmentation. *Joint logits*: as the model "
        "predicts. The others: a linear probe, fitted to features of the training rows, of one "
        "encoder or of all together. [The protocol](PROTOCOL.md#probes) was written before. "
        "Written by `python -m benchmarks probes`.",
    ]
    for task in dict.fromkeys(key.task for key in plan):
        names = (FUSED, TOGETHER, *TASKS[task].modalities)
        lines = []
        for entry in dict.fromkeys(key.entry for key in plan if key.task == task):
            records = [found[Key(task, entry, seed)] for seed in seeds]
            cells = [" / ".join(_mean(records, name, part) for part in PARTS) for name in names]
            lines.append([COMPETITION_ENTRIES[entry].title, *cells])
        parts += [f"## {task}", table(["training", *names], lines)]
    return "\n\n".join(parts) + "\n"


def _mean(records: Sequence[Record], name: str, part: str) -> str:
    return f"{100 * mean(record['scores'][f'{name}.{part}'] for record in records):.1f}"


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "task": lambda value: value in TASKS,
    "entry": lambda value: value in COMPETITION_ENTRIES,
    "seed": lambda value: type(value) is int,
    "config": lambda value: isinstance(value, dict),
    "versions": lambda value: isinstance(value, dict),
    "scores": is_scores,
}
