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
from midas_aug._tree import get_groups, in_order, map_items
from midas_aug.confidence.base import (
    ConfidenceProvider,
    check_finite,
    check_unimodal_logits,
    own_log_likelihoods,
    without_absent,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import SwapPlan
from midas_aug.functional.shares import label_shares
from midas_aug.targets import Target

__all__ = [
    "Draw",
    "LabelRule",
    "MixLabels",
    "aligned_data",
    "carries_two_labels",
    "check_logits",
    "divisor_of",
    "from_confidence",
    "from_logits",
    "weigh",
    "weigh_by_hardness",
]


# The least log-confidence. That of an absent modality is less, by so much that its share is 0.
LEAST = -1e30

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
    target: Target
    hardness: HardnessSetting
    misaligned_weight: float
    provider: str | None
    validate: bool


@dataclass(frozen=True, eq=False)
class Draw:
    """Facts of one draw, as tensors.

    Attributes:
        labels: ``(N, …)``, as the target has them.
        ids: ``(N,)`` int64: equal for rows of the same label, negative for ignored rows.
        source: ``(N + S, M)`` int64.
        anchor: ``(N + S,)`` int64.
        valid: ``(N + S,)`` bool.
        ignored: ``(N + S,)`` bool, ``~valid``: confidence, loss and unimodal losses ask for it.
        absent: ``(N + S, M)`` bool: the source of a modality does not have it; None: all have all.
        anchors_repeat: The misaligned rows are anchored in the batch, over and over.
        block_wise: Block m of the misaligned rows replaces modality m alone.
    """

    labels: Tensor
    ids: Tensor
    source: Tensor
    anchor: Tensor
    valid: Tensor
    ignored: Tensor
    absent: Tensor | None
    anchors_repeat: bool
    block_wise: bool

    @property
    def present(self) -> Tensor | None:
        """``(N, M)`` bool: which modalities each row of the batch has; None: all."""
        return None if self.absent is None else ~self.absent[: self.labels.shape[0]]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draw":
        """The same facts with ``function(tensor)`` in place of every tensor."""
        valid, labels = function(self.valid), function(self.labels)
        return replace(
            self,
            labels=labels,
            ids=labels if self.ids is self.labels else function(self.ids),
            absent=None if self.absent is None else function(self.absent),
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

    def confidence_of(self, drawn: Draw) -> Tensor:
        """``(N, M)`` confidences in the labels of ``drawn``; 0 in rows without one."""
        if self.confidence is not None or self.log_confidence is None:
            return torch.as_tensor(self.confidence)
        n_rows = drawn.labels.shape[0]
        return self.log_confidence.exp().masked_fill_(drawn.ignored[:n_rows, None], 0.0)

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
    found = own_log_likelihoods(rule.target, logits, drawn.labels).float()
    # Not −∞, whose softmax over modalities would be NaN where all of them are.
    found = found.masked_fill(drawn.ignored[:n_rows, None], 0.0).clamp_(min=LEAST)
    if drawn.absent is not None:
        found = found.masked_fill(drawn.absent[:n_rows], torch.finfo(found.dtype).min)
    if n_rows and (rule.validate or may_read_values(found)):
        check_no_nan(found)
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
    n_rows = drawn.labels.shape[0]
    source = drawn.source[n_rows:]
    confidence = check_confidence(scored, drawn, source.shape[1], validate=rule.validate)
    if provider is None:
        shares = label_shares(confidence, source)
        if drawn.absent is not None:
            shares = without_absent(shares, drawn.absent[n_rows:])
        return MixLabels(confidence=confidence, shares=shares)
    if drawn.present is None:
        given = provider.shares(give(confidence), give(source))
    else:
        has = give(drawn.present)
        given = provider.shares_of_present(give(confidence), give(source), has)
    stated = as_scores(given, "shares").detach()
    why = "one share per misaligned row and modality"
    check_shape(stated, (source.shape[0], source.shape[1]), "shares", why)
    return MixLabels(confidence=confidence, shares=stated.float())


def divisor_of(target: Target, labels: Tensor, counted: Tensor) -> Tensor:
    """What a mean over the rows that count divides by, positive: float32 without axes.

    Args:
        target: What a label is.
        labels: ``(N, …)``.
        counted: ``(N,)`` bool.
    """
    weights = target.row_weights(labels)
    if weights is None:
        return counted.sum(dtype=torch.float32).clamp(min=1)
    total = torch.where(counted, weights, 0.0).sum()
    return torch.where(total > 0, total, 1.0)


def weigh(rule: LabelRule, drawn: Draw, divisor: Tensor, hard_weights: Tensor | None) -> Tensor:
    """Weights ``(N + S,)`` whose plain mean with the losses is L_align + λ·L_mis (Eq. 11).

    Args:
        rule: Settings.
        drawn: The draw.
        divisor: What the mean of the aligned rows' losses divides by.
        hard_weights: ``(S,)``, or None.
    """
    n_rows, total_rows = drawn.labels.shape[0], drawn.source.shape[0]
    weights = drawn.valid / (divisor / total_rows)
    if total_rows > n_rows:
        mixed = weights[n_rows:]
        factor: Tensor | float = rule.misaligned_weight * n_rows / (total_rows - n_rows)
        if not drawn.anchors_repeat:
            counted, row_weights = drawn.valid[:n_rows], rule.target.row_weights(drawn.labels)
            if row_weights is not None:
                counted = counted * row_weights
            anchored = counted.index_select(0, drawn.anchor[n_rows:]).sum()
            factor = rule.misaligned_weight * divisor / torch.where(anchored > 0, anchored, 1)
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
    weights = measure_hardness(
        rule.hardness,
        in_turn,
        names,
        n_rows,
        plan,
        block_wise=drawn.block_wise,
        present=drawn.present,
    )
    if weights is not None and callable(rule.hardness):  # of rows that do not count it may be NaN
        weights = weights.masked_fill(drawn.ignored[n_rows:], 1.0)
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


def carries_two_labels(drawn: Draw) -> Tensor:
    """``(N + S,)`` bool: the modalities that a row has carry different labels."""
    ids, absent = drawn.ids.take(drawn.source), drawn.absent
    if absent is None:
        return (ids != ids[:, :1]).any(dim=1)
    first = ids.gather(1, absent.byte().argmin(dim=1, keepdim=True))
    return ((ids != first) & ~absent).any(dim=1)


def aligned_data(rule: LabelRule, drawn: Draw, data: Any) -> Any:
    """The N rows that came in of N + S, beside what was kept."""
    n_rows, keep = drawn.labels.shape[0], rule.keep
    return map_items(lambda key, value: value if key in keep else first_rows(value, n_rows), data)


def check_logits(rule: LabelRule, drawn: Draw, unimodal_logits: Any) -> list[Tensor]:
    """The predictions of each modality, in order; warns once of logits like softmaxes."""
    modalities, n_rows = tuple(rule.keys), drawn.labels.shape[0]
    logits = check_unimodal_logits(unimodal_logits, modalities, n_rows, rule.target)
    if rule.target.takes_temperature:
        warn_of_probabilities(rule, logits, modalities, stacklevel=5)
    return logits


def check_no_nan(log_confidence: Tensor) -> None:
    """Raise for NaN, which is in no row that does not count; −∞ is a confidence of 0."""
    if bool(log_confidence.sum().isnan()):
        bad = log_confidence.isnan().any(dim=1)
        raise MidasAugError(
            f"expected unimodal logits that are numbers, got NaN or infinity in {int(bad.sum())} "
            f"of {len(bad)} rows; a head has diverged (lower the learning rate, or look at its "
            "inputs)"
        )


def check_confidence(
    confidence: Any, drawn: Draw, n_modalities: int, *, validate: bool = False
) -> Tensor:
    """A provider's ``(N, M)`` answer as a float32 tensor without gradient, 0 for what is absent."""
    labels = drawn.labels
    scores = as_scores(confidence, "confidence").detach().float().contiguous()
    why = "a confidence provider returns one non-negative number per row and modality"
    check_shape(scores, (labels.shape[0], n_modalities), "confidence", why)
    if scores.device != labels.device:
        raise MidasAugError(
            f"expected confidence on the device of the labels, {labels.device}, got "
            f"{scores.device}; move it there in the provider"
        )
    if drawn.absent is not None:
        scores = scores.masked_fill(drawn.absent[: labels.shape[0]], 0.0)
    if validate or may_read_values(scores):
        check_finite(scores, "finite confidences of at least 0")
    return scores
