"""Swap plans: which batch row supplies each modality of each misaligned sample (Sec. 3.2, A.2)."""

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_labels, as_tensor, check_rows, check_shape, like
from midas_aug._checks import check_count
from midas_aug._draws import DRAW_BITS, Draws, as_draws
from midas_aug.errors import MidasAugError
from midas_aug.functional.pairing import (
    OWN_PAIRINGS,
    Pairing,
    RowFacts,
    check_partners,
    facts_of,
    partners_from_draws,
    partners_of_each,
)
from midas_aug.functional.shares import check_label_range

__all__ = ["Swap", "SwapPlan", "plan_swaps"]

Swap: TypeAlias = Literal["each", "one", "permute"]
SWAPS = get_args(Swap)


class SwapPlan(NamedTuple):
    """The draws of one batch: all that is random about S misaligned samples.

    Attributes:
        source: ``(S, M)`` int64, the batch row that supplies each modality.
        anchor: ``(S,)`` int64, the batch row that each sample belongs to. Modalities whose source
            is not the anchor are *replaced*.
        valid: ``(S,)`` bool, False where no partner exists (the sample then repeats its anchor).
    """

    source: Any
    anchor: Any
    valid: Any


def plan_swaps(
    labels: Array,
    num_modalities: int,
    *,
    swap: Swap = "each",
    pairing: Literal["uniform"] | Pairing = "uniform",
    features: Any = None,
    generator: Draws = None,
    num_classes: int | None = None,
    present: Array | None = None,
) -> SwapPlan:
    """Draw which modality of which row goes where.

    Args:
        labels: ``(N,)``, any integer dtype; negative labels are ignored rows.
        num_modalities: M ≥ 2.
        swap: ``"each"`` gives S = M·N samples: block m (rows m·N … (m+1)·N−1) takes modality m
            from the partner and the rest from the anchor. ``"one"`` gives S = N: one random
            modality a row comes from the partner. ``"permute"`` gives S = N: M distinct rows with
            at least two labels (the anchor, its partner, and others drawn uniformly from the
            rest of the batch), dealt to the modalities by a random permutation (A.2). A batch of
            fewer than M labelled rows deals the partner more than once.
        pairing: ``"uniform"`` (`sample_partners`) or a `Pairing`.
        features: Handed to a callable ``pairing``.
        generator: As in `sample_partners`.
        num_classes: As in `sample_partners`.
        present: ``(N, M)`` bool: which modalities a row has; None: all. A donor has the modality
            that it gives, so every replaced modality has partners of its own. A sample is not valid
            without a donor, or where its anchor has nothing of what is kept.

    Returns:
        A `SwapPlan`, in the library and on the device of ``labels``.

    Raises:
        MidasAugError: An argument is out of range, or the pairing returns something unusable.

    Example:
        >>> import torch
        >>> from midas_aug.functional import plan_swaps
        >>> plan_swaps(torch.tensor([0, 1]), 2).source  # only one partner is possible here
        tensor([[1, 0],
                [0, 1],
                [0, 1],
                [1, 0]])
    """
    check_swap(swap)
    check_pairing(pairing)
    why = "with one modality there is nothing to misalign"
    check_count(num_modalities, "num_modalities", 2, why)
    classes = as_labels(labels, "labels")
    if num_classes is not None:
        check_label_range(classes, num_classes)
    has = None
    if present is not None:
        why = "one flag a row and modality"
        has = check_flags(present, (len(classes), num_modalities), "present", why)
        classes = classes.masked_fill(~has.any(dim=1), -1)
    rows, _ = draw_rows(
        labels,
        classes,
        num_modalities,
        swap=swap,
        pairing=pairing,
        features=features,
        num_classes=num_classes,
        generator=generator,
        present=has,
    )
    return SwapPlan(*(like(part[len(labels) :], labels) for part in rows))


