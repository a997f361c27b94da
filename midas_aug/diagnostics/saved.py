"""A report from saved logits, for models that do not live in PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from midas_aug._arrays import NDArray, as_labels, as_scores, as_tensor, check_shape
from midas_aug.diagnostics.measures import Subset, check_misaligned
from midas_aug.diagnostics.outcomes import Outcomes
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import check_label_range, true_class_confidence

__all__ = ["report_from_logits"]

PREFIXES = ("removed_", "alone_", "head_")
OTHERS = ("logits", "labels", "all_removed", "misaligned_logits", "source_labels", "modalities")


def report_from_logits(
    arrays: Mapping[str, Any],
    *,
    modalities: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "model",
) -> ModalityReport:
    """Make a report from logits that some program saved; what is missing is left out.

    Args:
        arrays: NumPy arrays or tensors by name, as from ``numpy.load("file.npz")``. Needed:
            ``logits`` (N, C) of the whole model and ``labels`` (N,). As far as there are any, for
            a modality m: ``removed_m`` (N, C), the model with m removed; ``alone_m`` (N, C), the
            model with all others removed; ``head_m`` (N, C), a classifier of m alone;
            ``all_removed`` (N, C). Of misaligned rows: ``misaligned_logits`` (S, C) and
            ``source_labels`` (S, M), one column a modality. ``modalities``: their names in order.
        modalities: Names, in the order of the columns of ``source_labels``; None takes
            ``arrays["modalities"]``, or else the names found in the keys, in alphabetical order.
        resamples: Bootstrap samples of the rows.
        seed: Of the bootstrap.
        name: What tables and figures call the model.

    Raises:
        MidasAugError: An array is missing, unknown, or of the wrong shape.

    Example:
        >>> import numpy as np
        >>> from midas_aug.diagnostics import report_from_logits
        >>> labels = np.arange(40) % 4
        >>> logits = 9.0 * np.eye(4)[labels]
        >>> saved = {"logits": logits, "labels": labels}
        >>> saved |= {"removed_a": 0 * logits, "removed_b": logits}
        >>> report = report_from_logits(saved)
        >>> report.modalities, report.scores["cost.b"].value
        (('a', 'b'), 0.0)
    """
    given = {str(key): arrays[key] for key in arrays}
    names = _names(given, modalities)
    for key in ("logits", "labels"):
        if key not in given:
            raise MidasAugError(f"expected an array {key!r}, got {sorted(given)!r}")
    labels = as_labels(_array(given["labels"], "labels"), "labels")
    keep = labels >= 0
    if not bool(keep.any()):
        raise MidasAugError("expected at least one label of 0 or more, got none")
    whole = _logits(given, "logits", len(labels), None)
    classes = whole.shape[1]
    check_label_range(labels, classes)
    labels = labels[keep]
    seen = Outcomes(names, labels, classes=classes)

    def read(key: str) -> Tensor | None:
        return _logits(given, key, len(keep), classes)[keep] if key in given else None

    everything = Subset(names)
    subsets = {everything: whole[keep]}
    found = {everything - {m}: read(f"removed_{m}") for m in names}
    found |= {Subset({m}): logits for m in names if (logits := read(f"alone_{m}")) is not None}
    found |= {Subset(): read("all_removed")}
    subsets |= {subset: logits for subset, logits in found.items() if logits is not None}
    for subset, logits in subsets.items():
        seen.right[subset] = (logits.argmax(dim=1) == labels).float()
        if len(subset) == 1:
            seen.alone[next(iter(subset))] = true_class_confidence(logits, labels)
    for m in names:
        head = read(f"head_{m}")
        if head is not None:
            seen.add_head(m, head)
    _add_misaligned(seen, given, classes)
    settings = {"rows": len(labels), "classes": classes, "level": "saved logits"}
    return seen.report(name, settings, resamples=resamples, seed=seed)


def _add_misaligned(seen: Outcomes, given: Mapping[str, Any], classes: int) -> None:
    if "misaligned_logits" not in given and "source_labels" not in given:
        return
    for key in ("misaligned_logits", "source_labels"):
        if key not in given:
            raise MidasAugError(
                f"expected an array {key!r}, got {sorted(given)!r}; misaligned rows need both "
                "'misaligned_logits' and 'source_labels'"
            )
    sources = _array(given["source_labels"], "source_labels")
    logits = _logits(given, "misaligned_logits", len(sources), classes)
    scores, source_labels, counted = check_misaligned(logits, sources, None)
    if source_labels.shape[1] != len(seen.modalities):
        raise MidasAugError(
            f"expected 'source_labels' with a column for each of {list(seen.modalities)!r}, got "
            f"shape {tuple(source_labels.shape)}; name the modalities in the order of the columns"
        )
    if len(scores) > 0:
        seen.add_misaligned(scores, source_labels, counted)


def _names(given: Mapping[str, Any], modalities: Sequence[str] | None) -> tuple[str, ...]:
    found = {key.removeprefix(p) for key in given for p in PREFIXES if key.startswith(p)}
    if modalities is None and "modalities" in given:
        modalities = [str(name) for name in np.asarray(given["modalities"]).ravel()]
    names = tuple(sorted(found) if modalities is None else modalities)
    if modalities is None and len(names) < 2 and "source_labels" in given:
        columns = np.shape(given["source_labels"])[-1:]
        names = tuple(f"modality {number + 1}" for number in range(*columns)) or names
    if len(names) < 2 or len(set(names)) < len(names):
        raise MidasAugError(
            f"expected at least two different modalities, got {list(names)!r}; name them with "
            "modalities, or save arrays called removed_<modality>"
        )
    known = {f"{prefix}{name}" for prefix in PREFIXES for name in names} | set(OTHERS)
    unknown = sorted(set(given) - known)
    if unknown:
        raise MidasAugError(
            f"expected arrays called {', '.join(OTHERS)} or {', '.join(PREFIXES)} before one of "
            f"{list(names)!r}, got {unknown!r}"
        )
    return names


def _array(value: Any, name: str) -> Tensor | NDArray:
    return as_tensor(value if isinstance(value, Tensor) else np.asarray(value), name)


def _logits(given: Mapping[str, Any], key: str, rows: int, classes: int | None) -> Tensor:
    scores = as_scores(_array(given[key], repr(key)), repr(key)).detach()
    check_shape(scores, (rows, classes), repr(key), "one row a label, one column a class")
    return scores
