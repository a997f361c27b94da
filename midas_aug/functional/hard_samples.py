"""Weights of hard samples: those whose replaced modality looks like what it replaces (Sec. 3.5)."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    ArrayT,
    as_labels,
    as_scores,
    as_tensor,
    check_in_order,
    check_rows,
    check_shape,
    like,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import SwapPlan, check_is_plan

__all__ = ["Similarity", "each_block_weights", "hard_sample_weights"]

Similarity: TypeAlias = Literal["cosine"] | Callable[[Tensor, Tensor], Tensor]


def hard_sample_weights(
    features: Sequence[ArrayT],
    plan: SwapPlan,
    *,
    similarity: Similarity = "cosine",
    present: Array | None = None,
) -> ArrayT:
    r"""Weigh up samples whose replaced modality looks like the one it replaces (Eq. 8).

    .. math:: 1 + (s_s + 1) / 2, \quad
        s_s = \text{mean over replaced } m \text{ of } \cos(f^m_{anchor}, f^m_{source})

    Carries no gradient. The cosine with a zero vector, or with one that is not finite, is 0.

    Args:
        features: M arrays ``(N, D_m)`` of floats.
        plan: The draws, as from `plan_swaps`.
        similarity: ``"cosine"``, or a callable of two ``(S, D_m)`` tensors that gives ``(S,)`` in
            [−1, 1]; what is not finite counts as 0.
        present: ``(N, M)`` bool: which modalities a row has; None: all. Only what anchor and source
            both have is compared.

    Returns:
        ``(S,)`` in [1, 2]; a sample with nothing replaced gets 2, one with nothing to compare 1.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import SwapPlan, hard_sample_weights
        >>> plan = SwapPlan(torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([True]))
        >>> ears = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> eyes = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> hard_sample_weights([ears, eyes], plan)  # the eyes are replaced by their likes
        tensor([2.])
    """
    check_is_plan(plan)
    check_in_order(features, "features")
    source = as_labels(plan.source, "plan.source", ndim=2)
    anchor = as_labels(plan.anchor, "plan.anchor")
    if len(features) != source.shape[1]:
        raise MidasAugError(
            f"expected {source.shape[1]} feature arrays (one a column of plan.source), got "
            f"{len(features)}; pass one (N, D) array a modality"
        )
    if similarity != "cosine" and not callable(similarity):
        raise MidasAugError(
            f"expected similarity to be 'cosine' or a callable of two (S, D), got {similarity!r}"
        )
    check_shape(anchor, (len(source),), "plan.anchor", "one anchor a row of plan.source")
    check_rows(source, len(features[0]), "plan.source")
    check_rows(anchor, len(features[0]), "plan.anchor")
    replaced = source != anchor[:, None]
    compared = replaced
    if present is not None:
        has = as_tensor(present, "present")
        compared = replaced & has.index_select(0, anchor) & has.gather(0, source)
    checked, similarities = _feature_rows(features), []
    units = similarity == "cosine" and _compare_units(checked)
    for number, rows in enumerate(checked):
        donor = source[:, number]
        if similarity == "cosine":
            similarities.append(_cosine_of_rows(rows, anchor, donor, units))
        else:
            pair = rows.index_select(0, anchor), rows.index_select(0, donor)
            similarities.append(similarity(*pair).detach())  # of a learned one, too
    stacked = torch.stack(similarities, dim=1).nan_to_num_(0.0, 0.0, 0.0)
    total = stacked.masked_fill_(~compared, 0.0).sum(dim=1)
    count = compared.sum(dim=1)
    # Nothing is more alike than a row that a pairing swapped with itself.
    mean = (total / count.clamp(min=1)).masked_fill(count == 0, 1.0)
    if present is not None:
        mean = mean.masked_fill((count == 0) & replaced.any(dim=1), -1.0)
    return like(_hardness_of(mean), features[0])


def each_block_weights(features: Sequence[Tensor], partner: Tensor) -> Tensor:
    """`hard_sample_weights` of a ``swap="each"`` plan, by the one modality that a block replaces.

    Saves M − 1 of M comparisons, and the anchors need no gather: they are the batch in order.
    ``partner`` ``(N,)`` replaces each row, in all modalities.
    """
    checked = _feature_rows(features)
    if _compare_units(checked):
        unit = _unit(torch.stack(checked))
        return _hardness_of(unit.index_select(1, partner).mul_(unit).sum(dim=2).view(-1))
    dots = torch.cat([rows.index_select(0, partner).mul_(rows).sum(dim=1) for rows in checked])
    lengths = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in checked])
    scale = lengths.index_select(1, partner).mul_(lengths)
    return _hardness_of(dots.div_(scale.view(-1)))


def _compare_units(features: Sequence[Tensor]) -> bool:
    """Whether to make unit vectors: for few numbers, copies cost less than further operators.

    Both functions above ask, so that a plan that is replayed gives the same weights, to the bit.
    """
    if torch.compiler.is_compiling():  # a graph is fused anyway, and would depend on the size
        return False
    shape = features[0].shape
    for rows in features:
        if rows.shape != shape:
            return False
    return shape.numel() <= 1 << 15


def _cosine_of_rows(rows: Tensor, anchor: Tensor, donor: Tensor, units: bool) -> Tensor:
    """Cosine of the rows ``anchor`` ``(S,)`` and ``donor``; NaN for zeros."""
    vectors = _unit(rows) if units else rows
    dots = vectors.index_select(0, anchor).mul_(vectors.index_select(0, donor)).sum(dim=1)
    if units:
        return dots
    length = torch.linalg.vector_norm(rows, dim=1)
    return dots.div_(length.index_select(0, anchor).mul_(length.index_select(0, donor)))


def _unit(rows: Tensor) -> Tensor:
    """Of length 1 along the last axis; NaN for zeros."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length


def _hardness_of(cosine: Tensor) -> Tensor:
    """1 + (s + 1) / 2, also where rounding took s beyond ±1, in place (Eq. 8); s = 0 for NaN."""
    return cosine.nan_to_num_(0.0, 0.0, 0.0).clamp_(-1, 1).mul_(0.5).add_(1.5)


def _feature_rows(features: Sequence[Array]) -> list[Tensor]:
    """The features as float tensors without gradient, checked to have the same rows."""
    checked = []
    for number, feature in enumerate(features):
        name = f"features[{number}]"
        rows = as_scores(feature, name).detach()
        if rows.shape[0] != features[0].shape[0]:
            shape = (features[0].shape[0], None)
            check_shape(rows, shape, name, "the same batch rows in each modality")
        checked.append(rows)
    return checked
