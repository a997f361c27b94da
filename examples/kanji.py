"""A task on which modalities compete: the radical of a character, by its picture and its meanings.

The radical is the part by which a dictionary lists a character. It can nearly always be seen in the
picture, which takes an encoder a while to learn, under random crops. The English meanings only hint
at it, and a model soon knows those of its training rows by heart. (Japanese readings, a third
modality, tell even less.) `METHODS` share one loop and differ in augmentation and loss. Nothing is
selected: the test rows are scored once, with the model of the last epoch. The learning rates are
those that the benchmark's suites `competition` and `heads` found on a split of their own; so are
the sizes.

    python examples/kanji.py    # one seed of every method; for more, see examples/demo.py
"""

import math
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug import FusionWeights, MidasLoss, MisalignAugment, MisalignedBatch, recipes
from midas_aug.confidence import SkillConfidence
from midas_aug.diagnostics import late_fusion
from midas_aug.functional import fit_fusion_weights, gather_rows, misaligned_accuracy, plan_swaps

DATA = Path(__file__).parent / "data" / "kanji.npz"
MODALITIES = ("image", "meanings", "readings")
CLASSES, FEATURES = 26, 64
BATCH_SIZE = 64
SKILL = "skill, heads × 3"
FITTED = f"{SKILL}, fitted"  # the same model, its fusion with fitted weights
SMALLEST_CROP = 0.5  # of the picture's area

Scores = dict[str, float]


class Method(NamedTuple):
    """How the methods differ."""

    recipe: Callable[[Sequence[str], int, int], recipes.Recipe]  # of modalities, epochs, seed
    learning_rate: float = 0.03
    apart: bool = False  # a model for each modality, which meet at evaluation only


def joint(modalities: Sequence[str], epochs: int, seed: int) -> recipes.Recipe:
    """The cross-entropy of the rows as they are."""
    augment, criterion = recipes.plain_swap(modalities, CLASSES, seed=seed)
    augment.enabled = False
    return recipes.Recipe(augment, criterion)


def plain_swap(modalities: Sequence[str], epochs: int, seed: int) -> recipes.Recipe:
    """Misaligned rows, both labels ½."""
    return recipes.plain_swap(modalities, CLASSES, seed=seed)


def paper(modalities: Sequence[str], epochs: int, seed: int) -> recipes.Recipe:
    """MIDAS as published."""
    return recipes.paper(modalities, CLASSES, warmup_epochs=round(epochs / 7), seed=seed)


def skill(modalities: Sequence[str], epochs: int, seed: int) -> recipes.Recipe:
    """Misaligned rows, labels shared by what each modality knows of the validation rows.

    The encoders learn from their own heads above all.
    """
    return recipes.skill(modalities, CLASSES, unimodal_weight=3, seed=seed)


def apart(modalities: Sequence[str], epochs: int, seed: int) -> recipes.Recipe:
    """All warm-up: each modality's encoder and head learn alone."""
    augment, _ = joint(modalities, epochs, seed)
    return recipes.Recipe(augment, MidasLoss(len(modalities), warmup_epochs=epochs))


METHODS = {
    "joint": Method(joint),
    "plain swap": Method(plain_swap),
    "MIDAS": Method(paper),
    SKILL: Method(skill),
    "apart": Method(apart, learning_rate=0.1, apart=True),
}


class Rows(NamedTuple):
    """Samples: a picture (N, 1, 32, 32), and numbers of words or letters (N, L), 0 for none."""

    inputs: dict[str, Tensor]
    labels: Tensor


class Record(NamedTuple):
    """What `train` tells after an epoch: fractions, by the row of the table that they belong to.

    Models that are trained apart have a row each, and two as an ensemble; a model whose fusion is
    fitted afterwards has two.
    """

    validation: dict[str, Scores]  # the fused ones after the warm-up only
    test: dict[str, Scores] | None  # after the last epoch only


class Words(nn.Module):
    """The mean of the vectors of a row's words."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(symbols, FEATURES, padding_idx=0)

    def forward(self, words: Tensor) -> Tensor:
        count = (words > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean: Tensor = self.vectors(words).sum(dim=1) / count
        return mean


class Letters(nn.Module):
    """The vectors of a row's letters, as channels over time."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(symbols, 32, padding_idx=0)

    def forward(self, letters: Tensor) -> Tensor:
        vectors: Tensor = self.vectors(letters)
        return vectors.transpose(1, 2)


