"""The steps of a diagnosis: training rows, diagnosed rows, and the report, on one rank or many."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from midas_aug._tree import map_arrays
from midas_aug.diagnostics.arguments import Model, check_loaders, learned_at, parts_of, unimodal_of
from midas_aug.diagnostics.blocks import as_modalities, refuse_numpy
from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
from midas_aug.diagnostics.heads import HeadRows, KeptRows
from midas_aug.diagnostics.interventions import observe
from midas_aug.diagnostics.outcomes import Outcomes, join
from midas_aug.diagnostics.ranks import Ranks, loader_order
from midas_aug.diagnostics.reading import (
    Piece,
    Predict,
    Reader,
    evaluating,
    progress_bar,
)
from midas_aug.diagnostics.removal import Removal, check_removal
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.row_mean import RowMean
from midas_aug.diagnostics.target_outcomes import TargetOutcomes, join_targets, observe_target
from midas_aug.diagnostics.target_scores import metric_of
from midas_aug.diagnostics.wording import check_name
from midas_aug.errors import MidasAugError
from midas_aug.targets import ClassIndex, Distribution, Target, resolve_target

__all__ = ["Examination", "Keys", "examined"]

Keys: TypeAlias = Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]]
AnyOutcomes: TypeAlias = Outcomes | TargetOutcomes

NEXT_RANK = 0x9E3779B97F4A7C15  # seeds of ranks lie this far apart


class _Heads(NamedTuple):
    """What a rank has besides what it saw of its rows."""

    diagnosed: KeptRows | None
    training: KeptRows | None
    n_rows: int
    incomplete: int


def examined(ranks: Ranks, begin: "Callable[[], Examination]") -> ModalityReport:
    """Take the steps of a diagnosis together with all other ranks.

    Args:
        ranks: Who takes part.
        begin: Checks the arguments.
    """
    started: list[Examination] = []

    def first_step() -> dict[str, RowMean] | None:
        started.append(begin())
        return started[0].training_means()

    each = ranks.shared(first_step)
    (examination,) = started
    return ranks.at_first(lambda: examination.observed(each), examination.report)


class Examination:
    """A diagnosis under way; `midas_aug.diagnostics.diagnose` says what the arguments are.

    Args:
        rank: Number of this process.
    """

    def __init__(
        self,
        model: Model,
        loader: Iterable[Any],
        modalities: Keys,
        *,
        rank: int,
        encode: Predict | None,
        num_classes: int | None,
        target: Target | None,
        present: Hashable | Callable[[Any], Any] | None,
        label: Hashable | Callable[[Any], Any],
        unimodal: Predict | None,
        training: Iterable[Any] | Mapping[Any, Any] | None,
        log: Any,
        removal: Removal,
        draws: int,
        resamples: int,
        seed: int,
        name: str,
        device: torch.device | str | None,
        progress: bool | None,
    ) -> None:
        named = as_modalities(modalities)
        check_removal(removal)
        check_numbers(draws=draws, resamples=resamples)
        check_seed(seed)
        check_loaders(loader, training)
        self._encode, self._fuse = parts_of(model, encode)
        self._unimodal = unimodal_of(unimodal)
        self._loader, self._training = loader, training
        self._removal, self._draws, self._progress = removal, draws, progress
        self._bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
        self._name = check_name(name)
        names = [modality.name for modality in named]
        self._speeds = {} if log is None else learned_at(log, names)
        own_seed = (seed + rank * NEXT_RANK) % 2**63
        self._head_rows = HeadRows(names, seed=own_seed)
        self._training_rows = HeadRows(names, seed=own_seed)
        if isinstance(target, ClassIndex):
            num_classes, target = target.num_classes, None
        self._observe = _observer(
            target,
            num_classes,
            removal=removal,
            draws=draws,
            generator=torch.Generator().manual_seed(own_seed),
            head_rows=self._head_rows,
        )
        self._means: dict[str, Any] | None = None
        self._reader = Reader(named, label, device, lambda it, _: it, target, present)

    @contextmanager
    def _running(self) -> Iterator[Reader]:
        functions = [f for f in (self._encode, self._fuse, self._unimodal) if f is not None]
        with torch.no_grad(), evaluating(functions), progress_bar(self._progress) as watch:
            self._reader.watch = watch
            yield self._reader

    # ------------------------------------------------------------ each rank

    def training_means(self) -> dict[str, RowMean] | None:
        """Read the training rows of this rank: their means, and what the heads say of them."""
        training, encode, unimodal = self._training, self._encode, self._unimodal
        with self._running() as reader:
            data: Mapping[Any, Any] | Iterator[Any] | None = None
            if isinstance(training, Mapping):
                data = training
            elif training is not None:
                data = reader.training_data(training, encode, unimodal, self._training_rows)
            if self._removal == "mean" and (training is not None or encode is None):
                return reader.means(data, self._loader)
            if isinstance(data, Iterator) and unimodal is not None:
                for _ in data:  # for the heads alone
                    pass
        return None

    def observed(self, each: Sequence[dict[str, RowMean] | None]) -> list[Any]:
        """Look at the diagnosed rows of this rank.

        Args:
            each: The `training_means` of every rank.

        Returns:
            The `_Heads`, and a piece for each batch: its outcomes, or its features.
        """
        means = _all_means(each)
        # Without a row that counts there is no mean of the diagnosed rows; `report` says why.
        is_idle = self._training is None and means is not None and not _have_rows(means)
        if means is not None and not is_idle:
            self._means = {name: mean.result() for name, mean in means.items()}
        parts: list[Any]
        with self._running() as reader:
            if self._encode is not None:
                parts = list(reader.encoded(self._loader, self._encode, self._unimodal))
            else:
                parts = []
                for block in reader.batches(self._loader, self._fuse, self._unimodal):
                    if self._removal != "permute":
                        for name, value in block.data.items():
                            refuse_numpy(value, name)
                    if len(block.labels) > 0 and not is_idle:
                        parts.append(self._observe(block, means=self._means))
                        _fold_pairs(parts)
        heads = (self._head_rows.content, self._training_rows.content)
        return [_Heads(*heads, reader.n_rows, reader.incomplete), *parts]

    # ------------------------------------------------------------ the first rank

    def report(self, every: Sequence[list[Any]]) -> ModalityReport:
        """The report of all rows.

        Args:
            every: What each rank has `observed`.

        Raises:
            MidasAugError: No row has a label, or rows of different classes never met.
        """
        heads = [parts[0] for parts in every]
        seen = [parts[1:] for parts in every]
        with self._running():
            joined, n_blocks = self._joined(seen)
        incomplete = sum(of_rank.incomplete for of_rank in heads)
        if joined is None or len(joined.labels) == 0:
            raise MidasAugError(_no_rows(sum(of_rank.n_rows for of_rank in heads), incomplete))
        head_rows, training_rows = self._head_rows, self._training_rows
        if len(every) > 1:
            training_rows = training_rows.merged([of_rank.training for of_rank in heads])
            if self._encode is None:
                head_rows = head_rows.merged([of_rank.diagnosed for of_rank in heads])
        joined.head_rows = head_rows if head_rows.n_rows else None
        joined.training_rows = training_rows if training_rows.n_rows else None
        joined.constants = self._speeds
        report = joined.report(self._name, self._settings(incomplete), **self._bootstrap)
        if not any(column.any() for column in joined.mixed.anchored.values()):
            raise MidasAugError(
                f"expected batches with rows of two classes or more, got {n_blocks} of one class "
                "each; partners come from the same batch, so shuffle the rows (with a fixed seed), "
                "make the batches larger, or pass a pair (encode, fuse), whose partners come from "
                "all rows"
            )
        return report

    def _joined(self, seen: Sequence[list[Any]]) -> tuple[AnyOutcomes | None, int]:
        """What happened to the rows of all ranks, as a sampler deals them out; in how many blocks.

        One rank's stay as they are.
        """
        several = len(seen) > 1
        if self._encode is not None:
            pieces = _at_one_place(seen)
            counts = [sum(len(piece.labels.ids) for piece in part) for part in pieces]
            order = loader_order(counts) if several else None
            block = self._reader.block_of([p for part in pieces for p in part], self._fuse, order)
            if not bool((block.labels >= 0).any()):
                return None, 0
            return _join([self._observe(block, means=self._means)]), 1
        parts: list[AnyOutcomes] = [outcomes for part in seen for outcomes in part]
        if not parts:
            return None, 0
        rows = None
        if several:
            order = loader_order([sum(len(o.labels) for o in part) for part in seen])
            labels = torch.cat([part.labels.cpu() for part in parts])
            rows = order[labels[order] >= 0]
        return _join(parts, rows), len(parts)

    def _settings(self, incomplete: int) -> dict[str, Any]:
        at_input = self._encode is None
        return {
            "level": "input" if at_input else "feature",
            "removal": _removal_text(self._removal, self._training),
            "partners": "from the batch" if at_input else "from all rows",
            "draws": self._draws,
            **({} if self._reader.present is None else {"incomplete_rows": incomplete}),
        }


# ---------------------------------------------------------------- arguments


def _observer(
    target: Target | None, num_classes: int | None, **options: Any
) -> Callable[..., AnyOutcomes]:
    """What looks at a block: by classes, or by the score of the target."""
    if target is None:
        return partial(observe, num_classes=num_classes, **options)
    target = resolve_target(num_classes, target)
    if isinstance(target, Distribution):
        return partial(observe, num_classes=target.num_classes, target=target, **options)
    metric_of(target)  # complain before the work
    return partial(observe_target, target=target, **options)


def _no_rows(n_rows: int, incomplete: int) -> str:
    """What an error says where no row counts."""
    if n_rows == 0:
        return (
            "expected at least one row to diagnose, got none from the loader; pass one with "
            "held-out rows"
        )
    if incomplete == 0:
        return (
            f"expected at least one row with a label, got {n_rows} without one; rows whose label "
            "says so (a class index below 0) do not count: check label="
        )
    return (
        f"expected at least one row with a label and all modalities, got {incomplete} that lack a "
        f"modality and {n_rows - incomplete} without a label; check present= and label="
    )


def _removal_text(removal: str, training: Any) -> str:
    if removal == "mean":
        return f"mean of the {'diagnosed' if training is None else 'training'} rows"
    return {"zero": "zeros", "permute": "other rows' values"}[removal]


# ---------------------------------------------------------------- of all ranks


def _all_means(each: Sequence[dict[str, RowMean] | None]) -> dict[str, RowMean] | None:
    """The mean rows over all ranks."""
    known = [means for means in each if means is not None]
    if not known:
        return None
    first = known[0]
    for means in known[1:]:
        for name, mean in means.items():
            first[name].include(mean)
    return first


def _have_rows(means: Mapping[str, RowMean]) -> bool:
    return any(mean.n_rows > 0 for mean in means.values())


def _fold_pairs(parts: list[AnyOutcomes]) -> None:
    """Count the pairs of classes of all batches in one table, which has C² places."""
    first, last = parts[0], parts[-1]
    if last is first or not isinstance(first, Outcomes) or not isinstance(last, Outcomes):
        return
    if first.class_pairs is not None and last.class_pairs is not None:
        first.class_pairs = first.class_pairs.joined([last.class_pairs])
        last.class_pairs = None


def _at_one_place(seen: Sequence[list[Piece]]) -> list[list[Piece]]:
    """The pieces on the device of the first rank's own, or else on its device of that kind."""
    own, *others = seen
    if not any(others):
        return list(seen)

    def moved(piece: Piece) -> Piece:
        device = own[0].device if own else torch.device(piece.device.type)

        def to(value: Any) -> Any:
            return map_arrays(lambda a: a.to(device) if isinstance(a, Tensor) else a, value)

        heads = None if piece.heads is None else [head.to(device) for head in piece.heads]
        return piece._replace(features=to(piece.features), heads=heads, device=device)

    return [own, *([moved(piece) for piece in part] for part in others)]


def _join(parts: Sequence[AnyOutcomes], rows: Tensor | None = None) -> AnyOutcomes:
    of_classes = [part for part in parts if isinstance(part, Outcomes)]
    if of_classes:
        return join(of_classes, rows)
    return join_targets([part for part in parts if isinstance(part, TargetOutcomes)], rows)
