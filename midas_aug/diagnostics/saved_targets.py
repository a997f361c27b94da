"""A report from saved predictions of labels that are no classes: several a row, or numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import NDArray, check_shape
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.shapley import Subset
from midas_aug.diagnostics.tables import check_scores
from midas_aug.diagnostics.target_outcomes import TargetOutcomes
from midas_aug.errors import MidasAugError
from midas_aug.targets import Continuous, Distribution, MultiLabel, Target

__all__ = ["TARGETS", "TargetName", "report_of_target", "target_called", "training_heads"]

TargetName: TypeAlias = Literal["class", "distribution", "multi-label", "continuous"]

# By the number of columns of the labels; a class index is one integer a row and needs none.
TARGETS: dict[TargetName, Callable[[int], Target] | None] = {
    "class": None,
    "distribution": Distribution,
    "multi-label": MultiLabel,
    "continuous": Continuous,
}
OF_CLASSES = ("misaligned_logits", "source_labels")


def target_called(name: TargetName, given: Mapping[str, NDArray]) -> Target | None:
    """The target of a name, as wide as the labels; None for class indices.

    Raises:
        MidasAugError: The labels have another number of axes.
    """
    build, labels = TARGETS[name], given.get("labels")
    if build is None or labels is None:
        return None
    if labels.ndim == 1 and name == "continuous":
        return build(1)
    if labels.ndim != 2:
        raise MidasAugError(
            f"expected 'labels' of shape (N, C) for the target {name}, got {labels.shape}; one "
            "column for each class"
        )
    return build(labels.shape[1])


def report_of_target(
    given: Mapping[str, NDArray],
    modalities: Sequence[str],
    target: Target,
    *,
    name: str,
    settings: Mapping[str, Any],
    resamples: int,
    seed: int,
) -> ModalityReport:
    """Score saved predictions ``(N, n_outputs)`` as `diagnose` does, as far as they are there.

    Raises:
        MidasAugError: Labels or predictions do not fit the target, or no row has a label.
    """
    refused = [key for key in OF_CLASSES if key in given]
    if refused:
        raise MidasAugError(
            f"expected no {refused[0]!r} with {target!r}, got one; misaligned rows are scored for "
            "class indices alone, so leave it out"
        )
    labels = _labels(given, "labels", target)
    ids = target.label_ids(labels)
    keep = ids >= 0
    if not bool(keep.any()):
        raise MidasAugError("expected at least one row with a label, got none")
    labels, ids = labels[keep], ids[keep]
    readable, everything = target.filled(labels), Subset(modalities)
    seen = TargetOutcomes(tuple(modalities), target, ids)

    def read(key: str, what: str) -> Tensor | None:
        if key not in given:
            return None
        rows = _predictions(given, key, target, len(keep))[keep]
        return seen.faults.usable(rows, what, torch.ones(len(rows), dtype=torch.bool))

    kinds = [(everything, "logits", "of the whole model")]
    for m in modalities:
        kinds.append((everything - {m}, f"removed_{m}", f"with {m} removed"))
    for m in modalities:  # of two modalities this is what the other removed is: it comes last
        kinds.append((Subset({m}), f"alone_{m}", f"with all but {m} removed"))
    for subset, key, what in kinds:
        predictions = read(key, what)
        if predictions is not None:
            if key == "logits":
                seen.suspect(predictions, readable, what)
            seen.columns[subset] = seen.metric.columns(predictions, readable)
    heads = {m: read(f"head_{m}", f"of the head of {m}") for m in modalities}
    known = {m: head for m, head in heads.items() if head is not None}
    for m, head in known.items():
        seen.suspect(head, readable, f"of the head of {m}")
    if known:
        seen.add_heads(known, readable)
        seen.head_rows = HeadRows(list(known), seed=seed)
        seen.head_rows.add(list(known.values()), labels, torch.ones_like(ids, dtype=torch.bool))
    _add_training(seen, given)
    return seen.report(name, settings, resamples=resamples, seed=seed)


def training_heads(given: Mapping[str, NDArray], modalities: Sequence[str]) -> dict[str, str]:
    """The names of the arrays of heads on training rows, by modality; none where there are none.

    Raises:
        MidasAugError: There are heads without labels, or labels without heads.
    """
    keys = {m: f"training_head_{m}" for m in modalities if f"training_head_{m}" in given}
    if bool(keys) != ("training_labels" in given):
        raise MidasAugError(
            f"expected an array 'training_labels' and 'training_head_<modality>' together, got "
            f"{sorted(given)!r}; the skill of a head on training rows needs both"
        )
    return keys


def _add_training(seen: TargetOutcomes, given: Mapping[str, NDArray]) -> None:
    keys = training_heads(given, seen.modalities)
    if not keys:
        return
    labels = _labels(given, "training_labels", seen.target)
    keep = seen.target.label_ids(labels) >= 0
    logits = [
        seen.faults.usable(
            _predictions(given, key, seen.target, len(keep)),
            f"of the head of {m} on training rows",
            keep,
        )
        for m, key in keys.items()
    ]
    seen.training_rows = HeadRows(list(keys))
    seen.training_rows.add(logits, labels, keep)


def _labels(given: Mapping[str, NDArray], key: str, target: Target) -> Tensor:
    array = np.array(given[key])  # a copy: a table's columns cannot be written to
    if isinstance(target, Continuous) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # years, say
    return target.check(array, force=True)


def _predictions(given: Mapping[str, NDArray], key: str, target: Target, n_rows: int) -> Tensor:
    check_scores(given, key)
    predictions = target.predictions(np.array(given[key]), repr(key))
    why = f"one row a label, and the columns of {target!r}"
    check_shape(predictions, (n_rows, target.n_outputs), repr(key), why)
    return predictions
