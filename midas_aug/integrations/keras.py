"""Keras 3: batches as ``(inputs, targets, sample_weight)``, for ``model.fit`` on any backend."""

from collections.abc import Callable
from typing import Any

from midas_aug.augment import MisalignAugment
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.integrations.module import check_augment

__all__ = ["KerasCollate", "keras_batch"]


def keras_batch(out: MisalignedBatch) -> tuple[dict[Any, Any], Any, Any]:
    """The batch as Keras takes it.

    With ``CategoricalCrossentropy(from_logits=True)`` the training loss is L_align + λ·L_mis: Keras
    divides the weighted sum by the number of rows. Weights of misaligned rows do not belong in an
    accuracy: pass it as ``metrics=``, on validation data, not as ``weighted_metrics=``.

    Args:
        out: A labelled batch.

    Returns:
        inputs: The modalities by name, N + S rows. One of several keys is a mapping by these.
        targets: ``(N + S, C)``.
        sample_weight: ``(N + S,)``.

    Example:
        >>> import numpy as np
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.integrations.keras import keras_batch
        >>> augment = MisalignAugment(("x", "z"), 3, confidence="uniform")
        >>> batch = {"x": np.ones((2, 4)), "z": np.ones((2, 5)), "label": np.array([0, 2])}
        >>> inputs, targets, weights = keras_batch(augment(batch))
        >>> inputs["z"].shape, targets.shape, weights.shape
        ((6, 5), (6, 3), (6,))
    """
    if not isinstance(out, MisalignedBatch):
        raise MidasAugError(
            f"expected a MisalignedBatch, got {type(out).__name__}; pass what augment(...) gave"
        )
    if not out.materialized:
        raise MidasAugError(
            "expected a batch whose data have the misaligned rows, got one drawn with "
            "materialize=False; leave it out: a model of Keras takes the rows as they come"
        )
    inputs: dict[Any, Any] = {}
    for name, keys in out.modality_keys.items():
        held = {str(key): out[key] for key in keys}
        inputs[str(name)] = held if len(keys) > 1 else held[str(keys[0])]
    return inputs, out.targets, out.weights


class KerasCollate:
    """A ``collate_fn``: a torch ``DataLoader`` with it goes into ``model.fit`` as it is.

    Args:
        augment: The augmentation, with a confidence that needs no model.
        collate_fn: Makes a batch of samples; None is ``default_collate``.

    Raises:
        MidasAugError: The confidence needs a model.
    """

    def __init__(
        self, augment: MisalignAugment, collate_fn: Callable[[list[Any]], Any] | None = None
    ) -> None:
        self.collate = check_augment(augment).collate(collate_fn)
        if self.collate.label_later:
            raise MidasAugError(
                f"expected a confidence that needs no model, got {augment.confidence!r}; choose "
                "'uniform' or a TableConfidence that a callback updates"
            )

    def __call__(self, samples: list[Any]) -> tuple[dict[Any, Any], Any, Any]:
        """Collate, augment, and give ``(inputs, targets, sample_weight)``."""
        return keras_batch(self.collate(samples))
