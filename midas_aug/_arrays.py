"""Torch tensors and NumPy arrays behind one door.

All arithmetic of the package is torch. An array that comes as NumPy is viewed as a tensor on the
way in (no copy) and as NumPy again on the way out.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeGuard, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from midas_aug.errors import MidasAugError

NDArray: TypeAlias = np.ndarray[Any, Any]
Array: TypeAlias = Tensor | NDArray
ArrayT = TypeVar("ArrayT", Tensor, NDArray)
Generator: TypeAlias = torch.Generator | np.random.Generator


def is_array(value: object) -> bool:
    """Whether ``value`` is a torch tensor or a NumPy array."""
    return isinstance(value, (Tensor, np.ndarray))  # a union would break the graph of torch 2.4


def is_integer(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer number, of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def as_tensor(value: Array, name: str) -> Tensor:
    """View ``value`` as a tensor; ``name`` is what an error message calls it."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_nested:
            nested = value.is_nested
            raise MidasAugError(
                f"expected {name} as a dense tensor, got a {'nested' if nested else value.layout} "
                f"one; pass {'nested.to_padded_tensor(0.0)' if nested else '.to_dense()'}"
            )
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise MidasAugError(
            f"expected {name} as a plain array, got a masked one; fill it first, labels with -1: "
            "array.filled(-1)"
        )
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise MidasAugError(
                f"expected {name} to hold numbers, got NumPy dtype {value.dtype}; convert it first"
            )
        # torch takes only native, writeable memory with positive strides.
        native = (
            value.dtype.isnative and value.flags.writeable and min(value.strides, default=0) >= 0
        )
        return torch.from_numpy(value if native else value.astype(value.dtype.newbyteorder("=")))
    raise MidasAugError(
        f"expected {name} to be a torch tensor or a NumPy array, got {type(value).__name__}; "
        + _way_to_array(value)
    )


def _way_to_array(value: Any) -> str:
    """What to do about something that is no array."""
    if isinstance(value, Mapping):
        return f"pass the array under one of its keys, {', '.join(map(repr, value))}"
    if hasattr(value, "_fields"):
        return f"pass the array in one of its fields, {', '.join(value._fields)}"
    other = hasattr(value, "__array__") or hasattr(value, "__dlpack__")  # of another library
    if other or isinstance(value, list | tuple | int | float):
        return "convert it with torch.as_tensor or numpy.asarray"
    return "pass the array itself"


def check_in_order(values: Any, name: str) -> None:
    """Raise if ``values``, one a modality, come by name where only their order is known."""
    if isinstance(values, Mapping):
        raise MidasAugError(
            f"expected {name} in the order of the modalities, got a {type(values).__name__}; pass "
            f"list({name}.values())"
        )


def as_labels(value: Array, name: str, *, ndim: int = 1) -> Tensor:
    """View ``value`` as an int64 tensor of class labels (or batch rows) with ``ndim`` axes."""
    labels = as_tensor(value, name)
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise MidasAugError(
            f"expected {name} to have an integer dtype, got {labels.dtype}; pass "
            + (
                "class indices; labels of other kinds go where a target of midas_aug.targets is "
                "taken: Continuous for numbers, MultiLabel for zeros and ones, Distribution for "
                "rows that sum to 1"
                if "label" in name
                else "rows of the batch, as of torch.arange or a plan"
            )
        )
    if labels.ndim != ndim:
        raise MidasAugError(
            f"expected {name} with {ndim} axes, got shape {tuple(labels.shape)}; "
            + ("pass class indices of shape (N,)" if ndim == 1 else "see the docstring for shapes")
        )
    numbers = labels.long()
    if labels.dtype is torch.uint64 and may_read_values(numbers):
        check_no_wrap(numbers, name)
    return numbers


def check_no_wrap(numbers: Tensor, name: str) -> None:
    """Raise if what was uint64 is negative in int64."""
    if numbers.numel() and int(numbers.min()) < 0:
        raise MidasAugError(
            f"expected {name} in int64, got one above 2^63; a negative label was probably cast to "
            "uint64: keep labels in a signed dtype"
        )


def as_scores(value: Array, name: str, *, ndim: int = 2) -> Tensor:
    """View ``value`` as a float tensor of at least float32 precision with ``ndim`` axes."""
    scores = value if type(value) is Tensor else as_tensor(value, name)
    dtype = scores.dtype
    if dtype is torch.float32 and len(scores.shape) == ndim:
        return scores
    if not dtype.is_floating_point:
        raise MidasAugError(
            f"expected {name} to have a float dtype, got {scores.dtype}; convert it with .float()"
        )
    if scores.ndim != ndim:
        raise MidasAugError(
            f"expected {name} with {ndim} axes, got shape {tuple(scores.shape)}; "
            "see the docstring for shapes"
        )
    return scores if dtype is torch.float64 else scores.float()


def check_shape(tensor: Tensor, shape: tuple[int | None, ...], name: str, why: str) -> None:
    """Raise unless ``tensor`` has ``shape``, where None matches any size."""
    given = tensor.shape
    if len(given) == len(shape):
        for have, want in zip(given, shape, strict=True):  # plain, for it is called often
            if want is not None and have != want:
                break
        else:
            return
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    raise MidasAugError(f"expected {name} of shape ({expected}), got {tuple(given)}; {why}")


def check_has_values(tensor: Tensor, name: str) -> None:
    """Raise for a tensor that was made on the meta device, as from_pretrained does."""
    if tensor.is_meta:
        raise MidasAugError(
            f"expected {name} with values, got a tensor on the meta device, where a model is built "
            "by from_pretrained; pass a list or a NumPy array, which have theirs there, too"
        )


def elsewhere(name: str, tensor: Tensor, device: torch.device) -> str:
    """What an error says of a tensor that is not where the batch is."""
    return (
        f"expected {name} on the device of the batch, {device}, got {tensor.device}; move the "
        f"batch to the model before the step: out = out.to({str(tensor.device)!r})"
    )


def check_rows(rows: Tensor, count: int, name: str) -> None:
    """Raise if an index is not a row of a batch of ``count``, where looking is free."""
    if rows.numel() == 0 or not may_read_values(rows):
        return
    low, high = (int(bound) for bound in rows.aminmax())
    if low < 0 or high >= count:
        raise MidasAugError(
            f"expected {name} to hold rows in 0 … {count - 1}, got {low} … {high}; an index is a "
            "row of the batch that it was drawn for"
        )


def share_memory(tensor: Tensor) -> Tensor:
    """Move ``tensor`` to memory that worker processes share."""
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


@overload
def like(result: Tensor, given: Tensor) -> Tensor: ...
@overload
def like(result: Tensor, given: NDArray) -> NDArray: ...
def like(result: Tensor, given: Array) -> Array:
    """Give ``result`` in the library of ``given``."""
    if isinstance(given, Tensor):
        return result
    return result.detach().numpy()


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from computing in half precision on the device of ``tensor``."""
    kind = tensor.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def may_read_values(tensor: Tensor) -> bool:
    """Whether a look at the values of ``tensor`` costs no host-device sync and no graph break."""
    return (
        type(tensor) is Tensor  # not a fake, functional or distributed tensor
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )
