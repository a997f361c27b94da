"""Labels of every kind and missing modalities in slow, obvious NumPy: the oracle of both.

Written from the rules alone (what a loss of a label is, and which modality of which row is there),
in float64, with loops over rows, modalities and classes; it imports nothing of `midas_aug`.
`present` is an (N, M) table of booleans, or None where every row has every modality.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.helpers import reference

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
KindName = Literal["class", "distribution", "multi-label", "continuous", "count"]


@dataclass(frozen=True)
class Kind:
    """What a label is.

    Attributes:
        name: "class": an index; "distribution": C shares; "multi-label": C zeros and ones;
            "continuous": numbers; "count": a whole number, whose rate is exp(score) (Poisson).
        width: The columns of a prediction: C, or the numbers of a continuous label.
        scale: Of a continuous label.
        class_weight: One factor a class, as in ``torch.nn.CrossEntropyLoss``.
        label_smoothing: As in ``torch.nn.CrossEntropyLoss``.
        same: Gives two labels that are the same the same integer; None: the kind's own rule.
    """

    name: KindName
    width: int
    scale: float = 1.0
    class_weight: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    same: Callable[[Any], Any] | None = None

    def weight(self, c: int) -> float:
        """The factor of class c."""
        return 1.0 if self.class_weight is None else float(self.class_weight[c])


# ---------------------------------------------------------------- one label


def is_ignored(kind: Kind, label: Any) -> bool:
    """Whether a label says that its row is to be ignored."""
    if kind.name in ("class", "count"):
        return int(label) < 0
    numbers = [float(number) for number in np.ravel(label)]
    if kind.name == "distribution":
        return any(number < 0 or math.isnan(number) for number in numbers)
    if kind.name == "multi-label":
        return all(number == -1 for number in numbers)
    return any(math.isnan(number) for number in numbers)


def is_same(kind: Kind, one: Any, other: Any) -> bool:
    """Whether two labels, neither ignored, are the same, so that their rows are no partners."""
    if kind.same is not None:
        return int(kind.same(one)) == int(kind.same(other))
    if kind.name == "distribution":
        return int(np.argmax(one)) == int(np.argmax(other))
    return bool(np.all(np.asarray(one) == np.asarray(other)))


def _log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z)) if z >= 0 else z - math.log1p(math.exp(z))


def plain_loss(kind: Kind, scores: Array, label: Any) -> float:
    """The loss ℓ of one prediction for one label: no class weights, no label smoothing."""
    z = [float(score) for score in np.ravel(scores)]
    if kind.name == "class":
        return -float(reference.log_probabilities(np.array(z))[int(label)])
    if kind.name == "count":
        return math.exp(z[0]) - float(label) * z[0]
    y = [float(number) for number in np.ravel(label)]
    if kind.name == "distribution":
        log_p = reference.log_probabilities(np.array(z))
        return -math.fsum(y[c] * log_p[c] for c in range(kind.width) if y[c] > 0)
    if kind.name == "multi-label":
        losses = [
            -(y[c] * _log_sigmoid(z[c]) + (1 - y[c]) * _log_sigmoid(-z[c])) for c in range(len(z))
        ]
    else:
        losses = [(z[k] - y[k]) ** 2 / (2 * kind.scale**2) for k in range(len(z))]
    return math.fsum(losses) / len(losses)


def loss_term(kind: Kind, scores: Array, label: Any) -> float:
    """What one row adds to the sum of ``torch.nn.CrossEntropyLoss``: weighted and smoothed."""
    if kind.name not in ("class", "distribution"):
        return plain_loss(kind, scores, label)
    log_p = reference.log_probabilities(np.asarray(scores, dtype=np.float64))
    smooth, classes = kind.label_smoothing, kind.width
    total = 0.0
    for c in range(classes):
        q = float(c == int(label)) if kind.name == "class" else float(label[c])
        mass = (1 - smooth) * q + smooth / classes
        if mass > 0:
            total -= kind.weight(c) * mass * float(log_p[c])
    return total


def divisor(kind: Kind, labels: Array, rows: Sequence[int]) -> float:
    """What a mean over these rows divides by: the weights of the class indices, else a number."""
    if kind.name == "class":
        return math.fsum(kind.weight(int(labels[i])) for i in rows)
    return float(len(rows))


# ---------------------------------------------------------------- which rows count


def has(present: Array | None, i: int, m: int) -> bool:
    """Whether row i has modality m."""
    return present is None or bool(present[i, m])


def counted_rows(kind: Kind, labels: Array, n_modalities: int, present: Array | None) -> list[int]:
    """The rows with a label and at least one modality."""
    return [
        i
        for i in range(len(labels))
        if not is_ignored(kind, labels[i]) and any(has(present, i, m) for m in range(n_modalities))
    ]


def possible_partners(
    kind: Kind, labels: Array, n_modalities: int, present: Array | None, m: int
) -> list[set[int]]:
    """For each row i the rows that may give it modality m: of another label, and with that one.

    A row that is ignored, or that would keep no modality of its own, gets nothing.
    """
    counted = counted_rows(kind, labels, n_modalities, present)
    out: list[set[int]] = [set() for _ in range(len(labels))]
    for i in counted:
        keeps = any(has(present, i, other) for other in range(n_modalities) if other != m)
        for j in counted:
            if keeps and has(present, j, m) and not is_same(kind, labels[i], labels[j]):
                out[i].add(j)
    return out


def may_count(kind: Kind, labels: Array, source: Array, anchor: int, present: Array | None) -> bool:
    """Whether a mixed row (source (M,)) can be valid.

    Its anchor is labelled, every replaced modality is there at its source (a labelled row), and
    the anchor has at least one of those that it keeps.
    """
    counted = counted_rows(kind, labels, len(source), present)
    if anchor not in counted:
        return False
    replaced = [m for m in range(len(source)) if int(source[m]) != anchor]
    kept = [m for m in range(len(source)) if int(source[m]) == anchor]
    return all(
        int(source[m]) in counted and has(present, int(source[m]), m) for m in replaced
    ) and any(has(present, anchor, m) for m in kept)


def permuted_sources(
    kind: Kind, labels: Array, n_modalities: int, present: Array | None, i: int
) -> dict[tuple[int, ...], float]:
    """Sec. A.2: how probable each source (M,) of row i is, of those that count.

    The modalities are dealt in any order with the same probability: the first to the anchor, the
    second to a partner, the others to further rows of the batch, each uniform over the labelled
    rows that have the modality and are not chosen yet (the partner where there is none).
    """
    counted = counted_rows(kind, labels, n_modalities, present)
    out: dict[tuple[int, ...], float] = {}
    orders = list(itertools.permutations(range(n_modalities)))
    donors = [[j for j in counted if has(present, j, m)] for m in range(n_modalities)]
    for order in orders:
        partners = [j for j in donors[order[1]] if not is_same(kind, labels[i], labels[j])]
        hands = [([i, j], 1 / len(orders) / len(partners)) for j in partners]
        for m in order[2:]:
            longer = []
            for hand, chance in hands:
                left = [j for j in donors[m] if j not in hand] or [hand[1]]
                longer += [([*hand, j], chance / len(left)) for j in left]
            hands = longer
        for hand, chance in hands:
            source = tuple(hand[order.index(m)] for m in range(n_modalities))
            if may_count(kind, labels, np.array(source), i, present):
                out[source] = out.get(source, 0.0) + chance
    return out


def is_misaligned(kind: Kind, labels: Array, source: Array, present: Array | None) -> bool:
    """Whether the labels of the modalities that a row (source (M,)) has are not all the same."""
    found = [labels[int(source[m])] for m in range(len(source)) if has(present, int(source[m]), m)]
    return any(not is_same(kind, found[0], other) for other in found[1:])


# ---------------------------------------------------------------- labels of the mix


def confidence(
    kind: Kind, unimodal: Sequence[Array], labels: Array, present: Array | None
) -> Floats:
    """exp(−ℓ) of each modality's prediction for the row's own label; 0 where there is none."""
    out = np.zeros((len(labels), len(unimodal)))
    for i in range(len(labels)):
        for m, scores in enumerate(unimodal):
            if not is_ignored(kind, labels[i]) and has(present, i, m):
                out[i, m] = math.exp(-plain_loss(kind, scores[i], labels[i]))
    return out


def _softmax_of_losses(losses: Sequence[float | None]) -> list[float]:
    """Softmax of −ℓ over the modalities that have one; the others get 0."""
    least = min(loss for loss in losses if loss is not None)
    parts = [0.0 if loss is None else math.exp(least - loss) for loss in losses]
    total = math.fsum(parts)
    return [part / total for part in parts]


def mixed_shares(
    kind: Kind,
    unimodal: Sequence[Array],
    labels: Array,
    source: Array,
    valid: Array,
    present: Array | None,
) -> Floats:
    """Eq. 2: softmax over modalities of −ℓ at the source of each; NaN in rows that do not count."""
    out = np.full(source.shape, math.nan)
    for s in range(source.shape[0]):
        if not valid[s]:
            continue
        losses: list[float | None] = []
        for m in range(source.shape[1]):
            j = int(source[s, m])
            losses.append(
                plain_loss(kind, unimodal[m][j], labels[j]) if has(present, j, m) else None
            )
        out[s] = _softmax_of_losses(losses)
    return out


def aligned_shares(n_rows: int, n_modalities: int, present: Array | None) -> Floats:
    """One over the number of modalities that the row has; NaN in a row without any."""
    out = np.full((n_rows, n_modalities), math.nan)
    for i in range(n_rows):
        there = [m for m in range(n_modalities) if has(present, i, m)]
        for m in range(n_modalities):
            if there:
                out[i, m] = 1 / len(there) if m in there else 0.0
    return out


def credit(
    kind: Kind, scores: Array, labels: Array, source: Array, valid: Array, present: Array | None
) -> Floats:
    """Eq. 6: softmax over modalities of −ℓ of the fused prediction for the label of each source."""
    out = np.full(source.shape, math.nan)
    for s in range(source.shape[0]):
        if not valid[s]:
            continue
        losses: list[float | None] = []
        for m in range(source.shape[1]):
            j = int(source[s, m])
            losses.append(plain_loss(kind, scores[s], labels[j]) if has(present, j, m) else None)
        out[s] = _softmax_of_losses(losses)
    return out


class AlphaStep(NamedTuple):
    """The next α (M,), and how far its decisions are from a tie."""

    alpha: Floats
    margin: float


def alpha_step(
    alpha: Array, shares: Array, credits: Array, valid: Array, step_size: float = 0.05
) -> AlphaStep:
    """Eq. 5-7: α of the weakest modality moves by η · sign(mean share − mean credit); others: 1."""
    used = [s for s in range(len(valid)) if valid[s]]
    if not used:
        return AlphaStep(np.array(alpha, dtype=np.float64), math.inf)
    modalities = range(shares.shape[1])
    mean_share = [math.fsum(shares[s, m] for s in used) / len(used) for m in modalities]
    mean_credit = [math.fsum(credits[s, m] for s in used) / len(used) for m in modalities]
    weak = mean_share.index(min(mean_share))
    gap = mean_share[weak] - mean_credit[weak]
    out = np.ones(len(mean_share))
    out[weak] = max(1.0, float(alpha[weak]) + step_size * float(np.sign(gap)))
    others = [mean_share[m] - mean_share[weak] for m in modalities if m != weak]
    return AlphaStep(out, min(abs(gap), *others))


def dense_targets(kind: Kind, labels: Array, source: Array, shares: Array, valid: Array) -> Floats:
    """Eq. 3: Σ_m share_m · label of m's source, as rows of C; NaN in rows that do not count."""
    out = np.full((source.shape[0], kind.width), math.nan)
    for s in range(source.shape[0]):
        if not valid[s]:
            continue
        for c in range(kind.width):
            out[s, c] = 0.0
            for m in range(source.shape[1]):
                if shares[s, m] == 0:
                    continue  # the source may have no label to read
                label = labels[int(source[s, m])]
                mass = float(int(label) == c) if kind.name == "class" else float(label[c])
                out[s, c] += float(shares[s, m]) * mass
    return out


