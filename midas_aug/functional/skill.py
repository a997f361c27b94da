"""Skill: what a unimodal classifier knows beyond the class frequencies. Not in the paper."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    ArrayT,
    as_labels,
    as_scores,
    as_tensor,
    check_has_values,
    check_rows,
    check_shape,
    full_precision,
    is_array,
    like,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width, check_not_negative

__all__ = ["shares_by_source", "skill_score"]

LOWEST, HIGHEST, STEPS = 0.3, 20.0, 60
# Log-spaced: the NLL is flat around its minimum, 7 % between two temperatures lose next to nothing.
TEMPERATURES = tuple(
    LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1)) for number in range(STEPS)
)


def skill_score(logits: ArrayT, labels: Array, class_counts: Array | None = None) -> ArrayT:
    r"""Chance-corrected nats of a classifier on held-out rows, at its best temperature.

    .. math:: s = \max(0, 1 - \min_T NLL(logits / T) / H), \quad H = -\sum_c \pi_c \log \pi_c

    0 is no better than naming the class frequencies π, 1 is perfect. A common factor of the logits
    does not matter, as long as the best of 60 temperatures lies within [0.3, 20]. Carries no
    gradient.

    Args:
        logits: ``(N, C)`` float of one modality, on rows that it was not trained on.
        labels: ``(N,)`` integers; rows with a negative one are left out.
        class_counts: ``(C,)`` rows a class in the training set, or any multiple. None: those of
            ``labels``.

    Returns:
        A scalar in [0, 1]; 0 where there is no row, nothing to know (one class), or a NLL that is
        not finite.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or counts are negative.

    Example:
        >>> import torch
        >>> from midas_aug.functional import skill_score
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> frequencies = torch.tensor([[0.75, 0.25]]).log().expand(4, 2)
        >>> skill_score(frequencies, labels)
        tensor(0.)
        >>> skill_score(99 * torch.nn.functional.one_hot(labels).float(), labels)
        tensor(1.)
    """
    classes = as_labels(labels, "labels")
    sums = class_nll_sums(logits, classes, "logits")
    seen = count_classes(classes, logits.shape[1])
    counts = seen if class_counts is None else as_counts(class_counts, logits.shape[1])
    chance = entropy_of_counts(counts.to(sums.device))
    return like(skill_from_sums(sums, seen.sum(), chance), logits)


def shares_by_source(confidence: ArrayT, source: Array, *, present: Array | None = None) -> ArrayT:
    r"""Share of each modality in a label, where the modalities of one source have one vote.

    The modalities that come from one row of the batch together get the mean of their confidences,
    normalised over the sources and divided among them equally. So two kept modalities do not
    outvote a replaced one by their number. For two modalities this is `label_shares`.

    Args:
        confidence: ``(N, M)`` non-negative.
        source: ``(S, M)`` integers, the batch row of each modality.
        present: ``(N, M)`` bool: which modalities a row has; None: all. A modality that its source
            lacks has no part in the vote, and a share of 0.

    Returns:
        ``(S, M)``, each row sums to 1. Where all confidences of a row are 0, each source gets
        the same.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or a confidence is negative (looked at on the
            CPU only).

    Example:
        >>> import torch
        >>> from midas_aug.functional import shares_by_source
        >>> confidence = torch.tensor([[0.8, 0.4, 0.2]]).expand(2, 3)
        >>> shares_by_source(confidence, torch.tensor([[0, 0, 1]]))  # 0.6 against 0.2
        tensor([[0.3750, 0.3750, 0.2500]])
    """
    scores = as_scores(confidence, "confidence").detach()
    rows = as_labels(source, "source", ndim=2)
    check_shape(rows, (None, scores.shape[1]), "source", "one column a modality, as in confidence")
    check_rows(rows, len(scores), "source")
    check_not_negative(scores)
    together = (rows[:, :, None] == rows[:, None, :]).to(scores.dtype)
    has: Tensor | float = 1.0
    if present is not None:
        given = as_tensor(present, "present").gather(0, rows)
        has = (given | ~given.any(dim=1, keepdim=True)).to(scores.dtype)
        together = together * has[:, None, :]
    size = together.sum(dim=2).clamp(min=1)
    # An infinite one counts as the largest number, as in `label_shares`.
    chosen = scores.clamp(max=torch.finfo(scores.dtype).max).gather(0, rows)
    largest = chosen.amax(dim=1, keepdim=True)
    chosen = chosen / torch.where(largest > 0, largest, 1.0)  # no sum overflows
    vote = (together * chosen[:, None, :]).sum(dim=2) / size
    total = (has * vote / size).sum(dim=1, keepdim=True)  # each source once
    sources = (has / size).sum(dim=1, keepdim=True)
    # Not `total > 0`: the NaN of a diverged classifier must not pass for an even share.
    found = torch.where(total == 0, 1 / sources, vote / total) / size
    return like(has * found, confidence)


def class_nll_sums(logits: Array, classes: Tensor, name: str) -> Tensor:
    """`nll_sums` of the cross-entropy of ``(N, C)`` logits; negative classes count nowhere."""
    scores = as_scores(as_tensor(logits, name), name).detach()
    check_shape(scores, (len(classes), None), name, "one row a label, one column a class")
    check_logit_width(classes, scores.shape[1], name)
    slot = classes.clamp(min=0)[:, None]
    return nll_sums(scores, lambda found: found.log_softmax(dim=1).gather(1, slot), classes >= 0)


def nll_sums(
    scores: Tensor,
    log_likelihoods: Callable[[Tensor], Tensor],
    counted: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Tensor:
    """Sum over the rows that count of the loss at each temperature, ``(T,)`` float32.

    Sums, so that batches and ranks can be added up.

    Args:
        scores: ``(N, C)`` float.
        log_likelihoods: Minus the loss of such scores, ``(N, 1)``.
        counted: ``(N,)`` bool.
        temperatures: T numbers.
    """
    with full_precision(scores):
        # A loop over temperatures, not one big array: C may be thousands.
        sums = [
            torch.where(counted, log_likelihoods(scores / t)[:, 0], 0.0).sum() for t in temperatures
        ]
    return -torch.stack(sums).float()


def skill_from_sums(
    sums: Tensor, rows: Tensor, chance: Tensor, floor: Tensor | float = 0.0
) -> Tensor:
    """The skill ``(...)`` of loss sums ``(..., T)``, one a temperature, over ``rows`` rows.

    ``chance`` is the mean loss of the best constant, ``floor`` that of a perfect prediction.
    """
    loss = torch.where(sums.isfinite(), sums, math.inf).amin(dim=-1) / rows
    room = chance - floor
    skill = (1 - (loss - floor) / torch.where(room > 0, room, 1.0)).clamp(0, 1)
    return torch.where((rows > 0) & (room > 0), skill, 0.0)


def entropy_of_counts(class_counts: Tensor) -> Tensor:
    """Entropy in nats of the frequencies of counts ``(..., C)``; 0 where all are 0."""
    total = class_counts.sum(dim=-1, keepdim=True)
    frequencies = class_counts.float() / torch.where(total > 0, total, 1)
    entropy: Tensor = torch.special.entr(frequencies).sum(dim=-1)
    return entropy


def count_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Rows a class, ``(C,)`` int64; negative labels count nowhere. No sync, unlike bincount."""
    counted = (classes >= 0).long()
    empty = torch.zeros(num_classes, dtype=torch.int64, device=classes.device)
    return empty.scatter_add(0, classes.clamp(min=0), counted)


def as_counts(class_counts: Any, num_classes: int) -> Tensor:
    """Counts or frequencies of the classes as a tensor that was looked at."""
    given = class_counts if is_array(class_counts) else np.asarray(class_counts)
    counts = as_tensor(given, "class_counts").detach()
    check_shape(counts, (num_classes,), "class_counts", "one number a class")
    check_has_values(counts, "class_counts")
    # The sum is finite only if all of them are.
    if not bool((counts >= 0).all()) or not 0 < float(counts.sum()) < math.inf:
        raise MidasAugError(
            f"expected finite class_counts of at least 0 and not all 0, got {counts.tolist()}; "
            "pass torch.bincount(training_labels, minlength=num_classes)"
        )
    return counts
