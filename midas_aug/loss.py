"""`MidasLoss`: aligned rows, misaligned rows and unimodal heads in one objective (Eq. 9-11)."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug._arrays import as_labels, as_scores, as_tensor, check_shape
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.losses import log_probability_at
from midas_aug.tree import in_order
from midas_aug.weak_modality import LabelledRows, WeakModalityWeight, rows_of

__all__ = ["LossTerms", "MidasLoss"]


class LossTerms(NamedTuple):
    """The parts of the loss, scalars: total = aligned + misaligned + weighted unimodal."""

    total: Tensor
    aligned: Tensor
    misaligned: Tensor
    unimodal: Tensor


class MidasLoss(nn.Module):
    """Cross-entropy of aligned rows, misaligned rows and unimodal heads (Eq. 9-11).

    total = L_align + λ·L_mis + ``unimodal_weight`` · Σ_m L_uni^m. λ and the hard-sample weights
    come in ``out.weights``; α is ``criterion.weak.alpha``. Builds no dense targets. Rows with a
    negative label, and rows without a partner, count nowhere.

    Args:
        num_modalities: M.
        unimodal_weight: Factor of the *sum* of the unimodal losses. 1 is the paper's; 1/M gives
            the public code's mean; with 0 they are not computed.
        step_size: η, see `WeakModalityWeight`; 0 keeps every α at 1.
        max_alpha: See `WeakModalityWeight`.
        warmup_epochs: E_w. While ``set_epoch`` was told a smaller number, only the unimodal term
            counts: the fusion head gets no gradient at all and α rests. ``warming_up`` tells, for
            a loop that wants to save itself the swap and the fusion in these epochs.
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
        if warmup_epochs < 0 or warmup_epochs != int(warmup_epochs):
            raise MidasAugError(f"expected warmup_epochs as an integer ≥ 0, got {warmup_epochs!r}")
        if warmup_epochs and not unimodal_weight:
            raise MidasAugError(
                f"expected unimodal_weight above 0 for a warm-up of {warmup_epochs} epochs, got 0; "
                "the warm-up trains the unimodal term alone, there would be nothing to learn"
            )
        self.num_modalities = num_modalities
        self.unimodal_weight = unimodal_weight
        self.warmup_epochs = warmup_epochs
        self.weak = WeakModalityWeight(
            num_modalities, step_size=step_size, max_alpha=max_alpha, sync=sync
        )
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        # A Python copy of a comparison on `epoch`: to branch on the buffer would be a sync.
        self._warming_up = warmup_epochs > 0
        self._epoch_known = False
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
        self._epoch_known = True
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
        if not hasattr(out, "labels"):
            raise MidasAugError(
                f"expected a MisalignedBatch as the second argument, got {type(out).__name__}; "
                "call criterion(logits, out, unimodal_logits=...)"
            )
        if self._warming_up and not self._epoch_known and not torch.compiler.is_compiling():
            self._epoch_known = True  # once is enough
            warnings.warn(
                f"MidasLoss warms up for {self.warmup_epochs} epochs and was never told which one "
                "this is: call criterion.set_epoch(epoch) in every epoch, or the fusion head will "
                "never train",
                stacklevel=2,
            )
        scores = as_scores(logits, "logits")
        unimodal = self._unimodal(unimodal_logits, out, scores)
        if self._warming_up:
            nothing = torch.zeros((), device=scores.device)
            return LossTerms(self._weighted(unimodal), nothing, nothing, unimodal)

        rows = rows_of(out, self.num_modalities, scores)
        weights = as_tensor(out.weights, "weights")
        check_shape(weights, (len(scores),), "weights", "one weight a row of logits")
        count = len(out.labels)
        log_p = log_probability_at(scores, rows.source_labels)
        # Not a mean: an empty batch has the loss 0, with a gradient.
        factors = rows.shares * (weights / -max(len(weights), 1))[:, None]
        factors[count:] *= self.weak.coefficients(out)
        parts = (factors * log_p).split([count, len(weights) - count])
        aligned, misaligned = (part.sum() for part in parts)
        if self.training:
            self.weak.step(log_p.detach(), out, rows)
        total = aligned + misaligned + self._weighted(unimodal)
        return LossTerms(total, aligned, misaligned, unimodal)

    def _weighted(self, unimodal: Tensor) -> Tensor:
        return unimodal if self.unimodal_weight == 1 else self.unimodal_weight * unimodal

    def _unimodal(
        self,
        unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None,
        out: LabelledRows,
        scores: Tensor,
    ) -> Tensor:
        """Sum over modalities of the mean cross-entropy of the rows with a label (Eq. 9)."""
        if unimodal_logits is None or self.unimodal_weight == 0:
            if self._warming_up:
                raise MidasAugError(
                    f"expected unimodal_logits during the warm-up (epoch {int(self.epoch)} of "
                    f"{self.warmup_epochs}), got None; pass the unimodal heads' logits, or build "
                    "MidasLoss with warmup_epochs=0"
                )
            return torch.zeros((), device=scores.device)
        by_modality = _in_order(unimodal_logits, out)
        if len(by_modality) != self.num_modalities:
            raise MidasAugError(
                f"expected unimodal logits of {self.num_modalities} modalities, got "
                f"{len(by_modality)}; pass one (N, C) tensor a modality"
            )
        labels = as_labels(out.labels, "labels")
        targets = labels.clamp(min=-1)
        losses: list[Tensor] = []
        width = getattr(out, "num_classes", None)  # its labels are known to be below
        for number, logits in enumerate(by_modality):
            name = f"unimodal_logits[{number}]"
            rows = as_scores(logits, name)
            check_shape(rows, (len(labels), None), name, "the N aligned rows")
            if rows.shape[1] != width:
                width = rows.shape[1]
                check_label_range(labels, width)
            losses.append(F.cross_entropy(rows, targets, ignore_index=-1, reduction="sum"))
        total = functools.reduce(torch.add, losses)
        return total / (labels >= 0).sum().clamp(min=1)


def _in_order(unimodal_logits: Any, out: Any) -> list[Tensor]:
    """By the names of the batch where it has some; as they come where it has none."""
    names = getattr(out, "modalities", None)
    if names is not None:
        return in_order(unimodal_logits, names, "unimodal_logits")
    if isinstance(unimodal_logits, Mapping):
        return list(unimodal_logits.values())
    return list(unimodal_logits)


def _restore_warmup(module: nn.Module, _: Any) -> None:
    if isinstance(module, MidasLoss):
        module._epoch_known = True
        module._warming_up = int(module.epoch) < module.warmup_epochs
