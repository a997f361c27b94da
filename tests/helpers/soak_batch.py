"""A random batch with random settings for the soak: what goes in, and its exact numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midas_aug import MidasLoss, MisalignAugment, RatioWeakModalityWeight, WeakModalityWeight
from midas_aug import functional as F
from midas_aug.confidence import (
    CalibratedConfidence,
    FrozenConfidence,
    HeadConfidence,
    LogitConfidence,
    PrototypeConfidence,
    SkillConfidence,
    TableConfidence,
)
from tests.helpers.strategies import Array, as_library, skewed_labels

PROVIDERS = (
    "logits",
    "uniform",
    "LogitConfidence",
    "CalibratedConfidence",
    "HeadConfidence",
    "FrozenConfidence",
    "TableConfidence",
    "PrototypeConfidence",
    "SkillConfidence",
    "function",
)
# Providers that read `Settings.logits`.
LOGIT_READERS = ("logits", "LogitConfidence", "CalibratedConfidence")
WAYS = ("call", "draw", "gather", "replay")
TABLE_SIZE = 40


@dataclass
class Settings:
    """What was drawn for one batch; `repr` is what a mismatch is reported with."""

    number: int
    seed: int
    library: str
    dtype: str
    n_rows: int
    n_classes: int
    n_modalities: int
    label_dtype: str
    skew: str
    swap: str
    pairing: str
    hardness: str | None
    provider: str
    way: str
    rule: str | None
    seeded: bool
    poisoned: bool
    misaligned_weight: float
    unimodal_weight: float
    step_size: float
    max_alpha: float | None
    temperatures: list[float]
    scale: float


@dataclass
class Batch:
    """One batch: arrays of the library under test, and the same numbers in float64 (`exact_…`)."""

    settings: Settings
    rng: np.random.Generator
    names: list[str] = field(default_factory=list)
    labels: Any = None
    exact_labels: Any = None
    features: dict[str, Any] = field(default_factory=dict)
    exact_features: list[Array] = field(default_factory=list)
    logits: dict[str, Any] = field(default_factory=dict)
    exact_logits: list[Array] = field(default_factory=list)
    alpha: Any = None
    sample_weights: Any = None  # of a callable hardness
    scores: Any = None  # (N, M) of a provider that is a function, or in a table
    updates: list[Any] = field(default_factory=list)  # of prototypes, or of a skill
    momentum: float = 0.0  # of prototypes
    class_counts: Array | None = None  # of a skill
    table_index: Any = None


def draw_settings(seed: int, number: int) -> tuple[Settings, np.random.Generator]:
    """The settings of batch ``number``, which depend on it and the seed alone."""
    rng = np.random.default_rng([seed, number])

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    library = one_of("torch", "numpy")
    floats = ["float32", "float64", "float16"] + ["bfloat16"] * (library == "torch")
    n_modalities = int(rng.integers(2, 5))
    provider = one_of(*PROVIDERS)
    if library == "numpy" and provider in ("HeadConfidence", "FrozenConfidence"):
        provider = "logits"  # these run torch modules
    skew = one_of("uniform", "zipf", "one_heavy", "single", "with_ignored", "with_ignored")
    integers = ["int64", "int32", "int16", "int8"] + ["uint8"] * (skew != "with_ignored")
    swap = one_of("each", "one", "permute")
    by_ratios = n_modalities == 2 and swap == "each"
    settings = Settings(
        number=number,
        seed=seed,
        library=library,
        dtype=one_of(*floats),
        n_rows=int(one_of(0, 1, 2, 3, *range(2, 10))),
        n_classes=int(rng.integers(1, 7)),
        n_modalities=n_modalities,
        label_dtype=one_of(*integers),
        skew=skew,
        swap=swap,
        pairing=one_of("uniform", "uniform", "permutation", "same class", "function"),
        hardness=one_of("cosine", "auto", "function", None),
        provider=provider,
        way=one_of(*WAYS),
        rule=one_of("paper", "paper", None, *["ratio"] * 3 * by_ratios),
        seeded=bool(rng.integers(2)),
        poisoned=bool(rng.random() < 0.4),
        misaligned_weight=float(one_of(0.0, 1.0, 5.0 * rng.random())),
        unimodal_weight=float(one_of(0.0, 1.0, 2.0 * rng.random())),
        step_size=float(one_of(0.05, rng.random())),
        max_alpha=one_of(None, 1.0 + float(rng.random())),
        temperatures=[float(10.0 ** rng.uniform(-0.7, 0.7)) for _ in range(n_modalities)],
        scale=float(one_of(0.1, 1.0, 1.0, 5.0, 30.0)),
    )
    return settings, rng


def draw_batch(seed: int, number: int) -> Batch:
    """Batch ``number``, with everything that the oracle has to know about it."""
    settings, rng = draw_settings(seed, number)
    n_rows, n_classes = settings.n_rows, settings.n_classes
    batch = Batch(settings, rng, names=[f"m{m}" for m in range(settings.n_modalities)])
    labels = skewed_labels(rng, n_rows, n_classes, settings.skew)  # type: ignore[arg-type]
    batch.exact_labels = labels
    batch.labels = _native(batch, labels, settings.label_dtype)[0]
    ignored = labels < 0
    for name in batch.names:
        values = rng.standard_normal((n_rows, rng.integers(1, 5))) * 10.0 ** rng.integers(-2, 3)
        values[rng.random(n_rows) < 0.1] = 0.0
        logits = settings.scale * rng.standard_normal((n_rows, n_classes))
        if settings.poisoned:
            values[ignored] = rng.choice([np.nan, np.inf, -np.inf], size=values[ignored].shape)
            logits[ignored] = rng.choice([np.nan, np.inf], size=logits[ignored].shape)
        batch.features[name], exact = _native(batch, values)
        batch.exact_features.append(exact)
        batch.logits[name], exact = _native(batch, logits)
        batch.exact_logits.append(exact)
    batch.alpha = 1 + rng.random(settings.n_modalities) * rng.integers(0, 2)
    if settings.rule == "ratio":
        batch.alpha[:] = batch.alpha[0]
    if settings.rule is None:
        batch.alpha[:] = 1
    batch.alpha = batch.alpha.astype(np.float32)
    return batch


def build_augment(batch: Batch) -> MisalignAugment:
    """The augmentation of the settings."""
    settings = batch.settings
    pairings: dict[str, Any] = {
        "uniform": "uniform",
        "permutation": F.permutation_partners,
        "same class": F.same_class_partners,
        "function": mirror,
    }

    def weigh(features: Any, plan: Any) -> Any:
        weights = 0.5 + batch.rng.random(len(plan.anchor))
        batch.sample_weights = np.asarray(weights, dtype=np.float32).astype(np.float64)
        return _native(batch, weights, "float32")[0]

    return MisalignAugment(
        batch.names,
        settings.n_classes,
        confidence=build_provider(batch),
        pairing=pairings[settings.pairing],
        swap=settings.swap,  # type: ignore[arg-type]
        hardness=weigh if settings.hardness == "function" else settings.hardness,  # type: ignore[arg-type]
        misaligned_weight=settings.misaligned_weight,
        seed=settings.number if settings.seeded else None,
    )


def build_provider(batch: Batch) -> Any:
    """The provider of the settings, told what it has to be told."""
    settings, rng = batch.settings, batch.rng
    names, n_classes = batch.names, settings.n_classes
    widths = {name: array.shape[1] for name, array in batch.features.items()}
    if settings.provider in ("logits", "uniform"):
        return settings.provider
    if settings.provider == "LogitConfidence":
        return LogitConfidence([f"logits of {m}" for m in names], temperature=_temperature(batch))
    if settings.provider == "CalibratedConfidence":
        calibrated = CalibratedConfidence(LogitConfidence([f"logits of {m}" for m in names]))
        calibrated.temperatures.copy_(torch.tensor(settings.temperatures))
        return calibrated
    dtype = getattr(torch, settings.dtype)
    if settings.provider == "HeadConfidence":
        return HeadConfidence(widths, n_classes).to(dtype)
    if settings.provider == "FrozenConfidence":
        frozen = {name: nn.Linear(width, n_classes).to(dtype) for name, width in widths.items()}
        return FrozenConfidence(frozen)
    if settings.provider == "TableConfidence":
        return _table(batch)
    if settings.provider == "PrototypeConfidence":
        return _prototypes(batch, widths)
    if settings.provider == "SkillConfidence":
        return _skill(batch)
    native, batch.scores = _native(batch, _random_scores(rng, settings.n_rows, len(names)))
    batch.scores = batch.scores.astype(np.float32).astype(np.float64)
    return lambda _, labels: native


def build_criterion(batch: Batch) -> MidasLoss:
    """The loss of the settings, with the α that were drawn."""
    settings = batch.settings
    options: dict[str, Any] = {"step_size": settings.step_size, "max_alpha": settings.max_alpha}
    rules: dict[Any, Any] = {
        "paper": lambda: WeakModalityWeight(settings.n_modalities, **options),
        "ratio": lambda: RatioWeakModalityWeight(2, **options),
        None: lambda: None,
    }
    criterion = MidasLoss(
        settings.n_modalities,
        weak_modality=rules[settings.rule](),
        unimodal_weight=settings.unimodal_weight,
    )
    if criterion.weak_modality is not None:
        criterion.weak_modality.alpha.copy_(torch.from_numpy(batch.alpha))
    return criterion


def whole_batch(batch: Batch) -> dict[str, Any]:
    """The batch as a user's collate function gives it."""
    whole = dict(batch.features) | {"label": batch.labels}
    whole["id"] = [f"row {row}" for row in range(batch.settings.n_rows)]
    if batch.settings.provider in ("LogitConfidence", "CalibratedConfidence"):
        whole |= {f"logits of {name}": logits for name, logits in batch.logits.items()}
    if batch.table_index is not None:
        whole["index"] = _native(batch, batch.table_index, "int64")[0]
    return whole


