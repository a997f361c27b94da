"""Which measure of hardness a batch gets (Sec. 3.5)."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import as_scores, as_tensor, check_shape, elsewhere
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
    plan: Callable[[], SwapPlan],
    device: torch.device,
    *,
    partner: Tensor | None = None,
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
        plan: Gives the draws.
        device: Where they lie.
        partner: ``(N,)`` int64: the plan is one of ``swap="each"``, and block m replaces modality m
            alone, by this partner of each row in all of them. None: it is another one.
        present: ``(N, M)`` bool: which modalities a row has; None: all.

    Raises:
        MidasAugError: The cosine is asked for where there are no float features, or a callable
            returns another shape.
    """
    if hardness is None:
        return None
    if callable(hardness):
        draws = plan()
        weights = as_scores(hardness(features, draws), "the hardness", ndim=1).detach()
        why = "a hardness callable returns one weight per misaligned sample"
        check_shape(weights, (draws.anchor.shape[0],), "the hardness", why)
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
        else:
            found.append(rows)
    if unfit:
        if hardness == "auto":
            return None
        raise MidasAugError(
            f"expected float features for hardness='cosine', but {unfit!r} hold something else; "
            "use hardness='auto' or None, or pass features to label"
        )
    for name, rows in zip(names, found, strict=True):
        if rows.device != device:
            raise MidasAugError(elsewhere(f"features of {name!r}", rows, device))
    if partner is not None:
        return each_block_weights(found, partner).float()
    return hard_sample_weights(found, plan(), present=present).float()


def check_hardness(hardness: Any) -> None:
    """Raise unless ``hardness`` is one of the ways to weigh samples."""
    if hardness not in ("cosine", "auto", None) and not callable(hardness):
        raise MidasAugError(
            "expected hardness to be 'auto', 'cosine', None or a callable (features, plan) -> "
            f"(S,), got {hardness!r}"
        )


def _as_vectors(array: Any) -> Tensor | None:
    """``(N, D)`` of float features; None for anything else."""
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        array = as_tensor(array, "features")
    if not isinstance(array, Tensor) or not array.is_floating_point() or array.ndim < 2:
        return None
    rows: Tensor = array.detach()
    if rows.ndim == 2:
        return rows
    return rows.mean(dim=1) if rows.ndim == 3 else rows.flatten(2).mean(dim=2)
