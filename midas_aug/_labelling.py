"""The labels of a draw: confidences, shares and hard-sample weights of its misaligned rows."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from midas_aug._arrays import as_scores, check_shape, is_array, may_read_values
from midas_aug._drawn import Draw, LabelRule, MixLabels
from midas_aug._hardness import measure_hardness
from midas_aug._logits import looked_at, warn_of_probabilities
from midas_aug._rows import first_rows
from midas_aug._tree import get_groups, in_order, items, map_items, resolve_key, resolve_keys
from midas_aug.confidence.base import (
    ConfidenceProvider,
    check_finite,
    check_unimodal_logits,
    without_absent,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import SwapPlan
from midas_aug.functional.shares import label_shares
from midas_aug.targets import Target

__all__ = [
    "aligned_data",
    "ask",
    "carries_two_labels",
    "check_logits",
    "divisor_of",
    "from_confidence",
    "from_logits",
    "labels_at",
    "shares_of_all",
    "weigh",
    "weigh_by_hardness",
]


# The least log-confidence. That of an absent modality is less, by so much that its share is 0.
LEAST = -1e30

# Names of augmentations whose first batch was not weighed, of which their owners were told.
_told_of_hardness: set[str] = set()


def looks(rule: LabelRule) -> bool:
    """Whether values on an accelerator are looked at; a compiled graph cannot."""
    return rule.validate and not torch.compiler.is_compiling()


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
    names, n_rows = tuple(rule.keys), drawn.labels.shape[0]
    given, device = unimodal_logits, drawn.labels.device
    logits = check_unimodal_logits(given, names, n_rows, rule.target, device)
    # By modality, as memory has it: a CPU takes seven times longer over rows of two numbers.
    found = rule.target.head_log_likelihoods(logits, drawn.readable).float()
    # Not −∞, whose softmax over modalities would be NaN where all of them are.
    found = found.masked_fill(drawn.ignored[:n_rows], 0.0).clamp_(min=LEAST)
    if drawn.absent is not None:
        found = found.masked_fill(drawn.absent[:n_rows].t(), torch.finfo(found.dtype).min)
    is_readable = may_read_values(found)
    if is_readable and rule.target.takes_temperature and rule.name not in looked_at:
        warn_of_probabilities(rule.name, logits, names, stacklevel=4, target=rule.target)
    if n_rows and (is_readable or looks(rule)):
        check_no_nan(found)
    chosen = found.gather(1, drawn.source[n_rows:].t())
    return MixLabels(log_confidence=found.t(), shares=chosen.softmax(dim=0).t())


def ask(
    rule: LabelRule,
    provider: ConfidenceProvider,
    labels: Any,
    unimodal_logits: Any,
    features: Any,
    aligned_rows: Callable[[], Any],
) -> Any:
    """A provider's confidences: of logits if it takes them, else of features, else of the data."""
    if unimodal_logits is not None and provider.takes_logits:
        return provider.from_logits(unimodal_logits, labels)
    batch, names = aligned_rows() if features is None else features, tuple(rule.keys)
    if provider.by_name and provider.modalities == names:
        if features is None:
            batch = _by_name(rule.keys, batch)
        elif type(features) in (list, tuple) or is_array(features):
            batch = dict(zip(names, in_order(features, names, "features"), strict=True))
    call: Any = provider
    return call(batch, labels, target=rule.target) if provider.takes_target else call(batch, labels)


def _by_name(keys: Mapping[Any, tuple[Any, ...]], batch: Any) -> Any:
    """``batch``, with modalities under their names where it has them under other keys."""
    if all(group == (name,) for name, group in keys.items()):
        return batch
    renamed = {name: group for name, group in keys.items() if resolve_key(batch, name) is None}
    if not renamed:
        return batch
    held = get_groups(batch, renamed)
    return {**dict(items(batch)), **dict(zip(renamed, held, strict=True))}


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
    confidence = check_confidence(scored, drawn, source.shape[1], validate=looks(rule))
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


def shares_of_all(drawn: Draw, mixed: Tensor | None) -> Tensor:
    """Shares ``(N + S, M)``: even ones for the aligned rows, then those of the mixed rows."""
    n_rows, width = drawn.labels.shape[0], drawn.source.shape[1]
    if mixed is None:
        mixed = drawn.source.new_empty((0, width), dtype=torch.float32)
    shares = torch.constant_pad_nd(mixed, (0, 0, n_rows, 0), 1 / width)
    if drawn.absent is not None:
        shares[:n_rows] = without_absent(shares[:n_rows], drawn.absent[:n_rows])
    return shares


def divisor_of(
    target: Target, labels: Tensor, counted: Tensor, count: Tensor | None = None
) -> Tensor:
    """What a mean over the rows that count divides by, a positive number without axes.

    Args:
        target: What a label is.
        labels: ``(N, …)``.
        counted: ``(N,)`` bool.
        count: How many these are, at least 1, where it is known.
    """
    weights = target.row_weights(labels)
    if weights is None:
        return counted.sum().clamp_(min=1) if count is None else count
    total = torch.where(counted, weights, 0.0).sum()
    return torch.where(total > 0, total, 1.0)