def build_encoder(values: Tensor, modality: str) -> nn.Module:
    """From a batch of the modality to ``(N, FEATURES)``."""
    symbols = int(values.max()) + 1
    if modality == "meanings":
        return nn.Sequential(Words(symbols), nn.Linear(FEATURES, FEATURES), nn.ReLU())
    if modality == "readings":
        return nn.Sequential(
            Letters(symbols),
            *convolution(nn.Conv1d, 32, 64),
            *convolution(nn.Conv1d, 64, 64),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(64, FEATURES),
            nn.ReLU(),
        )
    encoder = nn.Sequential(
        *convolution(nn.Conv2d, 1, 24),
        *convolution(nn.Conv2d, 24, 48),
        *convolution(nn.Conv2d, 48, 96),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, FEATURES),
        nn.ReLU(),
    )
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
    return encoder


def convolution(kind: type[nn.Conv1d | nn.Conv2d], before: int, after: int) -> list[nn.Module]:
    norm = nn.BatchNorm2d(after) if kind is nn.Conv2d else nn.BatchNorm1d(after)
    return [kind(before, after, kernel_size=3, stride=2, padding=1, bias=False), norm, nn.ReLU()]


class ConcatFusion(nn.Module):
    """An encoder and a linear head a modality, and a linear head on all features together."""

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, CLASSES) for name in encoders})
        self.fusion = nn.Linear(FEATURES * len(encoders), CLASSES)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: encode(inputs[name]) for name, encode in self.encoders.items()}

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: head(features[name]) for name, head in self.heads.items()}

    def fuse(
        self, features: Mapping[str, Tensor] | MisalignedBatch, fusion: nn.Module | None = None
    ) -> Tensor:
        """Class logits, of another fusion layer if one is given."""
        concatenated = torch.cat([features[name] for name in self.encoders], dim=1)
        logits: Tensor = (fusion or self.fusion)(concatenated)
        return logits


@dataclass(frozen=True)
class Setup:
    """All that the training loop needs."""

    splits: tuple[Rows, Rows, Rows]
    model: ConcatFusion
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    augment: MisalignAugment
    criterion: MidasLoss
    random: torch.Generator

    def batches(self) -> Iterator[Rows]:
        """The training rows in random order, the pictures cropped."""
        inputs, labels = self.splits[0]
        for rows in torch.split(torch.randperm(len(labels), generator=self.random), BATCH_SIZE):
            batch = gather_rows(inputs, rows)
            yield Rows({**batch, "image": crop(batch["image"], self.random)}, labels[rows])


def prepare(method: Method, modalities: Sequence[str], seed: int, epochs: int) -> Setup:
    """Data, model and method. The seed controls all that is random."""
    random = torch.Generator().manual_seed(seed)  # the split, then the rows' order and the crops
    splits = load_splits(modalities, random)
    torch.manual_seed(seed)  # the initial weights
    inputs = splits[0].inputs
    model = ConcatFusion({name: build_encoder(inputs[name], name) for name in modalities})
    optimizer = torch.optim.SGD(
        model.parameters(), lr=method.learning_rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(epochs * 5 / 7)))
    augment, criterion = method.recipe(modalities, epochs, seed)
    return Setup(splits, model, optimizer, scheduler, augment, criterion, random)


def train(name: str, modalities: Sequence[str], seed: int, epochs: int) -> Iterator[Record]:
    """Train one model, with a report after every epoch."""
    setup = prepare(METHODS[name], modalities, seed, epochs)
    model, criterion = setup.model, setup.criterion
    _, validation, test = setup.splits
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        for inputs, labels in setup.batches():
            # The method is these five lines.
            features = model.encode(inputs)
            unimodal = model.classify(features)
            out = setup.augment(features, labels, unimodal_logits=unimodal)
            logits = model.fuse(out)
            loss = criterion(logits, out, unimodal_logits=unimodal)

            setup.optimizer.zero_grad()
            loss.backward()
            setup.optimizer.step()
        setup.scheduler.step()
        measure_skill(setup)
        last = epoch == epochs - 1
        yield Record(
            evaluate(setup, name, validation), evaluate(setup, name, test) if last else None
        )


@torch.no_grad()
def measure_skill(setup: Setup) -> None:
    """What each modality knows of the validation rows, for the next epoch's labels."""
    confidence = setup.augment.confidence
    if isinstance(confidence, SkillConfidence):
        inputs, labels = setup.splits[1]
        setup.model.eval()
        confidence.update(setup.model.classify(setup.model.encode(inputs)), labels)
        confidence.step()


