"""Providers that hold nothing."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from midas_aug._arrays import as_labels, like
from midas_aug.confidence.base import UnimodalLogits, logits_to_confidence
from midas_aug.errors import MidasAugError
from midas_aug.tree import get_item

__all__ = ["LogitConfidence", "UniformConfidence"]


class UniformConfidence:
    """Every modality equally sure: each gets a share of 1/M. The plain-swap control.

    Args:
        num_modalities: M.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import UniformConfidence
        >>> UniformConfidence(2)({}, torch.tensor([0, 1, 1])).shape
        torch.Size([3, 2])
    """

    def __init__(self, num_modalities: int) -> None:
        if num_modalities < 2:
            raise MidasAugError(f"expected num_modalities of at least 2, got {num_modalities}")
        self.num_modalities = num_modalities

    def __call__(self, batch: Any, labels: Any) -> Any:
        """Ones, ``(N, M)``."""
        classes = as_labels(labels, "labels")
        return like(torch.ones(len(classes), self.num_modalities, device=classes.device), labels)

    def __repr__(self) -> str:
        return f"UniformConfidence({self.num_modalities})"


class LogitConfidence:
    """Softmax probability of the true class, from unimodal logits that the batch brings (Eq. 2).

    Args:
        modalities: Where each modality's ``(N, C)`` logits are in the batch, in modality order.
        temperature: Positive divisor of the logits.

    Raises:
        MidasAugError: A key is missing, or shapes do not fit the labels.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import LogitConfidence
        >>> batch = {"a_logits": torch.zeros(1, 2), "b_logits": torch.tensor([[3.0, 0.0]])}
        >>> LogitConfidence(("a_logits", "b_logits"))(batch, torch.tensor([0]))
        tensor([[0.5000, 0.9526]])
    """

    def __init__(self, modalities: Sequence[Hashable], *, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise MidasAugError(f"expected a temperature above 0, got {temperature}")
        self.modalities = tuple(modalities)
        self.temperature = temperature

    def unimodal_logits(self, batch: Any) -> tuple[Any, ...]:
        """The logits of each modality, in order."""
        return tuple(get_item(batch, key, "unimodal logits") for key in self.modalities)

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits by key, or in order."""
        temperatures = [self.temperature] * len(self.modalities)
        return logits_to_confidence(unimodal_logits, labels, self.modalities, temperatures)

    def __call__(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)``."""
        return self.from_logits(self.unimodal_logits(batch), labels)

    def __repr__(self) -> str:
        return f"LogitConfidence({self.modalities!r}, temperature={self.temperature})"
