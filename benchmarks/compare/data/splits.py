"""Training, validation and test rows: 60, 20 and 20 per cent of a data set."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data.base import Dataset

Rows = NDArray[np.int64]

FOLDS = 5  # three to train on, one to validate, one to test


def split(dataset: Dataset, seed: int) -> tuple[Rows, Rows, Rows]:
    """Rows to train, to validate and to test on, each in ascending order.

    Every class has about the same share of each part. Rows of one group stay in one part; where
    each group holds every class (the people of `watch`), the groups are dealt out at random, an
    equal number of groups to a fold.

    Args:
        dataset: The data set.
        seed: The same seed gives the same split.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    labels, groups = dataset.labels, dataset.groups
    if groups is None:
        folding = StratifiedKFold
    elif _whole_groups(labels, groups):
        # StratifiedGroupKFold shuffles only groups of the same class counts: with few large groups
        # all seeds would give it the same folds.
        folding = GroupKFold
    else:
        folding = StratifiedGroupKFold
    folds = folding(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    *training, validation, test = (rows for _, rows in folds)
    return np.sort(np.concatenate(training)), np.sort(validation), np.sort(test)


def _whole_groups(labels: Rows, groups: Rows) -> bool:
    """Whether every group holds every class."""
    pairs = np.unique(np.stack([groups, labels]), axis=1)
    return bool(pairs.shape[1] == len(np.unique(groups)) * len(np.unique(labels)))
