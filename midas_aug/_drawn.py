"""What a batch is made of: the facts of its draw, the settings of its labels, and the labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from midas_aug._hardness import HardnessSetting
from midas_aug.targets import Target

__all__ = ["Draw", "LabelRule", "MixLabels", "labels_of_pass"]


@dataclass(frozen=True, eq=False)
class LabelRule:
    """Settings of an augmentation that its batches are labelled by.

    Attributes:
        keys: For each modality, by its name, the one key of the batch that holds it, or several.
        keep: Keys of the batch whose values have no rows.
        target: What a label is.
        hardness: How samples are weighed.
        misaligned_weight: λ.
        provider: The class of the confidence that has to label a drawn batch; None where unimodal
            logits do, too.
        validate: Whether values on an accelerator are looked at.
        name: Of the augmentation; the same in every copy, such as that of a batch from a worker.
    """

    keys: Mapping[Any, tuple[Any, ...]]
    keep: tuple[Any, ...]
    target: Target
    hardness: HardnessSetting
    misaligned_weight: float
    provider: str | None
    validate: bool
    name: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, eq=False)
class Draw:
    """Facts of one draw, as tensors.

    Attributes:
        labels: ``(N, …)``, as the target has them, in memory of their own.
        given: The tensor that they came as; ``labels`` where there was none, or it is elsewhere.
        readable: ``(N, …)``, the same with something readable in ignored rows.
        ids: ``(N,)`` int64: equal for rows of the same label, negative for ignored rows.
        n_labelled: How many rows are not ignored, at least 1: int64 without axes.
        source: ``(N + S, M)`` int64.
        anchor: ``(N + S,)`` int64.
        valid: ``(N + S,)`` bool.
        ignored: ``(N + S,)`` bool, ``~valid``: confidence, loss and unimodal losses ask for it.
        absent: ``(N + S, M)`` bool: the source of a modality does not have it; None: all have all.
        anchors_repeat: The misaligned rows are anchored in the batch, over and over.
        swapped_blocks: For each modality the one block of N rows, of all N + S, that is not the
            batch in order, or None where it is not known.
        block_wise: Block m of the misaligned rows replaces modality m alone.
    """

    labels: Tensor
    given: Tensor
    readable: Tensor
    ids: Tensor
    n_labelled: Tensor
    source: Tensor
    anchor: Tensor
    valid: Tensor
    ignored: Tensor
    absent: Tensor | None
    anchors_repeat: bool
    swapped_blocks: tuple[int | None, ...]
    block_wise: bool

    @property
    def present(self) -> Tensor | None:
        """``(N, M)`` bool: which modalities each row of the batch has; None: all."""
        return None if self.absent is None else ~self.absent[: self.labels.shape[0]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "given": self.labels}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draw":
        """The same facts with ``function(tensor)`` in place of every tensor."""
        valid, labels = function(self.valid), function(self.labels)
        return replace(
            self,
            labels=labels,
            given=labels,
            readable=labels if self.readable is self.labels else function(self.readable),
            ids=labels if self.ids is self.labels else function(self.ids),
            n_labelled=function(self.n_labelled),
            absent=None if self.absent is None else function(self.absent),
            source=function(self.source),
            anchor=function(self.anchor),
            valid=valid,
            ignored=~valid,
        )


def labels_of_pass(out: Any) -> tuple[Tensor, Tensor]:
    """The labels that a batch came with, and one number a label, by which a pass is known.

    Of a batch that is not drawn here, the labels themselves.
    """
    drawn = getattr(out, "drawn", None)
    if isinstance(drawn, Draw):
        return drawn.given, drawn.ids
    labels = torch.as_tensor(out.labels)
    return labels, labels


@dataclass(eq=False)
class MixLabels:
    """What labels a draw. One of the first two is there; a drawn batch has none of it.

    Attributes:
        confidence: ``(N, M)`` float32.
        log_confidence: ``(N, M)`` float32, where unimodal logits tell.
        shares: ``(S, M)`` float32 of the misaligned rows.
        hard_weights: ``(S,)`` float32, or None where samples are not weighed.
    """

    confidence: Tensor | None = None
    log_confidence: Tensor | None = None
    shares: Tensor | None = None
    hard_weights: Tensor | None = None

    def confidence_of(self, drawn: Draw) -> Tensor:
        """``(N, M)`` confidences in the labels of ``drawn``; 0 in rows without one."""
        if self.confidence is not None or self.log_confidence is None:
            return torch.as_tensor(self.confidence)
        n_rows = drawn.labels.shape[0]
        return self.log_confidence.exp().masked_fill_(drawn.ignored[:n_rows, None], 0.0)

    def map(self, function: Callable[[Tensor], Tensor]) -> "MixLabels":
        """The same with ``function(tensor)`` in place of every tensor."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return MixLabels(**{n: None if p is None else function(p) for n, p in parts.items()})
