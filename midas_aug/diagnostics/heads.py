"""What the modalities' own classifiers know, alone and together: skill, and late fusion."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from midas_aug._arrays import NDArray
from midas_aug.diagnostics import bootstrap, scores
from midas_aug.diagnostics.bootstrap import Statistic
from midas_aug.diagnostics.fusion import FOLDS, cross_fitted_fusion, late_fusion
from midas_aug.diagnostics.measures import row_correct
from midas_aug.functional.skill import nll_sums
from midas_aug.targets import ClassIndex, Target

__all__ = ["HeadRows", "KeptRows", "fusion_statistics", "memorised", "skill_statistics"]

KEPT = 20_000_000  # logits in memory, 80 MB; of more rows than that a random part is kept
AT_ONCE = 200_000  # logits to try the temperatures on at a time
FEWEST_KEPT = 1000  # rows, however many classes there are
FEWEST_FITTED = 4 * FOLDS  # rows to fit weights to


class KeptRows(NamedTuple):
    """The content of `HeadRows`; rows are numbered as they were added, those without a label too.

    Attributes:
        chance: ``(K,)`` the random numbers of the kept rows.
        row: ``(K,)`` their numbers.
        labels: ``(K, …)``.
        logits: ``(K, M, C)``.
        labelled: ``(n_rows,)``, the numbers of all labelled rows.
    """

    chance: Tensor
    row: Tensor
    labels: Tensor
    logits: Tensor
    labelled: Tensor


class HeadRows:
    """The logits of the modalities' own heads, of all rows or of a random part of them.

    Rows are kept by a random number each, those with the lowest: every row has the same chance, in
    whatever batches it came, and no second pass is needed.

    Attributes:
        names: The modalities that have a head.
        n_rows: How many labelled rows were seen.
    """

    def __init__(self, names: Sequence[str], *, seed: int = 0, kept: int = KEPT) -> None:
        self.names = tuple(names)
        self.n_rows = 0
        self._kept = kept
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = 0  # rows, those without a label too
        self._labelled: list[Tensor] = []  # (n,) numbers of those with one
        self._chance: list[Tensor] = []  # (n,) random numbers
        self._row: list[Tensor] = []  # (n,) the number of the row
        self._labels: list[Tensor] = []  # (n,)
        self._logits: list[Tensor] = []  # (n, M, C)

    def add(self, logits: Sequence[Tensor], labels: Tensor, counted: Tensor | None = None) -> None:
        """Add ``(n, C)`` logits of each head.

        Args:
            logits: M of them.
            labels: ``(n, …)``.
            counted: ``(n,)`` bool, the rows to keep; None leaves out those with a negative label.
        """
        mask = labels >= 0 if counted is None else counted
        labelled = mask.to(logits[0].device)
        table = torch.stack([part.detach()[labelled].float().cpu() for part in logits], dim=1)
        n_rows = len(table)
        index = self._seen + mask.cpu().nonzero()[:, 0]
        self._chance.append(torch.rand(n_rows, dtype=torch.float32, generator=self._generator))
        self._row.append(index)
        self._labelled.append(index)
        self._labels.append(labels.cpu()[mask.cpu()])
        self._logits.append(table)
        self.n_rows += n_rows
        self._seen += len(mask)
        if sum(map(len, self._chance)) > 2 * self._most(table):
            self._prune()

    @property
    def place(self) -> Tensor:
        """``(K,)``: which of the labelled rows were kept."""
        self._prune()
        return torch.searchsorted(torch.cat(self._labelled), self._row[0])

    @property
    def labels(self) -> Tensor:
        """``(K,)``."""
        self._prune()
        return self._labels[0]

    @property
    def logits(self) -> Tensor:
        """``(M, K, C)``."""
        self._prune()
        return self._logits[0].transpose(0, 1)

    def spread(self, values: Tensor) -> Tensor:
        """``(n_rows,)`` with ``(K,)`` values in the places of the kept rows, 0 elsewhere."""
        column = torch.zeros(self.n_rows, dtype=torch.float32)
        column[self.place] = values.float()
        return column

    @property
    def content(self) -> KeptRows | None:
        """What `merged` takes; None where there is nothing."""
        if self.n_rows == 0:
            return None
        self._prune()
        kept = (self._chance[0], self._row[0], self._labels[0], self._logits[0])
        return KeptRows(*kept, torch.cat(self._labelled))

    def merged(self, every: Sequence[KeptRows | None]) -> "HeadRows":
        """The rows of all ranks, in the order in which a sampler deals them out.

        Args:
            every: The `content` of each rank, in order; this one's among them.
        """
        joined = HeadRows(self.names, kept=self._kept)
        dealt = [
            part._replace(
                **{name: getattr(part, name) * len(every) + rank for name in ("row", "labelled")}
            )
            for rank, part in enumerate(every)
            if part is not None
        ]
        if not dealt:
            return joined
        columns = KeptRows(*(torch.cat(column) for column in zip(*dealt, strict=True)))
        order = columns.row.argsort()
        joined._chance, joined._row = [columns.chance[order]], [columns.row[order]]
        joined._labels, joined._logits = [columns.labels[order]], [columns.logits[order]]
        joined._labelled = [columns.labelled.sort().values]
        joined.n_rows = len(columns.labelled)
        joined._seen = int(columns.labelled.max()) + 1
        return joined

    def _most(self, table: Tensor) -> int:
        return max(FEWEST_KEPT, self._kept // max(1, table[0].numel() if len(table) else 1))

    def _prune(self) -> None:
        """Keep the rows with the lowest numbers, in their order, in one piece."""
        columns = (self._chance, self._row, self._labels, self._logits)
        if len(self._chance) > 1:
            for column in columns:
                column[:] = [torch.cat(column)]
        most = self._most(self._logits[0])
        if len(self._chance[0]) > most:
            lowest = self._chance[0].topk(most, largest=False).indices.sort().values
            for column in columns:
                column[:] = [column[0][lowest]]


def skill_statistics(
    rows: HeadRows, kind: scores.Kind, target: Target | None = None
) -> dict[str, Statistic]:
    """The skill of each head at its best temperature, see `midas_aug.functional.skill_score`.

    The temperature is that of the rows as they are, in every bootstrap sample: where the loss is
    lowest its slope is 0, so to first order another choice would change nothing. Of the kept rows.

    Args:
        rows: Of one head or more.
        kind: Whose keys the statistics get.
        target: What the labels are; None: class indices.
    """
    logits, labels = rows.logits, rows.labels
    wanted = ClassIndex(logits.shape[2]) if target is None else target
    counted = torch.ones(len(labels), dtype=torch.bool)
    sums = wanted.statistics(labels, counted)
    chance, floor = map(float, wanted.best_constant(sums, counted.sum()))
    if not chance > floor:
        return {}
    pieces = torch.split(torch.arange(len(labels)), max(1, AT_ONCE // logits.shape[2]))

    readable = wanted.filled(labels)[:, None]
    found = {}
    for name, scored in zip(rows.names, logits, strict=True):
        totals = torch.zeros(len(wanted.temperatures), dtype=torch.float64)
        for index in pieces:
            of_piece = partial(_log_likelihoods, wanted, readable[index])
            totals += nll_sums(scored[index], of_piece, counted[index], wanted.temperatures)
        best = wanted.temperatures[int(torch.where(totals.isfinite(), totals, torch.inf).argmin())]
        at_best = torch.cat(
            [wanted.log_likelihoods(scored[i] / best, readable[i])[:, 0] for i in pieces]
        )
        found[kind.key(name)] = bootstrap.skill(-at_best - floor, chance - floor)
    return found


def _log_likelihoods(target: Target, labels: Tensor, scores: Tensor) -> Tensor:
    return target.log_likelihoods(scores, labels)


def fusion_statistics(rows: HeadRows, whole: Tensor, *, seed: int) -> dict[str, Statistic]:
    """Accuracy of late fusion of the heads, how much it is above the model's, fitted weights.

    Args:
        rows: Of two heads or more.
        whole: ``(N,)`` whether the model was right.
        seed: Seed for dealing the folds.
    """
    logits, labels = rows.logits, rows.labels
    kept = rows.spread(torch.ones(len(labels), dtype=torch.float32))
    right = {scores.LATE_FUSION: rows.spread(row_correct(late_fusion(logits), labels))}
    found = {}
    if len(labels) >= FEWEST_FITTED:
        fitted = cross_fitted_fusion(logits, labels, seed=seed)
        right[scores.FITTED_FUSION] = rows.spread(row_correct(fitted.logits, labels))
        for name, weight, influence in zip(
            rows.names, fitted.weights.tolist(), fitted.influence.unbind(dim=1), strict=True
        ):
            found[scores.FUSION_WEIGHT.key(name)] = bootstrap.mean(weight + influence)
    gains = {
        scores.LATE_FUSION: scores.LATE_FUSION_GAIN,
        scores.FITTED_FUSION: scores.FITTED_FUSION_GAIN,
    }
    for kind, column in right.items():
        found[kind.key()] = bootstrap.ratio(column, kept)
        found[gains[kind].key()] = bootstrap.ratio(column - whole * kept, kept)
    if len(right) > 1:
        gap = right[scores.FITTED_FUSION] - right[scores.LATE_FUSION]
        found[scores.FITTING_GAIN.key()] = bootstrap.ratio(gap, kept)
    return found


def memorised(
    results: Mapping[str, tuple[float, NDArray]], modalities: Sequence[str]
) -> dict[str, tuple[float, NDArray]]:
    """Training skill minus held-out skill, of estimates and their replicates."""
    found = {}
    for m in modalities:
        keys = scores.TRAINING_SKILL.key(m), scores.HEAD_SKILL.key(m)
        if all(key in results for key in keys):
            (training, of_training), (held_out, of_held_out) = (results[key] for key in keys)
            found[scores.MEMORISED.key(m)] = (training - held_out, of_training - of_held_out)
    return found
