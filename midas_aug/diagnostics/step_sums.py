"""What a training step adds to a `TrainingLog`: sums over its rows, without a host-device sync."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import as_labels, as_tensor, check_shape
from midas_aug.diagnostics import scores as kinds
from midas_aug.diagnostics.measures import row_collapsed, row_correct, row_entropy
from midas_aug.functional.metrics import top_set_matches
from midas_aug.functional.weak_modality import credit_sums
from midas_aug.targets import ClassIndex
from midas_aug.weak_modality import LabelledRows, Rows, loss_terms_of, rows_of, target_of

__all__ = ["BINS", "StepSums", "Sums", "sums_of_rows"]

BINS = 40  # of a histogram
OWNED = (kinds.CONFIDENCE.name, kinds.UNIMODAL.name)  # means over the rows with the modality

Sums: TypeAlias = tuple[Tensor, Tensor]  # totals, and how many they are of


class StepSums(NamedTuple):
    """Sums over the rows of a step.

    Attributes:
        sums: By kind of score: totals ``(K,)``, and how many they are of, ``(K,)`` or ``(1,)``.
        counts: By kind: the histograms of its columns, ``(K · BINS,)``.
    """

    sums: dict[str, Sums]
    counts: dict[str, Tensor]


def sums_of_rows(
    out: LabelledRows, n_modalities: int, logits: Any, *, warming_up: bool
) -> StepSums:
    """What the rows of a labelled batch, and the predictions for them, add to a log.

    Args:
        out: The labelled batch.
        n_modalities: M.
        logits: ``(N + S, C)`` of the multimodal head, or None.
        warming_up: Whether that head is idle, and is not read.
    """
    target = target_of(out, logits)
    is_read = logits is not None and not warming_up
    scores = target.predictions(logits, "logits").detach() if is_read else None
    rows = rows_of(out, n_modalities, target, scores)
    n_rows = out.labels.shape[0]
    beyond_aligned = slice(n_rows, None)
    absent = None if rows.absent is None else rows.absent[beyond_aligned]
    mixed = Rows(
        rows.source_labels[beyond_aligned],
        rows.shares[beyond_aligned],
        rows.ignored[beyond_aligned],
        absent,
    )
    valid = ~mixed.ignored

    aligned: dict[str, Tensor] = {}
    misaligned = {
        kinds.SHARE.name: mixed.shares,
        kinds.COLLAPSED.name: row_collapsed(mixed.shares),
        kinds.ENTROPY.name: row_entropy(mixed.shares),
    }
    binned = {kinds.SHARE.name: mixed.shares}
    sums: dict[str, Sums] = {}
    # Nothing was swapped, so nobody was asked for a confidence.
    confidence = getattr(out, "confidence", None) if len(valid) else None
    if confidence is not None:
        aligned[kinds.UNIMODAL.name] = as_tensor(confidence, "confidence")
    weights = getattr(out, "hard_weights", None)
    if weights is not None:
        hardness = as_tensor(weights, "hard_weights").detach()
        check_shape(hardness, (len(valid),), "hard_weights", "one weight a misaligned row")
        misaligned[kinds.HARDNESS.name] = hardness
        binned[kinds.SIMILARITY.name] = hardness - 1  # (s + 1) / 2: in 0 … 1 like a share
    if scores is not None:
        likely = loss_terms_of(target, scores[beyond_aligned], mixed)[1]
        misaligned[kinds.CONFIDENCE.name] = likely.exp()
        # The very sums that α is stepped by.
        received = credit_sums(mixed.shares, likely, mixed.ignored, absent)[1]
        sums[kinds.CREDIT.name] = received, valid.sum(dim=0, keepdim=True)
    if scores is not None and isinstance(target, ClassIndex):
        right = row_correct(scores[:n_rows], as_labels(out.labels, "labels"))
        aligned[kinds.ACCURACY.name] = right
        matches = top_set_matches(scores[beyond_aligned], mixed.source_labels)
        misaligned[kinds.MISALIGNED_ACCURACY.name] = matches
    of_aligned = None if rows.absent is None else rows.absent[:n_rows]
    sums |= _sum_rows(aligned, ~rows.ignored[:n_rows], of_aligned)
    sums |= _sum_rows(misaligned, valid, absent)
    return StepSums(sums, _histograms(binned, valid))


def _sum_rows(
    columns: Mapping[str, Tensor], counted: Tensor, absent: Tensor | None
) -> dict[str, Sums]:
    """Sums of ``(N,)`` and ``(N, M)`` values over the rows that count, and how many these are.

    Args:
        columns: The values by kind.
        counted: ``(N,)`` bool.
        absent: ``(N, M)`` bool: where a modality has nothing of the `OWNED` kinds. None: nowhere.
    """
    if not columns:
        return {}
    blocks = [values if values.ndim == 2 else values[:, None] for values in columns.values()]
    table = torch.cat([block.float() for block in blocks], dim=1)
    mask = counted[:, None]
    if absent is not None:
        has = mask & ~absent
        masks = [
            has if kind in OWNED else mask.expand_as(block)
            for kind, block in zip(columns, blocks, strict=True)
        ]
        mask = torch.cat(masks, dim=1)
    totals = torch.where(mask, table, 0.0).sum(dim=0)
    count = mask.sum(dim=0).float().expand_as(totals)
    widths = [block.shape[1] for block in blocks]
    parts = zip(torch.split(totals, widths), torch.split(count, widths), strict=True)
    return dict(zip(columns, parts, strict=True))


def _histograms(columns: Mapping[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
    """Counts of each column in turn; what is beyond 0 … 1 is in the outermost bin."""
    blocks = [values if values.ndim == 2 else values[:, None] for values in columns.values()]
    table = torch.cat([block.float() for block in blocks], dim=1)
    place = (table * BINS).floor().clamp(0, BINS - 1)
    bins = torch.arange(BINS, device=table.device)
    hits = (place[:, :, None] == bins) & counted[:, None, None]
    counts = hits.sum(dim=0).flatten().float()
    parts = torch.split(counts, [BINS * block.shape[1] for block in blocks])
    return dict(zip(columns, parts, strict=True))
