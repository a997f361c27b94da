"""Look into trained models of a task with `midas_aug.diagnostics`: before and after."""

from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.common.model import Features
from benchmarks.compare.suite import SUITES, best_config
from benchmarks.compare.tasks import TASKS, Rows, load_split
from benchmarks.compare.train import encode, fit
from benchmarks.methods.entries import ENTRIES, LEARNING_RATE
from midas_aug.diagnostics import Comparison, ModalityReport, diagnose

SHOWN = ("joint", "plain-swap", "midas")


def diagnose_task(task_name: str, root: Path, seed: int = 0) -> Comparison:
    """Train the entries of `SHOWN` as the full suite does, and diagnose them on the test rows.

    Configurations are those that tuning chose; its runs have to lie under ``root``. What a modality
    could tell by itself is measured in the same way for all: by a linear probe on its frozen
    features.
    """
    task, suite = TASKS[task_name], SUITES["full"]
    split = load_split(task.dataset, task.modalities, seed)
    reports: list[ModalityReport] = []
    for key in SHOWN:
        config = best_config(root / "full", task_name, key, suite.tuning_seeds)
        method = ENTRIES[key].build(config)
        rate = float(config[LEARNING_RATE])
        fitted = fit(method, split, epochs=task.epochs, learning_rate=rate, seed=seed)
        training = encode(fitted.model, split.training)
        probes = Probes(training, split.training)
        reports.append(
            diagnose(
                (fitted.model.encode, method.predict),
                [{**split.test.inputs, "label": split.test.labels}],
                task.modalities,
                unimodal=probes,
                training=[{**split.training.inputs, "label": split.training.labels}],
                name=ENTRIES[key].title,
            )
        )
    first, *others = reports
    return first.compare(*others)


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
