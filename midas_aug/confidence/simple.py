"""Providers that hold nothing."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from midas_aug._arrays import as_tensor, like
from midas_aug._checks import check_number
from midas_aug._logits import warn_of_probabilities
from midas_aug._tree import get_item
from midas_aug.confidence.base import (
    ConfidenceProvider,
    UnimodalLogits,
    check_modalities,
    check_widths,
    logits_to_confidence,
)
from midas_aug.errors import MidasAugError
from midas_aug.targets import Target

__all__ = ["LOGITS_ELSEWHERE", "LogitConfidence", "UniformConfidence"]

# What is to be done where a batch has something else in the place of logits.
LOGITS_ELSEWHERE = (
    "the names of this provider are where the batch holds (N, C) logits: name their keys, or leave "
    "the features there and pass unimodal_logits={name: (N, C) logits} to the call"
)


class UniformConfidence(ConfidenceProvider):
    """Every modality equally sure: each gets a share of 1/M. The plain-swap control.

    Args:
        modalities: The names of the modalities.

    Raises:
        MidasAugError: There are not at least two different names.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import UniformConfidence
        >>> UniformConfidence(("image", "text"))({}, torch.tensor([0, 1, 1])).shape
        torch.Size([3, 2])
    """

    modalities: tuple[Any, ...]

    def __init__(self, modalities: Sequence[Hashable]) -> None:
        self.modalities = check_modalities(modalities)

    def __call__(self, batch: Any, labels: Any, /) -> Any:
        """Ones, ``(N, M)``."""
        rows = as_tensor(labels, "labels")
        shape = rows.shape[0], len(self.modalities)
        return like(torch.ones(shape, dtype=torch.float32, device=rows.device), labels)

    def __repr__(self) -> str:
        return f"UniformConfidence({self.modalities!r})"


class LogitConfidence(ConfidenceProvider):
    """Softmax probability of the true class, from unimodal logits that the batch brings (Eq. 2).

    Args:
        modalities: Where each modality's ``(N, C)`` logits are in the batch, in modality order.
        temperature: Positive divisor of the logits.
        target: What a label is; None: a class index, of the classes that the augmentation has.

    Raises:
        MidasAugError: An argument is out of range, a key is missing, or shapes do not fit the
            labels.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import LogitConfidence
        >>> batch = {"a_logits": torch.zeros(1, 2), "b_logits": torch.tensor([[3.0, 0.0]])}
        >>> LogitConfidence(("a_logits", "b_logits"))(batch, torch.tensor([0]))
        tensor([[0.5000, 0.9526]])
    """

    modalities: tuple[Any, ...]
    takes_logits = True

    def __init__(
        self,
        modalities: Sequence[Hashable],
        *,
        temperature: float = 1.0,
        target: Target | None = None,
    ) -> None:
        self.modalities = check_modalities(modalities)
        self.target = target
        self.temperature = check_number(
            temperature, "temperature", 0, "1 leaves the logits as they are", exclusive=True
        )
        if temperature != 1 and target is not None and not target.takes_temperature:
            raise MidasAugError(
                f"expected a temperature of 1 for {target!r}, whose predictions are no logits, got "
                f"{temperature!r}; its scale says how much an error counts"
            )

    def unimodal_logits(self, batch: Any) -> tuple[Any, ...]:
        """The logits of each modality, in order."""
        return tuple(get_item(batch, key, "unimodal logits") for key in self.modalities)

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits by key, or in order."""
        temperatures = [self.temperature] * len(self.modalities)
        return logits_to_confidence(
            unimodal_logits, labels, self.modalities, temperatures, target=self.target
        )

    def __call__(self, batch: Any, labels: Any, /, *, target: Target | None = None) -> Any:
        """Confidences ``(N, M)``.

        Args:
            batch: Holds the logits.
            labels: ``(N, …)``, as the target has them.
            target: What the labels are of, where the provider was not told.
        """
        logits, names = self.unimodal_logits(batch), self.modalities
        known = target if self.target is None else self.target
        check_widths(logits, names, known, LOGITS_ELSEWHERE, name="batch")
        if known is None or known.takes_temperature:
            warn_of_probabilities(self, logits, names, stacklevel=2, target=known)
        return self.from_logits(logits, labels)

    def __repr__(self) -> str:
        target = "" if self.target is None else f", target={self.target!r}"
        return f"LogitConfidence({self.modalities!r}, temperature={self.temperature}{target})"
