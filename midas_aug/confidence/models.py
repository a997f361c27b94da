"""Providers that hold classifiers: linear heads to train, or pretrained ones to leave alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from midas_aug._arrays import is_array
from midas_aug._checks import check_count
from midas_aug._logits import warn_of_probabilities
from midas_aug._tree import get_item, in_order
from midas_aug.confidence.base import (
    ConfidenceProvider,
    UnimodalLogits,
    check_held,
    check_modalities,
    check_widths,
    logits_to_confidence,
    refuse_in_worker,
)
from midas_aug.errors import MidasAugError
from midas_aug.targets import Target, resolve_target

__all__ = ["OTHER_CLASSES", "FrozenConfidence", "HeadConfidence"]

# What is to be done where classifiers are of other classes than the labels.
OTHER_CLASSES = "give each classifier one output for each class of the labels"


class HeadConfidence(nn.Module, ConfidenceProvider):
    """Linear classifiers on the features, the paper's unimodal heads (Sec. 3.3).

    Trained by the unimodal loss, whose logits it gives too; the confidences carry no gradient.

    Args:
        modalities: Feature size D_m of each modality, in modality order.
        num_classes: C, short for ``target=ClassIndex(C)``.
        target: What a label is, and how many outputs a head has.

    Raises:
        MidasAugError: An argument is out of range; a call's features are missing.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.confidence import HeadConfidence
        >>> heads = HeadConfidence({"audio": 8, "video": 4}, num_classes=3)
        >>> features = {"audio": torch.rand(5, 8), "video": torch.rand(5, 4)}
        >>> labels = torch.tensor([0, 1, 2, 0, 1])
        >>> unimodal = heads.unimodal_logits(features)
        >>> augment = MisalignAugment(("audio", "video"), 3, confidence=heads)
        >>> augment(features, labels, unimodal_logits=unimodal).targets.shape
        torch.Size([15, 3])
    """

    modalities: tuple[Any, ...]
    needs_model = True
    takes_logits = True
    by_name = True

    def __init__(
        self,
        modalities: Mapping[Any, int],
        num_classes: int | None = None,
        *,
        target: Target | None = None,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(check_held(modalities, "feature sizes"))
        self.target = resolve_target(num_classes, target)
        outputs = check_count(self.target.n_outputs, f"the n_outputs of {self.target!r}")
        self.heads = nn.ModuleList(
            nn.Linear(check_count(dim, f"the feature size of {key!r}"), outputs)
            for key, dim in modalities.items()
        )

    def unimodal_logits(self, batch: Any) -> dict[Any, Tensor]:
        """``(N, C)`` logits by modality, with gradient: for the unimodal loss."""
        refuse_in_worker(self)
        return {
            key: head(_feature(batch, key, head))
            for key, head in zip(self.modalities, self.heads, strict=True)
        }

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits that are at hand already."""
        return logits_to_confidence(unimodal_logits, labels, self.modalities, target=self.target)

    def forward(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)`` of the features in ``batch``; no gradient."""
        with torch.no_grad():
            logits = self.unimodal_logits(batch)
            _warn(self, logits, self.target)
            return self.from_logits(logits, labels)


class FrozenConfidence(nn.Module, ConfidenceProvider):
    """Pretrained unimodal classifiers: always in eval mode, never trained, no gradient.

    Takes the modules over: they are frozen in place. Give it a copy of one that is still trained.

    Args:
        modalities: A classifier for each modality, in modality order: a module that maps what the
            modality holds, of several keys a mapping from them, to ``(N, C)`` logits.
        target: What a label is; None: a class index, of the classes that the augmentation has.

    Raises:
        MidasAugError: A classifier is no ``nn.Module``.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import FrozenConfidence
        >>> frozen = FrozenConfidence({"x": torch.nn.Linear(4, 2), "z": torch.nn.Linear(3, 2)})
        >>> frozen({"x": torch.rand(5, 4), "z": torch.rand(5, 3)}, torch.zeros(5).long()).shape
        torch.Size([5, 2])
    """

    modalities: tuple[Any, ...]
    needs_model = True
    takes_logits = True
    by_name = True

    def __init__(
        self,
        modalities: Mapping[Any, nn.Module] | nn.ModuleDict,
        *,
        target: Target | None = None,
    ) -> None:
        super().__init__()
        held = check_held(modalities, "classifiers")
        self.modalities = check_modalities(held)
        self.target = target
        for key, classifier in held.items():
            if not isinstance(classifier, nn.Module):
                raise MidasAugError(
                    f"expected an nn.Module for {key!r}, got {type(classifier).__name__}; wrap a "
                    "function in a module, so that it moves to a device with the others"
                )
        self.classifiers = nn.ModuleList(held.values())
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode and frozen: a parent's ``train()`` must not switch dropout on here."""
        # ``from_pretrained`` puts new parameters in place, and calls this on the whole model.
        return super().train(False).requires_grad_(False)

    @torch.no_grad()
    def unimodal_logits(self, batch: Any) -> dict[Any, Tensor]:
        """``(N, C)`` logits by modality, without gradient."""
        refuse_in_worker(self)
        return {
            key: classifier(get_item(batch, key, "modality"))
            for key, classifier in zip(self.modalities, self.classifiers, strict=True)
        }

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits that are at hand already."""
        return logits_to_confidence(unimodal_logits, labels, self.modalities, target=self.target)

    def forward(self, batch: Any, labels: Any, *, target: Target | None = None) -> Any:
        """Confidences ``(N, M)``; no gradient.

        Args:
            batch: Holds what the classifiers take.
            labels: ``(N, …)``, as the target has them.
            target: What the labels are of, where the provider was not told.
        """
        logits, names = self.unimodal_logits(batch), self.modalities
        known = target if self.target is None else self.target
        check_widths(in_order(logits, names, "unimodal_logits"), names, known, OTHER_CLASSES)
        _warn(self, logits, known)
        return self.from_logits(logits, labels)


def _warn(provider: Any, logits: Any, target: Target | None) -> None:
    """Warn, once, of classifiers that end in a softmax; seen from who calls the module."""
    if target is None or target.takes_temperature:
        warn_of_probabilities(provider, logits, provider.modalities, stacklevel=5, target=target)


def _feature(batch: Any, key: Any, head: nn.Module) -> Any:
    """The features of a modality, as wide as its head was built for."""
    given, width = get_item(batch, key, "feature"), getattr(head, "in_features", None)
    if width is None:  # a head of one's own, put in place of the linear one
        return given
    if isinstance(given, Tensor) and given.is_floating_point() and given.shape[-1:] == (width,):
        dtype = next(head.parameters()).dtype
        same = given.dtype == dtype or torch.is_autocast_enabled(given.device.type)
        return given if same else given.to(dtype)
    if isinstance(given, np.ndarray):
        raise MidasAugError(
            f"expected features of {key!r} as a tensor, got a NumPy array; pass "
            "torch.from_numpy(...), or the logits of heads as unimodal_logits=..."
        )
    found = f"{given.dtype} of shape {tuple(given.shape)}" if is_array(given) else type(given)
    raise MidasAugError(
        f"expected features of {key!r} as a float tensor of shape (N, {width}), got {found}; give "
        "heads what the encoders made, and build them with its sizes"
    )
