"""Rows that may trade modalities among themselves, and what their modalities are made of."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, check_shape, is_array
from midas_aug._rows import take_rows
from midas_aug._settings import keys_by_modality
from midas_aug._tree import get_groups, map_arrays
from midas_aug.diagnostics.removal import holds_list, spread
from midas_aug.errors import MidasAugError

__all__ = ["Block", "Modality", "as_logits", "as_modalities"]


class Modality(NamedTuple):
    """A modality in a batch: one item, or several that move together.

    Attributes:
        key: What it is called.
        items: The keys of its items, one or several.
    """

    key: Any
    items: tuple[Any, ...]

    @property
    def name(self) -> str:
        """What a report calls it."""
        return str(self.key)

    def of(self, batch: Any) -> Any:
        """The item of the batch, or a dict of those of the group."""
        (held,) = get_groups(batch, {self.key: self.items})
        return held

    def by_key(self, value: Any) -> dict[Any, Any]:
        """What `of` gave, by the keys of the batch."""
        return {self.items[0]: value} if len(self.items) == 1 else dict(value)


def as_modalities(
    modalities: Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]],
) -> tuple[Modality, ...]:
    """Read the names: a sequence of keys, or a mapping from names to one key or several.

    Raises:
        MidasAugError: They are not two or more that differ.
    """
    found = tuple(Modality(key, items) for key, items in keys_by_modality(modalities).items())
    names = [modality.name for modality in found]
    if len(set(names)) < len(names):
        raise MidasAugError(
            f"expected modalities that a report can tell apart, got the names {names!r}; rename one"
        )
    return found


@dataclass
class Block:
    """Rows that may trade modalities among themselves."""

    data: dict[str, Any]  # modalities by their names
    others: dict[Any, Any]  # what follows the anchor, by its keys
    labels: Tensor  # (N,) integers on the CPU, equal where labels are; negative: do not count
    modalities: tuple[Modality, ...]
    predict: Callable[[dict[Any, Any]], Any]  # items by their keys to logits
    unimodal: Callable[[], Mapping[Any, Any] | Sequence[Any] | None]
    slice_rows: int  # how many rows to predict at a time
    given: Tensor  # (N, …) the labels as their target reads them
    width: int | None = None  # columns of a prediction; None: classes, two or more

    def logits(self, index: Mapping[str, Tensor], stand_ins: Mapping[str, Any]) -> Tensor:
        """Predict with some modalities taken from other rows, and some replaced by one row."""
        n_rows, pieces = len(self.labels), []
        for anchor in torch.split(torch.arange(n_rows), self.slice_rows):

            def own(value: Any, key: Any, anchor: Tensor = anchor) -> Any:
                return value if len(anchor) == n_rows else select(value, anchor, n_rows, key)

            mixed = {key: own(value, key) for key, value in self.others.items()}
            for modality in self.modalities:
                name, value = modality.name, self.data[modality.name]
                if name in stand_ins:
                    value = spread(stand_ins[name], len(anchor))
                elif name in index:
                    value = select(value, index[name][anchor], n_rows, name)
                else:
                    value = own(value, name)
                mixed |= modality.by_key(value)
            output = self.predict(mixed)
            pieces.append(as_logits(output, len(anchor), "the model's logits", width=self.width))
        return torch.cat(pieces)


# ---------------------------------------------------------------- rows


def as_logits(output: Any, n_rows: int, what: str, *, width: int | None = None) -> Tensor:
    """The logits (N, C) in what a model returned, or predictions of ``width`` columns.

    A tensor or an array is taken as it is; of a Hugging Face ``ModelOutput``, a mapping or an
    object, ``logits``; of a tuple or a list, the one array of N rows and two axes.

    Raises:
        MidasAugError: There are none, or a tuple holds several.
    """
    if is_array(output):
        found, kind = output, ""
    elif isinstance(output, Mapping):
        found, kind = output.get("logits"), f"the keys {list(output)!r}"
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        axes = (1, 2) if width == 1 else (2,)
        shaped = [a for a in output if is_array(a) and a.ndim in axes and len(a) == n_rows]
        found = shaped[0] if len(shaped) == 1 else None
        parts = [str(tuple(p.shape)) if is_array(p) else type(p).__name__ for p in output]
        kind = f"a {type(output).__name__} of {', '.join(parts)}"
    else:
        found, kind = getattr(output, "logits", None), type(output).__name__
    if not is_array(found):
        raise MidasAugError(
            f"expected {what} as a tensor, an array, something with 'logits', or a tuple with one "
            f"array of shape ({n_rows}, C), got {kind}; wrap it, as in "
            "lambda batch: model(batch)[1]"
        )
    logits = as_tensor(found, what)
    if width is not None:
        logits = logits[:, None] if logits.ndim == 1 and width == 1 else logits
        check_shape(logits, (n_rows, width), what, "one row a row of the batch, as target= says")
        return logits
    if logits.shape == (n_rows,) and logits.is_floating_point():
        raise MidasAugError(
            f"expected {what} of shape (N, C), got one logit per row, shape ({n_rows},); return a "
            "column for each class, two for two classes: a single logit x is the pair (0, x)"
        )
    check_shape(logits, (n_rows, None), what, "one row a row of the batch, one column a class")
    if logits.shape[1] < 2:
        raise MidasAugError(
            f"expected {what} with a column for each of two classes or more, got shape "
            f"{tuple(logits.shape)}; a single logit x of two classes is the pair (0, x)"
        )
    return logits


def select(value: Any, index: Tensor, n_rows: int, key: Any) -> Any:
    """The rows ``index`` of all leaves of a modality of ``n_rows`` rows."""
    leaves = all_leaves(value)
    at = index.to(leaves[0].device) if leaves else index
    return take_rows(value, at, n_rows, path=str(key), modality=False, host_index=index.tolist)


def leaves_of(value: Any, key: Any) -> list[Tensor]:
    """The arrays of a modality, at least one, for which one row can stand in."""
    leaves = all_leaves(value)
    if not leaves or holds_list(value):
        got = "a list, with a row an item" if holds_list(value) else type(value).__name__
        raise MidasAugError(
            f"expected the modality {key!r} to hold tensors, got {got}; it can only be removed "
            "with removal='permute'"
        )
    return leaves


def refuse_numpy(value: Any, key: Any) -> None:
    """Raise where a tensor would stand in for NumPy arrays, which do not mix in a model."""
    found: list[bool] = []
    map_arrays(lambda array: found.append(isinstance(array, np.ndarray)), value)
    if any(found):
        raise MidasAugError(
            f"expected the modality {key!r} to hold tensors, got NumPy arrays; have the loader "
            "give tensors, or pass device='cpu', which makes tensors of a batch"
        )


def rebuilt(tree: Any, leaves: Sequence[Any]) -> Any:
    """``tree`` with other arrays in the places of its own."""
    given = iter(leaves)
    return map_arrays(lambda _: next(given), tree)


def check_finite(means: Any, key: Any) -> Any:
    """Give the mean row back; raise where it is not finite."""
    if not all(bool(leaf.isfinite().all()) for leaf in all_leaves(means)):
        raise MidasAugError(
            f"expected finite rows of {key!r} to take the mean of, got some with NaN or infinity; "
            "leave these rows out, or use removal='zero'"
        )
    return means


def like_rows(means: Any, value: Any, key: Any) -> Any:
    """Means in the dtype and on the device of the arrays they stand in for."""
    wanted, given = leaves_of(value, key), all_leaves(means)
    if [leaf.shape[1:] for leaf in wanted] != [leaf.shape for leaf in given]:
        raise MidasAugError(
            f"expected means of {key!r} in the shape of its rows, "
            f"{[tuple(leaf.shape[1:]) for leaf in wanted]!r}, got "
            f"{[tuple(leaf.shape) for leaf in given]!r}; training= has to hold what the model sees"
        )
    return rebuilt(means, [mean.to(leaf) for mean, leaf in zip(given, wanted, strict=True)])


def all_leaves(tree: Any) -> list[Tensor]:
    """The arrays of a modality, if there are any."""
    found: list[Tensor] = []
    map_arrays(lambda array: found.append(as_tensor(array, "a modality")), tree)
    return found


def concatenate(trees: Sequence[Any], key: Any) -> Any:
    """The rows of a feature of all batches."""
    columns = zip(*(all_leaves(tree) for tree in trees), strict=True)
    joined = []
    for leaves in columns:
        shapes = {tuple(leaf.shape[1:]) for leaf in leaves}
        if len(shapes) > 1:
            raise MidasAugError(
                f"expected the feature {key!r} of one shape in all batches, got rows of "
                f"{sorted(shapes)!r}; pad or pool them, or pass one callable(batch), which draws "
                "partners within a batch"
            )
        joined.append(torch.cat(leaves))
    return rebuilt(trees[0], joined)