def draw_rows(
    labels: Array,
    classes: Tensor,
    num_modalities: int,
    *,
    swap: Swap,
    pairing: Literal["uniform"] | Pairing,
    features: Any,
    num_classes: int | None,
    generator: Draws,
    present: Tensor | None = None,
) -> tuple[SwapPlan, Tensor]:
    """`plan_swaps` with the N aligned rows in front, as tensors, and `RowFacts.n_labelled`.

    ``classes`` are the ids of ``labels``, negative for ignored rows and for those without any
    modality; a pairing of the user's own is given the labels as they are. The columns of ``source``
    are contiguous: each of them indexes one modality.
    """
    n_rows = classes.shape[0]
    bits = as_draws(labels, generator)
    facts = facts_of(classes)
    own = facts.own
    if callable(pairing):
        seen = like(classes, labels) if pairing in OWN_PAIRINGS else labels
        drawn = pairing(seen, features=features, generator=generator)
        partner, valid = check_partners(drawn, classes)
    elif present is not None:
        draws = bits((num_modalities, n_rows))
        partner, valid = partners_of_each(classes, present, draws, facts)
    else:
        draws = bits((n_rows,))
        partner, valid = partners_from_draws(classes, draws, num_classes, facts=facts)

    numbers = range(num_modalities)
    if swap == "each":
        n_blocks = num_modalities + 1
        swapped = list(partner) if partner.ndim == 2 else [partner] * num_modalities
        # Block 0 is the batch; block m + 1 replaces modality m.
        blocks = [[own] * n_blocks for _ in numbers]
        for m in numbers:
            blocks[m][m + 1] = swapped[m]
    else:
        n_blocks = 2
        if swap == "one":
            modality = (bits((n_rows,)) * num_modalities) >> DRAW_BITS
            replaced = modality == torch.arange(num_modalities, device=classes.device)[:, None]
            dealt = torch.where(replaced, partner, own)
            if valid.ndim == 2:
                valid = valid.gather(0, modality[None])[0]
        else:
            dealt, valid = _deal(bits, facts, partner, valid, num_modalities, present)
        blocks = [[own, dealt[m]] for m in numbers]
    # One concatenation: the sources of each modality in turn, then the anchors.
    columns = torch.cat([*itertools.chain(*blocks), *[own] * n_blocks])
    columns = columns.view(num_modalities + 1, n_blocks * n_rows)
    plan = SwapPlan(
        source=columns[:num_modalities].t(),
        anchor=columns[num_modalities],
        valid=torch.cat(
            [facts.labelled, *(valid if valid.ndim == 2 else [valid] * (n_blocks - 1))]
        ),
    )
    if present is not None:
        plan = plan._replace(valid=plan.valid & has_parts(plan, present))
    return plan, facts.n_labelled


def swapped_blocks(swap: Swap, num_modalities: int) -> tuple[int, ...]:
    """The one block of N rows of a drawn plan in which a modality is not the batch in order."""
    return tuple(m + 1 if swap == "each" else 1 for m in range(num_modalities))


def check_flags(present: Array, shape: tuple[int, ...], name: str, why: str) -> Tensor:
    """Flags of ``shape`` as a bool tensor: True where a row has a modality."""
    has = as_tensor(present, name)
    if has.dtype != torch.bool:
        raise MidasAugError(
            f"expected {name} to have the dtype bool, True where a row has the modality, got "
            f"{has.dtype}; convert it with .bool()"
        )
    check_shape(has, shape, name, why)
    return has


def has_parts(plan: SwapPlan, present: Tensor) -> Tensor:
    """``(S,)`` bool: every replaced modality has come along, and some of the anchor is left."""
    found: Tensor = present.gather(0, plan.source)
    replaced: Tensor = plan.source != plan.anchor[:, None]
    complete, kept = (found | ~replaced).all(dim=1), (found & ~replaced).any(dim=1)
    return complete & kept


def aligned_rows(
    labels: Tensor, num_modalities: int, plan: SwapPlan | None, present: Tensor | None = None
) -> tuple[SwapPlan, Tensor]:
    """The aligned rows, those of a plan that is replayed behind them, and `RowFacts.n_labelled`."""
    own, labelled, n_labelled = facts_of(labels)
    source = own.repeat(num_modalities, 1).t()  # memory of its own, which can be pinned
    aligned = SwapPlan(source, own, labelled)
    if plan is None:
        return aligned, n_labelled
    swapped = check_plan(plan, labels, num_modalities)
    if present is not None:
        swapped = swapped._replace(valid=swapped.valid & has_parts(swapped, present))
    return SwapPlan(*(torch.cat(parts) for parts in zip(aligned, swapped, strict=True))), n_labelled


def check_is_plan(plan: object) -> None:
    """Raise unless ``plan`` is one."""
    if not isinstance(plan, SwapPlan):
        raise MidasAugError(
            f"expected plan to be a SwapPlan, got {type(plan).__name__}; pass out.plan, or what "
            "midas_aug.functional.plan_swaps gave"
        )


