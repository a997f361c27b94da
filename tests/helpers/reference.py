"""The whole MIDAS method in slow, obvious NumPy: the oracle of the tests.

Written from the equations of the paper (arXiv 2509.25831) alone, in float64, with Python loops
over rows, modalities and classes. It imports nothing of `midas_aug`, so that the two can only
agree by both being right. Where the paper is silent, the docstring says what is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def _log_softmax(row: Array | Sequence[float]) -> list[float]:
    """log p of one row of logits, by the definition, after subtracting the largest logit."""
    values = [float(v) for v in row]
    top = max(values)
    log_sum = math.log(math.fsum(math.exp(v - top) for v in values))
    return [v - top - log_sum for v in values]


def _mean(values: Sequence[float]) -> float:
    """The plain mean; 0 of nothing."""
    return math.fsum(values) / len(values) if len(values) else 0.0


def _clamp(value: float, max_alpha: float | None) -> float:
    """Keep alpha in [1, max_alpha]."""
    return max(1.0, value if max_alpha is None else min(value, max_alpha))


def true_class_confidence(logits: Array, labels: Array, temperature: float = 1.0) -> Floats:
    """c_i = softmax(logits_i / T)[y_i] (the numerator of Eq. 2); 0 where the label is negative."""
    out = np.zeros(len(labels), dtype=np.float64)
    for i, label in enumerate(labels):
        if int(label) >= 0:
            scaled = np.asarray(logits[i], dtype=np.float64) / temperature
            out[i] = math.exp(_log_softmax(scaled)[int(label)])
    return out


def label_shares(confidence: Array, source: Array) -> Floats:
    """Eq. 2: c~_s^m = c_s^m / sum_l c_s^l, c_s^m read at the source row of m; all 0: 1/M each."""
    rows, modalities = source.shape
    out = np.zeros((rows, modalities), dtype=np.float64)
    for s in range(rows):
        raw = [float(confidence[int(source[s, m]), m]) for m in range(modalities)]
        total = math.fsum(raw)
        for m in range(modalities):
            out[s, m] = raw[m] / total if total > 0 else 1.0 / modalities
    return out


def soft_targets(source_labels: Array, shares: Array, num_classes: int) -> Floats:
    """Eq. 3: y~_s = sum_m c~_s^m onehot(label of m's source); a negative label puts no mass."""
    rows, modalities = source_labels.shape
    out = np.zeros((rows, num_classes), dtype=np.float64)
    for s in range(rows):
        for m in range(modalities):
            label = int(source_labels[s, m])
            if label >= 0:
                out[s, label] += float(shares[s, m])
    return out


def _unit(vector: Array) -> list[float] | None:
    """The vector divided by its length (safe for huge and tiny entries); None for the zero one."""
    values = [float(x) for x in vector]
    largest = max((abs(x) for x in values), default=0.0)
    if largest == 0:
        return None
    values = [x / largest for x in values]
    length = math.sqrt(math.fsum(x * x for x in values))
    return [x / length for x in values]


def _cosine(a: Array, b: Array) -> float:
    """cos(a, b); 0 when either is the zero vector."""
    unit_a, unit_b = _unit(a), _unit(b)
    if unit_a is None or unit_b is None:
        return 0.0
    dot = math.fsum(x * y for x, y in zip(unit_a, unit_b, strict=True))
    return min(1.0, max(-1.0, dot))


def cosine_hardness(features: Sequence[Array], source: Array, anchor: Array) -> Floats:
    """Eq. 8 and its factor in Eq. 10: 1 + (s + 1) / 2, s the mean cosine of replaced modalities.

    Replaced are the modalities whose source row is not the anchor; s = 1 where none is
    (the row was swapped with itself).
    """
    rows, modalities = source.shape
    out = np.zeros(rows, dtype=np.float64)
    for s in range(rows):
        own = int(anchor[s])
        cosines = []
        for m in range(modalities):
            other = int(source[s, m])
            if other != own:
                cosines.append(_cosine(features[m][own], features[m][other]))
        out[s] = 1.0 + ((_mean(cosines) if cosines else 1.0) + 1.0) / 2.0
    return out


def misaligned_cross_entropy(
    logits: Array, source_labels: Array, shares: Array, alpha: Array | None = None
) -> Floats:
    """The bracket of Eq. 10: - sum_m alpha_m c~_s^m log p~_s[label of m]; negative labels: 0."""
    rows, modalities = source_labels.shape
    out = np.zeros(rows, dtype=np.float64)
    for s in range(rows):
        log_p = _log_softmax(logits[s])
        for m in range(modalities):
            label = int(source_labels[s, m])
            if label >= 0:
                factor = 1.0 if alpha is None else float(alpha[m])
                out[s] -= factor * float(shares[s, m]) * log_p[label]
    return out


def fusion_shares(logits: Array, source_labels: Array) -> Floats:
    """Eq. 5: q_s^m = p~_s[label of m] / sum_l p~_s[label of l], the sum over the M modalities.

    The softmax's own denominator cancels; a row with a negative label gets 1/M each.
    """
    rows, modalities = source_labels.shape
    out = np.zeros((rows, modalities), dtype=np.float64)
    for s in range(rows):
        labels = [int(source_labels[s, m]) for m in range(modalities)]
        if min(labels) < 0:
            out[s] = 1.0 / modalities
            continue
        log_p = _log_softmax(logits[s])
        top = max(log_p[label] for label in labels)
        total = math.fsum(math.exp(log_p[label] - top) for label in labels)
        for m in range(modalities):
            out[s, m] = math.exp(log_p[labels[m]] - top) / total
    return out


def weak_modality_step(
    alpha: Array,
    shares: Array,
    logits: Array,
    source_labels: Array,
    valid: Array | None = None,
    step_size: float = 0.05,
    max_alpha: float | None = None,
) -> Floats:
    """Eq. 5-7: the weakest modality's alpha moves by eta * sign(mean c~ - mean q), others are 1.

    The means are over the valid rows; with none, alpha is returned as it is. Of equally weak
    modalities the first is the weak one.
    """
    rows, modalities = source_labels.shape
    used = [s for s in range(rows) if valid is None or bool(valid[s])]
    if not used:
        return np.asarray(alpha, dtype=np.float64).copy()
    fused = fusion_shares(logits, source_labels)
    mean_share = [_mean([float(shares[s, m]) for s in used]) for m in range(modalities)]
    mean_fused = [_mean([float(fused[s, m]) for s in used]) for m in range(modalities)]
    weak = mean_share.index(min(mean_share))
    gap = mean_share[weak] - mean_fused[weak]
    delta = 1.0 if gap > 0 else -1.0 if gap < 0 else 0.0
    out = np.ones(modalities, dtype=np.float64)
    out[weak] = _clamp(float(alpha[weak]) + step_size * delta, max_alpha)
    return out


def misaligned_accuracy(logits: Array, source_labels: Array, valid: Array | None = None) -> float:
    """Sec. 1: the share of rows whose top-k classes are exactly their k distinct source labels.

    A tie across the top-k boundary is wrong; rows that are not valid or have a negative source
    label do not count; with no counted row the value is 0.
    """
    rows, modalities = source_labels.shape
    right = counted = 0
    for s in range(rows):
        wanted = {int(source_labels[s, m]) for m in range(modalities)}
        if min(wanted) < 0 or (valid is not None and not bool(valid[s])):
            continue
        counted += 1
        values = [float(v) for v in logits[s]]
        order = sorted(range(len(values)), key=lambda c: -values[c])
        k = len(wanted)
        tie = k < len(values) and values[order[k - 1]] == values[order[k]]
        if not tie and set(order[:k]) == wanted:
            right += 1
    return right / counted if counted else 0.0


def eq11_loss(
    aligned_logits: Array,
    misaligned_logits: Array,
    unimodal_logits: Sequence[Array],
    labels: Array,
    source: Array,
    anchor: Array,
    valid: Array,
    confidence: Array,
    hardness: Array,
    alpha: Array,
    lam: float,
    unimodal_weight: float,
    shares: Array | None = None,
) -> dict[str, float]:
    """Eq. 9-11: mean over the labelled rows of L_align + unimodal_weight L_uni + lam L_mis.

    `confidence` (N, M) is raw, `hardness` (S,) is the factor 1 + (s + 1) / 2. L_mis of a row is
    the mean over its S/N misaligned samples, where one that is not valid counts as 0. Rows with a
    negative label are left out of every sum and of the mean. `aligned`, `misaligned` and
    `unimodal` are the means before lam and unimodal_weight. `shares` (S, M) stand in for those of
    Eq. 2.
    """
    n, modalities, s_rows = len(labels), source.shape[1], source.shape[0]
    labelled = [i for i in range(n) if int(labels[i]) >= 0]
    if not labelled:
        return {"total": 0.0, "aligned": 0.0, "misaligned": 0.0, "unimodal": 0.0}
    if shares is None:
        shares = label_shares(confidence, source)
    per_row = s_rows / n
    aligned, misaligned, unimodal = [], [], []
    for i in labelled:
        y = int(labels[i])
        aligned.append(-_log_softmax(aligned_logits[i])[y])  # L_align
        unimodal.append(math.fsum(-_log_softmax(head[i])[y] for head in unimodal_logits))  # Eq. 9
        row = 0.0
        for s in range(s_rows):
            if int(anchor[s]) != i or not bool(valid[s]):
                continue
            labels_s = [int(labels[int(source[s, m])]) for m in range(modalities)]
            if min(labels_s) < 0:
                continue
            log_p = _log_softmax(misaligned_logits[s])
            cross_entropy = 0.0
            for m in range(modalities):
                cross_entropy -= float(alpha[m]) * shares[s, m] * log_p[labels_s[m]]
            row += float(hardness[s]) * cross_entropy  # Eq. 10
        misaligned.append(row / per_row if s_rows else 0.0)
    terms = {
        "aligned": _mean(aligned),
        "misaligned": _mean(misaligned),
        "unimodal": _mean(unimodal),
    }
    total = terms["aligned"] + unimodal_weight * terms["unimodal"] + lam * terms["misaligned"]
    return {"total": float(total), **{name: float(value) for name, value in terms.items()}}


def _ratio(numerator: float, denominator: float) -> float:
    """a / b with the IEEE results for b = 0, so that a comparison with 0/0 is false."""
    if denominator != 0:
        return numerator / denominator
    return math.inf if numerator > 0 else math.nan


def ratio_weak_step(
    alpha: float,
    confidence: Array,
    source: Array,
    logits: Array,
    source_labels: Array,
    n_rows: int,
    step_size: float,
    max_alpha: float | None,
    valid: Array | None = None,
) -> float:
    """The public code's alpha (two modalities, swap "each"): a ratio of means instead of Eq. 5-7.

    Weak is the modality with the smaller mean raw confidence (the first at a tie). Alpha grows
    only if the fusion model leans to the strong one more than the unimodal ratio says. The means
    are over the valid rows; with none, alpha is returned as it is.
    """
    used = [s for s in range(source.shape[0]) if valid is None or bool(valid[s])]
    if not used:
        return float(alpha)
    mean_c = []
    for m in range(2):
        mean_c.append(_mean([float(confidence[int(source[s, m]), m]) for s in used]))
    uni = _ratio(mean_c[0], mean_c[1])
    blocks = []
    for block in (range(0, n_rows), range(n_rows, 2 * n_rows)):
        picked: list[list[float]] = [[], []]
        for s in (s for s in block if s in used):
            log_p = _log_softmax(logits[s])
            for m in range(2):
                picked[m].append(math.exp(log_p[int(source_labels[s, m])]))
        blocks.append(_ratio(_mean(picked[0]), _mean(picked[1])))
    mm = _mean(blocks)
    weak = 1 if mean_c[1] < mean_c[0] else 0
    grows = mm > uni if weak == 1 else mm < uni
    return _clamp(float(alpha) + (step_size if grows else -step_size), max_alpha)


def possible_partners(labels: Array) -> list[set[int]]:
    """Sec. 3.2: for each row i the rows j with y_j != y_i; negative labels give and get nothing."""
    out: list[set[int]] = []
    for i in range(len(labels)):
        partners = set()
        for j in range(len(labels)):
            if int(labels[i]) >= 0 and int(labels[j]) >= 0 and int(labels[j]) != int(labels[i]):
                partners.add(j)
        out.append(partners)
    return out


def log_probabilities(row: Array) -> Floats:
    """log p of one row of logits."""
    return np.array(_log_softmax(row))


def log_confidence(logits: Array, labels: Array) -> Floats:
    """log of `true_class_confidence`, which cannot vanish; 0 where the label is negative."""
    out = np.zeros(len(labels), dtype=np.float64)
    for i, label in enumerate(labels):
        if int(label) >= 0:
            out[i] = _log_softmax(logits[i])[int(label)]
    return out


def shares_of_logarithms(log_confidence: Array, source: Array) -> Floats:
    """Eq. 2 for log c: c~_s^m = exp(log c_s^m - max) / sum_l exp(log c_s^l - max)."""
    rows, modalities = source.shape
    out = np.zeros((rows, modalities), dtype=np.float64)
    for s in range(rows):
        out[s] = np.exp(
            _log_softmax([log_confidence[int(source[s, m]), m] for m in range(modalities)])
        )
    return out


def shares_by_source(confidence: Array, source: Array) -> Floats:
    """Eq. 3 with one vote a source row: the mean confidence of its modalities, divided among them.

    Where all of a row's confidences are 0, each of its source rows has the same vote.
    """
    rows, modalities = source.shape
    out = np.zeros((rows, modalities), dtype=np.float64)
    for s in range(rows):
        votes: dict[int, float] = {}
        sizes: dict[int, int] = {}
        for origin in {int(source[s, m]) for m in range(modalities)}:
            own = [m for m in range(modalities) if int(source[s, m]) == origin]
            votes[origin] = _mean([float(confidence[origin, m]) for m in own])
            sizes[origin] = len(own)
        total = math.fsum(votes.values())
        for m in range(modalities):
            origin = int(source[s, m])
            vote = votes[origin] / total if total > 0 else 1 / len(votes)
            out[s, m] = vote / sizes[origin]
    return out


def skill_score(
    logits: Array, labels: Array, temperatures: Sequence[float], class_counts: Array | None = None
) -> float:
    """max(0, 1 - min_T NLL(logits / T) / H(frequencies)); 0 where there is nothing to know."""
    rows, classes = logits.shape
    used = [i for i in range(rows) if int(labels[i]) >= 0]
    if class_counts is None:
        class_counts = np.array([sum(int(labels[i]) == c for i in used) for c in range(classes)])
    total = float(np.sum(class_counts))
    frequencies = [float(count) / total for count in class_counts] if total else []
    entropy = -math.fsum(f * math.log(f) for f in frequencies if f > 0)
    if not used or entropy == 0:
        return 0.0
    best = min(
        _mean([-_log_softmax(np.asarray(logits[i]) / t)[int(labels[i])] for i in used])
        for t in temperatures
    )
    return max(0.0, 1 - best / entropy)


def prototype_confidence(
    updates: Sequence[tuple[Sequence[Array], Array]],
    features: Sequence[Array],
    labels: Array,
    num_classes: int,
    temperature: float,
    momentum: float,
) -> Floats:
    """Softmax over the cosines with the class centroids, at the true class; (N, M).

    A centroid is the mean of its class in the first of the `updates` that has the class, then
    momentum * centroid + (1 - momentum) * mean. Rows with a negative label or with a number that
    is not finite in any modality are in no mean. A class without a centroid has confidence 0.
    """
    modalities = len(features)
    centroids: dict[int, list[Floats]] = {}
    for given, classes in updates:
        for c in range(num_classes):
            rows = [
                i
                for i in range(len(classes))
                if int(classes[i]) == c
                and all(np.isfinite(given[m][i]).all() for m in range(modalities))
            ]
            if not rows:
                continue
            means = [np.mean([given[m][i] for i in rows], axis=0) for m in range(modalities)]
            if c in centroids:
                old = centroids[c]
                means = [momentum * old[m] + (1 - momentum) * means[m] for m in range(modalities)]
            centroids[c] = means
    out = np.zeros((len(labels), modalities), dtype=np.float64)
    for i, label in enumerate(labels):
        if int(label) not in centroids:
            continue
        seen = sorted(centroids)
        for m in range(modalities):
            scores = [_cosine(features[m][i], centroids[c][m]) / temperature for c in seen]
            out[i, m] = math.exp(_log_softmax(scores)[seen.index(int(label))])
    return out


def fusion_weights_loss(
    weights: Sequence[float], parts: Array, labels: Array, pull: float
) -> tuple[float, list[float]]:
    """Mean of -log softmax(sum_m w_m u_m)[y] + pull / 2 |w - 1|^2, and its gradient by w_m.

    The gradient of a row is u_m under the softmax minus u_m of the true class. Parts are (N, M, C);
    rows with a negative label are in no mean.
    """
    modalities, classes = parts.shape[1:]
    losses: list[float] = []
    slopes: list[list[float]] = [[] for _ in range(modalities)]
    for i in range(len(labels)):
        label = int(labels[i])
        if label < 0:
            continue
        logits = [
            math.fsum(weights[m] * float(parts[i, m, c]) for m in range(modalities))
            for c in range(classes)
        ]
        log_p = _log_softmax(logits)
        losses.append(-log_p[label])
        for m in range(modalities):
            expected = math.fsum(math.exp(log_p[c]) * float(parts[i, m, c]) for c in range(classes))
            slopes[m].append(expected - float(parts[i, m, label]))
    loss = _mean(losses) + pull / 2 * math.fsum((w - 1) ** 2 for w in weights)
    return loss, [_mean(slopes[m]) + pull * (weights[m] - 1) for m in range(modalities)]
