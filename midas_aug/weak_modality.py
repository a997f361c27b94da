"""The weights α of the modalities in the misaligned loss (Sec. 3.4, Eq. 5-7)."""

import functools
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_labels, as_scores, as_tensor, check_shape, elsewhere, like
from midas_aug._checks import check_count, check_switch
from midas_aug._drawn import labels_of_pass
from midas_aug._labelling import labels_at
from midas_aug._ranks import add_up
from midas_aug._replay import Replay, in_backward, recomputing
from midas_aug._state import StatefulModule
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.functional.ratio_rule import (
    RatioSums,
    confidence_sums,
    ratio_sums,
    step_from_ratios,
)
from midas_aug.functional.weak_modality import check_step, credit_sums, step_from_sums
from midas_aug.targets import ClassIndex, Target

__all__ = [
    "LabelledRows",
    "RatioWeakModalityWeight",
    "Rows",
    "WeakModalityWeight",
    "check_rule",
    "loss_terms_of",
    "rows_of",
    "target_of",
]


class LabelledRows(Protocol):
    """What the losses read: a `MisalignedBatch`, or any object with these attributes.

    Where there are more of these, they are read, too: ``target``, one of `midas_aug.targets`, in
    place of class indices; ``num_classes``, by `WeakModalityWeight.fold`; ``absent`` ``(N + S, M)``
    bool, the modalities that a row has not; ``source_confidence`` ``(N + S, M)``, by
    `RatioWeakModalityWeight`; ``unimodal_divisors`` ``(M,)``, of the sums of each head's losses.
    """

    @property
    def labels(self) -> Any:
        """``(N,)`` integers, or labels of the target."""
        ...

    @property
    def source_labels(self) -> Any:
        """``(N + S, M)`` integers, or labels of the target."""
        ...

    @property
    def shares(self) -> Any:
        """``(N + S, M)``, rows sum to 1."""
        ...

    @property
    def weights(self) -> Any:
        """``(N + S,)``."""
        ...

    @property
    def valid(self) -> Any:
        """``(N + S,)`` bool."""
        ...


class Rows(NamedTuple):
    """What a loss reads of R rows.

    Attributes:
        source_labels: ``(R, M, …)``, as `Target.filled` gives them.
        shares: ``(R, M)``.
        ignored: ``(R,)`` bool, the rows that do not count.
        absent: ``(R, M)`` bool, or None where every row has every modality.
    """

    source_labels: Tensor
    shares: Tensor
    ignored: Tensor
    absent: Tensor | None