def _cosine(a: Array, b: Array) -> float:
    """cos(a, b); 0 with a zero vector."""
    dot = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    length = math.sqrt(math.fsum(float(x) ** 2 for x in a) * math.fsum(float(y) ** 2 for y in b))
    return dot / length if length > 0 else 0.0


def hardness(
    features: Sequence[Array], source: Array, anchor: Array, present: Array | None
) -> Floats:
    """Eq. 8: 1 + (s + 1) / 2, s the mean cosine of replaced modalities that both rows have.

    Where something is replaced, and none of it is there at both, the factor is 1; where nothing is
    replaced, the sample is as hard as can be, 2.
    """
    out = np.ones(source.shape[0])
    for s in range(source.shape[0]):
        own = int(anchor[s])
        replaced = [m for m in range(source.shape[1]) if int(source[s, m]) != own]
        cosines = [
            _cosine(features[m][own], features[m][int(source[s, m])])
            for m in replaced
            if has(present, own, m) and has(present, int(source[s, m]), m)
        ]
        if not replaced:
            out[s] = 2.0
        elif cosines:
            out[s] = 1 + (math.fsum(cosines) / len(cosines) + 1) / 2
    return out


# ---------------------------------------------------------------- weights and loss


def row_weights(
    kind: Kind,
    labels: Array,
    valid: Array,
    n_modalities: int,
    hard: Array,
    lam: float,
    present: Array | None,
) -> Floats:
    """Weights whose plain mean with the losses of N + S rows is L_align + λ·L_mis.

    Args:
        kind: What a label is.
        labels: (N, …).
        valid: (S,), the mixed rows that count.
        n_modalities: M.
        hard: (S,) factors of the mixed rows.
        lam: λ.
        present: (N, M), or None.
    """
    n, s_rows = len(labels), len(valid)
    counted = counted_rows(kind, labels, n_modalities, present)
    by = divisor(kind, labels, counted)
    out = np.zeros(n + s_rows)
    for i in counted:
        out[i] = (n + s_rows) / by
    for s in range(s_rows):
        if valid[s]:
            out[n + s] = lam * n / s_rows * (n + s_rows) / by * float(hard[s])
    return out


