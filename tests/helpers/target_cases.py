"""Batches with labels of every kind and with missing modalities, in NumPy, and as the package's.

A `Case` holds float32 numbers, so that what the package is given and what the reference computes
with are the same numbers. Where nothing may be read (features and unimodal predictions of absent
modalities, predictions for rows that do not count) it can hold NaN and infinities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from midas_aug import MisalignAugment, MisalignedBatch
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel, Target
from tests.helpers import strategies
from tests.helpers import target_reference as slow
from tests.helpers.target_reference import Array, Floats, Kind

NAMES = ("audio", "video", "text", "touch")
SWAPS = ("each", "one", "permute")
Pattern = Literal["none missing", "some", "one rare", "rows with nothing", "one never"]
PATTERNS: tuple[Pattern, ...] = (
    "none missing",
    "some",
    "one rare",
    "rows with nothing",
    "one never",
)
NONSENSE = np.array([np.nan, np.inf, -np.inf, 3e38], dtype=np.float32)


class Count(Target):
    """A target of one's own: whole numbers with a Poisson loss; a negative one is ignored."""

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        return torch.as_tensor(labels).float()

    def label_ids(self, labels: Tensor) -> Tensor:
        return labels.long()

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        return labels.clamp(min=0) * scores - scores.exp()


class MeanOfScores(Target):
    """A target of one's own, whose heads may have any width."""

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        checked: Tensor = labels
        return checked

    def label_ids(self, labels: Tensor) -> Tensor:
        return labels

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        return -(scores.mean(dim=1, keepdim=True) - labels).abs()


def floor_of(label: Any) -> Any:
    """Which unit interval a continuous label lies in; of arrays, tensors and numbers."""
    if isinstance(label, Tensor):
        return (label if label.ndim == 1 else label[:, 0]).floor().long()
    return int(np.floor(np.ravel(label)[0]))


def random_weights(rng: np.random.Generator, classes: int) -> tuple[float, ...]:
    """Class weights from a hundredth to a hundred."""
    return tuple(float(w) for w in np.float32(10.0 ** rng.uniform(-2, 2, classes)))


KindOf = Callable[[np.random.Generator, int], Kind]
KINDS: dict[str, KindOf] = {
    "class": lambda rng, c: Kind("class", c),
    "weighted class": lambda rng, c: Kind("class", c, class_weight=random_weights(rng, c)),
    "smoothed class": lambda rng, c: Kind(
        "class", c, class_weight=random_weights(rng, c), label_smoothing=0.1
    ),
    "distribution": lambda rng, c: Kind("distribution", c),
    "weighted distribution": lambda rng, c: Kind(
        "distribution", c, class_weight=random_weights(rng, c), label_smoothing=0.2
    ),
    "multi-label": lambda rng, c: Kind("multi-label", c),
    "continuous": lambda rng, c: Kind("continuous", 1, scale=float(rng.choice([0.5, 1.0, 3.0]))),
    "wide continuous": lambda rng, c: Kind("continuous", 3),
    "binned continuous": lambda rng, c: Kind("continuous", 1, same=floor_of),
    "own": lambda rng, c: Kind("count", 1),
}
WITH_CLASSES = tuple(name for name in KINDS if "class" in name or "distribution" in name)


def target_of(kind: Kind) -> Target:
    """The package's target of that kind."""
    weight = None if kind.class_weight is None else torch.tensor(kind.class_weight)
    options: dict[str, Any] = {}
    if weight is not None or kind.label_smoothing:
        options = {"class_weight": weight, "label_smoothing": kind.label_smoothing}
    if kind.name == "class":
        return ClassIndex(kind.width, **options)
    if kind.name == "distribution":
        return Distribution(kind.width, **options)
    if kind.name == "multi-label":
        return MultiLabel(kind.width)
    if kind.name == "continuous":
        return Continuous(kind.width, scale=kind.scale, same=kind.same)
    return Count()


def labels_of(kind: Kind, ids: Array, rng: np.random.Generator) -> Array:
    """Labels of which those with the same number are the same, and negative ones are ignored."""
    n, width = len(ids), kind.width
    if kind.name in ("class", "count"):
        return ids.astype(np.int64)
    ignored = ids < 0
    if kind.name == "distribution":
        rows = rng.dirichlet(np.ones(width), size=n)
        rows[rng.random(n) < 0.3] = 0.0  # these become one-hot
        top = np.where(ignored, 0, ids) % width
        rows[np.arange(n), top] = rows.max(axis=1, initial=0) + 0.2
        rows = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
        rows[ignored, rng.integers(width)] = rng.choice([-1.0, np.nan])
        return rows
    if kind.name == "multi-label":
        rows = (ids[:, None] >> np.arange(width)) & 1
        rows[ignored] = -1
        return rows.astype(np.int64)
    numbers = rng.choice([-2.5, -1.0, 0.0, 0.25, 1.5, 4.0], size=(8, width)).astype(np.float32)
    rows = numbers[np.where(ignored, 0, ids) % 8]
    if kind.same is not None:
        rows = np.floor(rows) + rng.random((n, width)).astype(np.float32)
    rows[ignored, rng.integers(width)] = np.nan
    return np.asarray(rows[:, 0] if width == 1 else rows)


