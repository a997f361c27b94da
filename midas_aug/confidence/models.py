"""Providers that hold classifiers: linear heads to train, or pretrained ones to leave alone."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from midas_aug.confidence.base import UnimodalLogits, logits_to_confidence, refuse_in_worker
from midas_aug.errors import MidasAugError
from midas_aug.tree import get_item

__all__ = ["FrozenConfidence", "HeadConfidence"]


class HeadConfidence(nn.Module):
    """Linear classifiers on the features, the paper's unimodal heads (Sec. 3.3).

    Trained by the unimodal loss, whose logits it gives too; the confidences carry no gradient.

    Args:
        feature_dims: Feature size D_m of each modality, in modality order.
        num_classes: C.

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

    needs_model = True

    def __init__(self, feature_dims: Mapping[Hashable, int], num_classes: int) -> None:
        super().__init__()
        self.modalities = tuple(feature_dims)
        self.heads = nn.ModuleList(nn.Linear(dim, num_classes) for dim in feature_dims.values())

    def unimodal_logits(self, batch: Any) -> dict[Hashable, Tensor]:
        """``(N, C)`` logits by modality, with gradient: for the unimodal loss."""
        refuse_in_worker(self)
        return {
            key: head(get_item(batch, key, "feature"))
            for key, head in zip(self.modalities, self.heads, strict=True)
        }

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits that are at hand already."""
        return logits_to_confidence(unimodal_logits, labels, self.modalities)

    def forward(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)`` of the features in ``batch``; no gradient."""
        with torch.no_grad():
            return self.from_logits(self.unimodal_logits(batch), labels)


class FrozenConfidence(nn.Module):
    """Pretrained unimodal classifiers: always in eval mode, never trained, no gradient.

    Takes the modules over: they are frozen in place. Give it a copy of one that is still trained.

    Args:
        classifiers: A module for each modality, in modality order, that maps ``batch[modality]``
            to ``(N, C)`` logits.

    Raises:
        MidasAugError: A classifier is no ``nn.Module``.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import FrozenConfidence
        >>> frozen = FrozenConfidence({"x": torch.nn.Linear(4, 2), "z": torch.nn.Linear(3, 2)})
        >>> frozen({"x": torch.rand(5, 4), "z": torch.rand(5, 3)}, torch.zeros(5).long()).shape
        torch.Size([5, 2])
    """

    needs_model = True

    def __init__(self, classifiers: Mapping[Hashable, nn.Module]) -> None:
        super().__init__()
        for key, classifier in classifiers.items():
            if not isinstance(classifier, nn.Module):
                raise MidasAugError(
                    f"expected an nn.Module for {key!r}, got {type(classifier).__name__}"
                )
        self.modalities = tuple(classifiers)
        self.classifiers = nn.ModuleList(classifiers.values())
        self.classifiers.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a parent's ``train()`` must not switch dropout on here."""
        return super().train(False)

    @torch.no_grad()
    def unimodal_logits(self, batch: Any) -> dict[Hashable, Tensor]:
        """``(N, C)`` logits by modality, without gradient."""
        refuse_in_worker(self)
        return {
            key: classifier(get_item(batch, key, "modality"))
            for key, classifier in zip(self.modalities, self.classifiers, strict=True)
        }

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits that are at hand already."""
        return logits_to_confidence(unimodal_logits, labels, self.modalities)

    def forward(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)``; no gradient."""
        return self.from_logits(self.unimodal_logits(batch), labels)
