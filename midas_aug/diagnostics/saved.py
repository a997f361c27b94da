"""A report from saved logits, for models that do not live in PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import NDArray
from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.measures import row_correct
from midas_aug.diagnostics.outcomes import Outcomes
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.saved_targets import report_of_target, saved_labels, training_heads
from midas_aug.diagnostics.shapley import Subset
from midas_aug.diagnostics.tables import (
    TABLES,
    DataFrame,
    TableArrays,
    arrays_of_table,
    check_indices,
    check_scores,
    read_table,
)
from midas_aug.diagnostics.wording import check_name
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import true_class_confidence
from midas_aug.targets import ClassIndex, Distribution, Target, resolve_target

__all__ = ["read_arrays", "read_saved", "report_from_logits"]

PREFIXES = ("removed_", "alone_", "head_", "training_head_")
OTHERS = (
    "logits",
    "labels",
    "training_labels",
    "all_removed",
    "misaligned_logits",
    "source_labels",
    "modalities",
)


def report_from_logits(
    arrays: Mapping[str, Any] | DataFrame | str | Path,
    *,
    modalities: Sequence[str] | None = None,
    target: Target | None = None,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "model",
) -> ModalityReport:
    """Make a report from logits that some program saved; what is missing is left out.

    Args:
        arrays: NumPy arrays or tensors by name, or the path of an ``.npz`` file of them. Or a table
            with a column for each class, ``logits_0``, ``removed_m_0``, … and ``label``: a
            DataFrame, or the path of a ``.csv`` or ``.parquet`` file. Needed: ``logits`` (N, C) of
            the whole model and ``labels`` (N,). As far as there are any, for
            a modality m: ``removed_m`` (N, C), the model with m removed; ``alone_m`` (N, C), the
            model with all others removed; ``head_m`` (N, C), a classifier of m alone;
            ``all_removed`` (N, C). Of training rows: ``training_labels`` (T,) and, for a modality,
            ``training_head_m`` (T, C). Of misaligned rows: ``misaligned_logits`` (S, C) and
            ``source_labels`` (S, M), one column a modality. ``modalities``: their names in order.
        modalities: Names, in the order of the columns of ``source_labels``; None takes
            ``arrays["modalities"]``, or else the names found in the keys, in alphabetical order.
        target: What a label is, as in `diagnose`, where it is no class index: ``labels`` are then
            what the target takes, and ``logits`` and all others have its columns.
        resamples: Number of bootstrap samples of the rows.
        seed: Seed for the bootstrap.
        name: What tables and figures call the model.

    Raises:
        MidasAugError: The file is damaged; an array is missing, unknown, of the wrong shape or
            dtype, or has rows of NaN; or the rows are of one class.

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
    check_numbers(resamples=resamples)
    check_seed(seed)
    check_name(name)
    given = read_saved(arrays)
    for key in ("logits", "labels"):
        if key not in given:
            raise MidasAugError(
                f"expected an array {key!r}, got {sorted(given)!r}; save the whole model's logits "
                "(N, C) as 'logits' and its rows' classes (N,) as 'labels'"
            )
    names = _names(given, modalities)
    settings = {"level": "saved logits"}
    if target is not None and not isinstance(
        resolve_target(None, target), ClassIndex | Distribution
    ):
        return report_of_target(
            given, names, target, name=name, settings=settings, resamples=resamples, seed=seed
        )
    whole, n_classes = _logits(given, "logits"), given["logits"].shape[1]
    labels = _labels(given, "labels", target)
    wanted = target.num_classes if isinstance(target, Distribution) else n_classes
    _check_rows(whole, "logits", len(labels), wanted)
    _check_range(labels, "labels", n_classes)
    keep = labels >= 0
    if not bool(keep.any()):
        raise MidasAugError("expected at least one label of 0 or more, got none")
    labels = labels[keep]
    seen = Outcomes(names, labels, n_classes)

    def read(key: str, what: str) -> Tensor | None:
        if key not in given:
            return None
        logits = _logits(given, key)
        _check_rows(logits, key, len(keep), n_classes)
        return seen.usable(logits[keep], what)

    everything = Subset(names)
    whole = seen.usable(whole[keep], "of the whole model")
    seen.add_whole(whole)
    if isinstance(target, Distribution):
        rows = saved_labels(given, "labels", target)[keep]
        seen.losses = -target.log_likelihoods(whole, target.filled(rows)[:, None])[:, 0]
    found = {everything - {m}: read(f"removed_{m}", f"with {m} removed") for m in names}
    for m in names:
        alone = read(f"alone_{m}", f"with all but {m} removed")
        if alone is not None:
            found[Subset({m})] = alone
    found[Subset()] = read("all_removed", "with every modality removed")
    for subset, logits in found.items():
        if logits is not None:
            right = row_correct(logits, labels).float()
            seen.add_subset(subset, right, true_class_confidence(logits, labels))
    heads = {m: read(f"head_{m}", f"of the head of {m}") for m in names}
    known = {m: head for m, head in heads.items() if head is not None}
    for m, head in known.items():
        seen.add_head(m, head)
    if known:
        seen.head_rows = HeadRows(list(known), seed=seed)
        seen.head_rows.add(list(known.values()), labels)
    _add_training(seen, given, target)
    _add_misaligned(seen, given)
    return seen.report(name, settings, resamples=resamples, seed=seed)


