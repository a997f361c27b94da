"""From what happened to each row to the scores of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from midas_aug.diagnostics import bootstrap, scores
from midas_aug.diagnostics.bootstrap import Statistic
from midas_aug.diagnostics.class_pairs import ClassPairs
from midas_aug.diagnostics.faults import Faults
from midas_aug.diagnostics.heads import HeadRows, fusion_statistics, skill_statistics
from midas_aug.diagnostics.making import made_report
from midas_aug.diagnostics.measures import (
    calibration_gaps,
    odd_one_out,
    row_collapsed,
    row_correct,
    row_entropy,
    source_probability,
)
from midas_aug.diagnostics.pair_sums import PairSums
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.shapley import Subset, all_subsets, sample_shapley, shapley
from midas_aug.errors import MidasAugError
from midas_aug.functional.metrics import misaligned_hits
from midas_aug.functional.shares import true_class_confidence

__all__ = ["Outcomes", "join"]


@dataclass
class Head:
    """What a modality's own classifier says of each row."""

    right: Tensor  # (N,)
    confidence: Tensor  # (N,) in the true label
    gaps: Tensor  # (N, bins), see calibration_gaps


@dataclass
class Outcomes:
    """What happened to each of N labelled rows (and to rows mixed from them); all on one device.

    What was not observed stays empty, and its scores are left out.

    Attributes:
        modalities: Names, in order.
        labels: ``(N,)`` integers; after `join` none is negative.
        n_classes: C of the model's logits.
        right: ``(N,)`` for each subset of modalities that was kept (the others removed): whether
            the row was right, or the mean of that over draws.
        alone_confidence: ``(N,)`` confidence of the model in the true label, with this modality
            alone kept.
        heads: Of each modality's own classifier.
        gaps: ``(N, bins)`` calibration gaps of the model, see `calibration_gaps`.
        losses: ``(N,)`` cross-entropy of the model with labels that are distributions.
        head_rows: The heads' logits of these rows, or of a random part of them.
        training_rows: The same of training rows.
        permuted: Whether the row was right with this modality permuted.
        mixed: Over misaligned rows: ``"n_rows"``, ``"hits"``, and for each modality m
            ``("confidence", m)``, ``("odd", m)``, rows in which m disagrees with all others, the
            ``("credit", m)`` it gets there, and ``("followed", m)``, how often the model sides
            with it.
        class_pairs: The same hits by the two classes of a row.
        shuffled: ``"n_rows"`` and ``"hits"`` over permuted rows, same-label pairs among them.
        shares: ``"n_rows"``, ``"entropy"`` and ``"collapsed"`` over misaligned rows.
        hardness: ``(S,)`` hard-sample weights of valid misaligned rows.
        constants: Scores without an interval, by key.
        faults: Predictions that are no numbers.
    """

    modalities: tuple[str, ...]
    labels: Tensor
    n_classes: int
    right: dict[Subset, Tensor] = field(default_factory=dict)
    alone_confidence: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    gaps: Tensor | None = None
    losses: Tensor | None = None
    head_rows: HeadRows | None = None
    training_rows: HeadRows | None = None
    permuted: PairSums = field(default_factory=PairSums)
    mixed: PairSums = field(default_factory=PairSums)
    shuffled: PairSums = field(default_factory=PairSums)
    class_pairs: ClassPairs | None = None
    shares: PairSums = field(default_factory=PairSums)
    hardness: Tensor | None = None
    constants: dict[str, float] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)

    # ------------------------------------------------------------ taking down

    def usable(self, logits: Tensor, what: str, counted: Tensor | None = None) -> Tensor:
        """Logits to score, see `Faults.usable`; ``counted=None`` takes the rows with a label."""
        return self.faults.usable(logits, what, self.labels >= 0 if counted is None else counted)

    def add_whole(self, logits: Tensor) -> None:
        """Take down what the model says with all modalities."""
        self.faults.suspect(logits, "of the whole model")
        self.right[Subset(self.modalities)] = row_correct(logits, self.labels).float()
        self.gaps = calibration_gaps(logits, self.labels)[0]

    def add_subset(self, subset: Subset, right: Tensor, confidence: Tensor) -> None:
        """Take down ``(N,)`` how the model does with the modalities outside ``subset`` removed."""
        self.right[subset] = right
        if len(subset) == 1:
            self.alone_confidence[next(iter(subset))] = confidence

    def add_head(self, modality: str, logits: Tensor) -> None:
        """Take down what the modality's own head says."""
        self.faults.suspect(logits, f"of the head of {modality}")
        self.heads[modality] = Head(
            row_correct(logits, self.labels).float(),
            true_class_confidence(logits, self.labels),
            calibration_gaps(logits, self.labels)[0],
        )

    def add_misaligned(
        self,
        logits: Tensor,
        source_labels: Tensor,
        valid: Tensor,
        partner: Tensor | None = None,
    ) -> None:
        """Add one draw of misaligned rows, one for each row of what was added before.

        ``partner`` ``(N,)`` names the other row that each depends on, for the intervals.
        """
        counted = valid & (source_labels >= 0).all(dim=1)
        hits, counted = misaligned_hits(logits, source_labels, counted, "skip")
        self.mixed.add("n_rows", counted, partner)
        self.mixed.add("hits", hits, partner)
        if self.class_pairs is None:
            self.class_pairs = ClassPairs(self.n_classes)
        self.class_pairs.add(hits, source_labels, counted)
        probability = source_probability(logits, source_labels, normalized=False)
        credit, followed, odd = odd_one_out(logits, source_labels)
        for number, modality in enumerate(self.modalities):
            columns = {"confidence": probability, "credit": credit, "followed": followed}
            for name, values in columns.items():
                column = torch.where(counted, values[:, number], 0.0)
                self.mixed.add((name, modality), column, partner)
            self.mixed.add(("odd", modality), odd[:, number] & counted, partner)

    def add_permuted(
        self, modality: str, logits: Tensor, source_labels: Tensor, partner: Tensor, draws: int
    ) -> None:
        """Add one of several draws of rows with ``modality`` permuted, same-label pairs too."""
        counted = (source_labels >= 0).all(dim=1)
        hits, counted = misaligned_hits(logits, source_labels, counted, "wrong")
        self.shuffled.add("n_rows", counted, partner)
        self.shuffled.add("hits", hits, partner)
        self.permuted.add(modality, row_correct(logits, self.labels) / draws, partner)

    def add_shares(self, shares: Tensor, valid: Tensor, partner: Tensor) -> None:
        """Add the shares ``(N, M)`` of one draw of misaligned rows."""
        self.shares.add("n_rows", valid, partner)
        for key, column in (("entropy", row_entropy(shares)), ("collapsed", row_collapsed(shares))):
            self.shares.add(key, torch.where(valid, column, 0.0), partner)

    # ------------------------------------------------------------ scoring

    def report(
        self, name: str, settings: Mapping[str, Any], *, resamples: int, seed: int
    ) -> ModalityReport:
        """Score the rows, and bootstrap the scores over them.

        Raises:
            MidasAugError: The rows are too few or of one class, or predictions are not finite.
        """
        self._check()
        return made_report(
            self.statistics(seed),
            {"n_rows": len(self.labels), "n_classes": self.n_classes, **settings},
            name=name,
            modalities=self.modalities,
            labels=self.labels,
            constants=self.constants,
            hardness=self.hardness,
            class_pairs=() if self.class_pairs is None else self.class_pairs.hardest(),
            resamples=resamples,
            seed=seed,
        )

    def statistics(self, seed: int) -> dict[str, Statistic]:
        """Every score that the outcomes allow; ``seed`` deals the folds of fitted weights."""
        whole = self.right[Subset(self.modalities)]
        most_frequent = (self.labels == self.labels.mode().values).float()
        gaps = self.gaps
        return {
            scores.ACCURACY.key(): bootstrap.mean(whole),
            scores.MAJORITY.key(): bootstrap.mean(most_frequent),
            **({} if gaps is None else {scores.ECE.key(): bootstrap.calibration_error(gaps)}),
            **self._of_mixed_rows(),
            **self._of_removal(whole, most_frequent),
            **self._of_heads(whole, most_frequent),
            **self._of_subsets(),
            **self._of_shares(),
            **self._of_fusion(whole, seed),
        } | (
            {} if self.losses is None else {scores.CROSS_ENTROPY.key(): bootstrap.mean(self.losses)}
        )

    def _of_fusion(self, whole: Tensor, seed: int) -> dict[str, Statistic]:
        rows = self.head_rows
        if rows is None or len(rows.names) < len(self.modalities):
            return {}
        return fusion_statistics(rows, whole, seed=seed)

    def _of_mixed_rows(self) -> dict[str, Statistic]:
        found = {}
        if self.mixed:
            found[scores.MISALIGNED_ACCURACY.key()] = self.mixed.ratio("hits", "n_rows")
            for m in self.modalities:
                odd = ("odd", m)
                found[scores.CONFIDENCE.key(m)] = self.mixed.ratio(("confidence", m), "n_rows")
                found[scores.CREDIT.key(m)] = self.mixed.ratio(("credit", m), odd)
                found[scores.FOLLOWED.key(m)] = self.mixed.ratio(("followed", m), odd)
        if self.shuffled:
            found[scores.MISALIGNED_ACCURACY_ALL.key()] = self.shuffled.ratio("hits", "n_rows")
        return found

    def _of_removal(self, whole: Tensor, most_frequent: Tensor) -> dict[str, Statistic]:
        found = {}
        everything = Subset(self.modalities)
        for m in self.modalities:
            without, alone = self.right.get(everything - {m}), self.right.get(Subset({m}))
            if without is not None:
                found[scores.WITHOUT.key(m)] = bootstrap.mean(without)
                found[scores.COST.key(m)] = bootstrap.mean(whole - without)
            if alone is not None:
                found[scores.ALONE.key(m)] = bootstrap.mean(alone)
                found[scores.ALONE_SIGNAL.key(m)] = bootstrap.mean(alone - most_frequent)
            if m in self.permuted:
                permuted = self.permuted.column(m)
                found[scores.PERMUTATION_IMPORTANCE.key(m)] = bootstrap.ratio(permuted, whole)
        return found

    def _of_heads(self, whole: Tensor, most_frequent: Tensor) -> dict[str, Statistic]:
        found = {}
        for m, head in self.heads.items():
            found[scores.HEAD_ACCURACY.key(m)] = bootstrap.mean(head.right)
            found[scores.HEAD_GAIN.key(m)] = bootstrap.mean(head.right - whole)
            found[scores.HEAD_ECE.key(m)] = bootstrap.calibration_error(head.gaps)
            found[scores.SIGNAL.key(m)] = bootstrap.mean(head.right - most_frequent)
            alone = self.right.get(Subset({m}))
            if alone is not None:
                found[scores.HEADROOM.key(m)] = bootstrap.mean(head.right - alone)
        for a, b in combinations(self.modalities, 2):
            if a in self.heads and b in self.heads:
                wrong = torch.stack([1 - self.heads[a].right, 1 - self.heads[b].right], dim=1)
                found[scores.SHARED_ERRORS.key(a, b)] = bootstrap.shared(wrong)
        if self.head_rows is not None:
            found |= skill_statistics(self.head_rows, scores.HEAD_SKILL)
        if self.training_rows is not None:
            found |= skill_statistics(self.training_rows, scores.TRAINING_SKILL)
        return found

    def _of_subsets(self) -> dict[str, Statistic]:
        found = {}
        if all(m in self.alone_confidence for m in self.modalities):
            columns = [self.alone_confidence[m] for m in self.modalities]
            for number, m in enumerate(self.modalities):
                statistic = bootstrap.discrepancy(torch.stack(columns, dim=1), number)
                found[scores.DISCREPANCY.key(m)] = statistic
        if all(subset in self.right for subset in all_subsets(self.modalities)):
            for kind, share, values in (
                (scores.SHAPLEY, scores.SHAPLEY_SHARE, shapley(self.right)),
                (scores.SMV, scores.SMV_SHARE, sample_shapley(self.right)),
            ):
                total = torch.stack(list(values.values())).sum(dim=0)
                for m in self.modalities:
                    found[kind.key(m)] = bootstrap.mean(values[m])
                    found[share.key(m)] = bootstrap.ratio(values[m], total)
        return found

    def _of_shares(self) -> dict[str, Statistic]:
        if not self.shares:
            return {}
        return {
            scores.SHARE_ENTROPY.key(): self.shares.ratio("entropy", "n_rows"),
            scores.SHARE_COLLAPSED.key(): self.shares.ratio("collapsed", "n_rows"),
        }

    def _check(self) -> None:
        self.faults.check()
        if bool((self.labels == self.labels[0]).all()):
            raise MidasAugError(
                f"expected rows of at least two classes, got {len(self.labels)} of class "
                f"{int(self.labels[0])}; with one class no row can be misaligned"
            )