def check_plan(plan: SwapPlan, labels: Tensor, num_modalities: int) -> SwapPlan:
    """View a plan as tensors on the labels' device, and drop rows that touch an ignored one."""
    check_is_plan(plan)
    source = as_labels(plan.source, "plan.source", ndim=2)
    anchor = as_labels(plan.anchor, "plan.anchor")
    valid = as_tensor(plan.valid, "plan.valid").bool()
    n_samples = anchor.shape[0]
    check_shape(source, (n_samples, num_modalities), "plan.source", "one batch row per modality")
    check_shape(valid, (n_samples,), "plan.valid", "one flag per misaligned sample")
    for name, part in zip(SwapPlan._fields, plan, strict=True):
        if isinstance(part, Tensor) and part.device != labels.device:
            raise MidasAugError(
                f"expected plan.{name} on the device of the labels, {labels.device}, got "
                f"{part.device}; move the plan or draw it from labels on that device"
            )
    check_rows(source, labels.shape[0], "plan.source")
    check_rows(anchor, labels.shape[0], "plan.anchor")
    labelled = (labels[source] >= 0).all(dim=1) & (labels[anchor] >= 0)
    return SwapPlan(source, anchor, valid & labelled)


def _deal(
    bits: Callable[[tuple[int, ...]], Tensor],
    facts: RowFacts,
    partner: Tensor,
    valid: Tensor,
    num_modalities: int,
    present: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The source rows of ``swap="permute"``, ``(M, N)``, and which are valid, ``(N,)``."""
    own, labelled, _ = facts
    n_rows = own.shape[0]
    others = [bits((n_rows,)) for _ in range(num_modalities - 2)]
    cards = bits((n_rows, num_modalities)).argsort(dim=1)  # who of the hand gives each modality
    candidates, place = labelled[None], None
    if present is not None:
        place = cards.argsort(dim=1)  # which modality each of the hand gives
        candidates = candidates & present.t()
        if partner.ndim == 2:
            partner, valid = (part.gather(0, place[:, 1:2].t())[0] for part in (partner, valid))
    hand = torch.stack([own, partner, *_distinct_rows(candidates, partner, others, place)], dim=1)
    return torch.where(valid, hand.gather(1, cards).t(), own), valid


def _distinct_rows(
    candidates: Tensor, partner: Tensor, draws: list[Tensor], place: Tensor | None
) -> list[Tensor]:
    """Further rows, each uniform over the candidates not yet chosen; the partner if none is left.

    ``draws[k]`` is scaled to the number of candidates left, then stepped over the chosen ones,
    lowest first, so that every remaining candidate is hit by exactly one value.

    Args:
        candidates: ``(1, N)`` bool, or ``(M, N)``: the rows that may give each modality.
        partner: ``(N,)``.
        draws: One ``(N,)`` for each further row.
        place: ``(N, M)``: the modality that each of the hand gives; None: there is one list.
    """
    own = torch.arange(partner.shape[0], device=partner.device)
    order = torch.argsort((~candidates).byte(), dim=1, stable=True)  # candidates lead
    rank = torch.empty_like(order).scatter_(1, order, own.expand_as(order))
    count = candidates.sum(dim=1)
    rows: list[Tensor] = []
    for number, draw in enumerate(draws):
        of = torch.zeros_like(own) if place is None else place[:, number + 2]
        chosen = [rank[of, row] for row in (own, partner, *rows)]
        ordered = torch.stack(chosen).sort(dim=0).values
        fresh = ordered < count[of]  # others are no candidates
        fresh[1:] &= ordered[1:] != ordered[:-1]  # a pairing may name the row itself
        left = count[of] - fresh.sum(dim=0)
        found = (draw * left.clamp(min=0)) >> DRAW_BITS
        for taken, counts in zip(ordered, fresh, strict=True):
            found = found + ((found >= taken) & counts)
        row = order[of, found.clamp(max=len(own) - 1)]
        rows.append(torch.where(left > 0, row, partner))
    return rows


def check_swap(swap: str) -> None:
    """Raise unless ``swap`` names a way to swap."""
    if swap not in SWAPS:
        raise MidasAugError(f"expected swap to be one of {SWAPS}, got {swap!r}")


def check_pairing(pairing: Any) -> None:
    """Raise unless ``pairing`` is ``"uniform"`` or a callable."""
    if pairing != "uniform" and not callable(pairing):
        raise MidasAugError(
            f"expected pairing to be 'uniform' or a callable (labels, *, features, generator) -> "
            f"(partner, valid), got {pairing!r}"
        )
