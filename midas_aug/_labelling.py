"""The labels of a draw: confidences, shares and hard-sample weights of its misaligned rows."""

import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from midas_aug._arrays import as_scores, check_shape, may_read_values
from midas_aug._hardness import HardnessSetting, measure_hardness
from midas_aug._logits import warn_of_probabilities
from midas_aug._rows import first_rows
from midas_aug._tree import get_groups, in_order
from midas_aug.confidence.base import (
    ConfidenceProvider,
    check_finite,
    check_unimodal_logits,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import SwapPlan
from midas_aug.functional.shares import label_shares
from midas_aug.targets import ClassIndex

__all__ = [
    "Draw",
    "LabelRule",
    "MixLabels",
    "check_logits",
    "from_confidence",
    "from_logits",
    "weigh",
    "weigh_by_hardness",
]


# Rules whose first batch was not weighed, of which their owners were told.
_told_of_hardness: "weakref.WeakSet[LabelRule]" = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class LabelRule:
    """Settings of an augmentation that its batches are labelled by.

    Attributes:
        keys: For each modality, by its name, the one key of the batch that holds it, or several.
        keep: Keys of the batch whose values have no rows.
        target: What a label is.
        hardness: How samples are weighed.
        misaligned_weight: λ.
        provider: The class of the confidence that has to label a drawn batch; None where unimodal
            logits do, too.
        validate: Whether values on an accelerator are looked at.
    """

    keys: Mapping[Any, tuple[Any, ...]]
    keep: tuple[Any, ...]
    target: ClassIndex
    hardness: HardnessSetting
    misaligned_weight: float
    provider: str | None
    validate: bool


@dataclass(frozen=True, eq=False)
class Draw:
    """Facts of one draw, as tensors.

    Attributes:
        labels: ``(N,)`` int64.
        source: ``(N + S, M)`` int64.
        anchor: ``(N + S,)`` int64.
        valid: ``(N + S,)`` bool.
        ignored: ``(N + S,)`` bool, ``~valid``: confidence, loss and unimodal losses ask for it.
        anchors_repeat: The misaligned rows are anchored in the batch, over and over.
        block_wise: Block m of the misaligned rows replaces modality m alone.
    """

    labels: Tensor
    source: Tensor
    anchor: Tensor
    valid: Tensor
    ignored: Tensor
    anchors_repeat: bool
    block_wise: bool

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draw":
        """The same facts with ``function(tensor)`` in place of every tensor."""
        valid = function(self.valid)
        return replace(
            self,
            labels=function(self.labels),
            source=function(self.source),
            anchor=function(self.anchor),
            valid=valid,
            ignored=~valid,
        )


@dataclass(eq=False)
class MixLabels:
    """What labels a draw. One of the first two is there; a drawn batch has none of it.

    Attributes:
        confidence: ``(N, M)`` float32.
        log_confidence: ``(N, M)`` float32, where unimodal logits tell.
        shares: ``(S, M)`` float32 of the misaligned rows.
        hard_weights: ``(S,)`` float32, or None where samples are not weighed.
    """

    confidence: Tensor | None = None
    log_confidence: Tensor | None = None
    shares: Tensor | None = None
    hard_weights: Tensor | None = None

    def confidence_in(self, labels: Tensor) -> Tensor:
        """``(N, M)`` confidences in ``labels`` ``(N,)``; 0 in a negative one."""
        if self.confidence is not None or self.log_confidence is None:
            return torch.as_tensor(self.confidence)
        return self.log_confidence.exp().masked_fill_(labels[:, None] < 0, 0.0)

    def map(self, function: Callable[[Tensor], Tensor]) -> "MixLabels":
        """The same with ``function(tensor)`` in place of every tensor."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return MixLabels(**{n: None if p is None else function(p) for n, p in parts.items()})


def from_logits(rule: LabelRule, drawn: Draw, unimodal_logits: Any) -> MixLabels:
    """Shares as a softmax over modalities of log-confidences (Eq. 2-3), which cannot vanish."""
    if rule.provider is not None:
        raise MidasAugError(
            f"expected confidence=..., the {rule.provider} that the augmentation was "
            "built with, got None; pass label(provider, unimodal_logits=...)"
        )
    if unimodal_logits is None:
        raise MidasAugError(
            "expected unimodal_logits to label with, which confidence='logits' reads, got "
            "None; pass unimodal_logits={modality: (N, C) logits}, or choose "
            "confidence='uniform' or a provider of midas_aug.confidence"
        )
    logits, n_rows = check_logits(rule, drawn, unimodal_logits), drawn.labels.shape[0]
    found = rule.target.log_confidences(logits, drawn.labels, drawn.ignored[:n_rows])
    if n_rows and (rule.validate or may_read_values(found)):
        check_no_nan(found, drawn.labels)
    # Along the first axis: a CPU takes seven times longer over rows of two numbers.
    chosen = found.gather(0, drawn.source[n_rows:])
    return MixLabels(log_confidence=found, shares=chosen.t().softmax(dim=0).t())


def from_confidence(
    rule: LabelRule,
    drawn: Draw,
    scored: Any,
    provider: ConfidenceProvider | None,
    give: Callable[[Tensor], Any],
) -> MixLabels:
    """Shares of confidences ``(N, M)``, by the provider where there is one.

    Args:
        rule: Settings.
        drawn: The draw to label.
        scored: ``(N, M)`` numbers as they were given.
        provider: Who gave them, who may have a rule of its own for the shares.
        give: Makes arrays of the caller's library of tensors.
    """
    source = drawn.source[drawn.labels.shape[0] :]
    confidence = check_confidence(scored, drawn.labels, source.shape[1], validate=rule.validate)
    if provider is None:
        return MixLabels(confidence=confidence, shares=label_shares(confidence, source))
    stated = as_scores(provider.shares(give(confidence), give(source)), "shares").detach()
    why = "one share per misaligned row and modality"
    check_shape(stated, (source.shape[0], source.shape[1]), "shares", why)
    return MixLabels(confidence=confidence, shares=stated.float())


def weigh(
    drawn: Draw, n_labelled: Tensor, misaligned_weight: float, hard_weights: Tensor | None
) -> Tensor:
    """Weights ``(N + S,)`` whose plain mean with the losses is L_align + λ·L_mis (Eq. 11).

    Args:
        drawn: The draw.
        n_labelled: The number of aligned rows with a label, at least 1, without axes.
        misaligned_weight: λ.
        hard_weights: ``(S,)``, or None.
    """
    n_rows, total_rows = drawn.labels.shape[0], drawn.source.shape[0]
    weights = drawn.valid / (n_labelled / total_rows)
    if total_rows > n_rows:
        mixed = weights[n_rows:]
        factor: Tensor | float = misaligned_weight * n_rows / (total_rows - n_rows)
        if not drawn.anchors_repeat:
            anchored = drawn.valid[:n_rows].index_select(0, drawn.anchor[n_rows:]).sum()
            factor = misaligned_weight * n_labelled / anchored.clamp(min=1)
        mixed.mul_(factor)
        if hard_weights is not None:
            mixed.mul_(hard_weights)
    return weights


def weigh_by_hardness(
    rule: LabelRule, drawn: Draw, data: Any, features: Any, plan: SwapPlan
) -> Tensor | None:
    """Hard-sample weights ``(S,)`` by the rule's hardness; None where it measures nothing.

    Args:
        rule: Settings; its hardness is not None.
        drawn: The draw.
        data: The batch, whose N first rows are the aligned ones.
        features: Encoder outputs of the aligned rows, by modality or in order; None: those of
            ``data``.
        plan: The draw as a plan, in the caller's library.
    """
    names, n_rows = tuple(rule.keys), drawn.labels.shape[0]
    if features is not None:
        in_turn = in_order(features, names, "features")
    else:
        in_turn = [first_rows(held, n_rows) for held in get_groups(data, rule.keys)]
    block_wise = drawn.block_wise
    weights = measure_hardness(rule.hardness, in_turn, names, n_rows, plan, block_wise=block_wise)
    if weights is None and not torch.compiler.is_compiling() and rule not in _told_of_hardness:
        _told_of_hardness.add(rule)
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            warnings.warn(
                "hardness='auto' weighs no sample here: not every modality is float features, of "
                "which cosines could be taken. Pass encoder outputs, out.label(..., features="
                "features), or say hardness=None",
                stacklevel=4,
            )
    return weights


def check_logits(rule: LabelRule, drawn: Draw, unimodal_logits: Any) -> list[Tensor]:
    """The ``(N, C)`` logits of each modality, in order; warns once of what look like softmaxes."""
    modalities, num_classes = tuple(rule.keys), rule.target.num_classes
    n_rows = drawn.labels.shape[0]
    logits = check_unimodal_logits(unimodal_logits, modalities, n_rows, num_classes)
    warn_of_probabilities(rule, logits, modalities, stacklevel=5)
    return logits


def check_no_nan(log_confidence: Tensor, labels: Tensor) -> None:
    """Raise for NaN in a row that counts; −∞ is a confidence of 0."""
    if bool(log_confidence.sum().isnan()):
        bad = log_confidence.isnan() & (labels >= 0)[:, None]
        if bool(bad.any()):
            raise MidasAugError(
                f"expected unimodal logits that are numbers, got NaN or infinity in "
                f"{int(bad.any(dim=1).sum())} of {len(labels)} rows; a head has diverged (lower "
                "the learning rate, or look at its inputs)"
            )


def check_confidence(
    confidence: Any, labels: Tensor, n_modalities: int, *, validate: bool = False
) -> Tensor:
    """A provider's ``(N, M)`` answer as a float32 tensor without gradient."""
    scores = as_scores(confidence, "confidence").detach().float().contiguous()
    why = "a confidence provider returns one non-negative number per row and modality"
    check_shape(scores, (labels.shape[0], n_modalities), "confidence", why)
    if scores.device != labels.device:
        raise MidasAugError(
            f"expected confidence on the device of the labels, {labels.device}, got "
            f"{scores.device}; move it there in the provider"
        )
    if validate or may_read_values(scores):
        check_finite(scores, "finite confidences of at least 0")
    return scores