def mirror(labels: Any, *, features: Any, generator: Any) -> Any:
    """A pairing of one's own: the first row with the last, and so on; itself in the middle."""
    n_rows = len(labels)
    if isinstance(labels, Tensor):
        return torch.arange(n_rows).flip(0), torch.ones(n_rows, dtype=torch.bool)
    return np.arange(n_rows)[::-1], np.ones(n_rows, dtype=bool)


def multimodal_logits(batch: Batch, out: Any) -> Tensor:
    """Logits of a fusion head for all rows; those of rows that do not count may hold anything."""
    settings = batch.settings
    shape = len(out.anchor), settings.n_classes
    values = settings.scale * batch.rng.standard_normal(shape)
    if settings.poisoned:
        dead = ~np.asarray(out.valid)
        values[dead] = batch.rng.choice([np.nan, np.inf, 1e4], size=values[dead].shape)
    dtype = getattr(torch, settings.dtype)
    return torch.from_numpy(values).to(dtype).requires_grad_()


def _native(batch: Batch, values: Any, dtype: str | None = None) -> tuple[Any, Array]:
    library: Any = batch.settings.library
    return as_library(values, dtype or batch.settings.dtype, library)


def _temperature(batch: Batch) -> float:
    """One temperature for all: that of the first modality."""
    batch.settings.temperatures[1:] = batch.settings.temperatures[:1] * (len(batch.names) - 1)
    return batch.settings.temperatures[0]