def join(parts: Sequence[Outcomes], rows: Tensor | None = None) -> Outcomes:
    """One after the other, on the CPU.

    Args:
        parts: One or more.
        rows: ``(K,)``, which rows of the parts there are to be, in that order; None: those whose
            label is not negative.
    """
    first = parts[0]
    labels = torch.cat([part.labels.cpu() for part in parts])
    keep = labels >= 0 if rows is None else rows

    def take(columns: list[Tensor]) -> Tensor:
        return torch.cat([column.float().cpu() for column in columns])[keep]

    def columns(name: str) -> dict[Any, Tensor]:
        each = [getattr(part, name) for part in parts]
        return {key: take([part[key] for part in each]) for key in each[0]}

    def sums(name: str) -> PairSums:
        head, *rest = (getattr(part, name) for part in parts)
        joined: PairSums = head.followed_by(rest, take)
        return joined

    heads = {}
    for m in first.heads:
        each = [part.heads[m] for part in parts]
        heads[m] = Head(
            take([head.right for head in each]),
            take([head.confidence for head in each]),
            take([head.gaps for head in each]),
        )
    pairs = [part.class_pairs for part in parts if part.class_pairs is not None]
    gaps = [part.gaps for part in parts if part.gaps is not None]
    losses = [part.losses for part in parts if part.losses is not None]
    hardness = None
    if all(part.hardness is not None for part in parts):
        hardness = torch.cat([p.hardness.float().cpu() for p in parts if p.hardness is not None])
    return Outcomes(
        first.modalities,
        labels[keep],
        first.n_classes,
        right=columns("right"),
        alone_confidence=columns("alone_confidence"),
        heads=heads,
        gaps=take(gaps) if len(gaps) == len(parts) else None,
        losses=take(losses) if losses else None,
        permuted=sums("permuted"),
        mixed=sums("mixed"),
        class_pairs=pairs[0].joined(pairs[1:]) if pairs else None,
        shuffled=sums("shuffled"),
        shares=sums("shares"),
        hardness=hardness,
        faults=sum((part.faults for part in parts), Faults()),
    )
