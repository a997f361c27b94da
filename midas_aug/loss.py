"""`MidasLoss` (Eq. 9-11) and the weak-modality weights that it keeps (Eq. 5-7)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self

from midas_aug._arrays import Array, as_labels, as_scores, as_tensor, check_shape, like
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.functional import soft_targets
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.losses import weighted_nll
from midas_aug.functional.weighting import (
    CreditSums,
    RatioSums,
    confidence_sums,
    credit_sums,
    ratio_sums,
    step_from_ratios,
    step_from_sums,
)

__all__ = ["LossTerms", "MidasLoss", "RatioWeakModalityWeight", "WeakModalityWeight"]


class LabelledRows(Protocol):
    """What the losses read; a `MisalignedBatch`, or any object with these attributes.

    ``labels`` (N,), ``source_labels`` (N+S, M), ``shares`` (N+S, M), ``weights`` (N+S,) and
    ``valid`` (N+S,): aligned rows first. `WeakModalityWeight.apply` also reads ``num_classes``,
    `RatioWeakModalityWeight` also ``source`` (N+S, M) and ``confidence`` (N, M).
    """

    @property
    def labels(self) -> Any: ...
    @property
    def source_labels(self) -> Any: ...
    @property
    def shares(self) -> Any: ...
    @property
    def weights(self) -> Any: ...
    @property
    def valid(self) -> Any: ...


class LossTerms(NamedTuple):
    """The parts of the loss, scalars: total = aligned + misaligned + weighted unimodal."""

    total: Tensor
    aligned: Tensor
    misaligned: Tensor
    unimodal: Tensor


class WeakModalityWeight(nn.Module):
    """The weights α of the modalities in the misaligned loss (Eq. 5-7).

    The weak modality's α rises by ``step_size`` in a step in which the model credits it less than
    its share, and falls otherwise, never below 1; every other α is 1.

    Args:
        num_modalities: M.
        step_size: η.
        max_alpha: Upper clamp; None for none, as in the paper.
        sync: In a distributed run, sum over ranks before the decision, so that every rank has the
            same α: one all-reduce of 2M + 1 numbers a step.

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
        >>> targets, weights = weak.apply(out)
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
    ) -> None:
        super().__init__()
        if num_modalities < 2:
            raise MidasAugError(f"expected num_modalities of at least 2, got {num_modalities}")
        if not step_size >= 0:
            raise MidasAugError(f"expected step_size (η) of at least 0, got {step_size}")
        if max_alpha is not None and not max_alpha >= 1:
            raise MidasAugError(f"expected max_alpha of at least 1 or None, got {max_alpha}")
        self.step_size = step_size
        self.max_alpha = max_alpha
        self.sync = sync
        self.register_buffer("alpha", torch.ones(num_modalities))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{len(self.alpha)}, step_size={self.step_size}, max_alpha={self.max_alpha}, "
            f"sync={self.sync}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # model.to(torch.bfloat16) moves α and keeps it float32: 16 + 0.05 is 16 in bfloat16.
        alpha = self.alpha
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.alpha = alpha.to(self.alpha.device)
        return self

    @torch.no_grad()
    def coefficients(self, out: LabelledRows) -> Tensor:
        """The ``(M,)`` α of this batch's loss."""
        return self.alpha

    @torch.no_grad()
    def update(self, logits: Array, out: LabelledRows) -> None:
        """Step α, after the loss of the step has been computed (Alg. 1, lines 15-20).

        Args:
            logits: ``(N + S, C)`` of the multimodal head.
            out: The batch they belong to. Without a valid misaligned row α stays as it is.
        """
        scores = as_scores(logits, "logits")
        self._step(scores, out, *_rows_of(out, len(self.alpha), scores))

    @overload
    def apply(self, out: MisalignedBatch) -> tuple[Any, Any]: ...
    @overload
    def apply(self, out: Callable[[nn.Module], None]) -> Self: ...
    def apply(self, out: Any) -> Any:
        """Fold α into soft targets and weights, for a loss other than `MidasLoss`.

        A function is applied to the module, as ``nn.Module.apply`` does (``model.apply(init)``
        reaches this module, too).

        Returns:
            ``targets`` ``(N + S, C)``, each row sums to 1, and ``weights`` ``(N + S,)``: the mean
            of weights · cross-entropy is L_align + λ·L_mis with α.
        """
        if callable(out):
            return super().apply(out)
        with torch.no_grad():
            source_labels, shares, _ = _rows_of(out, len(self.alpha))
            scaled = _scale_shares(shares, self.coefficients(out), len(out.labels))
            mass = scaled.sum(dim=1)
            targets = soft_targets(source_labels, scaled / mass[:, None], out.num_classes)
            weights = as_tensor(out.weights, "weights") * mass
        return like(targets, out.labels), like(weights, out.labels)

    def _step(
        self,
        scores: Tensor,
        out: LabelledRows,
        source_labels: Tensor,
        shares: Tensor,
        valid: Tensor,
    ) -> None:
        here = slice(len(out.labels), None)
        sums = credit_sums(shares[here], scores[here], source_labels[here], valid[here])
        sums = CreditSums(*self._reduce(*sums))
        self.alpha.copy_(
            step_from_sums(self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha)
        )

    def _reduce(self, *sums: Tensor) -> list[Tensor]:
        """Add up over ranks, in one all-reduce."""
        if not (
            self.sync
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            return list(sums)
        flat = torch.cat([part.flatten() for part in sums])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [part.numel() for part in sums])
        return [part.view_as(given) for part, given in zip(parts, sums, strict=True)]


