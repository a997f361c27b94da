"""Class weights and label smoothing, as in ``torch.nn.CrossEntropyLoss``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import as_tensor, check_has_values, check_shape, is_array, may_read_values
from midas_aug._checks import is_real
from midas_aug.errors import MidasAugError

__all__ = ["Weighting"]


class Weighting:
    """What the training loss of a softmax makes of its log-probabilities.

    Args:
        num_classes: C.
        class_weight: ``(C,)`` non-negative numbers, or None.
        label_smoothing: ε in [0, 1).

    Attributes:
        class_weight: ``(C,)`` float32, or None.
        label_smoothing: ε.
        is_plain: Nothing is weighed or smoothed.

    Raises:
        MidasAugError: An argument is out of range.
    """

    def __init__(self, num_classes: int, class_weight: Any, label_smoothing: Any) -> None:
        self.num_classes = num_classes
        self.class_weight = _check_weights(class_weight, num_classes)
        if not is_real(label_smoothing) or not 0 <= float(label_smoothing) < 1:
            raise MidasAugError(
                f"expected label_smoothing in [0, 1), got {label_smoothing!r}; 0 smooths nothing"
            )
        self.label_smoothing = float(label_smoothing)
        self.is_plain = self.class_weight is None and self.label_smoothing == 0
        self._by_device: dict[Any, Tensor] = {}  # the weights on devices that asked for them

    def on(self, like: Tensor) -> Tensor | None:
        """The class weights on the device of ``like``."""
        weight = self.class_weight
        if weight is None or weight.device == like.device:
            return weight
        if torch.is_inference_mode_enabled():  # what is made there is of no use to a training step
            return weight.to(like.device)
        if like.device not in self._by_device:
            self._by_device[like.device] = weight.to(like.device)
        return self._by_device[like.device]

    def smoothed(self, picked: Tensor, log_p: Tensor) -> Tensor:
        """Weighed log-likelihoods ``(R, K)`` of labels, with their uniform part.

        Args:
            picked: ``(R, K)``, weighed already.
            log_p: ``(R, C)`` log-probabilities.
        """
        if not self.label_smoothing:
            return picked
        weight = self.on(log_p)
        spread = (log_p if weight is None else log_p * weight).sum(dim=1, keepdim=True)
        part = self.label_smoothing
        return (1 - part) * picked + part / self.num_classes * spread

    def folded(self, targets: Tensor, weights: Tensor) -> Tensor:
        """Soft targets ``(R, C)`` that make a plain cross-entropy the weighed, smoothed one."""
        part, weight = self.label_smoothing, self.on(targets)
        if part:
            targets = (1 - part) * targets + part / self.num_classes
        if weight is not None:
            targets = targets * weight
        return targets * weights[:, None]

    def __repr__(self) -> str:
        """The arguments that are set, each after a comma."""
        weights = (
            "" if self.class_weight is None else f", class_weight={self.class_weight.tolist()}"
        )
        smoothing = f", label_smoothing={self.label_smoothing}" if self.label_smoothing else ""
        return weights + smoothing

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_by_device": {}}


def _check_weights(class_weight: Any, num_classes: int) -> Tensor | None:
    if class_weight is None:
        return None
    try:
        given = class_weight if is_array(class_weight) else np.asarray(class_weight)
    except ValueError:
        raise MidasAugError(
            f"expected class_weight as {num_classes} numbers, one a class, got {class_weight!r}; 1 "
            "leaves a class as it is"
        ) from None
    weight = as_tensor(given, "class_weight").detach().to(torch.float32)
    check_shape(weight, (num_classes,), "class_weight", "one number a class")
    check_has_values(weight, "class_weight")
    if may_read_values(weight) and not bool(((weight >= 0) & weight.isfinite()).all()):
        raise MidasAugError(
            f"expected finite class weights of at least 0, got {weight.tolist()}; 1 leaves a class "
            "as it is"
        )
    return weight.clone()
