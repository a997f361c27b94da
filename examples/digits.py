"""MIDAS in a plain PyTorch training loop, on handwritten digits described in two views or more.

Joint training, a plain swap, MIDAS and each view alone share one loop: `METHODS` says how they
differ. Nothing is selected: the test rows are scored once, with the model of the last epoch.
Learning rate and sizes were chosen by validation scores, the same for all methods.

    python examples/digits.py    # one seed of every method
"""

import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from midas_aug import MidasLoss, MisalignAugment, MisalignedBatch
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps

DATA = Path(__file__).parent / "data" / "digits.npz"
CLASSES = 10
HIDDEN, FEATURES = 128, 64
BATCH_SIZE, LEARNING_RATE = 64, 5e-4


@dataclass(frozen=True)
class Method:
    """How the methods differ; the defaults are MIDAS as published."""

    swap: bool = True  # add misaligned rows to every batch
    confidence: Literal["logits", "uniform"] = "logits"  # behind the soft labels; uniform: 1/M each
    hardness: Literal["cosine"] | None = "cosine"  # more weight for rows that are hard to tell
    weak_modality: Literal["paper"] | None = "paper"  # the rule of alpha; None: it stays 1
    unimodal_weight: float = 1.0  # of the losses of the views' own heads
    warmup: float = 1 / 7  # share of the epochs that train the views' own heads only


METHODS = {
    "joint": Method(swap=False, unimodal_weight=0, warmup=0),
    "plain swap": Method(
        confidence="uniform", hardness=None, weak_modality=None, unimodal_weight=0, warmup=0
    ),
    "MIDAS": Method(),
    "unimodal": Method(swap=False, warmup=1),  # all warm-up: each view learns alone
}


class Rows(NamedTuple):
    """Samples: a (N, width) tensor for each view, and (N,) labels."""

    views: dict[str, Tensor]
    labels: Tensor


class Record(NamedTuple):
    """What `train` tells after an epoch; scores are fractions."""

    alpha: list[list[float]]  # the weight of each view, after every step of this epoch
    validation: dict[str, float]  # the fused ones after the warm-up only
    test: dict[str, float] | None  # after the last epoch only


class ConcatFusion(nn.Module):
    """An encoder and a linear head for each view, and a linear head on all features together."""

    def __init__(self, widths: Mapping[str, int], outputs: int = CLASSES) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({view: encoder(width) for view, width in widths.items()})
        self.heads = nn.ModuleDict({view: nn.Linear(FEATURES, outputs) for view in widths})
        self.fusion = nn.Linear(FEATURES * len(widths), outputs)

    def encode(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {view: encode(views[view]) for view, encode in self.encoders.items()}

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {view: head(features[view]) for view, head in self.heads.items()}

    def fuse(self, features: Mapping[str, Tensor] | MisalignedBatch) -> Tensor:
        logits: Tensor = self.fusion(torch.cat([features[view] for view in self.encoders], dim=1))
        return logits


def encoder(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FEATURES), nn.ReLU()
    )


@dataclass(frozen=True)
class Setup:
    """All that a training loop of this task needs."""

    training: Rows
    validation: Rows
    test: Rows
    model: ConcatFusion
    optimizer: torch.optim.Optimizer
    augment: MisalignAugment
    criterion: MidasLoss
    order: torch.Generator

    def batches(self) -> tuple[Tensor, ...]:
        """The rows of the next epoch's batches."""
        return torch.split(
            torch.randperm(len(self.training.labels), generator=self.order), BATCH_SIZE
        )