def pattern_of(pattern: Pattern, n: int, m: int, rng: np.random.Generator) -> Array:
    """Which modality each of n rows has, (n, m) bool."""
    if pattern == "none missing":
        return np.ones((n, m), np.bool_)
    present = rng.random((n, m)) < 0.7
    if pattern == "one rare":
        present[:] = True
        present[:, rng.integers(m)] = rng.random(n) < 0.15
    if pattern == "one never":
        present[:, rng.integers(m)] = False
    if pattern == "rows with nothing":
        present[rng.random(n) < 0.3] = False
    return present


@dataclass
class Case:
    """One batch.

    Attributes:
        kind: What a label is.
        labels: (N, …).
        features: Of each modality (N, D_m) float32.
        unimodal: Of each modality (N, …) float32, unimodal predictions.
        present: (N, M) bool; None: every row has every modality, and nothing is said of it.
        swap: How modalities are swapped.
        lam: λ.
        rng: Where further numbers come from.
        poisoned: Whether what may not be read holds NaN and infinities.
    """

    kind: Kind
    labels: Array
    features: dict[str, Array]
    unimodal: dict[str, Array]
    present: Array | None
    swap: Any
    lam: float
    rng: np.random.Generator = field(repr=False)
    poisoned: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.features)

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def m(self) -> int:
        return len(self.features)

    @property
    def counted(self) -> list[int]:
        return slow.counted_rows(self.kind, self.labels, self.m, self.present)

    def augment(self, **options: Any) -> MisalignAugment:
        return MisalignAugment(
            self.names,
            target=target_of(self.kind),
            **{"swap": self.swap, "misaligned_weight": self.lam} | options,
        )

    def given(self, values: Any, library: str = "torch") -> Any:
        """Arrays or a mapping of arrays as that library has them; None stays None."""
        if values is None:
            return None
        if isinstance(values, dict):
            return {name: self.given(value, library) for name, value in values.items()}
        return torch.from_numpy(np.array(values)) if library == "torch" else np.array(values)

    def draw(self, library: str = "torch", plan: Any = None, **options: Any) -> MisalignedBatch:
        """Augmented, labelled by the unimodal predictions."""
        seed = int(self.rng.integers(2**31)) if plan is None else 0
        generator: Any = torch.Generator().manual_seed(seed)
        if library == "numpy":
            generator = np.random.default_rng(seed)
        drawn = self.augment(**options).draw(
            self.given(self.features, library),
            self.given(self.labels, library),
            present=self.given(self.present, library),
            plan=plan,
            generator=generator,
        )
        return drawn.label(unimodal_logits=self.given(self.unimodal, library))

    def scores(self, out: MisalignedBatch, scale: float = 1.0) -> Tensor:
        """Fused predictions for the N + S rows; nonsense for those that do not count."""
        shape = (len(out.source), self.kind.width)
        values = (scale * self.rng.standard_normal(shape)).astype(np.float32)
        if self.poisoned:
            lost = ~np.asarray(out.valid)
            values[lost] = self.rng.choice(NONSENSE, size=(int(lost.sum()), self.kind.width))
        return torch.from_numpy(values)

    def without_mask(self) -> Case:
        return replace(self, present=None)

    def with_mask(self, present: Array) -> Case:
        return replace(self, present=present)


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: Sequence[str] = tuple(KINDS),
    patterns: Sequence[Pattern | None] = (None, *PATTERNS),
    swaps: Sequence[str] = SWAPS,
    sizes: tuple[int, int] = (0, 12),
    modalities: tuple[int, int] = (2, 4),
    skews: Sequence[strategies.Skew] = strategies.SKEWS,
    poisoned: bool | None = None,
) -> Case:
    """A batch of one of these kinds of label, patterns of missing modalities, and swaps."""
    rng = np.random.default_rng(draw(strategies.seeds()))
    m, n = draw(st.integers(*modalities)), draw(st.integers(*sizes))
    classes = draw(st.integers(2, 6))
    kind = KINDS[draw(st.sampled_from(kinds))](rng, classes)
    skew = draw(st.sampled_from(skews))
    labels = labels_of(kind, strategies.skewed_labels(rng, n, classes, skew), rng)
    pattern = draw(st.sampled_from(patterns))
    present = None if pattern is None else pattern_of(pattern, n, m, rng)
    names = NAMES[:m]
    features = {
        name: rng.standard_normal((n, 2 + number)).astype(np.float32)
        for number, name in enumerate(names)
    }
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    unimodal: dict[str, Floats] = {
        name: (scale * rng.standard_normal((n, kind.width))).astype(np.float32) for name in names
    }
    case = Case(
        kind=kind,
        labels=labels,
        features=features,
        unimodal=unimodal,
        present=present,
        swap=draw(st.sampled_from(swaps)),
        lam=draw(st.sampled_from([1.0, 0.5, 5.0])),
        rng=rng,
        poisoned=draw(st.booleans()) if poisoned is None else poisoned,
    )
    if kind.name == "count":  # an exponential of scores
        for values in unimodal.values():
            values *= 0.3
    if case.poisoned:
        counted = case.counted
        for number, name in enumerate(names):
            lost = [i for i in range(n) if i not in counted or not slow.has(present, i, number)]
            unimodal[name][lost] = rng.choice(NONSENSE, size=(len(lost), kind.width))
            gone = [i for i in range(n) if not slow.has(present, i, number)]
            features[name][gone] = rng.choice(NONSENSE, size=(len(gone), 2 + number))
    return case
