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

__all__ = ["UnimodalLogits", "unimodal_loss"]

UnimodalLogits: TypeAlias = Mapping[Any, Tensor] | Sequence[Tensor]


def unimodal_loss(
    unimodal_logits: UnimodalLogits, out: LabelledRows, target: Target, num_modalities: int
) -> Tensor:
    """Sum over modalities of the mean loss of the rows with a label, and with the modality.

    Args:
        unimodal_logits: ``(N, C)`` of each head, by modality or in order.
        out: The rows; the first N are aligned.
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
        divisor = divisor_of(target, labels, ~ignored)
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
        stacked.masked_fill_(ignored[:, None], 0.0)  # whatever an ignored row holds
        return target.loss_sum(stacked, readable, ignored) / divisor
    left_out = (ignored[:, None] | absent[:n_rows]).t()
    stacked.masked_fill_(left_out[:, :, None], 0.0)
    counted = ~left_out
    counts = counted.sum(dim=1).clamp_(min=1)
    sums = target.losses(stacked, readable, left_out).sum(dim=1)
    divisors = [divisor_of(target, labels, *those) for those in zip(counted, counts, strict=True)]
    return (sums / torch.stack(divisors)).sum()


def _sum_by_head(
    target: Target,
    predictions: Sequence[Tensor],
    labels: Tensor,
    readable: Tensor,
    ignored: Tensor,
    absent: Tensor | None,
    divisor: Tensor,
) -> Tensor:
    """The sum over heads of several widths, which no one tensor holds, of their mean losses."""
    means = []
    for number, rows in enumerate(predictions):
        left_out = ignored if absent is None else ignored | absent[:, number]
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
