"""Whether what is given as logits looks like something else, where looking is free."""

import warnings
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, may_read_values
from midas_aug._tree import in_order
from midas_aug.targets import MultiLabel

__all__ = ["looked_at", "warn_of_probabilities", "warn_of_probable_fusion"]

MIN_LOGITS = 12  # logits that all lie between 0 and 1 may do so by chance
FINE = 1e-4  # a sum that is so near to 1 is not so by chance

# Names of those whose logits were looked at: later batches would cost time in each step.
looked_at: set[str] = set()


def warn_of_probabilities(
    owner: Any, logits: Any, names: Sequence[Any], *, stacklevel: int, target: Any = None
) -> None:
    """Warn, once per ``owner``, if logits look like the outputs of a softmax or a sigmoid.

    Args:
        owner: Whose logits these are, an object or its name; the first batch with rows is the one
            that is looked at.
        logits: ``(N, C)`` of each modality, by name or in order; None is silent.
        names: The names of the modalities.
        stacklevel: As in ``warnings.warn``, seen from the caller.
        target: What a label is; None: a class index.
    """
    if logits is None or torch.compiler.is_compiling():
        return
    own = owner if isinstance(owner, str) else vars(owner).setdefault("_name", uuid4().hex)
    if own in looked_at:
        return
    for given, name in zip(in_order(logits, names, "unimodal_logits"), names, strict=True):
        scores = as_tensor(given, f"unimodal_logits[{name!r}]").detach()
        if not may_read_values(scores) or scores.numel() == 0:
            return
        looked_at.add(own)
        several = isinstance(target, MultiLabel)
        if (_are_sigmoids if several else _are_probabilities)(scores):
            cure = "the sigmoid" if several else "the softmax, or their logarithm"
            warnings.warn(
                f"unimodal_logits[{name!r}] look like probabilities: {_signs(several)}. "
                f"Their {'sigmoid' if several else 'softmax'} is nearly even, and so are the "
                f"shares: pass what goes into {cure}",
                stacklevel=stacklevel + 1,
            )
            return


def warn_of_probable_fusion(logits: Tensor, target: Any, *, stacklevel: int) -> None:
    """Warn if the logits of the multimodal head look like the outputs of a softmax or a sigmoid.

    Args:
        logits: ``(R, C)``, whose values may be looked at.
        target: What a label is.
        stacklevel: As in ``warnings.warn``, seen from the caller.
    """
    scores, several = logits.detach(), isinstance(target, MultiLabel)
    if (_are_sigmoids if several else _are_probabilities)(scores):
        warnings.warn(
            f"the logits look like probabilities: {_signs(several)}. The loss takes their "
            f"{'sigmoid' if several else 'softmax'} again: pass what goes into it",
            stacklevel=stacklevel + 1,
        )


def _signs(several: bool) -> str:
    if several:
        return "all numbers lie between 0 and 1, as after a sigmoid"
    return "no row has a negative number and all of them sum to 1, as after a softmax"


def _are_sigmoids(scores: Tensor) -> bool:
    """Whether every number is strictly between 0 and 1; a dozen of them at least."""
    if not scores.is_floating_point():
        return False
    kept = scores[scores.isfinite()]  # an ignored row may hold anything
    return kept.numel() >= MIN_LOGITS and bool(((kept > 0) & (kept < 1)).all())


def _are_probabilities(scores: Tensor) -> bool:
    """Whether every row whose numbers are finite is non-negative and sums to 1; one at least."""
    if scores.ndim != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
        return False
    kept = scores[scores.isfinite().all(dim=1)]  # an ignored row may hold anything
    if len(kept) == 0 or bool((kept < 0).any()):
        return False
    rounding = 2 * torch.finfo(_dtype_before(kept)).eps + 1e-5
    if rounding > FINE and kept.numel() < MIN_LOGITS:
        return False
    return bool(((kept.double().sum(dim=1) - 1).abs() < rounding).all())


def _dtype_before(scores: Tensor) -> torch.dtype:
    """The narrowest dtype that holds these very numbers: what they were before they were cast."""
    for narrow in (torch.bfloat16, torch.float16):
        if torch.equal(scores.to(narrow).to(scores.dtype), scores):
            return narrow
    return scores.dtype
