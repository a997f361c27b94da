"""The weights α of the modalities in the misaligned loss (Sec. 3.4, Eq. 5-7)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self

from midas_aug._arrays import Array, as_labels, as_scores, as_tensor, check_shape, like
from midas_aug._ranks import several_ranks
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.functional import soft_targets
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.losses import log_probability_at
from midas_aug.functional.weighting import (
    RatioSums,
    confidence_sums,
    credit_sums,
    ratio_sums,
    step_from_ratios,
    step_from_sums,
)

__all__ = ["LabelledRows", "RatioWeakModalityWeight", "WeakModalityWeight"]


class LabelledRows(Protocol):
    """What the losses read: a `MisalignedBatch`, or any object with these attributes.

    `WeakModalityWeight.apply` also reads ``num_classes``, `RatioWeakModalityWeight` also
    ``source`` ``(N + S, M)`` and ``confidence`` ``(N, M)``.
    """

    @property
    def labels(self) -> Any:
        """``(N,)`` integers."""
        ...

    @property
    def source_labels(self) -> Any:
        """``(N + S, M)`` integers."""
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
    """Source labels ``(R, M)``, shares ``(R, M)`` and validity ``(R,)`` of R rows."""

    source_labels: Tensor
    shares: Tensor
    valid: Tensor


class WeakModalityWeight(nn.Module):
    """The weights α of the modalities in the misaligned loss (Eq. 5-7).

    The weak modality's α rises by ``step_size`` in a step in which the model credits it less than
    its share, and falls otherwise, never below 1; every other α is 1.

    Args:
        num_modalities: M.
        step_size: η.
        max_alpha: Upper clamp; None for none, as in the paper.
        sync: In a distributed run, sum over ranks before the decision, so that every rank has the
            same α: one all-reduce of 2M numbers a step.

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
        self.alpha = self.alpha.float() if alpha.is_meta else alpha.to(self.alpha.device)
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
        scores = as_scores(logits, "logits").detach()
        rows = rows_of(out, len(self.alpha), scores)
        self.step(log_probability_at(scores, rows.source_labels), out, rows)

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
            source_labels, shares, _ = rows_of(out, len(self.alpha))
            scaled = shares.clone()
            scaled[len(out.labels) :].mul_(self.coefficients(out))
            mass = scaled.sum(dim=1)
            targets = soft_targets(source_labels, scaled / mass[:, None], out.num_classes)
            weights = as_tensor(out.weights, "weights") * mass
        return like(targets, out.labels), like(weights, out.labels)

    @torch.no_grad()
    def step(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> None:
        """`update` by the log-probabilities ``(N + S, M)`` at the source labels."""
        count = len(out.labels)
        self.alpha.copy_(self._stepped(log_p[count:], out, Rows(*(part[count:] for part in rows))))

    def _stepped(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> Tensor:
        """The next α, from the S misaligned rows."""
        (sums,) = self._reduce(credit_sums(rows.shares, log_p, rows.valid))
        return step_from_sums(self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha)

    def _reduce(self, *sums: Tensor) -> list[Tensor]:
        """Add up over ranks, in one all-reduce."""
        if not (self.sync and several_ranks()):
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
        sums = confidence_sums(*raw_rows_of(out))
        if self.training:  # one rank may validate alone
            (sums,) = self._reduce(sums)
        is_weak = torch.arange(len(self.alpha), device=sums.device) == sums.argmin()
        return torch.where(is_weak & (sums.sum() > 0), self.alpha, 1.0)

    def _stepped(self, log_p: Tensor, out: LabelledRows, rows: Rows) -> Tensor:
        confidence, source, valid = raw_rows_of(out)
        sums = ratio_sums(confidence, source, log_p, valid)
        sums = RatioSums(*self._reduce(*sums))
        return step_from_ratios(
            self.alpha, sums, step_size=self.step_size, max_alpha=self.max_alpha
        )


def rows_of(out: LabelledRows, num_modalities: int, scores: Tensor | None = None) -> Rows:
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
        why = (
            "one row for each of the N aligned, then the S misaligned rows: fuse what out[...] or "
            "out.gather(...) gives, not the features that went in"
        )
        check_shape(scores, (count, None), "logits", why)
        if scores.shape[1] != getattr(out, "num_classes", None):
            check_label_range(source_labels, scores.shape[1])
    return Rows(source_labels, shares, valid)


def raw_rows_of(out: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Raw confidences (N, M), and source and validity of the S misaligned rows."""
    count = len(out.labels)
    source = as_labels(out.source, "source", ndim=2)[count:]
    valid = as_tensor(out.valid, "valid")[count:]
    if len(source) == 0:  # nothing was swapped, so nobody was asked for a confidence
        return torch.zeros(count, 2, device=source.device), source, valid
    confidence = as_scores(out.confidence, "confidence").detach()
    check_shape(confidence, (count, 2), "confidence", "the ratio rule has 2 modalities")
    return confidence, source, valid