class RatioWeakModalityWeight(WeakModalityWeight):
    """The public code's rule in place of the paper's.

    Put it in with ``criterion.weak = RatioWeakModalityWeight(2)``. One number, applied to whichever
    of two modalities has the smaller mean raw confidence in this batch, and stepped by a comparison
    of ratios of means; see
    `midas_aug.functional.ratio_weak_modality_step`. ``alpha`` holds the number twice.
    """

    def __init__(
        self,
        num_modalities: int = 2,
        *,
        step_size: float = 0.05,
        max_alpha: float | None = None,
        sync: bool = True,
    ) -> None:
        if num_modalities != 2:
            raise MidasAugError(
                f"expected num_modalities of 2, which is all that the public code's rule knows, "
                f"got {num_modalities}; WeakModalityWeight takes any number"
            )
        super().__init__(num_modalities, step_size=step_size, max_alpha=max_alpha, sync=sync)

    @torch.no_grad()
    def coefficients(self, out: LabelledRows) -> Tensor:
        """α for the weak modality of this batch, 1 for the other."""
        sums = confidence_sums(*_raw_rows_of(out))
        if self.training:  # one rank may validate alone
            (sums,) = self._reduce(sums)
        is_weak = torch.arange(len(self.alpha), device=sums.device) == sums.argmin()
        return torch.where(is_weak & (sums.sum() > 0), self.alpha, 1.0)

    def _step(
        self,
        scores: Tensor,
        out: LabelledRows,
        source_labels: Tensor,
        shares: Tensor,
        valid: Tensor,
    ) -> None:
        here = slice(len(out.labels), None)
        confidence, source, usable = _raw_rows_of(out)
        sums = ratio_sums(confidence, source, scores[here], source_labels[here], usable)
        sums = RatioSums(*self._reduce(*sums))
        self.alpha.copy_(
            step_from_ratios(self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha)
        )