def _random_scores(rng: np.random.Generator, n_rows: int, n_modalities: int) -> Array:
    scores = rng.random((n_rows, n_modalities)) * 10.0 ** rng.integers(-3, 4)
    scores[rng.random(scores.shape) < 0.2] = 0.0
    return np.asarray(scores)


def _table(batch: Batch) -> TableConfidence:
    """Written twice for some rows; what was not written holds the initial value."""
    rng, n_rows = batch.rng, batch.settings.n_rows
    table = TableConfidence(batch.names, TABLE_SIZE, initial=0.25)
    numbers = np.full((TABLE_SIZE, len(batch.names)), 0.25)
    for _ in range(2):
        index = rng.permutation(TABLE_SIZE)[: rng.integers(TABLE_SIZE)]
        native, exact = _native(batch, _random_scores(rng, len(index), len(batch.names)))
        table.update(_native(batch, index, "int64")[0], native)
        numbers[index] = exact
    batch.table_index = rng.integers(TABLE_SIZE, size=n_rows)
    batch.scores = numbers.astype(np.float32).astype(np.float64)[batch.table_index]
    return table


def _prototypes(batch: Batch, widths: dict[str, int]) -> PrototypeConfidence:
    """Updated with up to three batches, in which a number may be missing in any row."""
    rng, settings = batch.rng, batch.settings
    momentum = float(rng.choice([0.0, 0.9, rng.random() * 0.99]))
    prototypes = PrototypeConfidence(
        widths, settings.n_classes, temperature=_temperature(batch), momentum=momentum
    )
    for _ in range(rng.integers(4)):
        n_rows = int(rng.integers(6))
        labels = skewed_labels(rng, n_rows, settings.n_classes, "with_ignored")
        values = [rng.standard_normal((n_rows, width)) for width in widths.values()]
        if n_rows:
            values[0][rng.random(n_rows) < 0.2] = rng.choice([np.nan, np.inf])
        given = [_native(batch, value) for value in values]
        native = {name: pair[0] for name, pair in zip(widths, given, strict=True)}
        prototypes.update(native, _native(batch, labels, "int64")[0])
        batch.updates.append(([pair[1] for pair in given], labels))
    batch.momentum = momentum
    return prototypes


def _skill(batch: Batch) -> SkillConfidence:
    """Set by hand, or measured on two small validations."""
    rng, settings = batch.rng, batch.settings
    counts = 1 + rng.integers(9, size=settings.n_classes) if rng.random() < 0.5 else None
    given = None if counts is None else torch.from_numpy(counts)
    skill = SkillConfidence(batch.names, settings.n_classes, ema=0.25, class_counts=given)
    if rng.random() < 0.8:  # measuring is slow for the oracle
        values = rng.random(len(batch.names)).astype(np.float32)
        skill.skill.copy_(torch.from_numpy(values))
        batch.scores = values.astype(np.float64)
        return skill
    for _ in range(rng.integers(1, 3)):
        n_rows = int(rng.integers(5))
        labels = skewed_labels(rng, n_rows, settings.n_classes, "with_ignored")
        known = 3.0 * (labels[:, None] == np.arange(settings.n_classes))
        logits = [
            _native(batch, known * rng.random() + rng.standard_normal(known.shape))
            for _ in batch.names
        ]
        skill.update([pair[0] for pair in logits], _native(batch, labels, "int64")[0])
        skill.step()
        batch.updates.append(([pair[1] for pair in logits], labels))
    batch.class_counts = counts
    return skill