class WeakModalityWeight(StatefulModule):
    """The weights α of the modalities in the misaligned loss (Eq. 5-7).

    The weak modality's α rises by ``step_size`` in a step in which the model credits it less than
    its share, and falls otherwise, never below 1; every other α is 1.

    Args:
        num_modalities: M.
        step_size: η.
        max_alpha: Upper clamp; None for none, as in the paper.
        sync: In a distributed run, sum over ranks before the decision, so that every rank has the
            same α: one all-reduce of 2M numbers per step. Under ``DistributedDataParallel.join()``
            ranks that are done cannot take part; α then follows the rows of each rank.
        process_group: The ranks to agree with; None for all.

    Attributes:
        alpha: ``(M,)`` float32 buffer.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment, WeakModalityWeight
        >>> augment = MisalignAugment(("x", "z"), 2, confidence="uniform")
        >>> out = augment({"x": torch.rand(2, 4), "z": torch.rand(2, 4)}, torch.tensor([0, 1]))
        >>> weak = WeakModalityWeight(2)
        >>> targets, weights = weak.fold(out)
        >>> bool(torch.equal(targets, out.targets))  # all α are 1 at first
        True
    """

    alpha: Tensor

    def __init__(
        self,
        num_modalities: int,
        *,
        step_size: float = 0.05,
        max_alpha: float | None = None,
        sync: bool = True,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        check_count(num_modalities, "num_modalities", 2)
        self.step_size = step_size
        self.max_alpha = max_alpha
        self.sync = sync
        self.process_group = process_group
        self.register_state("alpha", functools.partial(torch.ones, num_modalities), lowest=1)
        self._replay = Replay()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step_size":
            check_step(value, None)
        elif name == "max_alpha":
            check_step(0.0, value)
        elif name == "sync":
            value = check_switch(value, "sync")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.alpha.shape[0]}, step_size={self.step_size}, max_alpha={self.max_alpha}, "
            f"sync={self.sync}"
        )

    def coefficients(self, out: LabelledRows) -> Tensor:
        """The ``(M,)`` α of this batch's loss."""
        return self.current(out)

    def current(self, out: LabelledRows) -> Tensor:
        """α as it is now; in a forward pass that is repeated, as it was in the first."""
        if self.training and recomputing():
            kept: Tensor = self._replay.recall(*labels_of_pass(out), "a loss")
            return kept
        return self.alpha

    @torch.no_grad()
    def update(self, logits: Array, out: LabelledRows) -> None:
        """Step α, after the loss of the step has been computed (Alg. 1, lines 15-20).

        Args:
            logits: ``(N + S, C)`` of the multimodal head.
            out: The batch they belong to. Without a valid misaligned row α stays as it is.
        """
        self.ready()
        target = target_of(out, logits)
        scores = target.predictions(logits, "logits").detach()
        rows = rows_of(out, self.alpha.shape[0], target, scores)
        self.step(loss_terms_of(target, scores, rows)[1], out, rows)

    def fold(self, out: LabelledRows) -> tuple[Any, Any]:
        """Fold α into soft targets and weights, for a loss other than `MidasLoss`.

        Returns:
            ``targets`` ``(N + S, C)``, mixed by shares that sum to 1, and ``weights``
            ``(N + S,)``: the mean of weights · loss is L_align + λ·L_mis with α.

        Raises:
            MidasAugError: The target of the batch has no dense form.
        """
        self.ready()
        with torch.no_grad():
            target = target_of(out)
            rows = rows_of(out, self.alpha.shape[0], target)
            scaled = rows.shares.clone()
            scaled[out.labels.shape[0] :].mul_(self.coefficients(out))
            mass = scaled.sum(dim=1)
            labels = as_tensor(out.source_labels, "source_labels")
            targets = target.dense(labels, scaled / mass[:, None])
            weights = as_tensor(out.weights, "weights") * mass
        return like(targets, out.labels), like(weights, out.labels)

    def step(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> None:
        """`update` by the log-probabilities ``(N + S, M)`` at the source labels."""
        compiling = torch.compiler.is_compiling()
        if not compiling and in_backward():
            return  # the first pass has stepped
        given, ids = labels_of_pass(out)
        alpha, n_rows = self.alpha, ids.shape[0]
        absent = None if rows.absent is None else rows.absent[n_rows:]
        mixed = Rows(
            rows.source_labels[n_rows:], rows.shares[n_rows:], rows.ignored[n_rows:], absent
        )
        stepped = self._stepped(log_p[n_rows:], out, mixed)
        if compiling:  # a compiled graph repeats itself
            alpha.copy_(stepped)
            return
        # The α of this pass, for a repetition: what the last step gave, unless it was changed.
        last, version = self._replay.last or (None, -1)
        before = last if version == alpha._version else alpha.clone()
        self._replay.keep(given, ids, before)
        alpha.copy_(stepped)
        self._replay.last = stepped, alpha._version

    def _stepped(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> Tensor:
        """The next α, from the S misaligned rows."""
        (sums,) = self._reduce(credit_sums(rows.shares, log_p, rows.ignored, rows.absent))
        return step_from_sums(self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha)

    def _reduce(self, *sums: Tensor) -> list[Tensor]:
        """Add up over ranks, in one all-reduce."""
        return add_up(sums, self.process_group) if self.sync else list(sums)


class RatioWeakModalityWeight(WeakModalityWeight):
    """The public code's rule in place of the paper's.

    Put it in with ``MidasLoss(2, weak_modality=RatioWeakModalityWeight(2))``. One number, applied
    to whichever of two modalities has the smaller mean raw confidence in this batch, and stepped
    by a comparison of ratios of means; see
    `midas_aug.functional.ratio_weak_modality_step`. ``alpha`` holds the number twice.
    """

    def __init__(
        self,
        num_modalities: int = 2,
        *,
        step_size: float = 0.05,
        max_alpha: float | None = None,
        sync: bool = True,
        process_group: Any = None,
    ) -> None:
        if num_modalities != 2:
            raise MidasAugError(
                f"expected num_modalities of 2, which is all that the public code's rule knows, "
                f"got {num_modalities}; WeakModalityWeight takes any number"
            )
        super().__init__(
            num_modalities,
            step_size=step_size,
            max_alpha=max_alpha,
            sync=sync,
            process_group=process_group,
        )

    def coefficients(self, out: LabelledRows) -> Tensor:
        """α for the weak modality of this batch, 1 for the other."""
        confidence, valid = raw_rows_of(out)
        sums = confidence_sums(confidence, valid)
        if self.training:  # one rank may validate alone
            (sums,) = self._reduce(sums)
        is_weak = torch.arange(self.alpha.shape[0], device=sums.device) == sums.argmin()
        return torch.where(is_weak & (sums.sum() > 0), self.current(out), 1.0)

    def _stepped(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> Tensor:
        confidence, valid = raw_rows_of(out)
        sums = ratio_sums(confidence, out.labels.shape[0], log_p, valid)
        sums = RatioSums(*self._reduce(*sums))
        return step_from_ratios(
            self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha
        )


def check_rule(rule: Any, num_modalities: int) -> WeakModalityWeight | None:
    """The module that holds α; None: there is none."""
    if rule is None:
        return None
    if isinstance(rule, str) and rule == "paper":
        return WeakModalityWeight(num_modalities)
    if not isinstance(rule, WeakModalityWeight):
        raise MidasAugError(
            "expected weak_modality to be 'paper', None, or a module such as "
            f"WeakModalityWeight({num_modalities}), got {rule!r}"
        )
    if rule.alpha.shape[0] != num_modalities:
        raise MidasAugError(
            f"expected a weak_modality of {num_modalities} modalities, got one of "
            f"{rule.alpha.shape[0]}"
        )
    return rule


def target_of(out: Any, logits: Any = None) -> Target:
    """What the labels of a batch are; class indices where it does not say."""
    target = getattr(out, "target", None)
    if target is not None:
        found: Target = target
        return found
    if not hasattr(out, "source_labels"):
        raise MidasAugError(
            f"expected a MisalignedBatch, got {type(out).__name__}; pass what augment(...) gave, "
            "after the logits"
        )
    num_classes = getattr(out, "num_classes", None)
    if num_classes is None:
        if logits is None:
            raise MidasAugError(
                f"expected a batch that knows its num_classes, got a {type(out).__name__} without; "
                "give it one, or use MidasLoss, which builds no dense targets"
            )
        num_classes = as_scores(logits, "logits").shape[1]
    return ClassIndex(max(int(num_classes), 1))


def rows_of(
    out: LabelledRows, n_modalities: int, target: Target, scores: Tensor | None = None
) -> Rows:
    """What a loss reads of all N + S rows, checked against the predictions."""
    if type(out) is MisalignedBatch and scores is not None and not out.is_numpy:
        # It was checked at its own door.
        drawn = out.drawn
        expected = (drawn.source.shape[0], target.n_outputs)
        if (*scores.shape,) == expected and len(out.modalities) == n_modalities:
            if scores.device != drawn.valid.device:
                raise MidasAugError(elsewhere("logits", scores, drawn.valid.device))
            readable = labels_at(drawn.readable, drawn.source)
            return Rows(readable, out.shares, drawn.ignored, drawn.absent)
    if isinstance(target, ClassIndex):
        source_labels = as_labels(out.source_labels, "source_labels", ndim=2)
    else:
        source_labels = as_tensor(out.source_labels, "source_labels")
    shares = as_scores(out.shares, "shares").detach()
    valid = as_tensor(out.valid, "valid")
    total_rows = source_labels.shape[0]
    why = f"one column for each of the {n_modalities} modalities this loss was built for"
    more = tuple(source_labels.shape[2:])
    check_shape(source_labels, (total_rows, n_modalities, *more), "source_labels", why)
    check_shape(shares, (total_rows, n_modalities), "shares", "one share per source label")
    check_shape(valid, (total_rows,), "valid", "one flag per row")
    if scores is not None:
        why = (
            "one row for each of the N aligned, then the S misaligned rows: fuse what out[...] or "
            "out.gather(...) gives, not the features that went in"
        )
        check_shape(scores, (total_rows, None), "logits", why)
        if scores.device != valid.device:
            raise MidasAugError(elsewhere("logits", scores, valid.device))
        target.check_width(scores, source_labels, "logits")
    return Rows(target.filled(source_labels), shares, ~valid, getattr(out, "absent", None))


def loss_terms_of(target: Target, scores: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Minus the loss of each row for the label of each modality's source, ``(N + S, M)``.

    First as it is trained with, then as credit is measured. Rows that do not count send no gradient
    to their predictions, whatever these hold.
    """
    counted = scores.masked_fill(rows.ignored[:, None], 0.0)
    return target.loss_terms(counted, rows.source_labels)


def raw_rows_of(out: Any) -> tuple[Tensor, Tensor]:
    """Raw confidences at the sources, and validity, of the S misaligned rows."""
    n_rows = out.labels.shape[0]
    valid = as_tensor(out.valid, "valid")[n_rows:]
    confidence = as_scores(out.source_confidence, "source_confidence").detach()[n_rows:]
    why = "the ratio rule has 2 modalities"
    check_shape(confidence, (valid.shape[0], 2), "source_confidence", why)
    return confidence, valid
