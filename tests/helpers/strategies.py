"""Hypothesis strategies for batches of labels, confidences, logits, features and swap plans.

They draw NumPy arrays in float64 / int64 terms; `as_library` turns one into the array of a
library and dtype under test and gives back the float64 values that the dtype could hold, which
is what the reference must be fed. Large arrays come from a drawn seed, to keep drawing quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

Array = npt.NDArray[Any]
Library = Literal["numpy", "torch"]
Skew = Literal["uniform", "zipf", "one_heavy", "single", "with_ignored"]

LIBRARIES: tuple[Library, ...] = ("numpy", "torch")
SKEWS: tuple[Skew, ...] = ("uniform", "zipf", "one_heavy", "single", "with_ignored")
LABEL_DTYPES = ("int8", "int16", "int32", "int64", "uint8")
FEATURE_DTYPES = ("float16", "bfloat16", "float32", "float64")
IGNORED = (-100, -1)


both_libraries = pytest.mark.parametrize("library", LIBRARIES)
every_dtype = pytest.mark.parametrize(
    ("library", "dtype"),
    [(x, d) for x in LIBRARIES for d in FEATURE_DTYPES if (x, d) != ("numpy", "bfloat16")],
)

# ---------------------------------------------------------------- libraries and dtypes


def as_library(values: npt.ArrayLike, dtype: str, library: Library) -> tuple[Any, Array]:
    """(`values` in that library and dtype, the same numbers as float64 or as they are)."""
    array: Array = np.array(values, order="C")
    if library == "torch":
        tensor = torch.from_numpy(array).to(getattr(torch, dtype))
        if tensor.is_floating_point():
            tensor_values: Array = tensor.double().numpy()
            return tensor, tensor_values
        integers: Array = array.astype(dtype)
        return tensor, integers
    with np.errstate(under="ignore"):
        native = array.astype(dtype)
    exact: Array = native.astype(np.float64) if native.dtype.kind == "f" else native
    return native, exact


def as_numpy(value: Any) -> Array:
    """A result of either library as a float64 / integer / bool NumPy array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().double() if value.is_floating_point() else value
        value = value.numpy()
    array: Array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def dtype_name(value: Any) -> str:
    """'float32' for torch.float32 and np.float32 alike."""
    return str(value.dtype).removeprefix("torch.")


def result_dtype(dtype: str) -> str:
    """The result's dtype for an input of this floating dtype: float32, or float64 for float64."""
    return "float64" if dtype == "float64" else "float32"


def libraries() -> st.SearchStrategy[Library]:
    """ "numpy" or "torch"."""
    return st.sampled_from(LIBRARIES)


def feature_dtypes(library: Library) -> st.SearchStrategy[str]:
    """Floating dtypes that the library has (NumPy has no bfloat16)."""
    return st.sampled_from([d for d in FEATURE_DTYPES if library == "torch" or d != "bfloat16"])


def label_dtypes(num_classes: int, *, signed: bool = False) -> st.SearchStrategy[str]:
    """Integer dtypes that can hold every label below `num_classes` (and -100, if `signed`)."""
    fitting = [d for d in LABEL_DTYPES if np.iinfo(d).max >= num_classes - 1]
    return st.sampled_from([d for d in fitting if not (signed and d.startswith("u"))])


# ---------------------------------------------------------------- sizes


def batch_sizes(*, min_value: int = 0, max_value: int = 64) -> st.SearchStrategy[int]:
    """N: the sizes at which code breaks (0, 1, 2, 3, 7, 64), and drawn ones."""
    special = [n for n in (0, 1, 2, 3, 7, 64) if min_value <= n <= max_value]
    drawn = st.integers(min_value, max_value)
    return st.one_of(st.sampled_from(special), drawn) if special else drawn


def class_counts() -> st.SearchStrategy[int]:
    """C in 2..50."""
    return st.integers(2, 50)


def modality_counts() -> st.SearchStrategy[int]:
    """M in 2..4."""
    return st.integers(2, 4)


def seeds() -> st.SearchStrategy[int]:
    """Seeds of a NumPy generator."""
    return st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------- labels


def skewed_labels(rng: np.random.Generator, n: int, num_classes: int, skew: Skew) -> Array:
    """N int64 labels in 0..C-1 of the named skew; "with_ignored" has some -100 and -1."""
    if skew == "single":
        return np.full(n, rng.integers(num_classes), dtype=np.int64)
    if skew == "zipf":
        weight = 1.0 / np.arange(1, num_classes + 1)
        return rng.choice(num_classes, size=n, p=weight / weight.sum()).astype(np.int64)
    labels = rng.integers(0, num_classes, size=n, dtype=np.int64)
    if skew == "one_heavy":
        labels[rng.random(n) < 0.95] = rng.integers(num_classes)
    if skew == "with_ignored":
        ignored = rng.random(n) < 0.3
        labels[ignored] = rng.choice(IGNORED, size=int(ignored.sum()))
    return labels


@st.composite
def labels_arrays(
    draw: st.DrawFn,
    n: int | None = None,
    num_classes: int | None = None,
    skew: Skew | None = None,
    dtype: str | None = None,
    skews: Sequence[Skew] = SKEWS,
) -> Array:
    """(N,) labels; what is not given is drawn. A label dtype never holds what it cannot."""
    size = draw(batch_sizes()) if n is None else n
    classes = draw(class_counts()) if num_classes is None else num_classes
    unsigned = dtype is not None and dtype.startswith("u")
    allowed = [s for s in skews if not (unsigned and s == "with_ignored")]
    kind = draw(st.sampled_from(allowed)) if skew is None else skew
    values = skewed_labels(np.random.default_rng(draw(seeds())), size, classes, kind)
    if dtype is None:
        dtype = draw(label_dtypes(classes, signed=kind == "with_ignored"))
    return values.astype(dtype)


