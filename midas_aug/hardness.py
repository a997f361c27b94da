"""Which measure of hardness a batch gets (Sec. 3.5)."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from midas_aug._arrays import as_scores, as_tensor, check_shape, is_array
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan, hard_sample_weights
from midas_aug.functional.weighting import each_block_weights

__all__ = ["Hardness", "check_hardness", "measure_hardness"]

Hardness: TypeAlias = Literal["cosine", "auto"] | Callable[[Sequence[Any], SwapPlan], Any] | None


def measure_hardness(
    hardness: Hardness,
    features: Sequence[Any],
    modalities: Sequence[Any],
    plan: SwapPlan,
    *,
    block_wise: bool = False,
) -> Tensor | None:
    """Weights ``(S,)`` of the misaligned samples of ``plan``; None weighs all of them 1.

    Args:
        hardness: ``"cosine"``, ``"auto"`` (cosine where every modality is one (N, D) float
            array, none elsewhere), None, or a callable ``(features, plan) -> (S,)``.
        features: The N aligned rows of each modality, in order.
        modalities: Their keys, for messages.
        plan: The draws.
        block_wise: The plan is one of ``swap="each"``: block m replaces modality m alone.

    Raises:
        MidasAugError: The cosine is asked for where there are no ``(N, D)`` floats, or a callable
            returns another shape.
    """
    if hardness is None:
        return None
    if callable(hardness):
        weights = as_scores(hardness(features, plan), "the hardness", ndim=1).detach()
        why = "a hardness callable returns one weight a misaligned sample"
        check_shape(weights, (len(plan.anchor),), "the hardness", why)
        return weights.float()
    unfit = [key for key, array in zip(modalities, features, strict=True) if not _is_vectors(array)]
    if not unfit:
        arrays = [as_tensor(array, "features") for array in features]
        measure = each_block_weights if block_wise else hard_sample_weights
        return measure(arrays, plan).float()
    if hardness == "auto":
        return None
    raise MidasAugError(
        f"expected (N, D) float features for hardness='cosine', but {unfit!r} hold something "
        "else; use hardness='auto' or None, or pass features to relabel"
    )


def check_hardness(hardness: Any) -> None:
    """Raise unless ``hardness`` is one of the ways to weigh samples."""
    if hardness not in ("cosine", "auto", None) and not callable(hardness):
        raise MidasAugError(
            "expected hardness to be 'auto', 'cosine', None or a callable (features, plan) -> "
            f"(S,), got {hardness!r}"
        )


def _is_vectors(array: Any) -> bool:
    if not is_array(array) or array.ndim != 2:
        return False
    if isinstance(array, np.ndarray):
        return bool(array.dtype.kind == "f")
    return bool(array.is_floating_point())
