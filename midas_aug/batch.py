"""What `MisalignAugment` returns: aligned rows, then misaligned ones; drawn, then labelled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

import midas_aug._labelling as labelling
from midas_aug._arrays import Array
from midas_aug._drawn import Draw, LabelRule, MixLabels
from midas_aug._rows import take_rows
from midas_aug._tree import get_item, item_keys, map_arrays, resolve_key
from midas_aug.confidence.base import as_provider
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan

__all__ = ["MisalignedBatch"]

UnimodalLogits = Mapping[Any, Array] | Sequence[Array]
KEPT = ("_confidence", "_source_labels", "_shares", "_weights", "_divisor", "_targets")
_NOTHING_KEPT = dict.fromkeys(KEPT)


class MisalignedBatch:
    """N aligned rows followed by S misaligned ones.

    Built by `MisalignAugment`. ``source`` is the one truth; data, targets, weights and reports all
    follow from it. Immutable: `label`, `to` and `pin_memory` return a new one. Arrays are of the
    library of the caller's labels. Index it like the batch that went in: ``out["image"]``; the
    whole structure is ``out.data``.

    Attributes:
        modalities: The names of the modalities, in order.
        modality_keys: The batch keys of each modality, by its name.
        target: What a label is.
        num_classes: C; None where the target has no classes.
        materialized: Whether ``data`` has N + S rows.
        labelled_by_logits: Whether the shares came from unimodal logits.
        is_numpy: Whether the arrays of this batch are NumPy's.
        drawn: The facts of the draw, as tensors.

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

    _confidence: Tensor | None = None  # this and the others: computed once and kept, see KEPT
    _source_labels: Tensor | None = None
    _shares: Tensor | None = None
    _weights: Tensor | None = None
    _divisor: Tensor | None = None
    _targets: Tensor | None = None

    def __init__(
        self, data: Any, drawn: Draw, rule: LabelRule, *, numpy: bool, materialized: bool
    ) -> None:
        self._data = data
        self.modalities, self.modality_keys = tuple(rule.keys), rule.keys
        self.target = rule.target
        self.num_classes = rule.target.num_classes
        self.materialized = materialized
        self.labelled_by_logits = False
        self.drawn, self._rule, self._mix = drawn, rule, MixLabels()
        self.is_numpy = numpy

    # -- data ------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The augmented batch in its own structure, N + S rows (N where not materialized)."""
        return self._data

    def __getitem__(self, key: Any) -> Any:
        """The item ``key`` of the augmented batch, N + S rows (N with ``materialize=False``)."""
        return get_item(self._data, key)

    def __contains__(self, key: Any) -> bool:
        return resolve_key(self.data, key) is not None

    __iter__ = None  # keyed, like a mapping: `a, b = out` would unpack keys; unpack out.data

    def keys(self) -> list[Any]:
        """The keys of the batch, so that ``dict(out)`` works."""
        return item_keys(self.data)

    def items(self) -> list[tuple[Any, Any]]:
        """The keys of the batch with what they hold."""
        return [(key, get_item(self.data, key)) for key in self.keys()]

    def values(self) -> list[Any]:
        """What the keys of the batch hold."""
        return [value for _, value in self.items()]

    def __len__(self) -> int:
        return len(self.keys())

    def gather(self, name: Any, features: Any) -> Any:
        """Swap what an encoder made of the N rows: ``(N, …)`` features give ``(N + S, …)``.

        Args:
            name: The modality that ``features`` encode.
            features: An array or nesting of arrays with N rows; gradients flow through.

        Raises:
            MidasAugError: ``name`` is no modality, or an array does not have N rows.
        """
        if name not in self.modalities:
            raise MidasAugError(
                f"expected the name of a modality, one of {self.modalities!r}, got {name!r}; "
                "only modalities are swapped"
            )
        number, path = self.modalities.index(name), f"features of {name!r}"
        index, swapped = self.drawn.source[:, number], self.drawn.swapped_blocks[number]
        return take_rows(features, index, self._n_rows, path=path, modality=True, swapped=swapped)

    # -- provenance ------------------------------------------------------------------------------

    @property
    def labels(self) -> Any:
        """``(N, …)`` labels of the aligned rows as the target takes them, such as int64 classes."""
        return self._give(self.drawn.labels) if self.is_numpy else self.drawn.labels

    @property
    def source(self) -> Any:
        """``(N + S, M)`` int64: the batch row that supplies each modality."""
        return self._give(self.drawn.source) if self.is_numpy else self.drawn.source

    @property
    def anchor(self) -> Any:
        """``(N + S,)`` int64: the batch row that each sample belongs to."""
        return self._give(self.drawn.anchor) if self.is_numpy else self.drawn.anchor

    @property
    def valid(self) -> Any:
        """``(N + S,)`` bool: False for ignored rows and rows without a partner (weight 0)."""
        return self._give(self.drawn.valid) if self.is_numpy else self.drawn.valid

    @property
    def ignored(self) -> Any:
        """``(N + S,)`` bool: the rows that are not valid."""
        return self._give(self.drawn.ignored) if self.is_numpy else self.drawn.ignored

    @property
    def source_labels(self) -> Any:
        """``(N + S, M, …)``: the label of each modality's source."""
        if self._source_labels is None:
            self._source_labels = labelling.labels_at(self.drawn.labels, self.drawn.source)
        return self._give(self._source_labels) if self.is_numpy else self._source_labels

    @property
    def is_misaligned(self) -> Any:
        """``(N + S,)`` bool: the modalities that this row has carry different labels."""
        return self._give(labelling.carries_two_labels(self.drawn))

    @property
    def present(self) -> Any:
        """``(N + S, M)`` bool: the source of each modality has it."""
        absent, source = self.drawn.absent, self.drawn.source
        found = torch.ones_like(source, dtype=torch.bool) if absent is None else ~absent
        return self._give(found)

    @property
    def absent(self) -> Tensor | None:
        """``~present``, a tensor; None where every row has every modality."""
        return self.drawn.absent

    @property
    def aligned(self) -> slice:
        """The rows of the batch as it came: ``logits[out.aligned]``."""
        return slice(0, self._n_rows)

    @property
    def misaligned(self) -> slice:
        """The rows that the augmentation added."""
        return slice(self._n_rows, self.drawn.source.shape[0])

    @property
    def plan(self) -> SwapPlan:
        """The draws, to replay them: ``augment(batch, plan=out.plan)``."""
        drawn, n_rows = self.drawn, self.drawn.labels.shape[0]
        plan = SwapPlan(drawn.source[n_rows:], drawn.anchor[n_rows:], drawn.valid[n_rows:])
        return SwapPlan(*(self._give(part) for part in plan)) if self.is_numpy else plan

    # -- labels ----------------------------------------------------------------------------------

    @property
    def confidence(self) -> Any:
        """``(N, M)``: each modality's confidence in the label of each aligned row (Eq. 2)."""
        return self._give(self._require_confidence("confidence"))

    @property
    def source_confidence(self) -> Any:
        """``(N + S, M)``: each modality's confidence in the label of its source."""
        if self.drawn.source.shape[0] == self._n_rows and self._mix.shares is None:
            return self._give(torch.ones_like(self.drawn.source, dtype=torch.float32))
        confidence = self._require_confidence("source_confidence")
        return self._give(confidence.gather(0, self.drawn.source))

    @property
    def hard_weights(self) -> Any:
        """``(S,)`` hard-sample weights that are in `weights` (Eq. 8), or None where none are."""
        found = self._mix.hard_weights
        return None if found is None else self._give(found)

    @property
    def shares(self) -> Any:
        """``(N + S, M)``: each modality's share in the label (Eq. 2-3); aligned rows are even."""
        if self._shares is None:
            self._shares = labelling.shares_of_all(self.drawn, self._mixed_shares("shares"))
        return self._give(self._shares) if self.is_numpy else self._shares

    @property
    def targets(self) -> Any:
        """``(N + S, C)`` soft labels, the sources' mixed by shares; an error for some targets."""
        if self._targets is None:
            self._mixed_shares("targets")
            shares, labels = torch.as_tensor(self.shares), torch.as_tensor(self.source_labels)
            self._targets = self._rule.target.dense(labels, shares)
        return self._give(self._targets)

    @property
    def weights(self) -> Any:
        """``(N + S,)`` float32, so that ``(weights * loss).mean()`` is L_align + λ·L_mis (Eq. 11).

        Both means run over the rows with a label; weak-modality weights (α) are the loss's.
        """
        if self._weights is None:
            self._weights = self.sum_weights * self.drawn.source.shape[0]
        return self._give(self._weights) if self.is_numpy else self._weights

    @property
    def sum_weights(self) -> Tensor:
        """`weights` / (N + S), a tensor: for a sum over the rows in place of a mean."""
        self._mixed_shares("weights")
        hard = self._mix.hard_weights
        return labelling.weigh(self._rule, self.drawn, self.divisor, hard)

    @property
    def divisor(self) -> Tensor:
        """What a mean over the aligned rows divides by: a positive tensor without axes.

        The number of rows with a label; with class weights of class indices the sum of these.
        """
        if self._divisor is None:
            drawn = self.drawn
            labels, n_labelled = drawn.labels, drawn.n_labelled
            counted = drawn.valid[: labels.shape[0]]
            self._divisor = labelling.divisor_of(self.target, labels, counted, n_labelled)
        return self._divisor

    def folded_targets(self) -> Any:
        """``(N + S, C)`` targets · weights, for a trainer that takes labels but no weights.

        Right for a mean-reducing softmax cross-entropy, without class weights and label smoothing
        of its own, for those of the target are in it; other losses do not scale with the target.
        """
        parts = torch.as_tensor(self.targets), torch.as_tensor(self.weights)
        return self._give(self.target.folded(*parts))

    def label(
        self,
        confidence: Array | Callable[[Any, Any], Any] | None = None,
        *,
        unimodal_logits: UnimodalLogits | None = None,
        features: Any = None,
    ) -> Self:
        """Label a batch that was drawn, or label it anew.

        Args:
            confidence: ``(N, M)`` confidences, or a provider: it is given the logits if it takes
                them and there are some, else ``features``, else the N rows of data. None: it
                is taken from the unimodal logits.
            unimodal_logits: Logits ``(N, C)`` of the aligned rows, a mapping by modality or a
                sequence in modality order.
            features: Encoder outputs of the N aligned rows, by modality or in order; hardness is
                measured on them. None: on the data of the batch.

        Returns:
            A labelled batch that shares this one's data.

        Raises:
            MidasAugError: There is nothing to label with, or shapes do not fit.
        """
        rule, drawn, by_logits = self._rule, self.drawn, True
        if confidence is None:
            mix = labelling.from_logits(rule, drawn, unimodal_logits)
        else:
            if unimodal_logits is not None:
                labelling.check_logits(rule, drawn, unimodal_logits)
            provider = as_provider(confidence) if callable(confidence) else None
            by_logits = provider is not None and provider.takes_logits
            scored: Any = confidence
            if provider is not None:
                scored = labelling.ask(
                    rule, provider, self.labels, unimodal_logits, features, self._aligned_rows
                )
            mix = labelling.from_confidence(rule, drawn, scored, provider, self._give)
        out = self._copy()
        out.labelled_by_logits = by_logits
        if rule.hardness is not None:
            args = (self._data, features, lambda: self.plan)
            mix.hard_weights = labelling.weigh_by_hardness(rule, drawn, *args)
        out._mix = mix
        return out

    # -- devices ---------------------------------------------------------------------------------

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Self:
        """Move every tensor; NumPy arrays of the data stay what they are."""
        if self.is_numpy:
            raise MidasAugError(
                "expected a batch of torch tensors to move, got one of NumPy arrays; convert the "
                "batch before the augmentation"
            )
        if isinstance(device, torch.dtype):
            raise MidasAugError(f"expected a device, got {device}; cast before the augmentation")
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Pin every tensor; a DataLoader with ``pin_memory=True`` calls this."""
        return self._map(lambda tensor: tensor.contiguous().pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        out = self._copy()
        out._data = map_arrays(
            lambda array: function(array) if hasattr(array, "pin_memory") else array, self.data
        )
        out.drawn = self.drawn.map(function)
        out._mix = self._mix.map(function)
        return out

    def with_data(self, data: Any) -> Self:
        """The same rows with other data, or with None where a model gets its inputs separately."""
        out = self._copy()
        out._data = data
        return out

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _n_rows(self) -> int:
        return self.drawn.labels.shape[0]

    def _aligned_rows(self) -> Any:
        """The N rows of data that came in."""
        whole = self.materialized
        return labelling.aligned_data(self._rule, self.drawn, self._data) if whole else self._data

    def _copy(self) -> Self:
        """Another batch of the same rows; what is computed once is left out."""
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        out.__dict__.update(_NOTHING_KEPT)
        return out

    def _mixed_shares(self, name: str) -> Tensor | None:
        """The shares ``(S, M)`` of the misaligned rows, or None where there are no such rows."""
        drawn = self.drawn
        if self._mix.shares is None and drawn.source.shape[0] > drawn.labels.shape[0]:
            self._require_label(name)
        return self._mix.shares

    def _require_label(self, name: str) -> None:
        if self._mix.shares is None:
            raise MidasAugError(
                f"expected a labelled batch for .{name}, got one that was only drawn; call "
                "out = out.label(unimodal_logits=..., features=...) in the training loop"
            )

    def _require_confidence(self, name: str) -> Tensor:
        self._require_label(name)
        if self._confidence is None:
            self._confidence = self._mix.confidence_of(self.drawn)
        return self._confidence

    def _give(self, tensor: Tensor) -> Any:
        return tensor.detach().numpy() if self.is_numpy else tensor

    def __getstate__(self) -> dict[str, Any]:
        return self._copy().__dict__

    def __repr__(self) -> str:
        rows = f"{self._n_rows} aligned + {len(self.drawn.source) - self._n_rows} misaligned"
        state = "labelled" if self._mix.shares is not None else "not labelled yet"
        hard = "without" if self._mix.hard_weights is None else "with"
        return (
            f"MisalignedBatch({rows} rows, modalities={self.modalities!r}, {state}, "
            f"{hard} hard-sample weights)"
        )
