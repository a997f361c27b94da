"""The augmentation as a part of the model."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midas_aug._arrays import Array
from midas_aug._rows import count_rows
from midas_aug._tree import get_item, item_keys, map_arrays, resolve_key
from midas_aug.augment import MisalignAugment
from midas_aug.batch import MisalignedBatch
from midas_aug.collate import label_if_mixed
from midas_aug.confidence.base import module_of
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan
from midas_aug.loss import MidasLoss

__all__ = [
    "AugmentModule",
    "check_augment",
    "check_criterion",
    "find_losses",
    "warn_of_long_warmups",
]


# A batch with one of these is not taken for one without labels, or validation would count no row.
LABEL_NAMES = frozenset({"label", "labels", "label_ids", "target", "targets", "y"})


class AugmentModule(nn.Module):
    """A `MisalignAugment` that follows ``model.train()`` and ``model.eval()``, and is saved.

    In training mode it is the augmentation. In eval mode it adds no rows, draws nothing and asks
    for no confidence: what a trainer calls in validation, too, needs no guard. Batches without
    labels, as in prediction, are fine then: their rows are ignored ones and count in no loss. The
    position of the draw stream is in ``state_dict``, so that every trainer that saves the model
    saves it, and so is a confidence that is a module. One that is none, such as `TableConfidence`
    with its row for every sample of the data set, is not: save its own ``state_dict()`` beside the
    model, or give the table a ``path``.

    Args:
        augment: The augmentation.

    Attributes:
        augment: The same.
        stream: The draws of a seeded augmentation, whose position is saved with the model.
        confidence: The provider, where it is a module: its parameters and buffers are the
            model's.
        draws: ``(1,)`` int64, the number of seeded calls so far.

    Raises:
        MidasAugError: ``augment`` is no `MisalignAugment`.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.integrations.module import AugmentModule
        >>> augment = AugmentModule(MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0))
        >>> batch = {"a": torch.rand(2, 4), "b": torch.rand(2, 5), "label": torch.tensor([0, 1])}
        >>> len(augment(batch).source), len(augment.eval()(batch).source)
        (6, 2)
        >>> augment.state_dict()["stream.calls"]
        tensor([1])
    """

    def __init__(self, augment: MisalignAugment) -> None:
        super().__init__()
        self.augment = check_augment(augment)
        self.stream = augment.stream
        provider = augment.confidence
        module = None if isinstance(provider, str) else module_of(provider)
        if module is not None:
            self.confidence = module

    @property
    def draws(self) -> Tensor:
        """The number of seeded calls so far."""
        return self.stream.calls

    def extra_repr(self) -> str:
        """The augmentation, for ``repr``."""
        return repr(self.augment)

    def forward(
        self,
        batch: Any,
        labels: Array | None = None,
        *,
        unimodal_logits: Mapping[Any, Array] | Sequence[Array] | None = None,
        present: Mapping[Any, Array] | Array | None = None,
    ) -> MisalignedBatch:
        """Augment as `MisalignAugment` does; in eval mode give the N aligned rows alone.

        Args:
            batch: See `MisalignAugment`.
            labels: See `MisalignAugment`.
            unimodal_logits: See `MisalignAugment`.
            present: See `MisalignAugment`.
        """
        if self.training:
            return self.augment(batch, labels, unimodal_logits=unimodal_logits, present=present)
        return self._aligned(batch, labels, present)

    @property
    def enabled(self) -> bool:
        """Whether misaligned rows are added in training; that of the augmentation."""
        return self.augment.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.augment.enabled = value

    def draw(self, batch: Any, *, materialize: bool = True) -> MisalignedBatch:
        """Augment a batch of inputs as ``augment.collate()`` does, on the batch's own device.

        For a hook between the loader and the training step. Where the confidence needs a model,
        the batch is drawn and the step calls ``out.label``.

        Args:
            batch: A collated batch, in training with labels.
            materialize: See `MisalignAugment.collate`.
        """
        if not self.training:
            return self._aligned(batch, None, None)
        drawn = self.augment.draw(batch, materialize=materialize)
        if self.augment.needs_model:
            return drawn
        return label_if_mixed(drawn, self.augment.confidence)

    def _aligned(self, batch: Any, labels: Array | None, present: Any) -> MisalignedBatch:
        given = self._labels_of(batch) if labels is None else labels
        none = torch.zeros(0, dtype=torch.int64, device=getattr(given, "device", "cpu"))
        n_modalities = len(self.augment.modalities)
        plan = SwapPlan(none.new_zeros(0, n_modalities), none, torch.zeros_like(none).bool())
        return self.augment.draw(batch, given, plan=plan, present=present)

    def _labels_of(self, batch: Any) -> Any:
        """The labels of a batch; ignored rows where it has none."""
        if isinstance(batch, MisalignedBatch):
            return None  # refused by draw
        label = self.augment.label
        if callable(label):
            with contextlib.suppress(KeyError, IndexError, AttributeError):
                found = label(batch)
                if found is not None:
                    return found
        elif resolve_key(batch, label) is not None:
            found = get_item(batch, label)
            if found is not None:
                return found
        elif LABEL_NAMES.intersection(item_keys(batch)):
            return self.augment.find_labels(batch)  # an error: labels under another key
        held = [
            get_item(batch, key, "modality") for keys in self.augment.keys.values() for key in keys
        ]
        first = next((value for value in held if value is not None), None)
        n_rows, arrays = count_rows(first) or 0, _arrays_in(first)
        numpy = bool(arrays) and isinstance(arrays[0], np.ndarray)
        device = arrays[0].device if arrays and not numpy else "cpu"
        labels = self.augment.target.unlabelled(n_rows, device)
        return labels.numpy() if numpy else labels


def check_augment(augment: Any) -> MisalignAugment:
    """The augmentation itself, not the module around it."""
    if isinstance(augment, MisalignAugment):
        return augment
    cure = "; pass its attribute augment" if isinstance(augment, AugmentModule) else ""
    raise MidasAugError(f"expected a MisalignAugment, got {type(augment).__name__}{cure}")


def check_criterion(criterion: Any, modalities: Sequence[Any]) -> MidasLoss:
    """The criterion, or where there is none that of the paper, for these modalities."""
    if criterion is None:
        return MidasLoss(len(modalities))
    if not isinstance(criterion, MidasLoss):
        raise MidasAugError(
            f"expected criterion to be a MidasLoss, got {type(criterion).__name__}; for a loss of "
            "your own use the stock Trainer and a model that augments in its forward"
        )
    if criterion.num_modalities != len(modalities):
        raise MidasAugError(
            f"expected a criterion for the {len(modalities)} modalities {modalities!r}, got one "
            f"for {criterion.num_modalities}"
        )
    return criterion


def _arrays_in(tree: Any) -> list[Any]:
    found: list[Any] = []
    map_arrays(found.append, tree)
    return found


def find_losses(model: nn.Module) -> list[MidasLoss]:
    """Every `MidasLoss` among the modules of ``model``.

    Raises:
        MidasAugError: There is none: α would then be lost in checkpoints and stay on the CPU.
    """
    losses = list(_losses(model))
    if not losses:
        raise MidasAugError(
            f"expected a MidasLoss among the modules of {type(model).__name__}, found none; assign "
            "it to an attribute (self.criterion = MidasLoss(...)), so that its α is moved to the "
            "device and saved with the model"
        )
    return losses


def warn_of_long_warmups(losses: Iterable[MidasLoss], n_epochs: float, n_batches: float) -> None:
    """Warn of warm-ups that the training does not outlast.

    Args:
        losses: The losses that are trained with.
        n_epochs: How many epochs there will be; infinity where nobody knows.
        n_batches: How many batches there will be, in all epochs; infinity where nobody knows.
    """
    for criterion in losses:
        for option, length in (("warmup_epochs", n_epochs), ("warmup_steps", n_batches)):
            warmup = getattr(criterion, option)
            if warmup >= length:
                warnings.warn(
                    f"the warm-up of MidasLoss with {option}={warmup} takes the whole training "
                    f"(length {length}), so the fusion head learns nothing; train longer, or build "
                    "MidasLoss with a shorter warm-up (for a stream: with warmup_steps)",
                    stacklevel=2,
                )


def _losses(model: nn.Module) -> Iterator[MidasLoss]:
    return (module for module in model.modules() if isinstance(module, MidasLoss))
