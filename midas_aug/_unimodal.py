"""The unimodal term of the loss: the heads on the aligned rows (Eq. 9)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, check_shape, elsewhere
from midas_aug._labelling import divisor_of
from midas_aug._tree import in_order
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.targets import Target
from midas_aug.weak_modality import LabelledRows

__all__ = ["UnimodalLogits", "divisors_of", "unimodal_loss"]

UnimodalLogits: TypeAlias = Mapping[Any, Tensor] | Sequence[Tensor]


def unimodal_loss(
    unimodal_logits: UnimodalLogits, out: LabelledRows, target: Target, num_modalities: int
) -> Tensor:
    """Sum over modalities of the mean loss of the rows with a label, and with the modality.

    Args:
        unimodal_logits: ``(N, C)`` of each head, by modality or in order.
        out: The rows; the first N are aligned. Where it has ``unimodal_divisors``, ``(M,)`` or
            None, they stand in for what a mean over its rows divides by.
        target: What a label is.
        num_modalities: M.

    Raises:
        MidasAugError: Number, shape or device of the logits does not fit.
    """
    by_modality = _in_order(unimodal_logits, out)
    if len(by_modality) != num_modalities:
        raise MidasAugError(
            f"expected unimodal logits of {num_modalities} modalities, got "
            f"{len(by_modality)}; pass one (N, C) tensor per modality"
        )
    if type(out) is MisalignedBatch and not out.is_numpy:
        drawn, divisor = out.drawn, out.divisor
        labels, readable, n_rows = drawn.labels, drawn.readable, drawn.labels.shape[0]
        ignored = drawn.ignored[:n_rows]
    else:
        labels = target.check(out.labels)
        readable, n_rows = target.filled(labels), labels.shape[0]
        ignored = ~as_tensor(out.valid, "valid")[:n_rows]
        stated = getattr(out, "unimodal_divisors", None)
        if stated is None:
            divisor = divisor_of(target, labels, ~ignored)
        else:
            divisor = as_tensor(stated, "unimodal_divisors")
            why = "one number a modality"
            check_shape(divisor, (num_modalities,), "unimodal_divisors", why)
    found: list[Tensor] = []
    for number, logits in enumerate(by_modality):
        name = f"unimodal_logits[{number}]"
        rows = target.predictions(logits, name)
        if (*rows.shape,) != (n_rows, target.n_outputs):
            check_shape(rows, (n_rows, None), name, "the N aligned rows")
            target.check_width(rows, labels, name)
        if rows.device != ignored.device:
            raise MidasAugError(elsewhere(name, rows, ignored.device))
        found.append(rows)
    absent = getattr(out, "absent", None)
    if target.n_outputs is None and len({rows.shape[1] for rows in found}) > 1:
        has_not = None if absent is None else absent[:n_rows]
        return _sum_by_head(target, found, labels, readable, ignored, has_not, divisor)
    stacked = torch.stack(found)
    if absent is None:
        left_out = ignored
        stacked.masked_fill_(ignored[:, None], 0.0)  # whatever an ignored row holds
        if not divisor.ndim:  # the same for all heads
            return target.loss_sum(stacked, readable, ignored) / divisor
    else:
        left_out = (ignored[:, None] | absent[:n_rows]).t()
        stacked.masked_fill_(left_out[:, :, None], 0.0)
    sums = target.losses(stacked, readable, left_out).sum(dim=1)
    return (sums / (divisor if divisor.ndim else divisors_of(target, labels, ~left_out))).sum()


def divisors_of(target: Target, labels: Tensor, counted: Tensor) -> Tensor:
    """What the mean of each head's losses divides by, ``(M,)``.

    Args:
        target: What a label is.
        labels: ``(N, …)``.
        counted: ``(M, N)`` bool, the rows that count for each head.
    """
    counts = counted.sum(dim=1).clamp_(min=1)
    each = [divisor_of(target, labels, *those) for those in zip(counted, counts, strict=True)]
    return torch.stack(each)


def _sum_by_head(
    target: Target,
    predictions: Sequence[Tensor],
    labels: Tensor,
    readable: Tensor,
    ignored: Tensor,
    absent: Tensor | None,
    divisor: Tensor,
) -> Tensor:
    """The sum over heads of several widths, which no one tensor holds, of their mean losses.

    ``divisor`` is ``(M,)``, or has no axes: that of rows that have every modality.
    """
    means = []
    for number, rows in enumerate(predictions):
        left_out = ignored if absent is None else ignored | absent[:, number]
        if divisor.ndim:
            count = divisor[number]
        else:
            count = divisor if absent is None else divisor_of(target, labels, ~left_out)
        filled = rows.masked_fill(left_out[:, None], 0.0)
        means.append(target.loss_sum(filled[None], readable, left_out) / count)
    return functools.reduce(torch.add, means)


def _in_order(unimodal_logits: Any, out: Any) -> list[Tensor]:
    """By the names of the batch where it has some; as they come where it has none."""
    names = getattr(out, "modalities", None)
    if names is not None:
        return in_order(unimodal_logits, names, "unimodal_logits")
    if isinstance(unimodal_logits, Mapping):
        return list(unimodal_logits.values())
    return list(unimodal_logits)
