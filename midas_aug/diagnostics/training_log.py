"""`TrainingLog`: the curves of a MIDAS training run, collected without a host-device sync."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from midas_aug._checks import check_switch, is_real
from midas_aug._ranks import several_ranks
from midas_aug.diagnostics import scores as kinds
from midas_aug.diagnostics.step_sums import BINS, Sums, sums_of_rows
from midas_aug.errors import MidasAugError
from midas_aug.loss import LossTerms
from midas_aug.weak_modality import LabelledRows

__all__ = ["Criterion", "TrainingLog"]

PER_MODALITY = (kinds.SHARE, kinds.CREDIT, kinds.CONFIDENCE, kinds.UNIMODAL, kinds.ALPHA)
SINGLE = (
    kinds.COLLAPSED,
    kinds.ENTROPY,
    kinds.HARDNESS,
    kinds.MISALIGNED_ACCURACY,
    kinds.ACCURACY,
    kinds.WARMING_UP,
)
STATE = ("modalities", "records", "histograms", "totals")
FUSED_LOSS = "fused_loss"  # the terms that a warm-up has placeholders for
RANGES = {kinds.SIMILARITY.name: (-1.0, 1.0), kinds.SHARE.name: (0.0, 1.0)}


class Criterion(Protocol):
    """What the log reads of a loss: `MidasLoss` has it."""

    @property
    def alpha(self) -> Tensor:
        """``(M,)``: α of each modality."""
        ...

    @property
    def was_warming_up(self) -> bool:
        """Whether only the unimodal heads learned in the last pass."""
        ...


class TrainingLog:
    """Collect what MIDAS does in training, epoch by epoch.

    `update` adds to running sums on the device and never waits for it; `end_epoch` fetches them,
    one small tensor. In a distributed run the sums are added up over the ranks there, so all ranks
    have to call it.

    A record of an epoch has these scores, as far as the calls of `update` could tell:

    | score | mean over | of |
    | --- | --- | --- |
    | ``share.<m>`` | misaligned rows | the share c̃ of the modality in the label (Eq. 3) |
    | ``credit.<m>`` | misaligned rows | the model's credit to it (Eq. 6): what moves α |
    | ``confidence.<m>`` | misaligned rows | the model's confidence in its label, exp(−loss) |
    | ``collapsed`` | misaligned rows | the fraction of shares within 0.05 of 1/M |
    | ``entropy`` | misaligned rows | entropy of the shares over log M: 1 is the plain swap |
    | ``hardness`` | misaligned rows | hard-sample weight (Eq. 8) |
    | ``misaligned_accuracy`` | misaligned rows | 1 where the top classes are the sources' labels |
    | ``accuracy`` | aligned rows | 1 where the top class is the label |
    | ``unimodal.<m>`` | aligned rows | raw confidence of the modality in the label (Eq. 2) |
    | ``alpha.<m>`` | steps | α after the step |
    | ``loss.<term>`` | steps | total, aligned, misaligned, unimodal |
    | ``warming_up`` | steps | 1 in the warm-up |

    Rows that are not ``valid`` do not count. A modality that a row lacks has share and credit 0
    there, and the row is not in the mean of its ``confidence`` and ``unimodal``. The two accuracies
    need class indices and are left out for every other target; of class indices, ``confidence`` is
    the probability of the label.

    Args:
        modalities: Their names, in the order of the augmentation.
        sync: In a distributed run, add up over ranks: one all-reduce an epoch.

    Attributes:
        records: One dict of scores for each epoch, with its number under ``"epoch"``.
        histograms: One dict for each epoch: counts in 40 equal bins of ``similarity`` (−1 … 1) and
            of ``share.<m>`` (0 … 1) of the misaligned rows.

    Raises:
        MidasAugError: There are fewer than two different modalities, or ``sync`` is no switch.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.diagnostics import TrainingLog
        >>> augment, criterion = MisalignAugment(("audio", "video"), 3, seed=0), MidasLoss(2)
        >>> log = TrainingLog(augment.modalities)
        >>> features = {"audio": torch.rand(4, 8), "video": torch.rand(4, 6)}
        >>> unimodal = {"audio": torch.zeros(4, 3), "video": torch.zeros(4, 3)}
        >>> out = augment(features, torch.tensor([0, 1, 2, 0]), unimodal_logits=unimodal)
        >>> logits = torch.rand(12, 3)
        >>> terms = criterion.compute(logits, out, unimodal)  # terms.total.backward()
        >>> log.update(out, logits=logits, terms=terms, criterion=criterion)
        >>> record = log.end_epoch(0)
        >>> record["share.audio"], record["collapsed"]
        (0.5, 1.0)
    """

    def __init__(self, modalities: Sequence[Any], *, sync: bool = True) -> None:
        if not isinstance(modalities, Iterable):
            raise MidasAugError(
                "expected the modalities as a sequence of names, got "
                f"{type(modalities).__name__}; pass those of the augmentation, augment.modalities"
            )
        names = tuple(str(name) for name in modalities)
        if isinstance(modalities, str) or len(set(names)) < max(2, len(names)):
            raise MidasAugError(
                f"expected two or more modalities with different names, got {modalities!r}"
            )
        self.modalities = names
        self.sync = check_switch(sync, "sync")
        self.records: list[dict[str, float]] = []
        self.histograms: list[dict[str, list[int]]] = []
        each = {kind.name: [kind.key(name) for name in names] for kind in PER_MODALITY}
        self._names = {
            **each,
            **{kind.name: [kind.key()] for kind in SINGLE},
            kinds.LOSS.name: [kinds.LOSS.key("total"), kinds.LOSS.key("unimodal")],
            FUSED_LOSS: [kinds.LOSS.key("aligned"), kinds.LOSS.key("misaligned")],
        }
        self._histogram_names = {
            kinds.SHARE.name: each[kinds.SHARE.name],
            kinds.SIMILARITY.name: [kinds.SIMILARITY.key()],
        }
        self._totals: Tensor | None = None  # made on the device of the first batch

    def __repr__(self) -> str:
        return f"TrainingLog({self.modalities!r}, sync={self.sync})"

    # -- in the training loop --------------------------------------------------------------------

    @torch.no_grad()
    def update(
        self,
        out: LabelledRows,
        *,
        logits: Any = None,
        terms: LossTerms | None = None,
        criterion: Criterion | None = None,
    ) -> None:
        """Add a step, without a sync. Call it after the loss.

        Args:
            out: The labelled batch.
            logits: ``(N + S, C)`` of the multimodal head. None: no credit, confidence, accuracy.
            terms: What ``criterion.compute`` gave, in place of ``criterion(...)``. None: no losses.
            criterion: The `MidasLoss`. None: no α, and the warm-up is not noticed: in it nothing is
                read from the logits of the idle fusion head.

        Raises:
            MidasAugError: ``out`` has no labels yet, shapes do not fit, or ``terms`` or
                ``criterion`` are something else.
        """
        _check_step(terms, criterion)
        # Of the pass, and not `warming_up`: the loss has counted the step, the last one, too.
        warming_up = criterion is not None and criterion.was_warming_up
        n_modalities = len(self.modalities)
        sums, counts = sums_of_rows(out, n_modalities, logits, warming_up=warming_up)
        one = torch.ones(1, device=counts[kinds.SHARE.name].device)
        steps = {kinds.WARMING_UP.name: one * warming_up}
        if criterion is not None:
            steps[kinds.ALPHA.name] = criterion.alpha
        if terms is not None:
            steps[kinds.LOSS.name] = torch.stack([terms.total.detach(), terms.unimodal.detach()])
            if not warming_up:  # which has placeholders for these
                steps[FUSED_LOSS] = torch.stack([terms.aligned.detach(), terms.misaligned.detach()])
        self._add({**sums, **{kind: (value.float(), one) for kind, value in steps.items()}}, counts)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Close an epoch: fetch the sums, clear them and keep the means.

        Args:
            epoch: Its number, the place on the curves' x axis. Any number that grows will do: call
                it every 50 steps for finer curves. Records from this number on are dropped, as a
                run that was set back writes them anew.

        Returns:
            The new record, which is also the last of ``records``.

        Raises:
            MidasAugError: The epoch is no finite number.
        """
        if not is_real(epoch) or not isfinite(epoch):
            raise MidasAugError(
                f"expected epoch as a finite number, got {epoch!r}; it is the place on the x axis "
                "of the curves: pass the number of the epoch"
            )
        totals = self._totals
        if totals is None:
            totals = torch.zeros(self._length, dtype=torch.float64)
        if self.sync and several_ranks():
            torch.distributed.all_reduce(totals)
        numbers = totals.tolist()  # the one sync of the epoch
        if self._totals is not None:
            self._totals.zero_()
        kept = sum(record["epoch"] < epoch for record in self.records)
        del self.records[kept:], self.histograms[kept:]
        record: dict[str, float] = {"epoch": epoch}
        rest = iter(numbers)
        for names in self._names.values():
            totals_of, counts_of = list(islice(rest, len(names))), list(islice(rest, len(names)))
            for name, one, many in zip(names, totals_of, counts_of, strict=True):
                if many:
                    record[name] = one / many
        histogram = {
            name: [round(number) for number in islice(rest, BINS)]
            for names in self._histogram_names.values()
            for name in names
        }
        self.records.append(record)
        self.histograms.append(histogram)
        return record

    # -- what came of it -------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything as a plain dict, fit for JSON; `midas_aug.diagnostics.figures` draws it.

        Returns:
            ``modalities``; ``epoch``, a list; ``scores``, a list for each name, None where an epoch
            has no such score or it is not finite; ``histograms``: for each name ``edges`` (41
            numbers) and ``counts`` (40 for each epoch).
        """
        names = dict.fromkeys(name for record in self.records for name in record)
        names.pop("epoch", None)
        return {
            "modalities": list(self.modalities),
            "epoch": [record["epoch"] for record in self.records],
            "scores": {
                name: [_finite(record.get(name)) for record in self.records] for name in names
            },
            "histograms": {
                name: {
                    "edges": _edges(*RANGES[kind]),
                    "counts": [histogram[name] for histogram in self.histograms],
                }
                for kind, kind_names in self._histogram_names.items()
                for name in kind_names
            },
        }

    def write(self, callback: Callable[[str, float, int], object], *, start: int = 0) -> None:
        """Hand every score to ``callback(name, value, epoch)``.

        Args:
            callback: Any logger.
            start: Leave out the epochs before this one: ``start=epoch`` after `end_epoch` hands
                over the epoch that ended.
        """
        for record in self._since(start):
            for name, value in record.items():
                if name != "epoch":
                    callback(name, value, int(record["epoch"]))

    def to_tensorboard(self, writer: Any, *, start: int = 0, prefix: str = "midas") -> None:
        """`write` to anything with ``add_scalar(tag, value, step)``, as a ``SummaryWriter`` has."""
        self.write(
            lambda name, value, epoch: writer.add_scalar(f"{prefix}/{name}", value, epoch),
            start=start,
        )

    def to_wandb(self, run: Any, *, start: int = 0, prefix: str = "midas") -> None:
        """Hand one dict an epoch to ``run.log``, as a Weights & Biases run has.

        The epoch is ``midas/epoch`` in it and not the step of the run, which other calls of
        ``run.log`` move. To have it on the x axis:
        ``run.define_metric("midas/*", step_metric="midas/epoch")``.
        """
        for record in self._since(start):
            run.log({f"{prefix}/{name}": value for name, value in record.items()})

    # -- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, the unfinished epoch included."""
        return {
            "modalities": list(self.modalities),
            "records": [dict(record) for record in self.records],
            "histograms": [
                {name: list(counts) for name, counts in histogram.items()}
                for histogram in self.histograms
            ],
            "totals": None if self._totals is None else self._totals.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        In a distributed run, where one checkpoint serves all ranks, take it at the end of an epoch:
        the unfinished epoch in it is that of one rank.

        Raises:
            MidasAugError: It is no such state, or that of a log with other modalities. The log
                stays as it is.
        """
        _check_state(state, self.modalities, self._length)
        self.records = [dict(record) for record in state["records"]]
        self.histograms = [dict(histogram) for histogram in state["histograms"]]
        self._totals = None if state["totals"] is None else state["totals"].clone()

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _length(self) -> int:
        names = sum(map(len, self._names.values()))
        return 2 * names + BINS * sum(map(len, self._histogram_names.values()))

    def _since(self, start: int) -> list[dict[str, float]]:
        return [record for record in self.records if record["epoch"] >= start]

    def _add(self, sums: Mapping[str, Sums], counts: Mapping[str, Tensor]) -> None:
        """Lay sums, numbers of rows and histograms side by side and add them to the totals."""
        nothing = torch.zeros(1, device=counts[kinds.SHARE.name].device)
        parts = []
        for kind, names in self._names.items():
            total, count = sums.get(kind, (nothing, nothing))
            parts += [total.expand(len(names)), count.expand(len(names))]
        for kind, names in self._histogram_names.items():
            parts.append(counts[kind] if kind in counts else nothing.expand(BINS * len(names)))
        step = torch.cat(parts)
        if self._totals is None:
            self._totals = step.to(_precision(step.device))
        else:  # after load_state_dict they may be elsewhere
            self._totals = self._totals.to(step.device, _precision(step.device)).add_(step)


def _check_step(terms: Any, criterion: Any) -> None:
    if terms is not None and not isinstance(terms, LossTerms):
        raise MidasAugError(
            f"expected terms as the LossTerms of criterion.compute(...), got "
            f"{type(terms).__name__}; call terms = criterion.compute(logits, out, unimodal_logits) "
            "and terms.total.backward(), or leave terms out"
        )
    if criterion is not None and not hasattr(criterion, "was_warming_up"):
        raise MidasAugError(
            f"expected criterion as the MidasLoss, got {type(criterion).__name__}; leave it out "
            "where there is another loss"
        )


def _check_state(state: Any, modalities: tuple[str, ...], length: int) -> None:
    """Raise unless a log of these modalities can take all of the state."""
    missing = [key for key in STATE if not isinstance(state, Mapping) or key not in state]
    if missing:
        got = f"no {missing[0]!r}" if isinstance(state, Mapping) else type(state).__name__
        raise MidasAugError(
            f"expected the state of a TrainingLog, with {', '.join(map(repr, STATE))}, got {got}; "
            "pass what log.state_dict() gave"
        )
    given, records, histograms, totals = (state[key] for key in STATE)
    if not isinstance(given, list | tuple) or tuple(given) != modalities:
        raise MidasAugError(
            f"expected the state of a log of {list(modalities)!r}, got one of {given!r}; build the "
            "log with the modalities that it had"
        )
    rows = [records, histograms]
    if not all(isinstance(row, list) and all(isinstance(one, dict) for one in row) for row in rows):
        got = "something else"
    elif len(records) != len(histograms):
        got = f"{len(records)} records and {len(histograms)} histograms"
    else:
        got = "" if all("epoch" in one for one in records) else "a record without its epoch"
    if got:
        raise MidasAugError(
            f"expected a dict of scores and one of histograms for each epoch, got {got}; the state "
            "is damaged: take an earlier checkpoint"
        )
    if totals is not None and not (isinstance(totals, Tensor) and totals.shape == (length,)):
        got = str(tuple(totals.shape)) if isinstance(totals, Tensor) else type(totals).__name__
        raise MidasAugError(
            f"expected totals, the sums of the unfinished epoch, as a tensor of shape ({length},), "
            f"got {got}; they are of another version of midas_aug: to go on without these sums, "
            "set state['totals'] = None"
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _precision(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _edges(low: float, high: float) -> list[float]:
    return [round(low + (high - low) * number / BINS, 6) for number in range(BINS + 1)]
