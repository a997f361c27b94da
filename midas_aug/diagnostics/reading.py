"""Batches, the rows in them, their means, and a bar that shows how far the reading is."""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import as_labels, as_tensor, check_shape, is_array
from midas_aug.diagnostics.removal import mean_of, spread
from midas_aug.errors import MidasAugError
from midas_aug.tree import (
    get_item,
    in_order,
    item_keys,
    map_arrays,
    map_items,
    resolve_key,
    take_rows,
)

__all__ = ["Block", "Reader", "as_logits", "progress_bar"]

Predict: TypeAlias = Callable[[Any], Any]
Data: TypeAlias = dict[Any, Any]

FUSE_ROWS = 1024  # rows of features that go through the fusion at a time


@dataclass
class Block:
    """Rows that may trade modalities among themselves."""

    data: Data  # modalities by their keys, and whatever follows the anchor
    labels: Tensor  # (N,) on the CPU
    keys: tuple[Any, ...]  # of the modalities, in order
    predict: Predict  # data to logits
    unimodal: Callable[[], Mapping[Any, Any] | Sequence[Any] | None]
    slice_rows: int  # how many rows to predict at a time

    def logits(self, index: Mapping[Any, Tensor], stand_ins: Mapping[Any, Any]) -> Tensor:
        """Predict with some modalities taken from other rows, and some replaced by one row."""
        n_rows, pieces = len(self.labels), []
        for anchor in torch.split(torch.arange(n_rows), self.slice_rows):
            mixed = {}
            for key, value in self.data.items():
                if key in stand_ins:
                    mixed[key] = spread(stand_ins[key], len(anchor))
                elif key in index:
                    mixed[key] = select(value, index[key][anchor], n_rows, key)
                else:
                    whole = len(anchor) == n_rows
                    mixed[key] = value if whole else select(value, anchor, n_rows, key)
            pieces.append(as_logits(self.predict(mixed), len(anchor), "the model's logits"))
        return torch.cat(pieces)


@dataclass
class Reader:
    """How to read batches.

    Attributes:
        keys: Of the modalities, in order.
        label: Key of the labels in a batch, or a callable that gives them.
        device: Where to move the batches; None leaves them where they are.
        watch: ``watch(iterable, what)`` shows how far an iteration is.
    """

    keys: tuple[Any, ...]
    label: Hashable | Callable[[Any], Any]
    device: torch.device | str | None
    watch: Callable[[Iterable[Any], str], Iterable[Any]]

    def read(self, batch: Any) -> tuple[Any, Tensor]:
        """The batch on its device, and its labels on the CPU."""
        moved = self.move(batch)
        given = self.label(moved) if callable(self.label) else get_item(moved, self.label, "label")
        return moved, as_labels(given, "the labels").cpu()

    def move(self, batch: Any) -> Any:
        """The batch on the device."""
        if self.device is None:
            return batch
        return map_arrays(lambda array: as_tensor(array, "the batch").to(self.device), batch)

    def batches(
        self, loader: Iterable[Any], predict: Predict, unimodal: Predict | None
    ) -> Iterator[Block]:
        """A block for each batch, for models that take batches."""
        for given in self.watch(loader, "scoring"):
            batch, labels = self.read(given)
            data = {key: get_item(batch, key, "modality") for key in self.keys}

            def mixed_batch(data: Data, batch: Any = batch) -> Any:
                spelled = {resolve_key(batch, key): value for key, value in data.items()}
                mixed = map_items(lambda key, value: spelled.get(key, value), batch)
                return predict(mixed)

            heads = (lambda: None) if unimodal is None else partial(unimodal, batch)
            yield Block(data, labels, self.keys, mixed_batch, heads, max(len(labels), 1))

    def encoded(
        self, loader: Iterable[Any], encode: Predict, fuse: Predict, unimodal: Predict | None
    ) -> Block:
        """One block of the features of all rows, for models in two parts."""
        pieces, labels, heads = [], [], []
        for given in self.watch(loader, "encoding"):
            batch, classes = self.read(given)
            features = encode(batch)
            for key in self.keys:
                get_item(features, key, "feature")
            pieces.append({key: get_item(features, key, "feature") for key in item_keys(features)})
            labels.append(classes)
            if unimodal is not None:
                each = in_order(unimodal(features), self.keys, "the unimodal logits")
                heads.append(
                    [
                        as_logits(logits, len(classes), f"the logits of the head of {key!r}")
                        for key, logits in zip(self.keys, each, strict=True)
                    ]
                )
        if not pieces:
            none = torch.zeros(0, dtype=torch.int64)
            return Block({}, none, self.keys, fuse, lambda: None, 1)
        data = {key: _concatenate([piece[key] for piece in pieces], key) for key in pieces[0]}
        given_heads = [torch.cat(logits) for logits in zip(*heads, strict=True)] if heads else None
        return Block(data, torch.cat(labels), self.keys, fuse, lambda: given_heads, FUSE_ROWS)

    def means(self, training: Any, loader: Iterable[Any], encode: Predict | None) -> dict[Any, Any]:
        """The mean row of every modality over the training rows, or over the diagnosed ones."""
        if isinstance(training, Mapping):
            found = {}
            for key in self.keys:
                value = get_item(training, key, "modality")
                leaves_of(value, key)
                found[key] = check_finite(mean_of(value, str(key)), key)
            return found
        if training is None and iter(loader) is loader:
            raise MidasAugError(
                "expected a loader that can be read twice (once for the means of the inputs), got "
                "an iterator; pass a DataLoader or a list, training=, or another removal"
            )
        means = {key: _Mean(key) for key in self.keys}
        for given in self.watch(loader if training is None else training, "means"):
            if training is None:
                batch, labels = self.read(given)
                counted = (labels >= 0).nonzero()[:, 0]
            else:
                batch, labels, counted = self.move(given), None, None
            data = batch if encode is None else encode(batch)
            for key, mean in means.items():
                value = get_item(data, key, "modality")
                if labels is not None and counted is not None and len(counted) < len(labels):
                    value = select(value, counted, len(labels), key)
                mean.add(value)
        return {key: mean.result() for key, mean in means.items()}


