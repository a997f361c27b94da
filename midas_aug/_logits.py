"""Whether what is given as logits looks like something else, where looking is free."""

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, may_read_values
from midas_aug._tree import in_order

__all__ = ["looked_at", "warn_of_probabilities"]

# Whose logits were looked at: the first batch tells, later ones would cost time in each step.
looked_at: "weakref.WeakSet[Any]" = weakref.WeakSet()


def warn_of_probabilities(
    owner: Any, logits: Any, names: Sequence[Any], *, stacklevel: int
) -> None:
    """Warn, once per ``owner``, if logits look like the outputs of a softmax.

    Args:
        owner: Whose logits these are; its first batch with rows is the one that is looked at.
        logits: ``(N, C)`` of each modality, by name or in order; None is silent.
        names: The names of the modalities.
        stacklevel: As in ``warnings.warn``, seen from the caller.
    """
    if logits is None or torch.compiler.is_compiling() or owner in looked_at:
        return
    for given, name in zip(in_order(logits, names, "unimodal_logits"), names, strict=True):
        scores = as_tensor(given, f"unimodal_logits[{name!r}]").detach()
        if not may_read_values(scores) or scores.numel() == 0:
            return
        looked_at.add(owner)
        if _are_probabilities(scores):
            warnings.warn(
                f"unimodal_logits[{name!r}] look like probabilities: no row has a negative number "
                "and all of them sum to 1, as after a softmax. Their softmax is nearly even, "
                "and so are the shares: pass what goes into the softmax, or their logarithm",
                stacklevel=stacklevel + 1,
            )
            return


def _are_probabilities(scores: Tensor) -> bool:
    """Whether every row whose numbers are finite is non-negative and sums to 1; one at least."""
    if scores.ndim != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        return False
    kept = scores[scores.isfinite().all(dim=1)]  # an ignored row may hold anything
    if len(kept) == 0 or bool((kept < 0).any()):
        return False
    rounding = 2 * torch.finfo(scores.dtype).eps + 1e-5
    return bool(((kept.double().sum(dim=1) - 1).abs() < rounding).all())