def weigh(rule: LabelRule, drawn: Draw, divisor: Tensor, hard_weights: Tensor | None) -> Tensor:
    """Weights ``(N + S,)`` whose sum with the losses is L_align + λ·L_mis (Eq. 11).

    Args:
        rule: Settings.
        drawn: The draw.
        divisor: What the mean of the aligned rows' losses divides by.
        hard_weights: ``(S,)``, or None.
    """
    n_rows, total_rows = drawn.labels.shape[0], drawn.source.shape[0]
    if torch.get_default_dtype().itemsize < 4:  # quotients of integers have the default dtype
        divisor = divisor.float()
    weights = (drawn.valid / divisor).float()
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
    rule: LabelRule, drawn: Draw, data: Any, features: Any, plan: Callable[[], SwapPlan]
) -> Tensor | None:
    """Hard-sample weights ``(S,)`` by the rule's hardness; None where it measures nothing.

    Args:
        rule: Settings; its hardness is not None.
        drawn: The draw.
        data: The batch, whose N first rows are the aligned ones.
        features: Encoder outputs of the aligned rows, by modality or in order; None: those of
            ``data``.
        plan: Gives the draw as a plan, in the caller's library.
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
        drawn.labels.device,
        partner=drawn.source[n_rows : 2 * n_rows, 0] if drawn.block_wise else None,
        present=None if drawn.absent is None else drawn.present,
    )
    if weights is not None and callable(rule.hardness):  # of rows that do not count it may be NaN
        weights = weights.masked_fill(drawn.ignored[n_rows:], 1.0)
        if may_read_values(weights) or looks(rule):
            _check_hard_weights(weights)
    if weights is None and not torch.compiler.is_compiling() and rule.name not in _told_of_hardness:
        _told_of_hardness.add(rule.name)
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            warnings.warn(
                "hardness='auto' weighs no sample here: not every modality is float features, of "
                "which cosines could be taken. Pass encoder outputs, out.label(..., features="
                "features), or say hardness=None",
                stacklevel=4,
            )
    return weights


def _check_hard_weights(weights: Tensor) -> None:
    """Raise unless what a callable measured can be the factors of losses."""
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        raise MidasAugError(
            f"expected the hardness to be finite and at least 0, got {float(weights[bad][0]):g} "
            f"({int(bad.sum())} such numbers); the loss of a sample is multiplied by it"
        )


def carries_two_labels(drawn: Draw) -> Tensor:
    """``(N + S,)`` bool: the modalities that a row has carry different labels."""
    ids, absent = drawn.ids.take(drawn.source), drawn.absent
    if absent is None:
        return (ids != ids[:, :1]).any(dim=1)
    first = ids.gather(1, absent.byte().argmin(dim=1, keepdim=True))
    return ((ids != first) & ~absent).any(dim=1)


def labels_at(labels: Tensor, source: Tensor) -> Tensor:
    """Labels ``(N, …)`` of the rows ``(R, M)``: ``(R, M, …)``."""
    return labels.take(source) if labels.ndim == 1 else labels[source]


def aligned_data(rule: LabelRule, drawn: Draw, data: Any) -> Any:
    """The N rows that came in of N + S, beside what was kept."""
    n_rows, keep = drawn.labels.shape[0], resolve_keys(data, rule.keep)
    return map_items(lambda key, value: value if key in keep else first_rows(value, n_rows), data)


def check_logits(rule: LabelRule, drawn: Draw, unimodal_logits: Any) -> list[Tensor]:
    """The predictions of each modality, in order; warns once of logits like softmaxes."""
    modalities, n_rows = tuple(rule.keys), drawn.labels.shape[0]
    given, device = unimodal_logits, drawn.labels.device
    logits = check_unimodal_logits(given, modalities, n_rows, rule.target, device)
    if rule.target.takes_temperature:
        warn_of_probabilities(rule.name, logits, modalities, stacklevel=5, target=rule.target)
    return logits


def check_no_nan(log_confidence: Tensor) -> None:
    """Raise for NaN in ``(M, N)``, which is in no ignored row; −∞ is a confidence of 0."""
    if bool(log_confidence.sum().isnan()):
        bad = log_confidence.isnan().any(dim=0)
        raise MidasAugError(
            f"expected unimodal logits that are numbers, got NaN or infinity in {int(bad.sum())} "
            f"of {len(bad)} rows; a head has diverged (lower the learning rate, or look at its "
            "inputs)"
        )


def check_confidence(
    confidence: Any, drawn: Draw, n_modalities: int, *, validate: bool = False
) -> Tensor:
    """A provider's ``(N, M)`` answer as float32 without gradient, 0 for what does not count."""
    labels, n_rows = drawn.labels, drawn.labels.shape[0]
    if isinstance(confidence, Mapping):
        raise MidasAugError(
            f"expected confidences as one (N, M) array, got a {type(confidence).__name__}; stack "
            "one column a modality, torch.stack([...], dim=1), or pass the logits of heads as "
            "unimodal_logits=..."
        )
    scores = as_scores(confidence, "confidence").detach().float().contiguous()
    why = "a confidence provider returns one non-negative number per row and modality"
    check_shape(scores, (n_rows, n_modalities), "confidence", why)
    if scores.device != labels.device:
        raise MidasAugError(
            f"expected confidence on the device of the labels, {labels.device}, got "
            f"{scores.device}; move it there in the provider"
        )
    scores = scores.masked_fill(drawn.ignored[:n_rows, None], 0.0)  # they may hold anything
    if drawn.absent is not None:
        scores = scores.masked_fill(drawn.absent[:n_rows], 0.0)
    if may_read_values(scores) or validate:
        check_finite(scores, "finite confidences of at least 0")
    return scores
