"""From what happened to each row to the scores of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug.diagnostics import bootstrap
from midas_aug.diagnostics.bootstrap import Statistic, interval
from midas_aug.diagnostics.measures import (
    Subset,
    all_subsets,
    calibration_gaps,
    has_two_labels,
    odd_one_out,
    row_collapsed,
    row_entropy,
    sample_shapley,
    shapley,
    source_probability,
)
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.functional.labels import true_class_confidence
from midas_aug.functional.metrics import top_set_matches

__all__ = ["Outcomes"]

AS_PARTNER = " as partner"  # marks the sums over the rows in which a row was the partner


@dataclass
class Outcomes:
    """What happened to each of N labelled rows (and to rows mixed from them); all on one device.

    What was not observed stays empty, and its scores are left out.

    Attributes:
        modalities: Names, in order.
        labels: ``(N,)`` integers, none negative.
        right: ``(N,)`` for each subset of modalities that was kept (the others removed): whether
            the row was right, or the mean of that over draws.
        alone: ``(N,)`` confidence of the model in the true label, with this modality alone kept.
        permuted: ``(N,)`` whether the row was right with this modality permuted.
        head_right, head_confidence, head_gaps: Of each modality's own head: whether right,
            probability of the true label ``(N,)``, `calibration_gaps` ``(N, bins)``.
        mixed: Sums over misaligned rows, ``(N,)`` or ``(S,)`` each: ``rows``, ``hits``,
            ``confidence.m``; ``odd.m`` rows in which m disagrees with all others, the ``credit.m``
            it gets there, and ``followed.m``, how often the model sides with it.
        paper: The same with same-label pairs kept: ``rows`` and ``hits``.
        shares: ``rows``, ``entropy`` and ``collapsed``, sums over misaligned rows.
        hardness: ``(S,)`` hard-sample weights of valid misaligned rows.
        classes: C of the model's logits.
    """

    modalities: tuple[str, ...]
    labels: Tensor
    right: dict[Subset, Tensor] = field(default_factory=dict)
    alone: dict[str, Tensor] = field(default_factory=dict)
    permuted: dict[str, Tensor] = field(default_factory=dict)
    head_right: dict[str, Tensor] = field(default_factory=dict)
    head_confidence: dict[str, Tensor] = field(default_factory=dict)
    head_gaps: dict[str, Tensor] = field(default_factory=dict)
    mixed: dict[str, Tensor] = field(default_factory=dict)
    paper: dict[str, Tensor] = field(default_factory=dict)
    shares: dict[str, Tensor] = field(default_factory=dict)
    hardness: Tensor | None = None
    classes: int = 0

    def add_head(self, modality: str, logits: Tensor) -> None:
        """Take down what the modality's own head says."""
        self.head_right[modality] = (logits.argmax(dim=1) == self.labels).float()
        self.head_confidence[modality] = true_class_confidence(logits, self.labels)
        self.head_gaps[modality] = calibration_gaps(logits, self.labels)[0]

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
        counted = valid & (source_labels >= 0).all(dim=1) & has_two_labels(source_labels)
        hits = top_set_matches(logits.float(), source_labels) & counted
        _add(self.mixed, "rows", counted, partner)
        _add(self.mixed, "hits", hits, partner)
        probability = source_probability(logits.float(), source_labels, normalized=False)
        credit, followed, odd = odd_one_out(logits.float(), source_labels)
        for number, modality in enumerate(self.modalities):
            column = torch.where(counted, probability[:, number], 0.0)
            trust = torch.where(counted, credit[:, number], 0.0)
            side = torch.where(counted, followed[:, number], 0.0)
            _add(self.mixed, f"confidence.{modality}", column, partner)
            _add(self.mixed, f"odd.{modality}", odd[:, number] & counted, partner)
            _add(self.mixed, f"credit.{modality}", trust, partner)
            _add(self.mixed, f"followed.{modality}", side, partner)

    def add_permuted(self, logits: Tensor, source_labels: Tensor, partner: Tensor) -> None:
        """Add one draw of rows with a permuted modality, same-label pairs among them."""
        hits = top_set_matches(logits.float(), source_labels) & has_two_labels(source_labels)
        counted = (source_labels >= 0).all(dim=1)
        _add(self.paper, "rows", counted, partner)
        _add(self.paper, "hits", hits & counted, partner)

    def add_permuted_right(self, modality: str, right: Tensor, partner: Tensor) -> None:
        """Add one draw of whether rows are right with ``modality`` permuted."""
        _add(self.permuted, modality, right, partner)

    def add_shares(self, shares: Tensor, valid: Tensor, partner: Tensor) -> None:
        """Add the shares ``(N, M)`` of one draw of misaligned rows."""
        _add(self.shares, "rows", valid, partner)
        for key, column in (("entropy", row_entropy(shares)), ("collapsed", row_collapsed(shares))):
            _add(self.shares, key, torch.where(valid, column, 0.0), partner)

    def report(
        self, name: str, settings: Mapping[str, Any], *, resamples: int, seed: int
    ) -> ModalityReport:
        """Score the rows, and bootstrap the scores over them."""
        results = bootstrap.bootstrap(self.statistics(), resamples=resamples, seed=seed)
        hardness = {} if self.hardness is None else _quantiles(self.hardness)
        return ModalityReport(
            name=name,
            modalities=self.modalities,
            scores={key: interval(*result) for key, result in results.items()},
            settings={**settings, "resamples": resamples, "seed": seed},
            hardness=hardness,
            labels=self.labels.cpu().numpy(),
            replicates={key: replicates for key, (_, replicates) in results.items()},
        )

    def statistics(self) -> dict[str, Statistic]:
        """Every score that the outcomes allow."""
        everything = Subset(self.modalities)
        whole = self.right[everything]
        most_frequent = (self.labels == self.labels.mode().values).float()
        found = {"accuracy": bootstrap.mean(whole), "majority": bootstrap.mean(most_frequent)}
        if self.mixed:
            found["misaligned_accuracy"] = _pair_ratio(self.mixed, "hits", "rows")
            for m in self.modalities:
                found[f"confidence.{m}"] = _pair_ratio(self.mixed, f"confidence.{m}", "rows")
                for key in ("credit", "followed"):
                    found[f"{key}.{m}"] = _pair_ratio(self.mixed, f"{key}.{m}", f"odd.{m}")
        if self.paper:
            found["misaligned_accuracy_all"] = _pair_ratio(self.paper, "hits", "rows")
        for m in self.modalities:
            without, alone = self.right.get(everything - {m}), self.right.get(Subset({m}))
            if without is not None:
                found[f"without.{m}"] = bootstrap.mean(without)
                found[f"cost.{m}"] = bootstrap.mean(whole - without)
            if alone is not None:
                found[f"alone.{m}"] = bootstrap.mean(alone)
                found[f"alone_signal.{m}"] = bootstrap.mean(alone - most_frequent)
            if m in self.permuted:
                found[f"permutation_importance.{m}"] = bootstrap.ratio(
                    _pair_column(self.permuted, m), whole
                )
            if m in self.head_right:
                head = self.head_right[m]
                found[f"head_accuracy.{m}"] = bootstrap.mean(head)
                found[f"head_ece.{m}"] = bootstrap.calibration_error(self.head_gaps[m])
                found[f"signal.{m}"] = bootstrap.mean(head - most_frequent)
                if alone is not None:
                    found[f"headroom.{m}"] = bootstrap.mean(head - alone)
        if all(m in self.head_right for m in self.modalities):
            for a, b in combinations(self.modalities, 2):
                wrong = torch.stack([1 - self.head_right[a], 1 - self.head_right[b]], dim=1)
                found[f"shared_errors.{a}+{b}"] = bootstrap.shared(wrong)
        if all(m in self.alone for m in self.modalities):
            confidences = torch.stack([self.alone[m] for m in self.modalities], dim=1)
            for number, m in enumerate(self.modalities):
                found[f"discrepancy.{m}"] = bootstrap.discrepancy(confidences, number)
        if all(subset in self.right for subset in all_subsets(self.modalities)):
            for key, values in (
                ("shapley", shapley(self.right)),
                ("smv", sample_shapley(self.right)),
            ):
                total = torch.stack(list(values.values())).sum(dim=0)
                for m in self.modalities:
                    found[f"{key}.{m}"] = bootstrap.mean(values[m])
                    found[f"{key}_share.{m}"] = bootstrap.ratio(values[m], total)
        if self.shares:
            found["share_entropy"] = _pair_ratio(self.shares, "entropy", "rows")
            found["share_collapsed"] = _pair_ratio(self.shares, "collapsed", "rows")
        return found