def read_arrays(path: str | Path) -> dict[str, NDArray]:
    """Read an ``.npz`` file of arrays of numbers (or of strings).

    Raises:
        MidasAugError: There is no such file, it is damaged, or it holds something else.
    """
    try:
        with open(path, "rb") as file:
            return _read_file(file, str(path))
    except OSError as error:
        raise MidasAugError(f"expected a file {path}, got {_reason(error)}") from None


# ---------------------------------------------------------------- reading


def _read_file(file: BinaryIO, source: str) -> dict[str, NDArray]:
    start = file.read(6)
    if not start.startswith(b"PK"):
        kind = "one array" if start == b"\x93NUMPY" else "an empty file" if not start else "no .npz"
        raise MidasAugError(
            f"expected an .npz file with several arrays, got {kind} in {source}; save them with "
            "numpy.savez(FILE, logits=..., labels=...)"
        )
    file.seek(0)
    try:
        loaded = np.load(file, allow_pickle=False)
    except Exception as error:  # of zipfile, zlib, struct, ...: whatever damage makes them raise
        _refuse_damaged(source, error)
    return {key: _read_array(loaded, key, source) for key in loaded.files}


def read_saved(arrays: Mapping[str, Any] | DataFrame | str | Path) -> dict[str, NDArray]:
    """The arrays of a file, a table or a mapping, by name.

    Raises:
        MidasAugError: They cannot be read.
    """
    if isinstance(arrays, str | Path):
        return read_table(arrays) if str(arrays).lower().endswith(TABLES) else read_arrays(arrays)
    if isinstance(arrays, TableArrays):
        return arrays
    if hasattr(arrays, "columns"):
        return arrays_of_table(arrays)
    if not isinstance(arrays, Mapping):
        raise MidasAugError(
            f"expected arrays by name, a table, or the path of a file, got "
            f"{type(arrays).__name__}; pass a dict such as {{'logits': ..., 'labels': ...}}"
        )
    return {str(key): _read_array(arrays, key, "the arrays") for key in arrays}


def _read_array(arrays: Mapping[Any, Any], key: Any, source: str) -> NDArray:
    try:
        value = arrays[key]  # an open .npz file reads it now
    except Exception as error:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise MidasAugError(
                f"expected numbers in the array {str(key)!r} of {source}, got pickled objects; "
                "save arrays of numbers (rows of equal length) with numpy.savez"
            ) from None
        _refuse_damaged(source, error)
    if isinstance(value, bytes):
        raise MidasAugError(
            f"expected arrays in {source}, got the file {str(key)!r} in it; save them with "
            "numpy.savez"
        )
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype in (torch.bfloat16, torch.half) else value).numpy()
    array: NDArray = np.asarray(value)
    return array


def _refuse_damaged(source: str, error: Exception) -> NoReturn:
    raise MidasAugError(
        f"expected to read {source}, got {_reason(error)}; {source} is damaged or encrypted: "
        "delete it and save it again with numpy.savez"
    ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).splitlines()
    return f"{type(error).__name__} ({lines[0][:80]})" if lines else type(error).__name__


# ---------------------------------------------------------------- arrays


def _logits(given: Mapping[str, NDArray], key: str) -> Tensor:
    check_scores(given, key)
    array = given[key]
    if array.dtype.kind != "f":
        raise MidasAugError(
            f"expected {key!r} to hold numbers with a fraction, one score a class, got dtype "
            f"{array.dtype}; save what the model gives before it picks a class"
        )
    if array.ndim != 2 or array.shape[1] < 2:
        raise MidasAugError(
            f"expected {key!r} of shape (N, C), a row a label and a column for each of two classes "
            f"or more, got {array.shape}"
            + ("; a single logit x of two classes is the pair (0, x)" if array.ndim < 3 else "")
        )
    wide = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    return torch.from_numpy(wide)


def _labels(given: Mapping[str, NDArray], key: str, target: Target | None) -> Tensor:
    """Class indices ``(N,)``: as they are, or the most probable class."""
    if isinstance(target, Distribution):
        return target.label_ids(saved_labels(given, key, target))
    return _indices(given, key, ndim=1)


