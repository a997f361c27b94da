"""Where a batch has its modalities and labels, and how its rows are taken."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._present import present_at
from midas_aug._rows import take_rows
from midas_aug._settings import Keys, stray_keys
from midas_aug._tree import get_groups, get_item, item_keys, map_items, resolve_key, resolve_keys
from midas_aug.errors import MidasAugError

__all__ = ["BatchLayout"]


class BatchLayout:
    """The keys of a batch: those that are swapped, those of the labels, those that are kept.

    Args:
        keys: The keys of each modality, by its name.
        label: Key of the labels, or a callable ``(batch) -> labels``.
        keep: Keys that are passed through untouched.
        present: Key of the mask of present modalities, whose columns follow the modalities; or a
            callable, or None.
    """

    def __init__(
        self,
        keys: Keys,
        label: Any | Callable[[Any], Any],
        keep: tuple[Any, ...],
        present: Any | Callable[[Any], Any],
    ) -> None:
        self.keys = keys
        self.label = label
        self.keep = keep
        self.present = None if callable(present) else present
        self._column = {key: m for m, group in enumerate(keys.values()) for key in group}
        self._looked_for_strays = False

    def find_labels(self, batch: Any) -> Any:
        """The labels of a batch, by their key or callable."""
        if callable(self.label):
            return self.label(batch)
        if type(batch) is list and _is_samples(batch):
            raise MidasAugError(
                f"expected a collated batch, got a list of {len(batch)} samples; pass "
                "DataLoader(collate_fn=augment.collate()), which collates them first"
            )
        if resolve_key(batch, self.label) is None:
            raise MidasAugError(
                f"expected labels under {self.label!r}, found the keys {item_keys(batch)!r}; pass "
                "augment(batch, labels), or name the key with label=..."
            )
        return get_item(batch, self.label)

    def modalities(self, batch: Any) -> list[Any]:
        """What each modality holds: an item, or a mapping where it has several keys."""
        return get_groups(batch, self.keys)

    def swap(
        self,
        batch: Any,
        n_rows: int,
        source: Tensor,
        anchor: Tensor,
        anchors_repeat: bool,
        swapped_blocks: Sequence[int | None],
    ) -> Any:
        """A batch of the rows ``source`` of each modality and the rows ``anchor`` of the rest.

        Args:
            batch: A batch of ``n_rows`` rows.
            n_rows: N.
            source: ``(N + S, M)`` int64.
            anchor: ``(N + S,)`` int64.
            anchors_repeat: Whether the anchors are the batch over and over. The host knows them
                then without asking a device: lists and CPU leaves can follow a batch on an
                accelerator.
            swapped_blocks: As in `Draw`.
        """
        columns, keep = self._columns(batch), resolve_keys(batch, self.keep) if self.keep else ()
        mask = None if self.present is None else resolve_key(batch, self.present)
        blocks = anchor.shape[0] // max(n_rows, 1)
        on_host = (lambda: list(range(n_rows)) * blocks) if anchors_repeat else None

        def rows_of(key: Any, value: Any) -> Any:
            column = columns.get(key)
            path = f"batch[{key!r}]"
            if column is not None:
                if value is None and self._has_more(column, batch):
                    return None  # beside arrays, as in the output of a tokenizer
                index, swapped = source[:, column], swapped_blocks[column]
                return take_rows(value, index, n_rows, path=path, modality=True, swapped=swapped)
            if value is None or key in keep:
                return value
            if mask is not None and key == mask:
                return present_at(value, tuple(self.keys), source, n_rows)
            return take_rows(value, anchor, n_rows, path=path, modality=False, host_index=on_host)

        return map_items(rows_of, batch)

    def check_modalities(self, batch: Any, n_rows: int) -> None:
        """Look at what would have been swapped, in a batch that is kept as it is."""
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        for key in self._column:
            value = get_item(batch, key, "modality")
            if not isinstance(value, Tensor) or value.shape[:1] != (n_rows,):
                path = f"batch[{key!r}]"
                take_rows(value, nothing, n_rows, path=path, modality=True, host_index=list)

    def _has_more(self, column: int, batch: Any) -> bool:
        """Whether a modality has an array under any of its keys."""
        group = list(self.keys.values())[column]
        return any(get_item(batch, key, "modality") is not None for key in group)

    def _columns(self, batch: Any) -> Mapping[Any, int]:
        """The modality of each key, as the batch spells it."""
        if type(batch) is dict and self._column.keys() <= batch.keys():
            columns: Mapping[Any, int] = self._column
        else:
            columns = {}
            for key, column in self._column.items():
                get_item(batch, key, "modality")  # or an error that lists the keys there are
                columns[resolve_key(batch, key)] = column
        if not self._looked_for_strays and not torch.compiler.is_compiling():
            self._looked_for_strays = True
            self._warn_of_strays(item_keys(batch))
        return columns

    def _warn_of_strays(self, batch_keys: Iterable[Any]) -> None:
        known = {*self._column, *self.keep, self.label, self.present}
        strays = stray_keys(batch_keys, self.keys, known)
        if strays:
            warnings.warn(
                _stray_words(strays, self.keys),
                stacklevel=7,
            )


def _stray_words(strays: Sequence[tuple[str, Any]], keys: Keys) -> str:
    """What a warning says of keys that stay behind."""
    groups: dict[Any, list[Any]] = {}
    for key, name in strays:
        if name is not None:
            groups.setdefault(name, list(keys[name])).append(key)
    cure = f"as modalities={{{str(groups)[1:-1]}, ...}}" if groups else "in one modality"
    return (
        "keys that stay with the anchor while modalities are swapped, though their names say that "
        f"they belong to one: {', '.join(repr(key) for key, _ in strays)}; group what belongs "
        f"together, {cure}, or rename the keys"
    )


def _is_samples(batch: Sequence[Any]) -> bool:
    """Whether a list holds samples that nobody has collated."""
    return bool(batch) and all(isinstance(sample, Mapping | tuple) for sample in batch)
