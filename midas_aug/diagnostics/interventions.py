"""What a block of rows tells: its modalities swapped, permuted and removed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import as_scores
from midas_aug._tree import in_order
from midas_aug.diagnostics.blocks import (
    Block,
    as_logits,
    check_finite,
    leaves_of,
    like_rows,
    rebuilt,
    select,
)
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.measures import row_correct
from midas_aug.diagnostics.outcomes import Outcomes
from midas_aug.diagnostics.removal import mean_of
from midas_aug.diagnostics.shapley import Subset, all_subsets
from midas_aug.errors import MidasAugError
from midas_aug.functional import (
    SwapPlan,
    hard_sample_weights,
    label_shares,
    sample_partners,
    true_class_confidence,
)
from midas_aug.functional.shares import check_label_range, check_logit_width
from midas_aug.targets import Distribution

__all__ = ["observe", "permuted_rows", "stand_ins_of"]

SHAPLEY_MODALITIES = 6  # 2^M passes; with more modalities the Shapley values are left out


def observe(
    block: Block,
    *,
    removal: str,
    means: Mapping[str, Any] | None,
    draws: int,
    generator: torch.Generator,
    num_classes: int | None,
    head_rows: HeadRows,
    target: Distribution | None = None,
) -> Outcomes:
    """Predict the rows of a block as they are and with every intervention.

    Args:
        block: The rows.
        removal: What stands in for a removed modality.
        means: The mean row of each modality, for ``"mean"``; None takes them of the block.
        draws: Draws of partners and permutations.
        generator: Of the draws.
        num_classes: C, to check the logits; None takes theirs.
        head_rows: Where the logits of the heads are added.
        target: Where labels are distributions: their cross-entropy is a score, too.

    Raises:
        MidasAugError: Logits, heads or means do not fit.
    """
    announced = "num_classes" if target is None else "target"
    whole = _checked_whole(block.logits({}, {}), block, num_classes, announced)
    labels = block.labels.to(whole.device)
    names = tuple(modality.name for modality in block.modalities)
    seen = Outcomes(names, labels, whole.shape[1])
    whole = seen.usable(whole, "of the whole model")
    seen.add_whole(whole)
    if target is not None:
        given = block.given.to(whole.device)
        readable = target.filled(given)[:, None]
        seen.losses = -target.log_likelihoods(whole, readable)[:, 0]
    confidence = _ask_heads(block, seen, head_rows)
    _swap(block, seen, confidence, draws, generator)
    _permute(block, seen, draws, generator)
    _remove(block, seen, stand_ins_of(block, removal, means), draws, generator)
    return seen


def _ask_heads(block: Block, seen: Outcomes, head_rows: HeadRows) -> Tensor | None:
    """The confidences (N, M) of the modalities' own heads."""
    unimodal = block.unimodal()
    if unimodal is None:
        return None
    keys = [modality.key for modality in block.modalities]
    each = in_order(unimodal, keys, "the unimodal logits")
    usable = []
    for name, given in zip(seen.modalities, each, strict=True):
        what = f"the logits of the head of {name!r}"
        logits = as_scores(as_logits(given, len(block.labels), what), what).detach()
        way = f"the model's logits have {seen.n_classes} columns: build that head with as many"
        _check_width(logits, seen.n_classes, what, way)
        logits = seen.usable(logits.to(seen.labels.device), f"of the head of {name}")
        seen.add_head(name, logits)
        usable.append(logits)
    head_rows.add(usable, seen.labels)
    return torch.stack([seen.heads[name].confidence for name in seen.modalities], dim=1)


def _swap(
    block: Block,
    seen: Outcomes,
    confidence: Tensor | None,
    draws: int,
    generator: torch.Generator,
) -> None:
    """Misaligned rows: each modality in turn from a row of another class."""
    own, device = torch.arange(len(block.labels)), seen.labels.device
    plans = []
    for _ in range(draws):
        for number, name in enumerate(seen.modalities):
            partner, valid = sample_partners(block.labels, generator=generator)
            source = own[:, None].repeat(1, len(seen.modalities))
            source[:, number] = partner
            index, counted, met = source.to(device), valid.to(device), partner.to(device)
            logits = block.logits({name: partner}, {})
            logits = seen.usable(logits, f"with {name} from a row of another class", counted)
            seen.add_misaligned(logits, seen.labels[index], counted, met)
            if confidence is not None:
                seen.add_shares(label_shares(confidence, index), counted, met)
            plans.append(SwapPlan(source, own, valid))
    seen.hardness = _hardness([block.data[name] for name in seen.modalities], plans)


