"""What a trained model is scored by; pure functions of logits, then one call for all of them.

Removing a modality means that its feature is replaced by the mean of the training rows' features.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_f1_score

from benchmarks.model import Features
from midas_aug.functional import gather_rows, misaligned_accuracy, sample_partners

DRAWS = 5  # of partners, averaged: one draw of 200 rows has a standard error of 3 points

Subset = frozenset[str]


class Scored(NamedTuple):
    """Encoded rows to score a model on."""

    features: Features
    labels: Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of rows whose highest logit is the label's."""
    return float((logits.argmax(dim=1) == labels).float().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean F1 over classes, of the whole set of rows."""
    classes = logits.shape[1]
    return float(multiclass_f1_score(logits, labels, num_classes=classes, average="macro"))


def misaligned_confidence(logits: Tensor, source_labels: Tensor) -> Tensor:
    """Mean probability ``(M,)`` of the label of each modality's source row (MIDAS Fig. 1b).

    No row gives 0.
    """
    probability = logits.softmax(dim=1).gather(1, source_labels)
    return probability.sum(dim=0) / max(len(probability), 1)


def shapley(values: Mapping[Subset, Tensor]) -> dict[str, Tensor]:
    """Shapley value of each modality, from the value of every subset of modalities.

    ``values`` has all 2^M subsets, the empty one too. The values of the modalities sum to
    v(all) − v(none).
    """
    modalities = max(values, key=len)
    count = len(modalities)
    contributions = {}
    for modality in sorted(modalities):
        others = modalities - {modality}
        contributions[modality] = sum(
            (
                factorial(size)
                * factorial(count - size - 1)
                / factorial(count)
                * (values[Subset(subset) | {modality}] - values[Subset(subset)])
                for size in range(count)
                for subset in combinations(sorted(others), size)
            ),
            start=torch.zeros(()),
        )
    return contributions


def all_subsets(modalities: tuple[str, ...]) -> list[Subset]:
    """Every subset, from none to all."""
    return [
        Subset(subset)
        for size in range(len(modalities) + 1)
        for subset in combinations(modalities, size)
    ]


@torch.no_grad()
def evaluate(
    predict: Callable[[Features], Tensor], rows: Scored, training: Features
) -> dict[str, float]:
    """All scores of one model, as fractions.

    Args:
        predict: Features to logits ``(N, C)``, in eval mode.
        rows: The rows to score.
        training: Features of the training rows.

    Returns:
        ``accuracy``, ``macro_f1``, ``nll``; with two modalities or more also
        ``misaligned_accuracy`` (rows of different labels, each modality swapped in turn, averaged
        over `DRAWS` draws of partners), and for each modality m ``without.m`` (accuracy with m
        removed), ``confidence.m`` (on the same misaligned rows), ``shapley.m`` (of the accuracy)
        and ``smv.m`` (mean over rows of SMV's value, features set to 0).
    """
    features, labels = rows
    logits = predict(features)
    scores = {
        "accuracy": accuracy(logits, labels),
        "macro_f1": macro_f1(logits, labels),
        "nll": float(F.cross_entropy(logits, labels)),
    }
    if len(features) == 1:
        return scores
    scores |= _misaligned(predict, rows)
    scores |= _removed(predict, rows, training)
    return scores


def _misaligned(predict: Callable[[Features], Tensor], rows: Scored) -> dict[str, float]:
    features, labels = rows
    own = torch.arange(len(labels))
    generator = torch.Generator().manual_seed(0)  # the same partners for every method
    hits, confidence = [], []
    for _ in range(DRAWS):
        partner, valid = sample_partners(labels, generator=generator)
        for swapped in features:
            source = torch.stack([partner if m == swapped else own for m in features], dim=1)
            mixed = {m: gather_rows(f, source[:, k]) for k, (m, f) in enumerate(features.items())}
            logits = predict(mixed)
            hits.append(misaligned_accuracy(logits, labels[source], valid=valid))
            confidence.append(misaligned_confidence(logits[valid], labels[source[valid]]))
    means = torch.stack(confidence).mean(dim=0)
    named = {f"confidence.{m}": float(mean) for m, mean in zip(features, means, strict=True)}
    return {"misaligned_accuracy": float(torch.stack(hits).mean()), **named}


def _removed(
    predict: Callable[[Features], Tensor], rows: Scored, training: Features
) -> dict[str, float]:
    features, labels = rows
    means = {m: f.mean(dim=0).expand_as(features[m]) for m, f in training.items()}
    zeros = {m: torch.zeros_like(f) for m, f in features.items()}
    modalities = tuple(features)

    def correct(subset: Subset, absent: Features) -> Tensor:
        seen = {m: features[m] if m in subset else absent[m] for m in modalities}
        return (predict(seen).argmax(dim=1) == labels).float()

    subsets = all_subsets(modalities)
    accuracies = {subset: correct(subset, means).mean() for subset in subsets}
    # SMV's v(S) is |S| where S suffices for the label, and 0 for the empty set.
    counts = {subset: len(subset) * correct(subset, zeros) for subset in subsets}
    everything = Subset(modalities)
    scores = {f"without.{m}": float(accuracies[everything - {m}]) for m in modalities}
    scores |= {f"shapley.{m}": float(value) for m, value in shapley(accuracies).items()}
    scores |= {f"smv.{m}": float(value.mean()) for m, value in shapley(counts).items()}
    return scores