def _indices(given: Mapping[str, NDArray], key: str, *, ndim: int) -> Tensor:
    check_indices(given, key)
    array = given[key]
    if array.dtype.kind not in "iu":
        raise MidasAugError(
            f"expected {key!r} with an integer dtype, got {array.dtype}; save the indices of the "
            "classes, as in labels.astype('int64')"
        )
    if array.ndim != ndim:
        shape = "(N,), the index of a class for each row" if ndim == 1 else "(S, M)"
        raise MidasAugError(f"expected {key!r} of shape {shape}, got {array.shape}")
    if array.dtype == np.uint64:
        array = array.clip(max=np.iinfo(np.int64).max)
    return torch.from_numpy(array.astype(np.int64))


def _check_range(labels: Tensor, key: str, n_classes: int) -> None:
    if labels.numel() and int(labels.max()) >= n_classes:
        raise MidasAugError(
            f"expected {key!r} below {n_classes}, the number of columns of 'logits', got "
            f"{int(labels.max())}; save logits with a column for each class, and a negative label "
            "for rows that do not count"
        )


def _check_rows(logits: Tensor, key: str, n_rows: int, n_classes: int) -> None:
    if tuple(logits.shape) != (n_rows, n_classes):
        raise MidasAugError(
            f"expected {key!r} of shape ({n_rows}, {n_classes}), got {tuple(logits.shape)}; one "
            "row a label, one column a class"
        )


def _add_training(seen: Outcomes, given: Mapping[str, NDArray], target: Target | None) -> None:
    keys = training_heads(given, seen.modalities)
    if not keys:
        return
    labels = _labels(given, "training_labels", target)
    _check_range(labels, "training_labels", seen.n_classes)
    keep = labels >= 0
    logits = []
    for m, key in keys.items():
        scored = _logits(given, key)
        _check_rows(scored, key, len(labels), seen.n_classes)
        what = f"of the head of {m} on training rows"
        logits.append(seen.usable(scored, what, keep)[keep])
    seen.training_rows = HeadRows(list(keys))
    seen.training_rows.add(logits, labels[keep])


def _add_misaligned(seen: Outcomes, given: Mapping[str, NDArray]) -> None:
    if "misaligned_logits" not in given and "source_labels" not in given:
        return
    for key in ("misaligned_logits", "source_labels"):
        if key not in given:
            raise MidasAugError(
                f"expected an array {key!r}, got {sorted(given)!r}; misaligned rows need both "
                "'misaligned_logits' and 'source_labels'"
            )
    source_labels = _indices(given, "source_labels", ndim=2)
    logits = _logits(given, "misaligned_logits")
    _check_rows(logits, "misaligned_logits", len(source_labels), seen.n_classes)
    if source_labels.shape[1] != len(seen.modalities):
        raise MidasAugError(
            f"expected 'source_labels' with a column for each of {list(seen.modalities)!r}, got "
            f"shape {tuple(source_labels.shape)}; name the modalities in the order of the columns"
        )
    _check_range(source_labels, "source_labels", seen.n_classes)
    if len(logits) > 0:
        counted = (source_labels >= 0).all(dim=1)
        logits = seen.usable(logits, "of the misaligned rows", counted)
        seen.add_misaligned(logits, source_labels, counted)


def _names(given: Mapping[str, NDArray], modalities: Sequence[str] | None) -> tuple[str, ...]:
    found = {key.removeprefix(p) for key in given for p in PREFIXES if key.startswith(p)}
    if modalities is None and "modalities" in given:
        modalities = [str(name) for name in given["modalities"].ravel()]
    if isinstance(modalities, str):
        raise MidasAugError(f"expected the modalities as a list of names, got {modalities!r}")
    names = tuple(sorted(found) if modalities is None else map(str, modalities))
    if modalities is None and len(names) < 2 and "source_labels" in given:
        columns = given["source_labels"].shape[-1:]
        names = tuple(f"modality {number + 1}" for number in range(*columns)) or names
    if len(names) < 2 or len(set(names)) < len(names):
        raise MidasAugError(
            f"expected at least two different modalities, got {list(names)!r} from the arrays "
            f"{sorted(given)!r}; save arrays called removed_<modality>, alone_<modality> or "
            "head_<modality>, as far as you have them, and name all modalities or none"
        )
    known = {f"{prefix}{name}" for prefix in PREFIXES for name in names} | set(OTHERS)
    unknown = sorted(set(given) - known)
    if unknown:
        raise MidasAugError(
            f"expected arrays called {', '.join(OTHERS)} or {', '.join(PREFIXES)} before one of "
            f"{list(names)!r}, got {unknown!r}"
        )
    return names