def join(parts: Sequence[Outcomes]) -> Outcomes:
    """One after the other, without the rows whose label is negative, on the CPU."""
    first = parts[0]
    keep = torch.cat([part.labels.cpu() for part in parts]) >= 0

    def columns(name: str) -> dict[Any, Tensor]:
        return {
            key: torch.cat([getattr(part, name)[key].float().cpu() for part in parts])[keep]
            for key in getattr(first, name)
        }

    hardness = None
    if all(part.hardness is not None for part in parts):
        hardness = torch.cat([p.hardness.float().cpu() for p in parts if p.hardness is not None])
    names = ("right", "alone", "permuted", "head_right", "head_confidence", "head_gaps")
    return Outcomes(
        first.modalities,
        torch.cat([part.labels.cpu() for part in parts])[keep],
        **{name: columns(name) for name in (*names, "mixed", "paper", "shares")},
        hardness=hardness,
        classes=first.classes,
    )


def _add(sums: dict[str, Tensor], key: str, values: Tensor, partner: Tensor | None = None) -> None:
    """Add a draw to each row's sum; with partners, also to the sum of the row that it met."""
    values = values.float()
    sums[key] = sums[key] + values if key in sums else values
    if partner is not None:
        met = torch.zeros_like(values).index_add_(0, partner, values)
        name = f"{key}{AS_PARTNER}"
        sums[name] = sums[name] + met if name in sums else met


def _pair_column(sums: Mapping[str, Tensor], key: str) -> Tensor:
    """A column whose sum, weighted by a row's counts w, is Σ h over pairs, to first order.

    A pair (i, j) weighs w_i w_j in a bootstrap sample, which is w_i + w_j − 1 to first order: both
    rows of a pair are random, and an interval from the anchors alone would be too narrow.
    """
    anchored, met = sums[key], sums.get(f"{key}{AS_PARTNER}")
    return anchored if met is None else anchored + met - anchored.double().mean()


def _pair_ratio(sums: Mapping[str, Tensor], numerator: str, denominator: str) -> Statistic:
    return bootstrap.ratio(_pair_column(sums, numerator), _pair_column(sums, denominator))


def _quantiles(hardness: Tensor) -> dict[str, float]:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    if len(hardness) == 0:
        return {}
    values = np.quantile(hardness.double().numpy(), levels)  # torch.quantile takes 2^24 at most
    return {str(level): float(value) for level, value in zip(levels, values, strict=True)}