def loss_terms(
    kind: Kind,
    scores: Array,
    unimodal: Sequence[Array] | None,
    labels: Array,
    source: Array,
    anchor: Array,
    valid: Array,
    shares: Array,
    hard: Array,
    alpha: Array,
    lam: float,
    unimodal_weight: float,
    present: Array | None,
) -> dict[str, float]:
    """Eq. 9-11 for any kind of label, summed anchor by anchor.

    Args:
        kind: What a label is.
        scores: (N + S, …) fused predictions.
        unimodal: Of each modality (N, …); None: there is no unimodal term.
        labels: (N, …).
        source: (S, M) of the mixed rows.
        anchor: (S,).
        valid: (S,).
        shares: (S, M).
        hard: (S,).
        alpha: (M,).
        lam: λ, part of "misaligned".
        unimodal_weight: Factor of "unimodal" in "total".
        present: (N, M), or None.
    """
    n, (s_rows, modalities) = len(labels), source.shape
    counted = counted_rows(kind, labels, modalities, present)
    terms = {"aligned": 0.0, "misaligned": 0.0, "unimodal": 0.0}
    if counted:
        by = divisor(kind, labels, counted)
        for i in counted:
            terms["aligned"] += loss_term(kind, scores[i], labels[i]) / by
            for s in range(s_rows):
                if int(anchor[s]) != i or not valid[s]:
                    continue
                mixed = 0.0
                for m in range(modalities):
                    j = int(source[s, m])
                    if has(present, j, m):
                        mixed += alpha[m] * shares[s, m] * loss_term(kind, scores[n + s], labels[j])
                terms["misaligned"] += lam * hard[s] * mixed / (by * s_rows / n)
    for m in range(modalities if unimodal is not None else 0):
        rows = [i for i in counted if has(present, i, m)]
        if rows and unimodal is not None:
            by = divisor(kind, labels, rows)
            terms["unimodal"] += math.fsum(
                loss_term(kind, unimodal[m][i], labels[i]) / by for i in rows
            )
    total = terms["aligned"] + terms["misaligned"] + unimodal_weight * terms["unimodal"]
    return {"total": float(total)} | {name: float(value) for name, value in terms.items()}