class MidasLoss(nn.Module):
    """Cross-entropy of aligned rows, misaligned rows and unimodal heads (Eq. 9-11).

    total = L_align + λ·L_mis + ``unimodal_weight`` · Σ_m L_uni^m. λ and the hard-sample weights
    come in ``out.weights``; α is ``criterion.weak.alpha``. Builds no dense targets. Rows with a
    negative label, and rows without a partner, count nowhere.

    Args:
        num_modalities: M.
        unimodal_weight: Factor of the *sum* of the unimodal losses. 1 is the paper's; 1/M gives
            the public code's mean.
        step_size: η, see `WeakModalityWeight`; 0 keeps every α at 1.
        max_alpha: See `WeakModalityWeight`.
        warmup_epochs: E_w. While ``set_epoch`` was told a smaller number, only the unimodal term
            counts: the fusion head gets no gradient at all and α rests.
        sync: See `WeakModalityWeight`.

    Attributes:
        weak: The `WeakModalityWeight`. Assign another to change the rule.
        epoch: int64 buffer, what `set_epoch` was told last.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> features = {"audio": torch.rand(4, 8), "video": torch.rand(4, 6)}
        >>> labels = torch.tensor([0, 1, 2, 0])
        >>> unimodal = {"audio": torch.rand(4, 3), "video": torch.rand(4, 3)}
        >>> out = MisalignAugment(("audio", "video"), 3)(features, labels, unimodal_logits=unimodal)
        >>> fusion = torch.nn.Linear(14, 3)
        >>> logits = fusion(torch.cat([out["audio"], out["video"]], dim=1))
        >>> criterion = MidasLoss(2)
        >>> criterion(logits, out, unimodal_logits=unimodal).shape
        torch.Size([])
    """

    epoch: Tensor

    def __init__(
        self,
        num_modalities: int,
        *,
        unimodal_weight: float = 1.0,
        step_size: float = 0.05,
        max_alpha: float | None = None,
        warmup_epochs: int = 0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        if not unimodal_weight >= 0:
            raise MidasAugError(f"expected unimodal_weight of at least 0, got {unimodal_weight}")
        if warmup_epochs < 0:
            raise MidasAugError(f"expected warmup_epochs of at least 0, got {warmup_epochs}")
        self.num_modalities = num_modalities
        self.unimodal_weight = unimodal_weight
        self.warmup_epochs = warmup_epochs
        self.weak = WeakModalityWeight(
            num_modalities, step_size=step_size, max_alpha=max_alpha, sync=sync
        )
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        # A Python copy of a comparison on `epoch`: to branch on the buffer would be a sync.
        self._warming_up = warmup_epochs > 0
        self.register_load_state_dict_post_hook(_restore_warmup)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """The arguments that are not those of ``weak``, for ``repr``."""
        return (
            f"{self.num_modalities}, unimodal_weight={self.unimodal_weight}, "
            f"warmup_epochs={self.warmup_epochs}"
        )

    @property
    def warming_up(self) -> bool:
        """Whether only the unimodal term counts now."""
        return self._warming_up

    def set_epoch(self, epoch: int) -> None:
        """Tell the criterion which epoch (from 0) begins; ends the warm-up when it is time."""
        self.epoch.fill_(epoch)
        self._warming_up = epoch < self.warmup_epochs

    def forward(
        self,
        logits: Tensor,
        out: LabelledRows,
        unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The scalar loss; in training mode α steps afterwards.

        Args:
            logits: ``(N + S, C)`` of the multimodal head, for the rows of ``out``.
            out: A `MisalignedBatch`, or any object with the attributes of one that are read here.
            unimodal_logits: ``(N, C)`` of each unimodal head on the aligned rows, by modality or
                in order. None: there is no unimodal term.

        Raises:
            MidasAugError: Shapes do not fit, or a warm-up has no unimodal logits to train.
        """
        return self.terms(logits, out, unimodal_logits).total

    def terms(
        self,
        logits: Tensor,
        out: LabelledRows,
        unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None = None,
    ) -> LossTerms:
        """The loss with its parts, in place of `forward`: it steps α, too."""
        scores = as_scores(logits, "logits")
        unimodal = self._unimodal(unimodal_logits, out, scores)
        if self._warming_up:
            nothing = torch.zeros((), device=scores.device)
            return LossTerms(self.unimodal_weight * unimodal, nothing, nothing, unimodal)

        rows = _rows_of(out, self.num_modalities, scores)
        source_labels, shares, _ = rows
        weights = as_tensor(out.weights, "weights")
        check_shape(weights, (len(scores),), "weights", "one weight a row of logits")
        count = len(out.labels)
        scaled = _scale_shares(shares, self.weak.coefficients(out), count)
        losses = weights * weighted_nll(scores, source_labels, scaled)
        # Not .mean(): an empty batch has the loss 0, with a gradient.
        aligned = losses[:count].sum() / max(len(losses), 1)
        misaligned = losses[count:].sum() / max(len(losses), 1)
        if self.training:
            with torch.no_grad():
                self.weak._step(scores.detach(), out, *rows)
        total = aligned + misaligned + self.unimodal_weight * unimodal
        return LossTerms(total, aligned, misaligned, unimodal)

    def _unimodal(
        self,
        unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None,
        out: LabelledRows,
        scores: Tensor,
    ) -> Tensor:
        """Sum over modalities of the mean cross-entropy of the rows with a label (Eq. 9)."""
        if unimodal_logits is None:
            if self._warming_up:
                raise MidasAugError(
                    f"expected unimodal_logits during the warm-up (epoch {int(self.epoch)} of "
                    f"{self.warmup_epochs}), got None; pass the unimodal heads' logits, or build "
                    "MidasLoss with warmup_epochs=0"
                )
            return torch.zeros((), device=scores.device)
        by_modality = (
            list(unimodal_logits.values())
            if isinstance(unimodal_logits, Mapping)
            else list(unimodal_logits)
        )
        if len(by_modality) != self.num_modalities:
            raise MidasAugError(
                f"expected unimodal logits of {self.num_modalities} modalities, got "
                f"{len(by_modality)}; pass one (N, C) tensor a modality"
            )
        labels = as_labels(out.labels, "labels")
        labelled = labels >= 0
        total = torch.zeros((), device=scores.device)
        for number, logits in enumerate(by_modality):
            name = f"unimodal_logits[{number}]"
            rows = as_scores(logits, name)
            check_shape(rows, (len(labels), None), name, "the N aligned rows")
            check_label_range(labels, rows.shape[1])
            losses = weighted_nll(rows, labels[:, None], labelled[:, None].to(rows.dtype))
            total = total + losses.sum()
        return total / labelled.sum().clamp(min=1)


def _rows_of(
    out: LabelledRows, num_modalities: int, scores: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Source labels, shares and validity of all N + S rows, checked against the logits."""
    source_labels = as_labels(out.source_labels, "source_labels", ndim=2)
    shares = as_scores(out.shares, "shares").detach()
    valid = as_tensor(out.valid, "valid")
    count = len(source_labels)
    why = f"one column for each of the {num_modalities} modalities this loss was built for"
    check_shape(source_labels, (count, num_modalities), "source_labels", why)
    check_shape(shares, tuple(source_labels.shape), "shares", "one share a source label")
    check_shape(valid, (count,), "valid", "one flag a row")
    if scores is not None:
        why = "one row for each of the N aligned, then the S misaligned rows"
        check_shape(scores, (count, None), "logits", why)
        check_label_range(source_labels, scores.shape[1])
    return source_labels, shares, valid


def _raw_rows_of(out: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Raw confidences (N, M), and source and validity of the S misaligned rows."""
    count = len(out.labels)
    source = as_labels(out.source, "source", ndim=2)[count:]
    valid = as_tensor(out.valid, "valid")[count:]
    if len(source) == 0:  # nothing was swapped, so nobody was asked for a confidence
        return torch.zeros(count, 2, device=source.device), source, valid
    confidence = as_scores(out.confidence, "confidence").detach()
    check_shape(confidence, (count, 2), "confidence", "the ratio rule has 2 modalities")
    return confidence, source, valid


def _scale_shares(shares: Tensor, alpha: Tensor, count: int) -> Tensor:
    """Shares with α on the misaligned rows; the ``count`` aligned ones have none."""
    return torch.cat([shares[:count], shares[count:] * alpha])


def _restore_warmup(module: nn.Module, _: Any) -> None:
    if isinstance(module, MidasLoss):
        module._warming_up = int(module.epoch) < module.warmup_epochs
