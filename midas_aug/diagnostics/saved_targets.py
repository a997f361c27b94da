"""A report from saved predictions of labels that are no classes: several a row, or numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import NDArray
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.shapley import Subset
from midas_aug.diagnostics.tables import check_scores, place_of
from midas_aug.diagnostics.target_outcomes import TargetOutcomes
from midas_aug.errors import MidasAugError
from midas_aug.targets import Continuous, Distribution, MultiLabel, Target

__all__ = [
    "TARGETS",
    "TargetName",
    "report_of_target",
    "saved_labels",
    "target_called",
    "training_heads",
]

TargetName: TypeAlias = Literal["class", "distribution", "multi-label", "continuous"]

Kind: TypeAlias = type[Distribution] | type[MultiLabel] | type[Continuous]

KINDS: dict[TargetName, Kind] = {
    "distribution": Distribution,
    "multi-label": MultiLabel,
    "continuous": Continuous,
}
# By the number of columns of the labels; a class index is one integer a row and needs none.
TARGETS: dict[TargetName, Kind | None] = {"class": None, **KINDS}
OF_CLASSES = ("misaligned_logits", "source_labels")


def target_called(name: TargetName, given: Mapping[str, NDArray]) -> Target | None:
    """The target of a name, as wide as the labels; None for class indices.

    Raises:
        MidasAugError: The labels have another number of axes, or no columns.
    """
    build, labels = TARGETS[name], given.get("labels")
    if build is None or labels is None:
        return None
    if labels.ndim == 1 and name == "continuous":
        return build(1)
    if labels.ndim != 2 or labels.shape[1] == 0:
        what = "number of a label" if name == "continuous" else "class"
        raise MidasAugError(
            f"expected {place_of(given, 'labels')} of shape (N, C) for the target {name}, got "
            f"{labels.shape}; save one column for each {what}"
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
            f"expected no {refused[0]!r} with the target {_name_of(target)}, got one; misaligned "
            "rows are scored for class indices alone, so leave it out"
        )
    labels = saved_labels(given, "labels", target)
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
    labels = saved_labels(given, "training_labels", seen.target)
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


# ---------------------------------------------------------------- arrays, in words of the file


def saved_labels(given: Mapping[str, NDArray], key: str, target: Target) -> Tensor:
    """The labels as the target reads them.

    The errors of targets are for those who call Python; these are for those who have a file.

    Raises:
        MidasAugError: They are no such labels.
    """
    array = np.array(given[key])  # a copy: a table's columns cannot be written to
    if isinstance(target, Continuous) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # years, say
    try:
        return target.check(array, force=True)
    except MidasAugError:
        if type(target) not in KINDS.values():  # a caller's own: only it knows what is wrong
            raise
        wanted, got, way = _fault_of(array, key, target)
        place = f"{place_of(given, key)} for the target {_name_of(target)}"
        raise MidasAugError(f"expected {wanted} in {place}, got {got}; {way}") from None


def _fault_of(array: NDArray, key: str, target: Target) -> tuple[str, str, str]:
    """What was expected of labels that the target refuses, what came, and what to do."""
    if array.dtype.kind not in "biuf":
        return "numbers", f"dtype {array.dtype}", "save them as numbers"
    width = target.n_outputs
    is_column = array.ndim == 1 and width == 1 and isinstance(target, Continuous)
    if array.shape[1:] != (width,) and not is_column:
        like = repr(target) if key == "labels" else "'labels'"
        columns = f"{width} column{'s' * (width != 1)}"
        return columns, f"shape {array.shape}", f"save as many as {like} has"
    if isinstance(target, Continuous):
        return _fault_of_numbers(array)
    rows = array.astype(np.float32)
    return _fault_of_sets(rows) if isinstance(target, MultiLabel) else _fault_of_sums(rows)


def _fault_of_numbers(labels: NDArray) -> tuple[str, str, str]:
    if labels.dtype.kind == "b":
        way = f"save them as numbers, or as the classes 0 and 1 and {_choose('class')}"
        return "numbers", "dtype bool", way
    n_odd = int(np.isinf(labels.reshape(len(labels), -1)).any(axis=1).sum())
    way = "clip them, or write NaN in these rows, which then do not count"
    return "finite numbers", f"infinity in {n_odd} of {len(labels)} rows", way


def _fault_of_sets(rows: NDArray) -> tuple[str, str, str]:
    odd = (rows != 0) & (rows != 1)
    first = int((odd.any(axis=1) & ~(rows < 0).all(axis=1)).argmax())
    way = (
        "write -1 in every column of a row without labels; for rows that sum to 1 "
        f"{_choose('distribution')}"
    )
    return "zeros and ones", f"{rows[first][odd[first]][0]:g} in row {first}", way


def _fault_of_sums(rows: NDArray) -> tuple[str, str, str]:
    marked = ((rows == -1) | np.isnan(rows)).any(axis=1)
    negative = (rows < 0).any(axis=1) & ~marked
    if negative.any():
        first = int(negative.argmax())
        way = "save neither logits nor logarithms, and write -1 in a row without a label"
        return "probabilities", f"{rows[first].min():.4g} in row {first}", way
    sums = rows.sum(axis=1)
    furthest = int(np.where((rows >= 0).all(axis=1), abs(sums - 1), 0).argmax())
    way = (
        "divide each row by its sum, and write -1 in a row without a label; for several classes "
        f"per row {_choose('multi-label')}"
    )
    return "rows that sum to 1", f"{sums[furthest]:.4g} in row {furthest}", way


def _choose(name: TargetName) -> str:
    return f"choose --target {name}, or target= in Python"


def _name_of(target: Target) -> str:
    """What the command line calls a target; one that it does not know, as Python does."""
    names = [name for name, kind in KINDS.items() if isinstance(target, kind)]
    return names[0] if names else repr(target)


def _predictions(given: Mapping[str, NDArray], key: str, target: Target, n_rows: int) -> Tensor:
    check_scores(given, key)
    array = given[key]
    if array.dtype.kind != "f":
        raise MidasAugError(
            f"expected {key!r} to have a float dtype, got {array.dtype}; save what the model gives "
            "before it is rounded or a class is picked"
        )
    width = target.n_outputs
    if array.shape != (n_rows, width) and (array.shape != (n_rows,) or width != 1):
        raise MidasAugError(
            f"expected {key!r} of shape ({n_rows}, {width}), got {array.shape}; one row for each "
            "label, one column for each of its numbers"
        )
    return target.predictions(np.array(array), repr(key))
