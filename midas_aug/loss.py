"""`MidasLoss`: aligned rows, misaligned rows and unimodal heads in one objective (Eq. 9-11)."""

import functools
import warnings
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, check_shape
from midas_aug._checks import check_count, check_number
from midas_aug._drawn import labels_of_pass
from midas_aug._logits import warn_of_probabilities, warn_of_probable_fusion
from midas_aug._replay import Replay, recomputing
from midas_aug._state import Mirror, StatefulModule
from midas_aug._unimodal import UnimodalLogits, unimodal_loss
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.weak_modality import (
    LabelledRows,
    WeakModalityWeight,
    check_rule,
    loss_terms_of,
    rows_of,
    target_of,
)

__all__ = ["LossTerms", "MidasLoss"]


class LossTerms(NamedTuple):
    """The parts of the loss, scalars: total = aligned + misaligned + weighted unimodal."""

    total: Tensor
    aligned: Tensor
    misaligned: Tensor
    unimodal: Tensor


class MidasLoss(StatefulModule):
    """The loss of aligned rows, misaligned rows and unimodal heads (Eq. 9-11).

    Cross-entropy, or the loss of the target that the augmentation was built with.
    total = L_align + λ·L_mis + ``unimodal_weight`` · Σ_m L_uni^m. λ and the hard-sample weights
    come in ``out.weights``; α is ``criterion.alpha``. Builds no dense targets. Rows
    with a negative label, and rows without a partner, count nowhere, whatever their logits hold.

    Args:
        num_modalities: M.
        weak_modality: ``"paper"`` (a `WeakModalityWeight`), None (every α stays 1), or a module:
            `WeakModalityWeight` with other settings, `RatioWeakModalityWeight`.
        unimodal_weight: Factor of the *sum* of the unimodal losses. 1 is the paper's; 1/M gives
            the public code's mean; with 0 they are not computed.
        warmup_epochs: E_w. In training, while the epoch given to `set_epoch` is below it, only the
            unimodal term counts: the fusion head gets no gradient at all and α does not change.
            A loop may read ``warming_up`` to skip the swap and the fusion meanwhile.
        warmup_steps: The same in training steps, for streams, which have no epochs. Counts the
            calls in training mode; compile the loss after it.

    Attributes:
        weak_modality: The module that holds α, or None.
        epoch: int64 buffer, the epoch last given to `set_epoch`.
        steps: int64 buffer, the training steps so far; counted while warming up by steps.

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
    steps: Tensor

    def __init__(
        self,
        num_modalities: int,
        *,
        weak_modality: Literal["paper"] | WeakModalityWeight | None = "paper",
        unimodal_weight: float = 1.0,
        warmup_epochs: int = 0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.num_modalities = check_count(num_modalities, "num_modalities", 2)
        why = "1 is the paper's, 0 leaves the unimodal losses out"
        self.unimodal_weight = check_number(unimodal_weight, "unimodal_weight", 0, why)
        for name, length in (("warmup_epochs", warmup_epochs), ("warmup_steps", warmup_steps)):
            check_count(length, name, 0, "0 is no warm-up")
            if length and not unimodal_weight:
                raise MidasAugError(
                    f"expected unimodal_weight above 0 for {name}={length}, got 0; the warm-up "
                    "trains the unimodal term alone, there would be nothing to learn"
                )
        if warmup_epochs and warmup_steps:
            raise MidasAugError(
                f"expected a warm-up in epochs or in steps, got {warmup_epochs} epochs and "
                f"{warmup_steps} steps; set one of them"
            )
        self.warmup_epochs = warmup_epochs
        self.warmup_steps = warmup_steps
        self.weak_modality = check_rule(weak_modality, num_modalities)
        zero = functools.partial(torch.zeros, (), dtype=torch.int64)
        self.register_state("epoch", zero, lowest=0)
        self.register_state("steps", zero, lowest=0)
        # Python values of the two: to branch on a buffer would be a sync.
        # Whether it is early, not the epoch: a graph is compiled anew for every number it has seen.
        below = functools.partial(_is_below, warmup_epochs)
        self._early = Mirror(below, warmup_epochs > 0)
        self._steps = Mirror(int, 0)
        self._replay = Replay()  # which passes were of a warm-up in steps
        self._epoch_known = False
        self._missed_logits = False
        self._looked_at_logits = False
        self.register_load_state_dict_post_hook(_know_epoch)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """The arguments that are not those of ``weak_modality``, for ``repr``."""
        warmup = f", warmup_steps={self.warmup_steps}" if self.warmup_steps else ""
        return (
            f"{self.num_modalities}, unimodal_weight={self.unimodal_weight}, "
            f"warmup_epochs={self.warmup_epochs}{warmup}"
        )

    @property
    def alpha(self) -> Tensor:
        """``(M,)`` float32: α of each modality now; ones where ``weak_modality`` is None."""
        weak = self.weak_modality
        return (
            torch.ones(self.num_modalities, dtype=torch.float32, device=self.epoch.device)
            if weak is None
            else weak.alpha
        )

    @property
    def warming_up(self) -> bool:
        """Whether only the unimodal term counts in training now."""
        if self.warmup_steps:
            return self._steps.of(self.steps) < self.warmup_steps
        return self.warmup_epochs > 0 and self._early.of(self.epoch)

    @property
    def was_warming_up(self) -> bool:
        """Whether only the unimodal term counted in the last pass; before any, ``warming_up``."""
        last = self._replay.last
        return self.warming_up if last is None else bool(last)

    def set_epoch(self, epoch: int) -> None:
        """Tell the criterion which epoch (from 0) begins; ends the warm-up when it is time."""
        given: Any = epoch
        number = check_count(
            given.item() if isinstance(given, Tensor) and given.numel() == 1 else given,
            "the epoch",
            0,
            "count from 0, and call set_epoch in every epoch",
        )
        self._epoch_known = True
        self.epoch.fill_(number)
        self._early.set(self.epoch, number < self.warmup_epochs)

    def forward(
        self, logits: Tensor, out: LabelledRows, unimodal_logits: UnimodalLogits | None = None
    ) -> Tensor:
        """The scalar loss; in training mode α is updated afterwards.

        Args:
            logits: ``(N + S, C)`` of the multimodal head, for the rows of ``out``.
            out: A `MisalignedBatch`, or any object with the attributes of one that are read here.
            unimodal_logits: ``(N, C)`` of each unimodal head on the aligned rows, by modality or
                in order. None: there is no unimodal term.

        Raises:
            MidasAugError: Shapes do not fit, or a warm-up has no unimodal logits to train.
        """
        parts, unimodal = self._parts(logits, out, unimodal_logits)
        total = self._weighted(unimodal)
        if parts is None:
            return total
        factors, terms = parts
        return total - torch.dot(factors.flatten(), terms.flatten())

    def compute(
        self, logits: Tensor, out: LabelledRows, unimodal_logits: UnimodalLogits | None = None
    ) -> LossTerms:
        """The loss with its parts. Call it in place of `forward`, not beside it: it updates α."""
        parts, unimodal = self._parts(logits, out, unimodal_logits)
        total = self._weighted(unimodal)
        if parts is None:
            nothing = torch.zeros_like(unimodal)
            return LossTerms(total, nothing, nothing, unimodal)
        # Not two slices, whose gradients are two tensors of all rows.
        n_rows, total_rows = out.labels.shape[0], parts[0].shape[0]
        products = torch.split(parts[0] * parts[1], [n_rows, total_rows - n_rows])
        aligned, misaligned = (product.sum().neg() for product in products)
        return LossTerms(total + aligned + misaligned, aligned, misaligned, unimodal)

    def _parts(
        self, logits: Tensor, out: LabelledRows, unimodal_logits: UnimodalLogits | None
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor]:
        """Factors and minus losses, ``(N + S, M)`` each, and the unimodal term.

        None in a warm-up, where the rows do not count. Steps α.
        """
        if not isinstance(out, MisalignedBatch) and not hasattr(out, "source_labels"):
            raise MidasAugError(
                f"expected a MisalignedBatch as the second argument, got {type(out).__name__}; "
                "call criterion(logits, out, unimodal_logits=...)"
            )
        weak, warms_up = self.weak_modality, self.warmup_epochs or self.warmup_steps
        if warms_up:
            self.ready()
        if weak is not None:
            weak.ready()
        warming_up = bool(warms_up) and self.training and self._warms_up(out)
        if warms_up:
            self._replay.last = warming_up
        if warming_up and self.warmup_steps and torch.compiler.is_compiling():
            raise MidasAugError(
                f"expected a warm-up in epochs where the loss is compiled, got warmup_steps="
                f"{self.warmup_steps}: a graph cannot branch on how often it has run; use "
                "warmup_epochs and criterion.set_epoch(...), or compile after the warm-up"
            )
        if (warming_up or unimodal_logits is None) and not torch.compiler.is_compiling():
            self._warn(out, unimodal_logits, warming_up)
        target = target_of(out, logits)
        scores = target.predictions(logits, "logits")
        if not self._looked_at_logits and not torch.compiler.is_compiling():
            vars(self)["_looked_at_logits"] = True  # no state, which a module looks at longer
            on_cpu = type(scores) is Tensor and scores.device.type == "cpu"  # a free look
            if on_cpu and target.takes_temperature and not bool((scores < 0).any()):
                warn_of_probable_fusion(scores, target, stacklevel=4)
            labelled = getattr(out, "labelled_by_logits", True)  # these were looked at
            if target.takes_temperature and not labelled and hasattr(out, "modalities"):
                names = out.modalities
                warn_of_probabilities(self, unimodal_logits, names, stacklevel=4, target=target)
        if unimodal_logits is None or self.unimodal_weight == 0:
            unimodal = _no_unimodal(scores, warming_up)
        else:
            unimodal = unimodal_loss(unimodal_logits, out, target, self.num_modalities)
        if warming_up:
            self._count_step()
            return None, unimodal

        rows = rows_of(out, self.num_modalities, target, scores)
        terms, log_p = loss_terms_of(target, scores, rows)
        factors = rows.shares * _sum_weights(out, rows.shares.shape[0])[:, None]
        if weak is not None:
            alphas = weak.coefficients(out)
            if alphas.device != factors.device:
                raise MidasAugError(
                    f"expected the loss on the device of the batch, {factors.device}, got α on "
                    f"{alphas.device}; call criterion.to(device), or make the criterion a part of "
                    "the model"
                )
            factors[out.labels.shape[0] :].mul_(alphas)
            if self.training:
                weak.step(log_p.detach(), out, rows)
        # A dot product has one dtype; that of a target of one's own may be narrow under autocast.
        if terms.dtype.itemsize < factors.dtype.itemsize:
            terms = terms.to(factors.dtype)
        return (factors.to(terms.dtype), terms), unimodal

    def _weighted(self, unimodal: Tensor) -> Tensor:
        return unimodal if self.unimodal_weight == 1 else self.unimodal_weight * unimodal

    def _warms_up(self, out: LabelledRows) -> bool:
        """Whether this pass is one of the warm-up; one that is repeated is what the first was."""
        if not self.warmup_steps or torch.compiler.is_compiling():
            return self.warming_up
        labels = labels_of_pass(out)
        if recomputing():
            return bool(self._replay.recall(*labels, "a loss with a warm-up in steps"))
        found = self.warming_up
        self._replay.keep(*labels, found)
        return found

    def _count_step(self) -> None:
        if self.warmup_steps and not recomputing():
            steps = self._steps.of(self.steps) + 1
            self.steps.add_(1)
            self._steps.set(self.steps, steps)

    def _warn(self, out: Any, unimodal_logits: Any, warming_up: bool) -> None:
        """What is most likely a mistake, once each."""
        if warming_up and not self._epoch_known and self.warmup_epochs:
            self._epoch_known = True
            warnings.warn(
                f"MidasLoss warms up for {self.warmup_epochs} epochs and was never told which one "
                "this is: call criterion.set_epoch(epoch) in every epoch, or the fusion head will "
                "never train",
                stacklevel=4,
            )
        if (
            unimodal_logits is None
            and self.unimodal_weight
            and not self._missed_logits
            and not warming_up
            and getattr(out, "labelled_by_logits", False)
        ):
            self._missed_logits = True
            warnings.warn(
                "MidasLoss was given no unimodal_logits, though the labels of the mix come from "
                "unimodal heads: these are never trained by it; call criterion(logits, out, "
                "unimodal_logits=...), or build it with unimodal_weight=0 where something else "
                "trains them",
                stacklevel=4,
            )


def _no_unimodal(scores: Tensor, warming_up: bool) -> Tensor:
    if warming_up:
        raise MidasAugError(
            "expected unimodal_logits during the warm-up, got None; pass the unimodal heads' "
            "logits, or build MidasLoss without a warm-up"
        )
    return torch.zeros((), device=scores.device)


def _sum_weights(out: LabelledRows, total_rows: int) -> Tensor:
    """``(N + S,)`` weights for a sum over the rows."""
    if type(out) is MisalignedBatch:
        return out.sum_weights
    weights = as_tensor(out.weights, "weights")
    if weights.shape != (total_rows,):
        check_shape(weights, (total_rows,), "weights", "one weight per row of logits")
    return weights / max(total_rows, 1)  # an empty batch has the loss 0, with a gradient


def _is_below(limit: int, epoch: Tensor) -> bool:
    return int(epoch) < limit


def _know_epoch(module: Any, _: Any) -> None:
    """Whoever loads a state has told the epoch; a warning depends on it, and nothing else."""
    module._epoch_known = True
