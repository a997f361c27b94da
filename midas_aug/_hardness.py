"""Which measure of hardness a batch gets (Sec. 3.5)."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from midas_aug._arrays import as_scores, as_tensor, check_shape, elsewhere, is_array
from midas_aug.errors import MidasAugError
from midas_aug.functional.hard_samples import each_block_weights, hard_sample_weights
from midas_aug.functional.plan import SwapPlan

__all__ = ["Hardness", "HardnessSetting", "check_hardness", "measure_hardness"]


class Hardness(Protocol):
    """Measures how hard each misaligned sample is, as a factor of its loss (Sec. 3.5).

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> def even(features, plan):  # a `Hardness`
        ...     return torch.full((len(plan.anchor),), 1.5)
        >>> augment = MisalignAugment(("a", "b"), 2, confidence="uniform", hardness=even)
        >>> batch = {"a": torch.rand(2, 3), "b": torch.rand(2, 3)}
        >>> augment(batch, torch.tensor([0, 1])).hard_weights
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """

    def __call__(self, features: Sequence[Any], plan: SwapPlan, /) -> Any:
        """Weights ``(S,)``, non-negative floats.

        Args:
            features: The N aligned rows of each modality, in order.
            plan: The draws.
        """
        ...


HardnessSetting: TypeAlias = Literal["cosine", "auto"] | Hardness | None


def measure_hardness(
    hardness: HardnessSetting,
    features: Sequence[Any],
    names: Sequence[Any],
    n_rows: int,
    plan: SwapPlan,
    *,
    block_wise: bool = False,
    present: Tensor | None = None,
) -> Tensor | None:
    """Weights ``(S,)`` of the misaligned samples of ``plan``; None weighs all of them 1.

    Args:
        hardness: ``"cosine"``, ``"auto"`` (cosine where every modality is float features, none
            elsewhere), None, or a callable ``(features, plan) -> (S,)``. Float features are
            ``(N, D)``; of tokens ``(N, T, D)`` the mean over T is compared, of maps
            ``(N, D, …)`` with two or more further axes the mean over these.
        features: The N aligned rows of each modality, in order.
        names: What messages call them.
        n_rows: N.
        plan: The draws.
        block_wise: The plan is one of ``swap="each"``: block m replaces modality m alone, with one
            partner per row for all of them.
        present: ``(N, M)`` bool: which modalities a row has; None: all.

    Raises:
        MidasAugError: The cosine is asked for where there are no float features, or a callable
            returns another shape.
    """
    if hardness is None:
        return None
    if callable(hardness):
        weights = as_scores(hardness(features, plan), "the hardness", ndim=1).detach()
        why = "a hardness callable returns one weight per misaligned sample"
        check_shape(weights, (plan.anchor.shape[0],), "the hardness", why)
        return weights.float()
    found: list[Tensor] = []
    unfit: list[Any] = []
    for name, array in zip(names, features, strict=True):
        rows = _as_vectors(array)
        if rows is None:
            unfit.append(name)
        elif rows.shape[0] != n_rows:
            raise MidasAugError(
                f"expected features of {name!r} for the {n_rows} aligned rows, got "
                f"{rows.shape[0]} rows; pass what the encoders made of the batch before the swap"
            )
        elif isinstance(plan.source, Tensor) and rows.device != plan.source.device:
            raise MidasAugError(elsewhere(f"features of {name!r}", rows, plan.source.device))
        else:
            found.append(rows)
    if unfit:
        if hardness == "auto":
            return None
        raise MidasAugError(
            f"expected float features for hardness='cosine', but {unfit!r} hold something else; "
            "use hardness='auto' or None, or pass features to label"
        )
    if block_wise:
        return each_block_weights(found, plan).float()
    return hard_sample_weights(found, plan, present=present).float()


def check_hardness(hardness: Any) -> None:
    """Raise unless ``hardness`` is one of the ways to weigh samples."""
    if hardness not in ("cosine", "auto", None) and not callable(hardness):
        raise MidasAugError(
            "expected hardness to be 'auto', 'cosine', None or a callable (features, plan) -> "
            f"(S,), got {hardness!r}"
        )


def _as_vectors(array: Any) -> Tensor | None:
    """``(N, D)`` of float features; None for anything else."""
    if not is_array(array):
        return None
    if isinstance(array, np.ndarray):
        if array.dtype.kind != "f":
            return None
        array = as_tensor(array, "features")
    if not array.is_floating_point() or array.ndim < 2:
        return None
    rows: Tensor = array.detach()
    if rows.ndim == 2:
        return rows
    return rows.mean(dim=1) if rows.ndim == 3 else rows.flatten(2).mean(dim=2)
