"""Partners: which row of the batch each row trades a modality with (Sec. 3.2)."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from midas_aug._arrays import (
    ArrayT,
    as_labels,
    as_tensor,
    check_rows,
    check_shape,
    like,
)
from midas_aug._draws import DRAW_BITS, Draws, as_draws
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_label_range

__all__ = ["Pairing", "permutation_partners", "same_class_partners", "sample_partners"]


class Pairing(Protocol):
    """A rule that names a partner for every row.

    ``features`` is what the caller's batch or feature dict holds, in modality order, or None;
    ``generator`` is where randomness has to come from (None: the global one). Returns ``partner``
    (N,) integer rows and ``valid`` (N,) bool.
    """

    def __call__(self, labels: Any, *, features: Any, generator: Any) -> tuple[Any, Any]:
        """Name a partner for every row."""
        ...


def sample_partners(
    labels: ArrayT, *, generator: Draws = None, num_classes: int | None = None
) -> tuple[ArrayT, ArrayT]:
    r"""Draw, for every row independently, one row of another class, uniformly.

    Uniform over all rows with another label (Sec. 3.2): the bias of the integer draw is at most
    N · 2\ :sup:`-40`. One sort, O(N log N), static shapes, no rejection loop, no sync.

    Args:
        labels: ``(N,)``, any integer dtype. Negative labels are ignored rows: they get no partner
            and are nobody's partner.
        generator: A ``torch.Generator`` for tensors, a ``numpy.random.Generator`` for arrays;
            None takes the global generator of that library.
        num_classes: C, where it is known: makes all but the sort linear in N, which pays from some
            thousand rows on. The partners are the same.

    Returns:
        ``partner`` ``(N,)`` int64 and ``valid`` ``(N,)`` bool. A row without a partner (its whole
        batch has its label, or its label is negative) gets itself and False.

    Raises:
        MidasAugError: ``labels`` is no 1-d integer array, has more than 2^22 rows, or a label that
            is not below ``num_classes`` (looked at on the CPU only).

    Example:
        >>> import torch
        >>> from midas_aug.functional import sample_partners
        >>> labels = torch.tensor([0, 0, 1])
        >>> partner, valid = sample_partners(labels, generator=torch.Generator().manual_seed(0))
        >>> bool((labels[partner] != labels).all()), valid.tolist()
        (True, [True, True, True])
    """
    classes = as_labels(labels, "labels")
    if num_classes is not None:
        check_label_range(classes, num_classes)
    draws = as_draws(labels, generator)((len(classes),))
    partner, valid = partners_from_draws(classes, draws, num_classes)
    return like(partner, labels), like(valid, labels)


class RowFacts(NamedTuple):
    """What pairing, plan and loss all need to know of N rows.

    Attributes:
        own: ``(N,)`` int64, 0 … N − 1.
        labelled: ``(N,)`` bool, the rows that are not ignored.
        n_labelled: How many these are, but at least 1: an int64 tensor without axes.
    """

    own: Tensor
    labelled: Tensor
    n_labelled: Tensor


def facts_of(labels: Tensor) -> RowFacts:
    """The facts of ``labels`` ``(N,)``, of which negative ones are ignored rows."""
    labelled = labels >= 0
    own = torch.arange(labels.shape[0], device=labels.device)
    return RowFacts(own, labelled, labelled.sum().clamp_(min=1))


def partners_from_draws(
    labels: Tensor,
    draws: Tensor,
    num_classes: int | None = None,
    *,
    facts: RowFacts | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn N draws, uniform in ``0 … 2^40 - 1``, into a partner of another class for each row.

    Sorted by class, the rows of other classes are what a cyclic walk over the labelled rows meets
    after the end of the own class block; the scaled draw says how far to walk.
    """
    rows = labels.shape[0]
    if rows > MOST_ROWS:
        check_size(rows)
    own, labelled, n_labelled = facts or facts_of(labels)
    if rows == 0:
        return own, labelled
    keys = torch.where(labelled, labels, _LAST)  # ignored rows come after all others
    if num_classes is not None and rows >= _TABLE_ROWS and rows >= num_classes:
        order, end, others = _blocks_by_class(keys, num_classes)
    else:
        order, end, others = _blocks_by_row(labels, keys, n_labelled)
    walk = (draws * others) >> DRAW_BITS
    position = (walk + end).remainder(n_labelled)
    valid = others > 0
    return torch.where(valid, order.index_select(0, position), own), valid


def partners_of_each(
    labels: Tensor, present: Tensor, draws: Tensor, facts: RowFacts
) -> tuple[Tensor, Tensor]:
    """A partner of another class for each row and modality, among the rows that have the modality.

    Args:
        labels: ``(N,)`` int64; negative ones are ignored rows.
        present: ``(N, M)`` bool: which modalities a row has.
        draws: ``(M, N)``, uniform in ``0 … 2^40 - 1``.
        facts: Of ``labels``.

    Returns:
        ``partner`` ``(M, N)`` int64 and ``valid`` ``(M, N)`` bool.
    """
    rows, labelled = labels.shape[0], facts.labelled
    check_size(rows)
    own = facts.own.expand(draws.shape)
    if rows == 0:
        return own, draws > 0
    keys = torch.where(labelled & present.t().contiguous(), labels, _LAST)
    ordered, order = torch.sort(keys, dim=1, stable=True)
    asked = torch.where(labelled, labels, _LAST).expand(draws.shape).contiguous()
    start = torch.searchsorted(ordered, asked)
    end = torch.searchsorted(ordered, asked, right=True)
    count = (keys < _LAST).sum(dim=1, keepdim=True)
    # An ignored row asks for what lies behind all others: it has no block, and no partner.
    others = (start - end + count).masked_fill(~labelled, 0)
    position = (((draws * others) >> DRAW_BITS) + end).remainder(count.clamp(min=1))
    valid = others > 0
    return torch.where(valid, order.gather(1, position), own), valid


def check_size(n_rows: int) -> None:
    """Raise where the product of a draw and a number of rows would overflow."""
    if n_rows > MOST_ROWS:
        raise MidasAugError(f"expected at most {MOST_ROWS} labels, got {n_rows}; pair in chunks")


MOST_ROWS = 1 << (62 - DRAW_BITS)
_LAST = (1 << 63) - 1
# In smaller batches a table of classes costs more operators than it saves.
_TABLE_ROWS = 512
# From here on a CPU sorts short integers faster, three times at a million.
_NARROW_ROWS = 1 << 15


