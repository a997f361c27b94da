"""Reading loaders: batches, the means of their rows, and a bar that shows how far it is."""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from midas_aug._arrays import as_labels, as_tensor
from midas_aug._checks import check_switch
from midas_aug._present import as_present
from midas_aug._tree import get_item, in_order, item_keys, map_arrays, map_items, resolve_key
from midas_aug.diagnostics.blocks import (
    Block,
    Modality,
    all_leaves,
    as_logits,
    concatenate,
    refuse_numpy,
    select,
)
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.row_mean import RowMean
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width
from midas_aug.targets import ClassIndex, Distribution, Target

__all__ = ["Piece", "Reader", "evaluating", "progress_bar"]

Predict: TypeAlias = Callable[[Any], Any]

FUSE_ROWS = 1024  # rows of features that go through the fusion at a time


class Labels(NamedTuple):
    """Labels of a batch.

    Attributes:
        ids: ``(N,)`` integers, equal where labels are the same; negative ones do not count.
        given: ``(N, …)``, as their target reads them.
        incomplete: Rows that do not count as they lack a modality.
    """

    ids: Tensor
    given: Tensor
    incomplete: int


class Piece(NamedTuple):
    """A batch whose modalities have been encoded.

    Attributes:
        features: By modality, and whatever else the fusion takes.
        labels: Of its rows.
        heads: ``(N, C)`` of each modality's own classifier, if there are any.
        device: Where the features are.
    """

    features: Any
    labels: Labels
    heads: list[Tensor] | None
    device: torch.device


@dataclass
class Reader:
    """How to read batches.

    Attributes:
        modalities: In order.
        label: Key of the labels in a batch, or a callable that gives them.
        device: Where to move the batches; None leaves them where they are.
        watch: ``watch(iterable, what)`` shows how far an iteration is.
        target: What a label is; None: a class index.
        present: Key of the mask of the modalities that rows have, or a callable that gives it.
        n_rows: How many rows there were, those that do not count among them.
        incomplete: How many labelled rows lacked a modality.
    """

    modalities: tuple[Modality, ...]
    label: Hashable | Callable[[Any], Any]
    device: torch.device | str | None
    watch: Callable[[Iterable[Any], str], Iterable[Any]]
    target: Target | None = None
    present: Hashable | Callable[[Any], Any] | None = None
    n_rows: int = 0
    incomplete: int = 0

    def __post_init__(self) -> None:
        _check_device(self.device)

    @property
    def width(self) -> int | None:
        """Columns of a prediction, None where they are classes."""
        if self.target is None or isinstance(self.target, ClassIndex | Distribution):
            return None
        return self.target.n_outputs

    def read(self, batch: Any) -> tuple[Any, "Labels"]:
        """The batch on its device, and its labels on the CPU."""
        moved = self.move(batch)
        given = self.label(moved) if callable(self.label) else get_item(moved, self.label, "label")
        return moved, self._labels(moved, given)

    def _labels(self, batch: Any, given: Any) -> "Labels":
        if self.target is None:
            # On the CPU first: there a label that wraps around in int64 is seen for free.
            read = ids = as_labels(as_tensor(given, "the labels").cpu(), "the labels")
        else:
            read = self.target.check(given, force=True).cpu()
            ids = self.target.label_ids(read)
        if self.present is None:
            return Labels(ids, read, 0)
        flags = self.present
        flags = flags(batch) if callable(flags) else get_item(batch, flags, "present")
        names = [modality.key for modality in self.modalities]
        whole = as_present(flags, names, len(ids)).cpu().all(dim=1)
        incomplete = int(((ids >= 0) & ~whole).sum())
        ids = ids.masked_fill(~whole, -1)
        return Labels(ids, ids if self.target is None else read, incomplete)

    def _count(self, labels: "Labels") -> None:
        self.n_rows += len(labels.ids)
        self.incomplete += labels.incomplete

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
            data = {modality.name: modality.of(batch) for modality in self.modalities}
            predict_mixed = partial(_predict_mixed, predict, batch)
            heads = (lambda: None) if unimodal is None else partial(unimodal, batch)
            n_rows = max(len(labels.ids), 1)
            self._count(labels)
            yield Block(
                data,
                {},
                labels.ids,
                self.modalities,
                predict_mixed,
                heads,
                n_rows,
                labels.given,
                self.width,
            )

    def encoded(
        self, loader: Iterable[Any], encode: Predict, unimodal: Predict | None
    ) -> Iterator[Piece]:
        """The features of each batch, for models in two parts."""
        for given in self.watch(loader, "encoding"):
            batch, labels = self.read(given)
            self._count(labels)
            features = encode(batch)
            leaves = []
            for modality in self.modalities:
                leaves += all_leaves(modality.of(features))  # complain at the first batch
            heads = None
            if unimodal is not None:
                heads = self._heads(unimodal(features), labels.ids)
            device = leaves[0].device if leaves else torch.device("cpu")
            yield Piece(features, labels, heads, device)

    def block_of(
        self, pieces: Sequence[Piece], fuse: Predict, order: Tensor | None = None
    ) -> Block:
        """One block of the features of all rows.

        Args:
            pieces: Of `encoded`, one after another.
            fuse: Features to logits.
            order: ``(N,)``, the order that the rows are to have; None: as they are.
        """
        if not pieces:
            none = torch.zeros(0, dtype=torch.int64)
            return Block({}, {}, none, self.modalities, fuse, lambda: None, 1, none)
        first = pieces[0].features
        ids = torch.cat([piece.labels.ids for piece in pieces])

        def sorted_rows(value: Any, key: Any) -> Any:
            return value if order is None else select(value, order, len(ids), key)

        joined = {
            key: sorted_rows(
                concatenate([get_item(piece.features, key, "feature") for piece in pieces], key),
                key,
            )
            for key in item_keys(first)
        }
        data = {modality.name: modality.of(joined) for modality in self.modalities}
        taken = {resolve_key(first, key) for m in self.modalities for key in m.by_key(m.of(first))}
        heads = [piece.heads for piece in pieces if piece.heads is not None]
        logits = [torch.cat(of_head) for of_head in zip(*heads, strict=True)]
        return Block(
            data,
            {key: value for key, value in joined.items() if key not in taken},
            sorted_rows(ids, "labels"),
            self.modalities,
            partial(_predict_mixed, fuse, first),
            lambda: [sorted_rows(part, "heads") for part in logits] or None,
            FUSE_ROWS,
            sorted_rows(torch.cat([piece.labels.given for piece in pieces]), "labels"),
            self.width,
        )

    def _heads(self, unimodal: Any, ids: Tensor) -> list[Tensor]:
        keys = [modality.key for modality in self.modalities]
        found = []
        for key, given in zip(keys, in_order(unimodal, keys, "the unimodal logits"), strict=True):
            what = f"the logits of the head of {key!r}"
            logits = as_logits(given, len(ids), what, width=self.width)
            if self.width is None:
                check_logit_width(ids, logits.shape[1], what)
            found.append(logits)
        widths = [logits.shape[1] for logits in found]
        if len(set(widths)) > 1:
            raise MidasAugError(
                f"expected the logits of all heads with a column for each class, got {widths} "
                f"columns from {keys!r}; build every head with one output per class"
            )
        return found

    def training_data(
        self,
        training: Iterable[Any],
        encode: Predict | None,
        unimodal: Predict | None,
        rows: HeadRows,
    ) -> Iterator[Any]:
        """What each training batch holds, or its features; its heads' logits are added to ``rows``.

        They are left out where the batches have no labels.
        """
        for given in self.watch(training, "training rows"):
            batch = self.move(given)
            data = batch if encode is None else encode(batch)
            labels = self._labels_if_any(batch)
            if unimodal is not None and labels is not None and len(labels.ids) > 0:
                wanted = labels.ids if self.width is None else labels.given
                heads = self._heads(unimodal(data), labels.ids)
                rows.add(heads, wanted, labels.ids >= 0)
            yield data

    def _labels_if_any(self, batch: Any) -> "Labels | None":
        if callable(self.label):
            return self._labels(batch, self.label(batch))
        try:
            given = get_item(batch, self.label, "label")
        except MidasAugError:  # they were not needed for a mean
            return None
        return self._labels(batch, given)

    def means(
        self, training: Mapping[Any, Any] | Iterator[Any] | None, loader: Iterable[Any]
    ) -> dict[str, RowMean]:
        """The mean row of every modality over the training rows, or over the diagnosed ones.

        Args:
            training: All of them by modality, or the `training_data` of one batch after another.
            loader: The diagnosed rows, at input level.
        """
        if isinstance(training, Mapping):
            return {m.name: RowMean.of_all(m.name, m.of(training)) for m in self.modalities}
        if training is None and iter(loader) is loader:
            raise MidasAugError(
                "expected a loader that can be read twice (once for the means of the inputs), got "
                "an iterator; pass a DataLoader or a list, training=, or another removal"
            )
        means = {modality: RowMean(modality.name) for modality in self.modalities}
        for data, labels in self._diagnosed(loader) if training is None else _unlabelled(training):
            for modality, mean in means.items():
                value = modality.of(data)
                if training is None:
                    refuse_numpy(value, modality.name)
                if labels is not None and bool((labels < 0).any()):
                    labelled = (labels >= 0).nonzero()[:, 0]
                    value = select(value, labelled, len(labels), modality.name)
                mean.add(value)
        return {modality.name: mean for modality, mean in means.items()}

    def _diagnosed(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Tensor | None]]:
        for given in self.watch(loader, "means"):
            batch, labels = self.read(given)
            yield batch, labels.ids


