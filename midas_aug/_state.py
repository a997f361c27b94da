"""Modules whose state is right however they came to life."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from midas_aug._arrays import may_read_values
from midas_aug.errors import MidasAugError

__all__ = ["Mirror", "StatefulModule"]

T = TypeVar("T")
LOADED = "_is_hf_initialized"  # transformers marks so what it has read from a checkpoint


class StatefulModule(nn.Module):
    """A module with buffers that keep their dtype and always have a value.

    A state is a persistent buffer in float32, int64 or bool, whatever the default dtype, also after
    ``to(torch.bfloat16)`` and after a checkpoint in half precision, assigned or not: a moving
    average does not move in bfloat16. It has its values even where a module is built on the meta
    device, moved with ``to_empty`` or filled by ``from_pretrained`` from a checkpoint without it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._initial: dict[str, Callable[[], Tensor]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._lowest: dict[str, float] = {}
        self._unfilled: set[str] = set()  # born on the meta device, and not replaced since
        self._loading = False

    def register_state(
        self, name: str, initial: Callable[[], Tensor], *, lowest: float | None = None
    ) -> None:
        """Register a persistent buffer that starts as ``initial()``.

        Args:
            name: The attribute and the key in ``state_dict``.
            initial: Makes the value; such as ``functools.partial``, so that it can be pickled. A
                float dtype becomes float32.
            lowest: A checkpoint with a smaller number, or with one that is not finite, is refused,
                where a look at it is free.
        """
        on_meta = torch.empty(0).is_meta
        self._initial[name] = initial
        if lowest is not None:
            self._lowest[name] = lowest
        value = self._first(name)
        self._dtypes[name] = value.dtype
        self.register_buffer(name, value)
        if on_meta or self.get_buffer(name).is_meta:
            self._unfilled.add(name)

    def reset_parameters(self) -> None:
        """Put every state back to where it started, on the device where it is.

        While ``from_pretrained`` is at work, a state that came from the checkpoint stays.
        """
        self.ready()
        for name in self._initial:
            state = self.get_buffer(name)
            if getattr(state, LOADED, False) and LOADED not in self.__dict__:
                continue
            self.get_buffer(name).copy_(self._first(name))
        self.on_new_state()

    def on_new_state(self) -> None:
        """Called when a state was loaded, assigned or reset; does nothing here."""

    def ready(self) -> None:
        """Mend the dtype of a state that was replaced behind the module's back.

        Looks at attributes alone: no operator, no sync, and nothing that breaks a compiled graph.
        """
        states = self._buffers
        for name, dtype in self._dtypes.items():
            state = states[name]
            if state is not None and state.dtype != dtype and not torch.compiler.is_compiling():
                states[name] = state.to(dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # A process that was spawned with the module shares the memory of tensors with the others.
        for name in self._initial:
            buffer = self._buffers[name]
            if buffer is not None:
                self._buffers[name] = buffer.clone()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and name in self.__dict__.get("_initial", ()):
            super().__setattr__(name, self._admitted(name, value))
            self.on_new_state()
        else:
            super().__setattr__(name, value)

    def _admitted(self, name: str, value: Tensor) -> Tensor:
        """What becomes of a tensor that is assigned to a state."""
        loaded = self._loading or getattr(value, LOADED, False)
        if name in self._unfilled and not value.is_meta:
            self._unfilled.discard(name)
            if not loaded:  # from_pretrained replaces what no checkpoint has by empty memory
                return self._first(name).to(value.device)
        if not loaded:
            self._check_assigned(name, value)
        if value.dtype == self._dtypes[name]:
            return value
        mended = value.detach().to(self._dtypes[name])
        if hasattr(value, LOADED):
            setattr(mended, LOADED, getattr(value, LOADED))
        return mended

    def _check_assigned(self, name: str, value: Tensor) -> None:
        """Raise for a tensor that the state cannot be."""
        before = self._buffers[name]
        if before is not None and before.shape != value.shape:
            raise MidasAugError(
                f"expected {name} of shape {tuple(before.shape)}, got {tuple(value.shape)}; assign "
                "one number for each that it has"
            )
        if name in self._lowest:
            _check_bounds(value, name, self._lowest[name], "assign a number that it can have")

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, lowest in self._lowest.items():
            _check_bounds(
                state_dict.get(prefix + name),
                f"{prefix}{name} in the checkpoint",
                lowest,
                "it was written by a run that had diverged, or is damaged: take an earlier one",
                whole=not self._dtypes[name].is_floating_point,
            )
        self._loading = True
        try:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        finally:
            self._loading = False
        self.on_new_state()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers[name] for name in self._initial}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is None or new is None or new is old:
                continue
            if type(new) is not Tensor or new.is_meta:
                self._buffers[name] = new.to(self._dtypes[name])
            elif old.is_meta:
                self._buffers[name] = self._first(name).to(new.device)
            else:  # the old value: the new one was cast to bfloat16 and back, or is empty
                self._buffers[name] = old.to(new.device, self._dtypes[name])
        return self

    def _first(self, name: str) -> Tensor:
        with torch.device("cpu"), torch.no_grad():
            value = self._initial[name]()
        return value.float() if value.is_floating_point() else value


def _check_bounds(value: Any, name: str, lowest: float, cure: str, *, whole: bool = False) -> None:
    """Raise for a state that no run can have come to, where looking is free."""
    if not isinstance(value, Tensor) or not may_read_values(value) or value.numel() == 0:
        return
    if value.is_complex():
        raise MidasAugError(f"expected {name} in real numbers, got {value.dtype}; {cure}")
    low, high = (float(bound) for bound in value.aminmax())
    if not (lowest <= low and high < float("inf")):  # NaN is neither
        raise MidasAugError(
            f"expected {name} to be finite and at least {lowest:g}, got {low} … {high}; {cure}"
        )
    if whole and bool((value != value.round()).any()):
        raise MidasAugError(f"expected {name} in whole numbers, got {low} … {high}; {cure}")


class Mirror(Generic[T]):
    """A Python value that follows a tensor, and is read again only when the tensor has changed.

    To branch on a tensor is a sync and breaks a compiled graph; to branch on this is neither. While
    a graph is compiled or captured, and where the tensor holds nothing, it is the value of before.

    Args:
        read: Reads the value from the tensor.
        initial: The value until a tensor was read.
    """

    def __init__(self, read: Callable[[Tensor], T], initial: T) -> None:
        self._read = read
        self._value = initial
        self._seen: tuple[weakref.ref[Tensor], int, int] | None = None

    def of(self, tensor: Tensor) -> T:
        """The value that ``tensor`` holds now."""
        if torch.compiler.is_compiling() or not _has_values(tensor) or self._is_current(tensor):
            return self._value
        return self.set(tensor, self._read(tensor))

    def set(self, tensor: Tensor, value: T) -> T:
        """Take ``value`` for what ``tensor`` holds now, without a look at it."""
        self._value = value
        if not torch.compiler.is_compiling() and _has_values(tensor):
            self._seen = (weakref.ref(tensor), tensor.data_ptr(), _version(tensor))
        return value

    def _is_current(self, tensor: Tensor) -> bool:
        return self._seen is not None and (
            self._seen[0]() is tensor
            and self._seen[1] == tensor.data_ptr()
            and self._seen[2] == _version(tensor)
        )

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_seen": None}  # a copy has a tensor of its own to follow


def _has_values(tensor: Tensor) -> bool:
    if type(tensor) is not Tensor or tensor.is_meta:  # fake and distributed tensors are subclasses
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