def _blocks_by_row(
    labels: Tensor, keys: Tensor, n_labelled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The sorted order of the rows, where each row's class block ends, how many rows lie outside.

    An ignored row has none outside, a number ≤ 0, even where ``n_labelled`` is 1 for none.
    """
    ordered, order = torch.sort(keys, stable=True)  # the same draws in every version of torch
    # An ignored row asks with a negative label: its block starts at 0 and holds all labelled rows.
    start = torch.searchsorted(ordered, labels.contiguous())  # warns of a copy that it makes itself
    end = torch.searchsorted(ordered, keys, right=True)
    return order, end, start - end + n_labelled


def _blocks_by_class(keys: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """`_blocks_by_row`, worked out once a class; ignored rows are one class more."""
    keys = keys.clamp(max=num_classes)
    narrow = len(keys) >= _NARROW_ROWS and num_classes < 1 << 15
    ordered, order = torch.sort(keys.to(torch.int16) if narrow else keys, stable=True)
    classes = torch.arange(num_classes + 1, dtype=ordered.dtype, device=keys.device)
    start = torch.searchsorted(ordered, classes)
    end = torch.searchsorted(ordered, classes, right=True)
    others = start - end + start[num_classes]  # how many have a label
    others[num_classes:] = 0
    return order, end.index_select(0, keys), others.index_select(0, keys)


def permutation_partners(
    labels: ArrayT, *, features: Any = None, generator: Draws = None
) -> tuple[ArrayT, ArrayT]:
    """Pair by a random permutation of the batch, as the public research code does.

    A `Pairing`: pass it as ``pairing=``. Every row is donor exactly once; a row may meet its own
    class or itself, and such rows are trained on like any other.

    Args:
        labels: ``(N,)``, any integer dtype. Rows with a negative label stay out of it.
        features: Not read; part of the `Pairing` protocol.
        generator: As in `sample_partners`.

    Returns:
        ``partner`` ``(N,)`` int64 and ``valid`` ``(N,)`` bool (the label is not negative).

    Raises:
        MidasAugError: ``labels`` is no 1-d integer array.

    Example:
        >>> import numpy as np
        >>> from midas_aug.functional import permutation_partners
        >>> generator = np.random.default_rng(0)
        >>> partner, _ = permutation_partners(np.array([3, 3, 5]), generator=generator)
        >>> sorted(partner.tolist())
        [0, 1, 2]
    """
    classes = as_labels(labels, "labels")
    draws = as_draws(labels, generator)((len(classes),))
    valid = classes >= 0
    own = torch.arange(len(classes), device=classes.device)
    # Both orders list the labelled rows first: once as they stand, once shuffled.
    standing = torch.argsort((~valid).byte(), stable=True)
    shuffled = torch.argsort(torch.where(valid, draws, 1 << DRAW_BITS), stable=True)
    partner = own.scatter(0, standing, shuffled)
    return like(torch.where(valid, partner, own), labels), like(valid, labels)


def same_class_partners(
    labels: ArrayT, *, features: Any = None, generator: Draws = None
) -> tuple[ArrayT, ArrayT]:
    """Draw, for every row independently, another row of its own class, uniformly.

    A `Pairing`: pass it as ``pairing=``. The mix then keeps its one label: new pairs of intact
    views, the control that tells what misalignment adds to re-pairing.

    Args:
        labels: ``(N,)``, any integer dtype. Rows with a negative label stay out of it.
        features: Not read; part of the `Pairing` protocol.
        generator: As in `sample_partners`.

    Returns:
        ``partner`` ``(N,)`` int64 and ``valid`` ``(N,)`` bool. A row that is alone in its class
        gets itself and False.

    Raises:
        MidasAugError: ``labels`` is no 1-d integer array.

    Example:
        >>> import torch
        >>> from midas_aug.functional import same_class_partners
        >>> partner, valid = same_class_partners(torch.tensor([3, 5, 3]))
        >>> partner.tolist(), valid.tolist()
        ([2, 1, 0], [True, False, True])
    """
    classes = as_labels(labels, "labels")
    draws = as_draws(labels, generator)((len(classes),))
    own = torch.arange(len(classes), device=classes.device)
    ordered, order = torch.sort(classes, stable=True)
    place = torch.empty_like(order).scatter_(0, order, own)
    start = torch.searchsorted(ordered, classes.contiguous())
    size = torch.searchsorted(ordered, classes.contiguous(), right=True) - start
    # A cyclic walk through the own block, at least one and at most size - 1 steps.
    walk = place - start + 1 + ((draws * (size - 1)) >> DRAW_BITS)
    valid = (size > 1) & (classes >= 0)
    # Every row is in its own block, so no size is 0; a compiled loop has lanes beyond the rows.
    position = start + walk.remainder(size.clamp(min=1))
    partner = torch.where(valid, order.index_select(0, position), own)
    return like(partner, labels), like(valid, labels)


# They need no more of labels than which are the same.
OWN_PAIRINGS = (permutation_partners, same_class_partners)


def check_partners(drawn: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check what a user's `Pairing` returned, and keep ignored rows out of it."""
    if not isinstance(drawn, tuple | list) or len(drawn) != 2:
        raise MidasAugError(
            "expected a pairing to return two arrays, partner (N,) integer rows and valid (N,) "
            f"bool, got {drawn!r}"
        )
    partner, valid = drawn
    rows = as_labels(partner, "the pairing's partner")
    usable = as_tensor(valid, "the pairing's valid")
    why = "a pairing returns partner (N,) integer rows and valid (N,) bool"
    check_shape(rows, (len(labels),), "the pairing's partner", why)
    check_shape(usable, (len(labels),), "the pairing's valid", why)
    if usable.dtype != torch.bool:
        raise MidasAugError(f"expected the pairing's valid as bool, got {usable.dtype}; {why}")
    check_rows(rows, len(rows), "the pairing's partner")
    usable = usable & (labels >= 0) & (labels.index_select(0, rows) >= 0)
    return torch.where(usable, rows, torch.arange(len(rows), device=rows.device)), usable
