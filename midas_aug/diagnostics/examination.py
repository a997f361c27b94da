"""The steps of a diagnosis: training rows, diagnosed rows, and the report, on one rank or many."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from midas_aug._tree import map_arrays
from midas_aug.diagnostics.blocks import as_modalities
from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
from midas_aug.diagnostics.heads import HeadRows, KeptRows
from midas_aug.diagnostics.interventions import observe
from midas_aug.diagnostics.learning import learning_speed, read_log
from midas_aug.diagnostics.outcomes import Outcomes, join
from midas_aug.diagnostics.ranks import Ranks, loader_order
from midas_aug.diagnostics.reading import (
    Piece,
    Predict,
    Reader,
    RowMean,
    evaluating,
    progress_bar,
)
from midas_aug.diagnostics.removal import Removal, check_removal
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.scores import LEARNED_AT
from midas_aug.diagnostics.target_outcomes import TargetOutcomes, join_targets, observe_target
from midas_aug.diagnostics.target_scores import metric_of
from midas_aug.errors import MidasAugError
from midas_aug.targets import ClassIndex, Distribution, Target, resolve_target

__all__ = ["Examination", "Keys", "Model", "examined"]

Model: TypeAlias = Predict | tuple[Predict, Predict]
Keys: TypeAlias = Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]]
AnyOutcomes: TypeAlias = Outcomes | TargetOutcomes

NEXT_RANK = 0x9E3779B97F4A7C15  # seeds of ranks lie this far apart


class _Heads(NamedTuple):
    """What a rank has besides what it saw of its rows."""

    diagnosed: KeptRows | None
    training: KeptRows | None
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
        if not isinstance(loader, Iterable):
            raise MidasAugError(
                f"expected loader to be an iterable of batches, got {type(loader).__name__}; pass "
                "a DataLoader, or a list of batches"
            )
        self._encode, self._fuse = _parts(model, encode)
        self._unimodal = _unwrapped(unimodal)
        self._loader, self._training = loader, training
        self._removal, self._draws, self._progress = removal, draws, progress
        self._bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
        self._name = name
        names = [modality.name for modality in named]
        self._speeds = {} if log is None else _speeds(log, names)
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
        self._means = _all_means(each)
        parts: list[Any]
        with self._running() as reader:
            if self._encode is not None:
                parts = list(reader.encoded(self._loader, self._encode, self._unimodal))
            else:
                parts = []
                for block in reader.batches(self._loader, self._fuse, self._unimodal):
                    if len(block.labels) > 0:
                        parts.append(self._observe(block, means=self._means))
                        _fold_pairs(parts)
        heads = (self._head_rows.content, self._training_rows.content)
        return [_Heads(*heads, reader.incomplete), *parts]

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
        if joined is None or len(joined.labels) == 0:
            raise MidasAugError(
                "expected at least one row with a label of 0 or more, got none; check the loader "
                "and the label key"
            )
        head_rows, training_rows = self._head_rows, self._training_rows
        if len(every) > 1:
            training_rows = training_rows.merged([of_rank.training for of_rank in heads])
            if self._encode is None:
                head_rows = head_rows.merged([of_rank.diagnosed for of_rank in heads])
        joined.head_rows = head_rows if head_rows.n_rows else None
        joined.training_rows = training_rows if training_rows.n_rows else None
        joined.constants = self._speeds
        report = joined.report(
            self._name, self._settings(sum(r.incomplete for r in heads)), **self._bootstrap
        )
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
            if len(block.labels) == 0:
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


def _parts(model: Any, encode: Predict | None) -> tuple[Predict | None, Predict]:
    if encode is None and isinstance(model, tuple | list) and len(model) == 2:
        encode, model = model
    if callable(model) and (encode is None or callable(encode)):
        return _unwrapped(encode), _unwrapped(model)
    got = type(model).__name__ if encode is None else f"encode={encode!r} and {model!r}"
    raise MidasAugError(
        f"expected model as a callable(batch) -> logits or a pair (encode, fuse) of callables, got "
        f"{got}; encode takes a batch and gives features by modality, fuse takes these and gives "
        "logits"
    )


def _unwrapped(function: Any) -> Any:
    """A module without DDP, whose forward would wait for ranks that have no such batch."""
    return function.module if isinstance(function, DistributedDataParallel) else function


def _speeds(log: Any, names: Sequence[str]) -> dict[str, float]:
    """How early each modality was learned, as far as the log has the confidence of its head."""
    found = learning_speed(log)
    logged = [str(name) for name in read_log(log)["modalities"]]
    if not set(names) & set(logged):
        raise MidasAugError(
            f"expected a log of the modalities {list(names)!r}, got one of {logged!r}; pass the "
            "TrainingLog of this model"
        )
    return {LEARNED_AT.key(name): found[name] for name in names if name in found}


def _removal_text(removal: str, training: Any) -> str:
    if removal == "mean":
        return f"mean of the {'diagnosed' if training is None else 'training'} rows"
    return {"zero": "zeros", "permute": "other rows' values"}[removal]


# ---------------------------------------------------------------- of all ranks


def _all_means(each: Sequence[dict[str, RowMean] | None]) -> dict[str, Any] | None:
    """The mean rows over all ranks."""
    known = [means for means in each if means is not None]
    if not known:
        return None
    first = known[0]
    for means in known[1:]:
        for name, mean in means.items():
            first[name].include(mean)
    return {name: mean.result() for name, mean in first.items()}


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
