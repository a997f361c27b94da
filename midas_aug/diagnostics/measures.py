"""Measures of modality imbalance: pure functions of tensors that never wait for the device.

Everything is returned as a tensor without gradient, so that a training loop may call it. A
*misaligned* row takes its modalities from rows of different classes; *removing* a modality means
zeros, the mean of other rows, or the values of other rows in its place: results differ, so every
report names the way.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial, log
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    as_labels,
    as_scores,
    as_tensor,
    check_shape,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.metrics import top_set_matches
from midas_aug.tree import first_rows, map_arrays, take_rows

__all__ = [
    "Removal",
    "accuracy",
    "accuracy_shapley",
    "all_subsets",
    "collapsed_share_fraction",
    "discrepancy_ratio",
    "expected_calibration_error",
    "hardness_quantiles",
    "misaligned_accuracy",
    "misaligned_confidence",
    "permutation_importance",
    "remove_modality",
    "sample_shapley",
    "shapley",
    "share_entropy",
]

Subset: TypeAlias = frozenset[str]
Removal: TypeAlias = Literal["zero", "mean", "permute"]
REMOVALS = ("zero", "mean", "permute")

CALIBRATION_BINS = 15  # as in most papers on calibration
NEAR_EVEN = 0.05  # a share this close to 1/M counts as collapsed


def accuracy(logits: Array, labels: Array) -> Tensor:
    """Fraction of rows whose highest logit is the label's.

    Args:
        logits: ``(N, C)`` float.
        labels: ``(N,)`` integers; rows with a negative one do not count.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import accuracy
        >>> accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor(0.5000)
    """
    scores, classes = check_logits(logits, labels)
    counted = classes >= 0
    right = (scores.argmax(dim=1) == classes) & counted
    return right.sum() / counted.sum().clamp(min=1)


def misaligned_accuracy(
    logits: Array,
    source_labels: Array,
    *,
    valid: Array | None = None,
    same_label: Literal["skip", "wrong"] = "skip",
) -> Tensor:
    """Fraction of misaligned rows whose top classes are exactly the labels of their sources.

    Differs from `midas_aug.functional.misaligned_accuracy` in rows whose sources all have one
    label: these are not misaligned, and only the two modes here keep them from being counted as
    hits.

    Args:
        logits: ``(S, C)`` float.
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
        valid: ``(S,)`` bool, rows to count; None counts all.
        same_label: What becomes of rows whose sources have one label. ``"skip"``: they do not
            count. ``"wrong"``: they count and never hit, as where the public code permutes a batch
            (its ceiling is then below 1).

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or ``same_label`` is another word.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import misaligned_accuracy
        >>> logits = torch.tensor([[3.0, 2.0, 0.0], [3.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
        >>> labels = torch.tensor([[0, 1], [0, 1], [0, 0]])
        >>> misaligned_accuracy(logits, labels)
        tensor(0.5000)
        >>> misaligned_accuracy(logits, labels, same_label="wrong")
        tensor(0.3333)
    """
    if same_label not in ("skip", "wrong"):
        raise MidasAugError(f"expected same_label 'skip' or 'wrong', got {same_label!r}")
    scores, classes, counted = check_misaligned(logits, source_labels, valid)
    mixed = has_two_labels(classes)
    right = top_set_matches(scores, classes) & mixed & counted
    rows = counted & mixed if same_label == "skip" else counted
    return right.sum() / rows.sum().clamp(min=1)


def misaligned_confidence(
    logits: Array, source_labels: Array, *, valid: Array | None = None, normalized: bool = False
) -> Tensor:
    r"""Mean probability of the label of each modality's source row (MIDAS Fig. 1b).

    Imbalance shows as one modality's label being far more probable than the other's.

    Args:
        logits: ``(S, C)`` float, on misaligned rows.
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
        valid: ``(S,)`` bool, rows to count; None counts all.
        normalized: Divide each row's probabilities by their sum over the modalities, which makes
            the result comparable with the shares (Eq. 5-6).

    Returns:
        ``(M,)`` in [0, 1]; zeros when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import misaligned_confidence
        >>> logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
        >>> misaligned_confidence(logits, torch.tensor([[0, 1]]))
        tensor([0.6000, 0.3000])
        >>> misaligned_confidence(logits, torch.tensor([[0, 1]]), normalized=True)
        tensor([0.6667, 0.3333])
    """
    scores, classes, counted = check_misaligned(logits, source_labels, valid)
    probability = source_probability(scores, classes, normalized=normalized)
    total = torch.where(counted[:, None], probability, 0.0).sum(dim=0)
    return total / counted.sum().clamp(min=1)


def remove_modality(
    modalities: Mapping[str, Any],
    name: str,
    removal: Removal,
    *,
    mean: Any = None,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Copy ``modalities`` with ``name`` removed: its rows say nothing about their labels any more.

    Args:
        modalities: Features or inputs, each an array or a nested structure of arrays with N rows.
        name: The key to remove.
        removal: ``"zero"``: zeros. ``"mean"``: the mean of other rows, one for all. ``"permute"``:
            each row gets another row's (or, rarely, its own).
        mean: What replaces a row, in the structure of ``modalities[name]`` without the axis of
            rows; for ``"mean"``. None takes the mean of the rows given.
        generator: For ``"permute"``; None takes the global one.

    Returns:
        A new dict. The caller's is not changed.

    Raises:
        MidasAugError: There is no such modality or way, or a mean of integers (token ids) is asked
            for.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import remove_modality
        >>> batch = {"a": torch.tensor([[1.0], [3.0]]), "b": torch.tensor([[5.0], [7.0]])}
        >>> remove_modality(batch, "b", "mean")["b"].tolist()
        [[6.0], [6.0]]
    """
    if name not in modalities:
        raise MidasAugError(f"expected one of {list(modalities)!r}, got {name!r}")
    value = modalities[name]
    return {**modalities, name: absent(value, removal, name, mean=mean, generator=generator)}


def permutation_importance(clean: Array, permuted: Array, labels: Array) -> Tensor:
    """Accuracy with a modality permuted, over the clean accuracy (MCR).

    1: the model ignores the modality. Towards chance / accuracy: it relies on it.

    Args:
        clean: ``(N, C)`` logits of the rows as they are.
        permuted: ``(N, C)`` logits with the modality permuted among the rows.
        labels: ``(N,)`` integers; rows with a negative one do not count.

    Returns:
        A scalar, NaN when the clean accuracy is 0.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import permutation_importance
        >>> clean, labels = torch.eye(4), torch.arange(4)
        >>> permutation_importance(clean, clean[[0, 2, 1, 3]], labels)
        tensor(0.5000)
    """
    before = accuracy(clean, labels)
    return torch.where(before > 0, accuracy(permuted, labels) / before, float("nan"))


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """Every subset, from none to all: 2^M of them.

    Example:
        >>> from midas_aug.diagnostics import all_subsets
        >>> [sorted(subset) for subset in all_subsets(("a", "b"))]
        [[], ['a'], ['b'], ['a', 'b']]
    """
    return [
        Subset(subset)
        for size in range(len(modalities) + 1)
        for subset in combinations(modalities, size)
    ]


def shapley(values: Mapping[Subset, Tensor]) -> dict[str, Tensor]:
    r"""Shapley value of each modality, from the value of every subset of modalities.

    .. math:: \phi_m = \sum_{S \subseteq N \setminus m} \frac{|S|!\,(M - |S| - 1)!}{M!}
        (v(S \cup m) - v(S))

    Args:
        values: A tensor (any shape, the same for all) for each of the 2^M subsets, the empty one
            too.

    Returns:
        A tensor for each modality, in alphabetical order; they sum to v(all) − v(none).

    Raises:
        MidasAugError: A subset is missing.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import shapley
        >>> values = {(): 0.17, ("a",): 0.42, ("v",): 0.19, ("a", "v"): 0.60}
        >>> phi = shapley({frozenset(s): torch.tensor(v) for s, v in values.items()})
        >>> {m: round(value.item(), 2) for m, value in phi.items()}
        {'a': 0.33, 'v': 0.1}
    """
    modalities = sorted(set().union(*values))
    count = len(modalities)
    missing = [sorted(subset) for subset in all_subsets(modalities) if subset not in values]
    if missing or count == 0:
        raise MidasAugError(
            f"expected a value for every subset of {modalities!r}, the empty one too; missing are "
            f"{missing!r}"
        )
    contributions = {}
    for modality in modalities:
        others = [other for other in modalities if other != modality]
        total = torch.zeros_like(values[Subset()], dtype=torch.get_default_dtype())
        for subset in all_subsets(others):
            chance = factorial(len(subset)) * factorial(count - len(subset) - 1) / factorial(count)
            total = total + chance * (values[subset | {modality}] - values[subset])
        contributions[modality] = total
    return contributions


def sample_shapley(correct: Mapping[Subset, Tensor]) -> dict[str, Tensor]:
    """SMV's value of each modality in each row: Shapley of v(S) = |S| where S gets the row right.

    v(none) is 0 whatever the model says there, so a row's values sum to M if the whole model gets
    it right, and to 0 otherwise.

    Args:
        correct: ``(N,)`` for each of the 2^M subsets (the empty one too, its values are not read):
            whether the row is right with the modalities outside the subset removed (SMV: set to 0
            at feature level).

    Returns:
        ``(N,)`` for each modality; the mean over the rows is SMV's modality-level value.

    Raises:
        MidasAugError: A subset is missing.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import all_subsets, sample_shapley
        >>> right = torch.tensor([True])
        >>> correct = {s: right for s in all_subsets(("a", "v"))} | {frozenset({"v"}): ~right}
        >>> {m: value.tolist() for m, value in sample_shapley(correct).items()}
        {'a': [1.5], 'v': [0.5]}
    """
    counts = {subset: len(subset) * value.float() for subset, value in correct.items()}
    return shapley(counts)


def accuracy_shapley(correct: Mapping[Subset, Tensor]) -> dict[str, Tensor]:
    """Shapley value of the accuracy: how many points each modality contributes.

    Args:
        correct: ``(N,)`` for each of the 2^M subsets: whether the row is right with the modalities
            outside the subset removed. The empty subset is a constant prediction, not 0.

    Returns:
        A scalar for each modality; they sum to A(all) − A(none).

    Raises:
        MidasAugError: A subset is missing.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import accuracy_shapley, all_subsets
        >>> correct = {s: torch.tensor([len(s) == 2, True]) for s in all_subsets(("a", "v"))}
        >>> {m: value.item() for m, value in accuracy_shapley(correct).items()}
        {'a': 0.25, 'v': 0.25}
    """
    return shapley({s: value.float().sum() / max(len(value), 1) for s, value in correct.items()})


def discrepancy_ratio(sums: Tensor) -> Tensor:
    r"""OGM's ratio of each modality to the others: mean over j ≠ m of s_m / s_j. Balanced is 1.

    s_m sums the probabilities that modality m alone gives to the true labels. Sum over the whole
    epoch before the ratio: it is less noisy than a mean of batch ratios.

    Args:
        sums: ``(..., M)`` float: s. From logits of each modality alone:
            ``torch.stack([true_class_confidence(u, labels).sum() for u in alone])``.

    Returns:
        ``(..., M)``.

    Raises:
        MidasAugError: There are fewer than two modalities.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import discrepancy_ratio
        >>> discrepancy_ratio(torch.tensor([3.0, 2.0, 1.0]))
        tensor([2.2500, 1.3333, 0.4167])
    """
    values = as_tensor(sums, "sums").detach()
    if values.ndim == 0 or values.shape[-1] < 2:
        raise MidasAugError(
            f"expected sums of at least two modalities, got shape {tuple(values.shape)}; the ratio "
            "holds one against the others"
        )
    inverse = 1 / values
    others = inverse.sum(dim=-1, keepdim=True) - inverse
    return values * others / (values.shape[-1] - 1)


def expected_calibration_error(
    logits: Array, labels: Array, *, bins: int = CALIBRATION_BINS
) -> Tensor:
    """Mean distance between confidence and accuracy over bins of equal width (ECE).

    A row falls into the bin (lower, upper] of its highest probability; each bin's |accuracy − mean
    confidence| weighs as much as its rows. As ``torchmetrics`` with ``norm="l1"`` but for
    confidences that lie on an edge, and no logits are ever taken for probabilities.

    Args:
        logits: ``(N, C)`` float.
        labels: ``(N,)`` integers; rows with a negative one do not count.
        bins: Number of bins.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import expected_calibration_error
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()  # 0.9 sure, half of them right
        >>> expected_calibration_error(logits, torch.tensor([0, 1]))
        tensor(0.4000)
    """
    gaps, counted = calibration_gaps(logits, labels, bins=bins)
    return gaps.sum(dim=0).abs().sum() / counted.sum().clamp(min=1)


def share_entropy(shares: Array, *, valid: Array | None = None) -> Tensor:
    """Mean entropy of the shares over log M: 1 where every share is 1/M, 0 where one has it all.

    At 1 the soft labels say nothing about who is to be trusted.

    Args:
        shares: ``(S, M)``, rows sum to 1, as from `midas_aug.functional.label_shares`.
        valid: ``(S,)`` bool, rows to count; None counts all.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import share_entropy
        >>> share_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor(0.5000)
    """
    values, counted = _check_shares(shares, valid)
    rows = row_entropy(values)
    return torch.where(counted, rows, 0.0).sum() / counted.sum().clamp(min=1)


def collapsed_share_fraction(
    shares: Array, *, valid: Array | None = None, tolerance: float = NEAR_EVEN
) -> Tensor:
    """Fraction of shares within ``tolerance`` of 1/M.

    Args:
        shares: ``(S, M)``, rows sum to 1, as from `midas_aug.functional.label_shares`.
        valid: ``(S,)`` bool, rows to count; None counts all.
        tolerance: How near is near.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import collapsed_share_fraction
        >>> collapsed_share_fraction(torch.tensor([[0.52, 0.48], [0.9, 0.1]]))
        tensor(0.5000)
    """
    values, counted = _check_shares(shares, valid)
    near = row_collapsed(values, tolerance)
    return torch.where(counted, near, 0.0).sum() / counted.sum().clamp(min=1)


def hardness_quantiles(
    hardness: Array,
    *,
    valid: Array | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> Tensor:
    """Quantiles of the hard-sample weights of misaligned rows.

    The weight is 1 + (s + 1) / 2 with s the cosine of the feature and its replacement (Eq. 8). All
    near 2: every swap looks alike, as where features have not been centred, and the weights tell
    nothing apart.

    Args:
        hardness: ``(S,)`` float, as from `midas_aug.functional.hard_sample_weights`.
        valid: ``(S,)`` bool, rows to count; None counts all.
        quantiles: Which ones, in [0, 1].

    Returns:
        One number a quantile; NaN when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import hardness_quantiles
        >>> hardness_quantiles(torch.tensor([1.0, 1.5, 2.0]), quantiles=(0.0, 0.5, 1.0))
        tensor([1.0000, 1.5000, 2.0000])
    """
    values = as_scores(hardness, "hardness", ndim=1).detach()
    counted = _counted(len(values), valid, values)
    wanted = torch.tensor(list(quantiles), dtype=values.dtype, device=values.device)
    if len(values) == 0:
        return torch.full_like(wanted, float("nan"))
    return torch.where(counted, values, float("nan")).nanquantile(wanted)


# ---------------------------------------------------------------- shared with the other modules


def absent(
    value: Any,
    removal: str,
    name: str,
    *,
    mean: Any = None,
    generator: torch.Generator | None = None,
) -> Any:
    """What stands in for the modality ``value`` when it is removed."""
    if removal == "zero":
        return map_arrays(lambda array: torch.zeros_like(as_tensor(array, name)), value)
    if removal == "permute":
        rows = first_rows(value)
        order = torch.randperm(rows, generator=generator)
        return take_rows(value, order_like(order, value), rows, path=name, strict=True)
    if removal == "mean":
        means = mean_of(value, name) if mean is None else mean
        return spread(means, first_rows(value))
    raise MidasAugError(
        f"expected removal to be one of {list(REMOVALS)!r}, got {removal!r}; it says what "
        "stands in for a modality that is removed"
    )


def order_like(order: Tensor, tree: Any) -> Tensor:
    """``order`` on the device of the first tensor in ``tree``."""
    devices: list[torch.device] = []
    map_arrays(lambda array: devices.append(as_tensor(array, "a modality").device), tree)
    return order.to(devices[0]) if devices else order


def mean_of(tree: Any, name: str) -> Any:
    """The mean row of every array in ``tree``."""

    def mean(array: Any) -> Tensor:
        values = as_tensor(array, name)
        if not values.is_floating_point():
            raise MidasAugError(
                f"expected {name!r} to hold floats to take the mean of, got {values.dtype}; use "
                "removal='permute' for token ids, or work at feature level"
            )
        return values.detach().mean(dim=0)

    return map_arrays(mean, tree)


def spread(means: Any, rows: int) -> Any:
    """``means`` (one row without its axis) repeated ``rows`` times."""
    return map_arrays(lambda mean: mean.expand(rows, *mean.shape), means)


def check_logits(logits: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """Logits (N, C) without gradient, and labels (N,)."""
    scores = as_scores(logits, "logits").detach()
    classes = as_labels(labels, "labels")
    check_shape(scores, (len(classes), None), "logits", "one row a label, one column a class")
    check_label_range(classes, scores.shape[1])
    return scores, classes


def check_misaligned(
    logits: Array, source_labels: Array, valid: Array | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (S, C) without gradient, source labels (S, M), and which rows count."""
    scores = as_scores(logits, "logits").detach()
    classes = as_labels(source_labels, "source_labels", ndim=2)
    check_shape(classes, (len(scores), None), "source_labels", "one row a row of logits")
    check_label_range(classes, scores.shape[1])
    counted = _counted(len(scores), valid, scores) & (classes >= 0).all(dim=1)
    return scores, classes, counted


def has_two_labels(source_labels: Tensor) -> Tensor:
    """Whether the sources of each row have at least two different labels, (S,) bool."""
    return (source_labels != source_labels[:, :1]).any(dim=1)


def source_probability(scores: Tensor, source_labels: Tensor, *, normalized: bool) -> Tensor:
    """Probability (S, M) of the label of each modality's source."""
    chosen = source_labels.clamp(min=0)
    if normalized:  # p over its sum over modalities is a softmax of these logits
        return scores.gather(1, chosen).softmax(dim=1)
    return scores.softmax(dim=1).gather(1, chosen)


def odd_one_out(scores: Tensor, source_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whom the model follows: what it makes of a modality that disagrees with all others.

    Returns:
        Each (S, M): credit, the probability of the modality's label over that of all labels of the
        row; followed, 1 where its label ranks above the others' (1/k for k labels in a tie); and
        odd, bool, whether no other modality has this label. The first two are 0 where it is not.
    """
    classes = source_labels.clamp(min=0)
    same = classes[:, :, None] == classes[:, None, :]  # (S, M, M)
    repeated = same.tril(diagonal=-1).any(dim=2)  # a label that an earlier modality has, too
    odd = (same.sum(dim=2) == 1) & has_two_labels(classes)[:, None]
    logits = scores.gather(1, classes)
    distinct = logits.masked_fill(repeated, float("-inf"))
    first = (distinct == distinct.amax(dim=1, keepdim=True)).to(scores.dtype)
    followed = first / first.sum(dim=1, keepdim=True)
    return (
        torch.where(odd, distinct.softmax(dim=1), 0.0),
        torch.where(odd, followed, 0.0),
        odd,
    )


def calibration_gaps(
    logits: Array, labels: Array, *, bins: int = CALIBRATION_BINS
) -> tuple[Tensor, Tensor]:
    """Right − confidence, in the column of the row's bin (N, bins), and which rows count (N,)."""
    scores, classes = check_logits(logits, labels)
    counted = classes >= 0
    confidence, guess = scores.softmax(dim=1).max(dim=1)
    number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.where(counted, (guess == classes).to(scores.dtype) - confidence, 0.0)
    return scores.new_zeros(len(scores), bins).scatter_(1, number[:, None], gap[:, None]), counted


def row_entropy(shares: Tensor) -> Tensor:
    """Entropy of each row over log M, (S,)."""
    return -torch.xlogy(shares, shares).sum(dim=1) / log(max(shares.shape[1], 2))


def row_collapsed(shares: Tensor, tolerance: float = NEAR_EVEN) -> Tensor:
    """Fraction of each row's shares that are within ``tolerance`` of 1/M, (S,)."""
    near = (shares - 1 / shares.shape[1]).abs() <= tolerance
    return near.to(shares.dtype).mean(dim=1)


def _check_shares(shares: Array, valid: Array | None) -> tuple[Tensor, Tensor]:
    values = as_scores(shares, "shares").detach()
    return values, _counted(len(values), valid, values)


def _counted(rows: int, valid: Array | None, like: Tensor) -> Tensor:
    if valid is None:
        return torch.ones(rows, dtype=torch.bool, device=like.device)
    mask = as_tensor(valid, "valid")
    check_shape(mask, (rows,), "valid", "one flag a row")
    return mask.bool()
