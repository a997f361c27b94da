"""Look into trained models of a task with `midas_aug.diagnostics`: before and after."""

from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.common.errors import DataError
from benchmarks.common.kinds import CLASSES
from benchmarks.common.model import Features
from benchmarks.compare.suite import SUITES, best_config
from benchmarks.compare.tasks import TASKS, Rows, split_of
from benchmarks.compare.train import encode, fit, regime_of
from midas_aug.diagnostics import Comparison, ModalityReport, diagnose

SHOWN = ("joint", "plain-swap", "midas")


def diagnose_task(task_name: str, root: Path, seed: int = 0) -> Comparison:
    """Train the entries of `SHOWN` as a suite of the task does, and diagnose them on the test rows.

    Configurations are those that tuning of `tuned_suite` chose; its runs have to lie under
    ``root``. What a modality could tell by itself is measured in the same way for all: by a linear
    probe on its frozen features.

    Raises:
        DataError: No suite has tuned on the task, or runs of its tuning are missing.
    """
    task, suite = TASKS[task_name], tuned_suite(task_name)
    entries = SUITES[suite].entries
    split = split_of(task, seed)
    reports: list[ModalityReport] = []
    for key in SHOWN:
        config = best_config(root / suite, task_name, key, SUITES[suite].tuning_seeds)
        method = entries[key].build(config)
        fitted = fit(method, split, regime_of(task, config, seed))
        training = encode(fitted.model, split.training)
        probes = Probes(training, split.training)
        reports.append(
            diagnose(
                (fitted.model.encode, method.predict),
                [{**split.test.inputs, "label": split.test.labels}],
                task.modalities,
                unimodal=probes,
                training=[{**split.training.inputs, "label": split.training.labels}],
                name=entries[key].title,
            )
        )
    first, *others = reports
    return first.compare(*others)


def tuned_suite(task_name: str) -> str:
    """The first suite that tunes the entries of `SHOWN` on a task.

    Raises:
        DataError: There is none, or the task has other labels than one class, or lacks modalities.
    """
    if TASKS[task_name].kind is CLASSES and TASKS[task_name].missing == 0:
        for name, suite in SUITES.items():
            tuned = suite.tuning_seeds and task_name in suite.tasks
            if tuned and suite.entries.keys() >= set(SHOWN):
                return name
    raise DataError(
        f"expected a task of one class a row, with all modalities, on which a suite has tuned "
        f"{', '.join(SHOWN)}; got {task_name}; choose another, such as openmoji or kanji"
    )


class Probes(nn.Module):
    """A logistic regression on the features of each modality: features to logits by modality."""

    def __init__(self, features: Features, rows: Rows) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        for name, feature in features.items():
            fitted = LogisticRegression(max_iter=2000).fit(feature.numpy(), rows.labels.numpy())
            head = nn.Linear(feature.shape[1], len(fitted.classes_))
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(fitted.coef_))
                head.bias.copy_(torch.from_numpy(fitted.intercept_))
            self.heads[name] = head

    def forward(self, features: Features) -> Features:
        """Logits ``(N, C)`` of each modality."""
        return {name: head(features[name]) for name, head in self.heads.items()}