def _permute(block: Block, seen: Outcomes, draws: int, generator: torch.Generator) -> None:
    """Each modality in turn from any other row."""
    for _ in range(draws):
        for number, name in enumerate(seen.modalities):
            order = permuted_rows(block, generator)
            met = order.to(seen.labels.device)
            source_labels = seen.labels[:, None].repeat(1, len(seen.modalities))
            source_labels[:, number] = seen.labels[met]
            logits = seen.usable(block.logits({name: order}, {}), f"with {name} permuted")
            seen.add_permuted(name, logits, source_labels, met, draws)


def _remove(
    block: Block,
    seen: Outcomes,
    stand_ins: dict[str, Any] | None,
    draws: int,
    generator: torch.Generator,
) -> None:
    """Every subset of modalities, the others removed; without stand-ins by permutation."""
    n_rows, labels = len(block.labels), seen.labels
    times = draws if stand_ins is None else 1
    for subset in _wanted_subsets(seen.modalities):
        gone = [name for name in seen.modalities if name not in subset]
        right, confidence = torch.zeros(2, n_rows, dtype=torch.float32, device=labels.device)
        for _ in range(times):
            if stand_ins is None:
                orders = {name: permuted_rows(block, generator) for name in gone}
                logits = block.logits(orders, {})
            else:
                logits = block.logits({}, {name: stand_ins[name] for name in gone})
            logits = seen.usable(logits, f"with {' and '.join(gone)} removed")
            right = right + row_correct(logits, labels).float() / times
            confidence = confidence + true_class_confidence(logits, labels) / times
        seen.add_subset(subset, right, confidence)


def _wanted_subsets(names: tuple[str, ...]) -> list[Subset]:
    if len(names) <= SHAPLEY_MODALITIES:
        return [subset for subset in all_subsets(names) if len(subset) < len(names)]
    singles = [Subset({name}) for name in names]
    return [*singles, *(Subset(names) - single for single in singles)]


def permuted_rows(block: Block, generator: torch.Generator) -> Tensor:
    """A random order of the rows with a label; the others stay where they are."""
    labelled = (block.labels >= 0).nonzero()[:, 0]
    order = torch.arange(len(block.labels))
    order[labelled] = labelled[torch.randperm(len(labelled), generator=generator)]
    return order


def stand_ins_of(
    block: Block, removal: str, means: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """One row for each modality that is to be removed by zeros or a mean."""
    if removal == "permute":
        return None
    found = {}
    for name, value in block.data.items():
        if removal == "zero":
            zeros = [torch.zeros_like(leaf[0]) for leaf in leaves_of(value, name)]
            found[name] = rebuilt(value, zeros)
        elif means is None:
            leaves_of(value, name)
            labelled = (block.labels >= 0).nonzero()[:, 0]
            mean = mean_of(select(value, labelled, len(block.labels), name), name)
            found[name] = check_finite(mean, name)
        else:
            found[name] = like_rows(means[name], value, name)
    return found


def _hardness(features: Sequence[Any], plans: Sequence[SwapPlan]) -> Tensor | None:
    """Hard-sample weights of the valid rows, where every feature is a vector."""
    if not all(isinstance(f, Tensor) and f.ndim == 2 and f.is_floating_point() for f in features):
        return None
    device = features[0].device
    moved = [SwapPlan(*(part.to(device) for part in plan)) for plan in plans]
    return torch.cat([hard_sample_weights(features, plan)[plan.valid] for plan in moved])


def _checked_whole(logits: Tensor, block: Block, num_classes: int | None, announced: str) -> Tensor:
    """The model's logits as floats, with a column for each label.

    Args:
        logits: ``(N, C)``.
        block: Their rows.
        num_classes: C, where the caller says it.
        announced: The argument that says it.
    """
    what = "the model's logits"
    scores = as_scores(logits, what).detach()
    if num_classes is None:
        check_logit_width(block.labels, scores.shape[1], what)
    else:
        check_label_range(block.labels, num_classes)
        _check_width(scores, num_classes, what, f"check {announced} and what the model returns")
    return scores


def _check_width(scores: Tensor, n_classes: int, what: str, way: str) -> None:
    if scores.shape[1] != n_classes:
        raise MidasAugError(
            f"expected {what} with a column for each of the {n_classes} classes, got shape "
            f"{tuple(scores.shape)}; {way}"
        )
