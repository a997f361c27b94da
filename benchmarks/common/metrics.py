"""What a trained model is scored by, in one call; the measures are `midas_aug.diagnostics`.

Removing a modality means that its feature is replaced by the mean of the training rows' features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_f1_score

from benchmarks.common.model import Features
from midas_aug import diagnostics
from midas_aug.functional import gather_rows, sample_partners

DRAWS = 5  # of partners, averaged: one draw of 200 rows has a standard error of 3 points


class Scored(NamedTuple):
    """Encoded rows to score a model on."""

    features: Features
    labels: Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of rows whose highest logit is the label's."""
    return float(diagnostics.accuracy(logits, labels))


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean F1 over classes, of the whole set of rows."""
    classes = logits.shape[1]
    return float(multiclass_f1_score(logits, labels, num_classes=classes, average="macro"))


def batch_macro_f1(logits: Tensor, labels: Tensor, size: int) -> float:
    """Macro-F1 of each batch over the classes in it, averaged by the batches' sizes.

    Lower than `macro_f1` where classes are many; the MIDAS paper's F1 is very probably this one.
    """
    batches = zip(torch.split(logits, size), torch.split(labels, size), strict=True)
    return sum(len(part) * macro_f1(scores, part) for scores, part in batches) / len(labels)


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
            both = labels[source]
            hits.append(diagnostics.misaligned_accuracy(logits, both, valid=valid))
            confidence.append(diagnostics.misaligned_confidence(logits, both, valid=valid))
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

    def correct(subset: frozenset[str], absent: Features) -> Tensor:
        seen = {m: features[m] if m in subset else absent[m] for m in modalities}
        return predict(seen).argmax(dim=1) == labels

    subsets = diagnostics.all_subsets(modalities)
    by_mean = {subset: correct(subset, means) for subset in subsets}
    by_zero = {subset: correct(subset, zeros) for subset in subsets}
    everything = frozenset(modalities)
    scores = {f"without.{m}": float(by_mean[everything - {m}].float().mean()) for m in modalities}
    for name, value in diagnostics.accuracy_shapley(by_mean).items():
        scores[f"shapley.{name}"] = float(value)
    for name, value in diagnostics.sample_shapley(by_zero).items():
        scores[f"smv.{name}"] = float(value.mean())
    return scores