def _unlabelled(training: Iterator[Any]) -> Iterator[tuple[Any, Tensor | None]]:
    for data in training:
        yield data, None


def _predict_mixed(predict: Predict, batch: Any, items: dict[Any, Any]) -> Any:
    """Predict a copy of ``batch`` with other items, of another number of rows where they say so."""
    spelled = {resolve_key(batch, key): value for key, value in items.items()}
    return predict(map_items(lambda key, value: spelled.get(key, value), batch))


def _check_device(device: Any) -> None:
    """Raise unless batches can be moved there."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except Exception as error:  # of several types, by the kind of device that is missing
        raise MidasAugError(
            f"expected device as one that this machine has, such as 'cpu' or 'cuda', got "
            f"{device!r}; leave it out, and batches stay where they are"
        ) from error


# ---------------------------------------------------------------- progress


@contextmanager
def progress_bar(show: bool | None) -> Iterator[Callable[[Iterable[Any], str], Iterable[Any]]]:
    """``watch(iterable, what)``, which shows how far the iteration is, with ``rich`` on stderr."""
    show = sys.stderr.isatty() if show is None else check_switch(show, "progress")
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


# ---------------------------------------------------------------- modes


@contextmanager
def evaluating(functions: Sequence[Any]) -> Iterator[None]:
    """Eval mode for modules, and for the modules whose methods ``functions`` are."""
    owners = [f if isinstance(f, nn.Module) else getattr(f, "__self__", None) for f in functions]
    modules = {m for owner in owners if isinstance(owner, nn.Module) for m in owner.modules()}
    before = [(module, module.training) for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