def prepare(method: Method, views: Sequence[str], seed: int, epochs: int) -> Setup:
    """Data, model and method. The seed controls all that is random."""
    order = torch.Generator().manual_seed(seed)  # the split, then the order of the rows
    training, validation, test = load_splits(views, order)
    torch.manual_seed(seed)  # the initial weights
    model = ConcatFusion({view: training.views[view].shape[1] for view in views})
    augment = MisalignAugment(
        views,
        CLASSES,
        confidence=method.confidence,
        hardness=method.hardness,
        swap="each" if len(views) == 2 else "permute",  # the paper's way for more than two
        seed=seed,
    )
    augment.enabled = method.swap
    criterion = MidasLoss(
        len(views),
        unimodal_weight=method.unimodal_weight,
        weak_modality=method.weak_modality,
        warmup_epochs=round(method.warmup * epochs),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    return Setup(training, validation, test, model, optimizer, augment, criterion, order)


def train(method: Method, views: Sequence[str], seed: int, epochs: int) -> Iterator[Record]:
    """Train one model, with a report after every epoch."""
    setup = prepare(method, views, seed, epochs)
    rows, model, criterion = setup.training, setup.model, setup.criterion
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        alpha = []
        for batch in setup.batches():
            # MIDAS is these five lines.
            features = model.encode(gather_rows(rows.views, batch))
            unimodal = model.classify(features)
            out = setup.augment(features, rows.labels[batch], unimodal_logits=unimodal)
            logits = model.fuse(out)
            loss = criterion(logits, out, unimodal_logits=unimodal)

            setup.optimizer.zero_grad()
            loss.backward()
            setup.optimizer.step()
            alpha.append(criterion.alpha.tolist())
        trained = {"fused": not criterion.warming_up, "heads": method.unimodal_weight > 0}
        yield Record(
            alpha=alpha,
            validation=evaluate(model, setup.validation, rows, **trained),
            test=evaluate(model, setup.test, rows, **trained) if epoch == epochs - 1 else None,
        )


@torch.no_grad()
def evaluate(
    model: ConcatFusion, rows: Rows, training: Rows, *, fused: bool, heads: bool
) -> dict[str, float]:
    """Score what has been trained: all views, mixed or with one missing, and the views' heads."""
    model.eval()
    features, labels = model.encode(rows.views), rows.labels
    scores = {}
    if fused:
        logits = model.fuse(features)
        scores = {"accuracy": accuracy(logits, labels), "macro-F1": macro_f1(logits, labels)}
        plan = plan_swaps(labels, len(features), generator=torch.Generator().manual_seed(0))
        mixed = {v: gather_rows(features[v], plan.source[:, m]) for m, v in enumerate(features)}
        scores["misaligned"] = float(
            misaligned_accuracy(model.fuse(mixed), labels[plan.source], valid=plan.valid)
        )
        for view, feature in model.encode(training.views).items():
            absent = feature.mean(dim=0).expand_as(features[view])
            scores[f"{view} removed"] = accuracy(model.fuse({**features, view: absent}), labels)
    if heads:
        for view, logits in model.classify(features).items():
            scores[f"{view} head"] = accuracy(logits, labels)
            scores[f"{view} head macro-F1"] = macro_f1(logits, labels)
    return scores


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_f1_score  # base.py does without

    return float(multiclass_f1_score(logits, labels, num_classes=CLASSES, average="macro"))


def load_splits(views: Sequence[str], generator: torch.Generator) -> list[Rows]:
    """Training, validation and test: 60, 20 and 20 % of each class, scaled by the training rows."""
    try:
        with DATA.open("rb") as opened, np.load(opened) as file:
            labels = torch.from_numpy(file["label"]).long()
            columns = {view: torch.from_numpy(file[view]).float() for view in views}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        sys.exit(f"{DATA} is {state}; run: python examples/data/build_digits.py")
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within it
    fold = torch.arange(len(order)) % 5
    splits = order[fold < 3], order[fold == 3], order[fold == 4]
    for view, values in columns.items():
        mean, std = values[splits[0]].mean(dim=0), values[splits[0]].std(dim=0)
        columns[view] = (values - mean) / std.clamp(min=1e-6)
    return [Rows(gather_rows(columns, rows), labels[rows]) for rows in splits]


def samples(rows: Rows) -> Any:
    """A list, as a data set for a DataLoader: each sample's views, its label and its number."""
    return [
        {**{view: values[i] for view, values in rows.views.items()}, "label": label, "index": i}
        for i, label in enumerate(rows.labels.tolist())
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)  # quick enough, and the same numbers on any number of cores
    for name, method in METHODS.items():
        *_, last = train(method, ("pix", "fou"), seed=0, epochs=40)
        print(name, {score: round(100 * value, 1) for score, value in (last.test or {}).items()})