@st.composite
def source_label_arrays(
    draw: st.DrawFn, s: int, m: int, num_classes: int, *, ignored: bool = False
) -> Array:
    """(S, M) int64 labels of the source rows; some negative ones if `ignored`."""
    skews: tuple[Skew, ...] = ("with_ignored",) if ignored else SKEWS[:4]
    flat = draw(labels_arrays(s * m, num_classes, dtype="int64", skews=skews))
    return flat.reshape(s, m)


# ---------------------------------------------------------------- floats


@st.composite
def confidences(draw: st.DrawFn, n: int, m: int) -> Array:
    """(N, M) confidences in [0, 1] as float64: exact zeros, whole rows of zeros, tiny values."""
    rng = np.random.default_rng(draw(seeds()))
    values = rng.random((n, m))
    if draw(st.booleans()):
        values[rng.random((n, m)) < 0.25] = 0.0
        values[rng.random(n) < 0.2] = 0.0
    if draw(st.booleans()):
        tiny = rng.random((n, m)) < 0.3
        values[tiny] *= 10.0 ** rng.uniform(-30, -3, size=int(tiny.sum()))
    return values


@st.composite
def shares_arrays(draw: st.DrawFn, s: int, m: int) -> Array:
    """(S, M) float64 shares: rows sum to 1, some entries exactly 0."""
    rng = np.random.default_rng(draw(seeds()))
    values = rng.random((s, m)) + 1e-3
    if draw(st.booleans()):
        values[np.arange(s), rng.integers(m, size=s)] = 0.0
    return np.asarray(values / values.sum(axis=1, keepdims=True))


@st.composite
def logits(draw: st.DrawFn, n: int, c: int) -> Array:
    """(N, C) float64 logits, from almost flat to +-60000 (within float16), some with ties."""
    rng = np.random.default_rng(draw(seeds()))
    scale = draw(st.sampled_from([1e-3, 1.0, 5.0, 50.0, 1e3, 2e4]))
    values = np.clip(rng.standard_normal((n, c)) * scale, -60000, 60000)
    return np.asarray(np.round(values)) if draw(st.booleans()) else values


@st.composite
def feature_lists(draw: st.DrawFn, n: int, m: int) -> list[Array]:
    """M float64 arrays (N, D_m), D_m in 1..8, of sizes 1e-2 .. 1e4, some rows exactly zero."""
    rng = np.random.default_rng(draw(seeds()))
    out = []
    for _ in range(m):
        scale = draw(st.sampled_from([1e-2, 1.0, 1e4]))
        values = np.clip(rng.standard_normal((n, draw(st.integers(1, 8)))) * scale, -6e4, 6e4)
        values[rng.random(n) < 0.1] = 0.0
        out.append(values)
    return out


# ---------------------------------------------------------------- plans


@dataclass(frozen=True)
class Plan:
    """NumPy fields of a swap plan: source (S, M), anchor (S,), valid (S,)."""

    source: Array
    anchor: Array
    valid: Array


@st.composite
def plans(draw: st.DrawFn, n: int, m: int) -> Plan:
    """A plan over N rows: M blocks with one swap each, or S free rows of any sources.

    In the blocks a row that is not valid has itself as the partner. N = 0 gives S = 0.
    """
    rng = np.random.default_rng(draw(seeds()))
    if n == 0:
        return Plan(np.zeros((0, m), np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    if draw(st.booleans()):
        anchor = np.tile(np.arange(n), m)
        partner = rng.integers(n, size=n)
        partner = np.where(rng.random(n) < 0.2, np.arange(n), partner)
        source = np.repeat(anchor[:, None], m, axis=1)
        for block in range(m):
            source[block * n : (block + 1) * n, block] = partner
        return Plan(source, anchor, np.tile(partner != np.arange(n), m))
    s = draw(batch_sizes(max_value=16))
    source = rng.integers(n, size=(s, m))
    anchor = source[np.arange(s), rng.integers(m, size=s)] if s else np.zeros(0, np.int64)
    return Plan(source, anchor, rng.random(s) < 0.8)


# ---------------------------------------------------------------- settings and checks

quick = settings(max_examples=50, deadline=None)
"""Settings for a property test: about 50 examples, no deadline (CI machines stall)."""


def assert_close(
    actual: Any, wanted: Array | Sequence[Any], *, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """A result of either library equals the reference's, NaN never does."""
    got = as_numpy(actual)
    assert got.shape == np.shape(wanted), f"shape {got.shape}, wanted {np.shape(wanted)}"
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=False)


def assert_kind(actual: Any, library: Library, dtype: str) -> None:
    """A result is an array of that library and dtype (a NumPy scalar counts as an array)."""
    kinds = (np.ndarray, np.generic) if library == "numpy" else (torch.Tensor,)
    assert isinstance(actual, kinds), f"{type(actual)} from {library} input"
    assert dtype_name(actual) == dtype


def assert_helpful(message: str, *received: str) -> None:
    """An error's message says what was expected, each thing received, and more (the remedy)."""
    assert "expected" in message.lower(), message
    for part in received:
        assert part in message, f"{part!r} is not in {message!r}"
    assert len(message.split()) >= 8, f"no room for a remedy in {message!r}"
