"""Shapley values of modalities: of the accuracy, and SMV's of single rows."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TypeAlias

import torch
from torch import Tensor

from midas_aug.errors import MidasAugError

__all__ = ["Subset", "accuracy_shapley", "all_subsets", "sample_shapley", "shapley"]

Subset: TypeAlias = frozenset[str]


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
    n_modalities = len(modalities)
    missing = [sorted(subset) for subset in all_subsets(modalities) if subset not in values]
    if missing or n_modalities == 0:
        raise MidasAugError(
            f"expected a value for every subset of {modalities!r}, the empty one too; missing are "
            f"{missing!r}"
        )
    contributions = {}
    for modality in modalities:
        others = [other for other in modalities if other != modality]
        total = torch.zeros_like(values[Subset()], dtype=torch.get_default_dtype())
        for subset in all_subsets(others):
            orders = factorial(len(subset)) * factorial(n_modalities - len(subset) - 1)
            chance = orders / factorial(n_modalities)
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
