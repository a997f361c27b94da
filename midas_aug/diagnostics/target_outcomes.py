"""Several labels a row, or real numbers: rows as they are, swapped and removed, and their scores.

Accuracy has no meaning here; the score is that of `target_scores`. Whom a model follows on swapped
rows is told by the loss of its prediction for the label of each modality's source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from midas_aug._tree import in_order
from midas_aug.diagnostics import scores
from midas_aug.diagnostics.blocks import Block, as_logits
from midas_aug.diagnostics.bootstrap import Statistic, summed
from midas_aug.diagnostics.faults import Faults
from midas_aug.diagnostics.heads import HeadRows, skill_statistics
from midas_aug.diagnostics.interventions import permuted_rows, stand_ins_of
from midas_aug.diagnostics.making import made_report
from midas_aug.diagnostics.pair_sums import PairSums
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.shapley import Subset
from midas_aug.diagnostics.target_scores import Metric, difference, metric_of
from midas_aug.errors import MidasAugError
from midas_aug.functional import sample_partners
from midas_aug.targets import MultiLabel, Target

__all__ = ["TargetOutcomes", "join_targets", "observe_target"]


@dataclass
class TargetOutcomes:
    """What happened to each of N rows.

    Attributes:
        modalities: Names, in order.
        target: What the labels are.
        labels: ``(N,)`` integers, equal where labels are the same; negative ones do not count.
        columns: ``(N, K)`` of the metric, for each subset of modalities that was kept; what was
            not observed is not there, and its scores are left out.
        heads: The same for each modality's own head.
        late: The same for the mean of the heads' predictions.
        mixed: Over swapped rows, for each modality m: ``("credit", m)``, ``("followed", m)`` and
            ``("odd", m)``, as in `Outcomes`.
        faults: Predictions that are no numbers.
        head_rows, training_rows: Predictions of the heads.
        constants: Scores without an interval, by key.
    """

    modalities: tuple[str, ...]
    target: Target
    labels: Tensor
    columns: dict[Subset, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    late: Tensor | None = None
    mixed: PairSums = field(default_factory=PairSums)
    faults: Faults = field(default_factory=Faults)
    head_rows: HeadRows | None = None
    training_rows: HeadRows | None = None
    constants: dict[str, float] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """The score of the target."""
        return metric_of(self.target)

    def suspect(self, predictions: Tensor, readable: Tensor, what: str) -> None:
        """Look whether ``(R, n_outputs)`` are probabilities, where they should be logits."""
        if isinstance(self.target, MultiLabel):
            self.faults.suspect_several(predictions, readable, what)

    def add_heads(self, each: Mapping[str, Tensor], readable: Tensor) -> None:
        """Take down ``(N, n_outputs)`` of each head; of all of them, late fusion, too."""
        for m, predictions in each.items():
            self.heads[m] = self.metric.columns(predictions, readable)
        if len(each) < len(self.modalities):
            return
        table = torch.stack([each[m] for m in self.modalities])
        # Of logits the mean probability, as a logit again; of numbers their mean.
        is_logit = self.target.takes_temperature
        late = table.sigmoid().mean(dim=0).logit() if is_logit else table.mean(dim=0)
        self.late = self.metric.columns(late, readable)

    def report(
        self, name: str, settings: Mapping[str, Any], *, resamples: int, seed: int
    ) -> ModalityReport:
        """Score the rows, and bootstrap the scores over them.

        Raises:
            MidasAugError: Predictions are not finite, or all labels are the same.
        """
        self.faults.check()
        if bool((self.labels == self.labels[0]).all()):
            raise MidasAugError(
                f"expected rows with at least two different labels, got {len(self.labels)} of one; "
                "no row can be misaligned"
            )
        classes = self.target.num_classes
        counts = {"n_rows": len(self.labels)} | ({} if classes is None else {"n_classes": classes})
        return made_report(
            self.statistics(),
            {**counts, "target": repr(self.target), "score": self.metric.name, **settings},
            name=name,
            modalities=self.modalities,
            labels=self.labels,
            constants=self.constants,
            hardness=None,
            resamples=resamples,
            seed=seed,
        )

    def statistics(self) -> dict[str, Statistic]:
        """Every score that the outcomes allow."""
        metric, everything = self.metric, Subset(self.modalities)
        whole = self.columns[everything]

        def scored(columns: Tensor) -> Statistic:
            return summed(columns, metric.of_sums)

        found = {scores.SCORE.key(): scored(whole)}
        if self.late is not None:
            found[scores.LATE_SCORE.key()] = scored(self.late)
            found[scores.LATE_FUSION_GAIN.key()] = difference(metric, self.late, whole)
        for m in self.modalities:
            without, alone = self.columns.get(everything - {m}), self.columns.get(Subset({m}))
            if without is not None:
                found[scores.WITHOUT.key(m)] = scored(without)
                found[scores.COST.key(m)] = difference(metric, whole, without)
            if alone is not None:
                found[scores.ALONE.key(m)] = scored(alone)
            if m in self.heads:
                found[scores.HEAD_SCORE.key(m)] = scored(self.heads[m])
                if alone is not None:
                    found[scores.HEADROOM.key(m)] = difference(metric, self.heads[m], alone)
                found[scores.HEAD_GAIN.key(m)] = difference(metric, self.heads[m], whole)
            if self.mixed:
                found[scores.CREDIT.key(m)] = self.mixed.ratio(("credit", m), ("odd", m))
                found[scores.FOLLOWED.key(m)] = self.mixed.ratio(("followed", m), ("odd", m))
        for rows, kind in (
            (self.head_rows, scores.HEAD_SKILL),
            (self.training_rows, scores.TRAINING_SKILL),
        ):
            if rows is not None:
                found |= skill_statistics(rows, kind, self.target)
        return found


def observe_target(
    block: Block,
    *,
    target: Target,
    removal: str,
    means: Mapping[str, Any] | None,
    draws: int,
    generator: torch.Generator,
    head_rows: HeadRows,
) -> TargetOutcomes:
    """Predict the rows of a block as they are and with every intervention."""
    metric = metric_of(target)
    names = tuple(modality.name for modality in block.modalities)
    given, counted = block.given, block.labels >= 0
    readable = target.filled(given)
    seen = TargetOutcomes(names, target, block.labels)

    def usable(predictions: Tensor, what: str, rows: Tensor = counted) -> Tensor:
        return seen.faults.usable(predictions.cpu(), what, rows)

    def taken(predictions: Tensor, what: str) -> Tensor:
        return metric.columns(usable(predictions, what), readable)

    whole = usable(block.logits({}, {}), "of the whole model")
    seen.suspect(whole[counted], readable[counted], "of the whole model")
    seen.columns[Subset(names)] = metric.columns(whole, readable)
    _ask_heads(block, seen, head_rows, readable)
    own = torch.arange(len(given))
    for _ in range(draws):
        for number, name in enumerate(names):
            partner, valid = sample_partners(block.labels, generator=generator)
            source = own[:, None].repeat(1, len(names))
            source[:, number] = partner
            what = f"with {name} from a row of another label"
            mixed = usable(block.logits({name: partner}, {}), what, valid)
            _follow(seen, mixed, readable[source], number, valid, partner)
    away = stand_ins_of(block, removal, means)
    everything = Subset(names)
    for m in names:
        for subset in (everything - {m}, Subset({m})):
            gone = [name for name in names if name not in subset]
            what = f"with {' and '.join(gone)} removed"
            if away is None:  # one permutation: a score is no mean over draws
                orders = {name: permuted_rows(block, generator) for name in gone}
                seen.columns[subset] = taken(block.logits(orders, {}), what)
            elif subset not in seen.columns:
                stand_ins = {name: away[name] for name in gone}
                seen.columns[subset] = taken(block.logits({}, stand_ins), what)
    return seen


def join_targets(parts: Sequence[TargetOutcomes], rows: Tensor | None = None) -> TargetOutcomes:
    """One after the other; ``rows`` as in `outcomes.join`."""
    first = parts[0]
    labels = torch.cat([part.labels for part in parts])
    keep = labels >= 0 if rows is None else rows

    def take(columns: list[Tensor]) -> Tensor:
        return torch.cat(columns)[keep]

    head, *rest = (part.mixed for part in parts)
    late = [part.late for part in parts if part.late is not None]
    return TargetOutcomes(
        first.modalities,
        first.target,
        labels[keep],
        columns={key: take([part.columns[key] for part in parts]) for key in first.columns},
        heads={m: take([part.heads[m] for part in parts]) for m in first.heads},
        late=take(late) if late else None,
        mixed=head.followed_by(rest, take),
        faults=sum((part.faults for part in parts), Faults()),
    )


def _ask_heads(block: Block, seen: TargetOutcomes, head_rows: HeadRows, readable: Tensor) -> None:
    unimodal = block.unimodal()
    if unimodal is None:
        return
    counted = seen.labels >= 0
    keys = [modality.key for modality in block.modalities]
    each = []
    for name, given in zip(
        seen.modalities, in_order(unimodal, keys, "the unimodal logits"), strict=True
    ):
        what = f"the predictions of the head of {name!r}"
        predictions = as_logits(given, len(seen.labels), what, width=block.width).cpu()
        each.append(seen.faults.usable(predictions, f"of the head of {name}", counted))
        seen.suspect(each[-1][counted], readable[counted], f"of the head of {name}")
    head_rows.add(each, block.given, counted)
    seen.add_heads(dict(zip(seen.modalities, each, strict=True)), readable)


def _follow(
    seen: TargetOutcomes,
    predictions: Tensor,
    labels: Tensor,
    number: int,
    valid: Tensor,
    partner: Tensor,
) -> None:
    """Whose label a prediction is nearer to: that of the swapped modality, or of all others."""
    kept = 0 if number else 1
    likely = seen.target.log_likelihoods(predictions, labels)[:, [number, kept]]
    credit = likely.softmax(dim=1)
    nearer = (likely[:, 0] > likely[:, 1]).float() + 0.5 * (likely[:, 0] == likely[:, 1])
    odd = valid.float()
    name = seen.modalities[number]
    columns = {name: (credit[:, 0], nearer)}
    if len(seen.modalities) == 2:  # the other one disagrees with all others, too
        columns[seen.modalities[kept]] = (credit[:, 1], 1 - nearer)
    for m in seen.modalities:
        of_m = columns.get(m, (torch.zeros_like(odd), torch.zeros_like(odd)))
        seen.mixed.add(("credit", m), of_m[0] * odd, partner)
        seen.mixed.add(("followed", m), of_m[1] * odd, partner)
        seen.mixed.add(("odd", m), odd if m in columns else torch.zeros_like(odd), partner)