@torch.no_grad()
def evaluate(setup: Setup, name: str, rows: Rows) -> dict[str, Scores]:
    """Score all that has been trained: with all modalities, with others' and with one missing."""
    model = setup.model.eval()
    features, labels = model.encode(rows.inputs), rows.labels
    if METHODS[name].apart:
        weights = fit_ensemble(model, setup.splits[1])
        predictors = {
            "late fusion": lambda given: late_fusion(stacked(model.classify(given))),
            "fitted late fusion": lambda given: late_fusion(
                stacked(model.classify(given)), weights
            ),
        }
        alone = {f"{m} alone": scores_of(z, labels) for m, z in model.classify(features).items()}
    elif setup.criterion.warming_up:
        return {}
    else:
        predictors, alone = {name: model.fuse}, {}
        if name == SKILL:
            fusion = fit_fusion(model, setup.splits[1])
            predictors[FITTED] = lambda given: model.fuse(given, fusion)
    means = {m: f.mean(dim=0) for m, f in model.encode(setup.splits[0].inputs).items()}
    found = {row: score(predict, features, labels, means) for row, predict in predictors.items()}
    return found | alone


def score(
    predict: Callable[[Mapping[str, Tensor]], Tensor],
    features: Mapping[str, Tensor],
    labels: Tensor,
    means: Mapping[str, Tensor],
) -> Scores:
    """Scores of a model of all modalities; one that is removed has its mean of training rows."""
    scores = scores_of(predict(features), labels)
    plan = plan_swaps(labels, len(features), generator=torch.Generator().manual_seed(0))
    mixed = {m: gather_rows(f, plan.source[:, i]) for i, (m, f) in enumerate(features.items())}
    scores["misaligned"] = float(
        misaligned_accuracy(predict(mixed), labels[plan.source], valid=plan.valid)
    )
    for modality, mean in means.items():
        without = {**features, modality: mean.expand_as(features[modality])}
        scores[f"{modality} removed"] = scores_of(predict(without), labels)["accuracy"]
    return scores


def scores_of(logits: Tensor, labels: Tensor) -> Scores:
    from torchmetrics.functional.classification import multiclass_f1_score

    f1 = multiclass_f1_score(logits, labels, num_classes=CLASSES, average="macro")
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return {"accuracy": float(accuracy), "macro-F1": float(f1)}


def fit_fusion(model: ConcatFusion, validation: Rows) -> nn.Module:
    """The fusion layer with one weight a modality and one a head, fitted on the validation rows."""
    fitted = FusionWeights(model.fusion, dict.fromkeys(model.encoders, FEATURES), heads=model.heads)
    fitted.update(model.encode(validation.inputs), validation.labels)
    fitted.step()
    return fitted.folded()


def fit_ensemble(model: ConcatFusion, validation: Rows) -> Tensor:
    """One weight a model, fitted on the validation rows."""
    logits = model.classify(model.encode(validation.inputs))
    return fit_fusion_weights([z.log_softmax(1) for z in logits.values()], validation.labels)


def stacked(logits: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(logits.values()))


def crop(pictures: Tensor, random: torch.Generator) -> Tensor:
    """A random part of each picture, as large as the whole; its proportions within 3/4 and 4/3."""
    draws = torch.rand(4, len(pictures), generator=random)
    area = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[0]
    stretch = torch.exp((draws[1] - 0.5) * math.log(4 / 3))
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    across, down = (2 * draws[2] - 1) * (1 - width), (2 * draws[3] - 1) * (1 - height)
    none = torch.zeros_like(width)
    frame = torch.stack([width, none, across, none, height, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(frame, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def load_splits(modalities: Sequence[str], random: torch.Generator) -> tuple[Rows, Rows, Rows]:
    """Training, validation and test: 60, 20 and 20 % of each class."""
    try:
        with DATA.open("rb") as opened, np.load(opened) as file:
            labels = torch.from_numpy(file["label"]).long()
            inputs = {name: torch.from_numpy(file[name]) for name in modalities}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        sys.exit(f"{DATA} is {state}; run: python examples/data/build_kanji.py")
    order = torch.randperm(len(labels), generator=random)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within it
    fold = torch.arange(len(order)) % 5
    training, validation, test = order[fold < 3], order[fold == 3], order[fold == 4]
    for name, values in inputs.items():
        if name == "image":
            grey = values[:, None].float()
            std, mean = torch.std_mean(grey[training])
            inputs[name] = (grey - mean) / std
        else:
            inputs[name] = known(values.long(), training)
    first, second, third = (
        Rows(gather_rows(inputs, rows), labels[rows]) for rows in (training, validation, test)
    )
    return first, second, third


def known(symbols: Tensor, training: Tensor) -> Tensor:
    """Words or letters of the training rows, numbered from 1; the others are none, 0."""
    seen = torch.unique(symbols[training])
    seen = seen[seen > 0]
    number = torch.zeros(int(symbols.max()) + 1, dtype=torch.int64)
    number[seen] = torch.arange(1, len(seen) + 1)
    return number[symbols]


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same numbers on any number of cores
    for method in METHODS:
        *_, end = train(method, MODALITIES[:2], seed=0, epochs=30)
        for row, scores in (end.test or {}).items():
            print(row, {key: round(100 * value, 1) for key, value in scores.items()}, flush=True)