class _Mean:
    """The mean row of a modality over many batches."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.n_rows = 0
        self.sample: Any = None  # for its structure
        self.leaves: list[Tensor] = []

    def add(self, value: Any) -> None:
        n_rows = len(leaves_of(value, self.key)[0])
        if n_rows == 0:
            return
        added = [leaf.float() for leaf in leaves_of(mean_of(value, str(self.key)), self.key)]
        if self.n_rows == 0:
            self.sample, self.leaves = value, [torch.zeros_like(leaf) for leaf in added]
        shapes = [[tuple(leaf.shape) for leaf in leaves] for leaves in (self.leaves, added)]
        if shapes[0] != shapes[1]:
            raise MidasAugError(
                f"expected {self.key!r} of one shape in all batches, got rows of {shapes[0][0]} "
                f"and {shapes[1][0]}; use removal='permute', or work at feature level"
            )
        self.n_rows += n_rows
        part = n_rows / self.n_rows
        self.leaves = [a + part * (b - a) for a, b in zip(self.leaves, added, strict=True)]

    def result(self) -> Any:
        if self.n_rows == 0:
            raise MidasAugError("expected training batches with rows, got none; check training=")
        return check_finite(rebuilt(self.sample, self.leaves), self.key)


# ---------------------------------------------------------------- rows


def as_logits(output: Any, n_rows: int, what: str) -> Tensor:
    """The logits (N, C) in what a model returned.

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
        shaped = [a for a in output if is_array(a) and a.ndim == 2 and len(a) == n_rows]
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
    check_shape(logits, (n_rows, None), what, "one row a row of the batch, one column a class")
    if logits.shape[1] < 2:
        raise MidasAugError(
            f"expected {what} with a column for each of two classes or more, got shape "
            f"{tuple(logits.shape)}; a single logit x of two classes is the pair (0, x)"
        )
    return logits


def select(value: Any, index: Tensor, n_rows: int, key: Any) -> Any:
    """The rows ``index`` of all leaves of a modality of ``n_rows`` rows."""
    leaves = _leaves(value)
    at = index.to(leaves[0].device) if leaves else index
    return take_rows(value, at, n_rows, path=str(key), strict=True, host_index=index.tolist)


def leaves_of(value: Any, key: Any) -> list[Tensor]:
    """The arrays of a modality, at least one."""
    leaves = _leaves(value)
    if not leaves:
        raise MidasAugError(
            f"expected the modality {key!r} to hold tensors, got {type(value).__name__}; it can "
            "only be removed with removal='permute'"
        )
    return leaves


def rebuilt(tree: Any, leaves: Sequence[Any]) -> Any:
    """``tree`` with other arrays in the places of its own."""
    given = iter(leaves)
    return map_arrays(lambda _: next(given), tree)


def check_finite(means: Any, key: Any) -> Any:
    """Give the mean row back; raise where it is not finite."""
    if not all(bool(leaf.isfinite().all()) for leaf in _leaves(means)):
        raise MidasAugError(
            f"expected finite rows of {key!r} to take the mean of, got some with NaN or infinity; "
            "leave these rows out, or use removal='zero'"
        )
    return means


def like_rows(means: Any, value: Any, key: Any) -> Any:
    """Means in the dtype and on the device of the arrays they stand in for."""
    wanted, given = leaves_of(value, key), _leaves(means)
    if [leaf.shape[1:] for leaf in wanted] != [leaf.shape for leaf in given]:
        raise MidasAugError(
            f"expected means of {key!r} in the shape of its rows, "
            f"{[tuple(leaf.shape[1:]) for leaf in wanted]!r}, got "
            f"{[tuple(leaf.shape) for leaf in given]!r}; training= has to hold what the model sees"
        )
    return rebuilt(means, [mean.to(leaf) for mean, leaf in zip(given, wanted, strict=True)])


def _leaves(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_arrays(lambda array: found.append(as_tensor(array, "a modality")), tree)
    return found


def _concatenate(trees: Sequence[Any], key: Any) -> Any:
    columns = zip(*(_leaves(tree) for tree in trees), strict=True)
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


# ---------------------------------------------------------------- progress


@contextmanager
def progress_bar(show: bool | None) -> Iterator[Callable[[Iterable[Any], str], Iterable[Any]]]:
    """``watch(iterable, what)``, which shows how far the iteration is, with ``rich`` on stderr."""
    if show is None:
        show = sys.stderr.isatty()
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        show = False
    if not show:
        yield lambda iterable, what: iterable
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:

        def watch(iterable: Iterable[Any], what: str) -> Iterable[Any]:
            try:
                total = len(iterable)  # type: ignore[arg-type]
            except TypeError:  # a stream
                total = None
            watched: Iterable[Any] = bar.track(iterable, total=total, description=what)
            return watched

        yield watch
