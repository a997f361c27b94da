"""What `MisalignAugment` returns: aligned rows first, then misaligned ones, with their labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from midas_aug._arrays import Array, as_scores, check_shape, may_read_values
from midas_aug.confidence.base import ask, check_unimodal_logits
from midas_aug.confidence.simple import LogitConfidence
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan, label_shares, soft_targets
from midas_aug.hardness import Hardness, measure_hardness
from midas_aug.tree import get_item, in_order, item_keys, map_arrays, resolve_key, take_rows

__all__ = ["MisalignedBatch"]


@dataclass(frozen=True, eq=False, repr=False)
class LabelRule:
    """How a drawn batch is labelled, in the worker or later in the training loop."""

    modalities: tuple[Any, ...]
    num_classes: int
    hardness: Hardness
    misaligned_weight: float
    block_wise: bool  # the plan is our own and of swap="each"
    anchors_repeat: bool  # the misaligned rows are anchored in the batch, over and over
    provider: str | None  # the class that has to label a batch which is only drawn


@dataclass(frozen=True, eq=False, repr=False)
class MisalignedBatch:
    """N aligned rows followed by S misaligned ones.

    Built by `MisalignAugment`. ``source`` is the one truth; data, targets, weights and reports all
    follow from it. Immutable: `to`, `pin_memory` and `relabel` return a new one. Arrays are of the
    library of the caller's batch. Index it like the batch that went in: ``out["image"]``; the
    whole structure is ``out.data``.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> augment = MisalignAugment(("image", "text"), num_classes=3, confidence="uniform")
        >>> batch = {"image": torch.rand(2, 8), "text": torch.rand(2, 5), "id": ["a", "b"]}
        >>> out = augment(batch, torch.tensor([0, 2]))
        >>> out.source.tolist()  # whose image, whose text
        [[0, 0], [1, 1], [1, 0], [0, 1], [0, 1], [1, 0]]
        >>> out["id"]  # what is no modality follows the anchor
        ['a', 'b', 'a', 'b', 'a', 'b']
        >>> out.gather("text", torch.tensor([10, 11])).tolist()
        [10, 11, 10, 11, 11, 10]
    """

    data: Any
    _labels: Tensor
    _source: Tensor
    _anchor: Tensor
    _valid: Tensor
    _rule: LabelRule
    _numpy: bool
    _materialized: bool
    _confidence: Tensor | None = None
    _shares: Tensor | None = None  # of the S misaligned rows, where the provider states them
    _hard_weights: Tensor | None = None

    # -- data ------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """The item ``key`` of the augmented batch, N + S rows (N with ``materialize=False``)."""
        return get_item(self.data, key)

    def __contains__(self, key: Any) -> bool:
        return resolve_key(self.data, key) is not None

    __iter__ = None  # keyed, like a mapping: `a, b = out` would unpack keys; unpack out.data

    def keys(self) -> list[Any]:
        """The keys of the batch, so that ``dict(out)`` works."""
        return item_keys(self.data)

    def gather(self, name: Any, features: Any) -> Any:
        """Swap what an encoder made of the N rows: ``(N, …)`` features give ``(N + S, …)``.

        Args:
            name: The modality that ``features`` encode.
            features: An array or nesting of arrays with N rows; gradients flow through.

        Raises:
            MidasAugError: ``name`` is no modality, or a leaf has not N rows.
        """
        if name not in self._rule.modalities:
            raise MidasAugError(
                f"expected the name of a modality, one of {self._rule.modalities!r}, got {name!r}; "
                "only modalities are swapped"
            )
        column = self._rule.modalities.index(name)
        return take_rows(
            features,
            self._source[:, column],
            len(self._labels),
            path=f"features of {name!r}",
            strict=True,
        )

    # -- provenance ------------------------------------------------------------------------------

    @property
    def labels(self) -> Any:
        """``(N,)`` int64 labels of the aligned rows."""
        return self._give(self._labels)

    @property
    def source(self) -> Any:
        """``(N + S, M)`` int64: the batch row that supplies each modality."""
        return self._give(self._source)

    @property
    def anchor(self) -> Any:
        """``(N + S,)`` int64: the batch row that each sample belongs to."""
        return self._give(self._anchor)

    @property
    def valid(self) -> Any:
        """``(N + S,)`` bool: False for ignored labels and rows without a partner (weight 0)."""
        return self._give(self._valid)

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The keys of the modalities, in order."""
        return self._rule.modalities

    @property
    def hardness(self) -> Any:
        """``(S,)`` hard-sample weights that are in `weights` (Eq. 8), or None where none are."""
        return None if self._hard_weights is None else self._give(self._hard_weights)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self._rule.num_classes

    @property
    def source_labels(self) -> Any:
        """``(N + S, M)`` int64: the label of each modality's source."""
        return self._give(self._source_labels)

    @property
    def is_misaligned(self) -> Any:
        """``(N + S,)`` bool: the modalities of this row carry different labels."""
        labels = self._source_labels
        return self._give((labels != labels[:, :1]).any(dim=1))

    @property
    def aligned(self) -> slice:
        """The rows of the batch as it came: ``logits[out.aligned]``."""
        return slice(0, len(self._labels))

    @property
    def misaligned(self) -> slice:
        """The rows that the augmentation added."""
        return slice(len(self._labels), len(self._source))

    @property
    def plan(self) -> SwapPlan:
        """The draws, to replay them: ``augment(batch, plan=out.plan)``."""
        rows = self.misaligned
        return SwapPlan(
            *(self._give(part[rows]) for part in (self._source, self._anchor, self._valid))
        )

    # -- labels ----------------------------------------------------------------------------------

    @property
    def confidence(self) -> Any:
        """``(N, M)``: each modality's confidence in the label of each aligned row (Eq. 2)."""
        return self._give(self._require_confidence("confidence"))

    @property
    def shares(self) -> Any:
        """``(N + S, M)``: each modality's share in the label (Eq. 2-3); aligned rows 1/M each."""
        return self._give(self._shares_for("shares"))

    @property
    def targets(self) -> Any:
        """``(N + S, C)`` soft labels, each row sums to 1. Built when asked for."""
        shares = self._shares_for("targets")
        return self._give(soft_targets(self._source_labels, shares, self._rule.num_classes))

    @property
    def weights(self) -> Any:
        """``(N + S,)`` float32, so that ``(weights * loss).mean()`` is L_align + λ·L_mis (Eq. 11).

        Both means run over the rows with a label; weak-modality weights (α) are the loss's.
        """
        rows, here = len(self._source), self.misaligned
        if rows > len(self._labels):
            self._require_confidence("weights")
        count = len(self._labels)
        labelled = self._valid[:count]
        total = labelled.sum(dtype=torch.float32).clamp(min=1)
        weights = self._valid / total
        weights[:count].mul_(rows)
        if rows > count:
            anchored: Tensor | float = (rows - count) / count  # in multiples of `total`
            if not self._rule.anchors_repeat:
                counts = labelled.index_select(0, self._anchor[here]).sum()
                anchored = counts.clamp(min=1) / total
            weights[here].mul_(self._rule.misaligned_weight * rows / anchored)
            if self._hard_weights is not None:
                weights[here].mul_(self._hard_weights)
        return self._give(weights)

    def folded_targets(self) -> Any:
        """``(N + S, C)`` targets · weights, for a trainer that takes labels but no weights.

        Right for a mean-reducing softmax cross-entropy without label smoothing, and for that only:
        other losses (BCE, MSE, focal) are not linear in the target.
        """
        return self.targets * self.weights[:, None]

    def relabel(
        self,
        *,
        unimodal_logits: Mapping[Any, Array] | Sequence[Array] | None = None,
        confidence: Array | Callable[[Any, Any], Any] | None = None,
        features: Any = None,
    ) -> Self:
        """Label a batch that was drawn elsewhere, or label it anew.

        Args:
            unimodal_logits: Logits ``(N, C)`` of the aligned rows, a mapping by modality or a
                sequence in modality order.
            confidence: ``(N, M)`` confidences in place of logits, or a provider: it is given the
                logits if there are some, else ``features`` (the N rows of data without them).
            features: Encoder outputs of the N aligned rows, by modality or in order; hardness is
                measured on them. Without features it stays what it is.

        Returns:
            A labelled batch that shares this one's data.

        Raises:
            MidasAugError: There is nothing to label with, or shapes do not fit.
        """
        rule = self._rule
        if unimodal_logits is not None:
            rows = len(self._labels)
            check_unimodal_logits(unimodal_logits, rule.modalities, rows, rule.num_classes)
        if callable(confidence):
            batch = self._aligned_data() if features is None else features
            scored = ask(confidence, batch, self.labels, unimodal_logits)
        elif confidence is not None:
            scored = confidence
        elif self._confidence is None and rule.provider is not None:
            raise MidasAugError(
                f"expected confidence=..., the {rule.provider} that the augmentation was built "
                "with, got None; pass relabel(confidence=provider, unimodal_logits=...)"
            )
        elif unimodal_logits is not None:
            scored = LogitConfidence(rule.modalities).from_logits(unimodal_logits, self.labels)
        else:
            raise MidasAugError(
                "expected something to label with, got neither unimodal_logits nor confidence; "
                "pass relabel(unimodal_logits={modality: (N, C) logits})"
            )
        hardness = self._hard_weights
        if features is not None:
            in_turn = in_order(features, rule.modalities, "features")
            hardness = measure_hardness(
                rule.hardness, in_turn, rule.modalities, self.plan, block_wise=rule.block_wise
            )
        elif hardness is None and (rule.hardness == "cosine" or callable(rule.hardness)):
            raise MidasAugError(
                f"expected features to measure the {rule.hardness!r} hardness on, got None; pass "
                "relabel(..., features={modality: (N, D)}), or build the augmentation with "
                "hardness='auto' or None"
            )
        checked = check_confidence(scored, self._labels, len(rule.modalities))
        return replace(
            self,
            _confidence=checked,
            _shares=self._stated_shares(confidence, checked),
            _hard_weights=hardness,
        )

    # -- devices ---------------------------------------------------------------------------------

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Self:
        """Move every tensor; NumPy arrays of the data stay what they are."""
        if self._numpy:
            raise MidasAugError(
                "expected a batch of torch tensors to move, got one of NumPy arrays; convert the "
                "batch before the augmentation"
            )
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Pin every tensor; a DataLoader with ``pin_memory=True`` calls this."""
        return self._map(lambda tensor: tensor.contiguous().pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        def on_tensors(array: Any) -> Any:
            return array if not hasattr(array, "pin_memory") else function(array)

        return replace(
            self,
            data=map_arrays(on_tensors, self.data),
            _labels=function(self._labels),
            _source=function(self._source),
            _anchor=function(self._anchor),
            _valid=function(self._valid),
            _confidence=None if self._confidence is None else function(self._confidence),
            _shares=None if self._shares is None else function(self._shares),
            _hard_weights=None if self._hard_weights is None else function(self._hard_weights),
        )

    def _aligned_data(self) -> Any:
        """The N rows that came in."""
        if not self._materialized:
            return self.data
        rows = range(len(self._labels))
        return take_rows(
            self.data,
            torch.arange(len(rows), device=self._labels.device),
            len(self._source),
            path="batch",
            strict=False,
            host_index=lambda: rows,
        )

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _source_labels(self) -> Tensor:
        return self._labels.take(self._source)

    def _shares_for(self, name: str) -> Tensor:
        count = len(self._rule.modalities)
        even = torch.full((len(self._labels), count), 1 / count, device=self._labels.device)
        if len(self._source) == len(self._labels):
            return even
        rows, confidence = self._shares, self._require_confidence(name)
        if rows is None:
            rows = label_shares(confidence, self._source[self.misaligned])
        return torch.cat([even, rows])

    def _stated_shares(self, provider: Any, confidence: Tensor) -> Tensor | None:
        """The shares of the misaligned rows, from a provider that states them itself."""
        state = getattr(provider, "shares", None)
        if not callable(state):
            return None
        source = self._source[self.misaligned]
        stated = as_scores(state(self._give(confidence), self._give(source)), "shares")
        check_shape(
            stated, tuple(source.shape), "shares", "one share a misaligned row and modality"
        )
        return stated.detach().float()

    def _require_confidence(self, name: str) -> Tensor:
        if self._confidence is None:
            raise MidasAugError(
                f"expected a labelled batch for .{name}, got one that was only drawn (its "
                "confidence comes from a model, which a data loader does not have); call "
                "out = out.relabel(unimodal_logits=..., features=...) in the training loop"
            )
        return self._confidence

    def _give(self, tensor: Tensor) -> Any:
        return tensor.detach().numpy() if self._numpy else tensor

    def __repr__(self) -> str:
        rows = f"{len(self._labels)} aligned + {len(self._source) - len(self._labels)} misaligned"
        state = "labelled" if self._confidence is not None else "not labelled yet"
        hard = "without" if self._hard_weights is None else "with"
        return (
            f"MisalignedBatch({rows} rows, modalities={self._rule.modalities!r}, {state}, "
            f"{hard} hard-sample weights)"
        )


def check_confidence(
    confidence: Any, labels: Tensor, modalities: int, *, validate: bool = False
) -> Tensor:
    """A provider's ``(N, M)`` answer as a float32 tensor without gradient."""
    scores = as_scores(confidence, "confidence").detach().float().contiguous()
    why = "a confidence provider returns one non-negative number a row and modality"
    check_shape(scores, (len(labels), modalities), "confidence", why)
    if scores.device != labels.device:
        raise MidasAugError(
            f"expected confidence on the device of the labels, {labels.device}, got "
            f"{scores.device}; move it there in the provider"
        )
    if (validate or may_read_values(scores)) and not bool((scores >= 0).all()):
        raise MidasAugError(
            "expected confidences of at least 0, got negative or NaN ones; a provider returns "
            "probabilities or other non-negative numbers, not logits"
        )
    return scores