# ---------------------------------------------------------------- skill


def skill(
    kind: Kind,
    scores: Array,
    labels: Array,
    temperatures: Sequence[float],
    rows: Sequence[int] | None = None,
) -> float:
    """1 − (loss of the model − floor) / (loss of the best constant − floor), in [0, 1].

    The model is taken at its best temperature (a continuous one as it is). The floor is the loss
    of predicting the label itself: the mean entropy of distributions, else 0. The best constant is
    found for each kind by its mean label. 0 where there is no row, or nothing to know.

    Args:
        kind: What a label is.
        scores: (N, …) of one modality.
        labels: (N, …).
        temperatures: Divisors of the scores to try.
        rows: Those that have the modality; None: all.
    """
    used = [
        i for i in (range(len(labels)) if rows is None else rows) if not is_ignored(kind, labels[i])
    ]
    if not used:
        return 0.0

    def mean(losses: Sequence[float]) -> float:
        return math.fsum(losses) / len(losses)

    floor = 0.0
    with np.errstate(divide="ignore"):
        if kind.name == "class":
            masses = [np.eye(kind.width)[int(labels[i])] for i in used]
        else:
            masses = [np.asarray(labels[i], dtype=np.float64).reshape(kind.width) for i in used]
        average = np.mean(masses, axis=0)
        if kind.name == "continuous":
            constant = average
        elif kind.name == "multi-label":
            # The logit of a class that all rows or none have is ±∞; 800 is as good.
            constant = np.clip(np.log(average) - np.log(1 - average), -800, 800)
        else:
            constant = np.maximum(np.log(average), -800)
            if kind.name == "distribution":
                floor = mean(
                    [-math.fsum(q * math.log(q) for q in mass if q > 0) for mass in masses]
                )
    best_constant = mean([plain_loss(kind, constant, labels[i]) for i in used])
    if best_constant - floor < 1e-9:
        return 0.0
    tried = (1.0,) if kind.name == "continuous" else temperatures
    model = min(
        mean([plain_loss(kind, np.asarray(scores[i]) / t, labels[i]) for i in used]) for t in tried
    )
    return min(1.0, max(0.0, 1 - (model - floor) / (best_constant - floor)))
