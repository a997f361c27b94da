"""`MisalignAugment`: the batch transform (Sec. 3.2-3.5)."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    Generator,
    as_labels,
    as_tensor,
    check_rows,
    check_shape,
    share_memory,
)
from midas_aug._stream import DrawStream
from midas_aug.batch import LabelRule, MisalignedBatch, check_confidence
from midas_aug.collate import MisalignCollate
from midas_aug.confidence import ConfidenceProvider, LogitConfidence, UniformConfidence
from midas_aug.confidence.base import ask, check_unimodal_logits
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.pairing import Pairing
from midas_aug.functional.plan import Swap, check_pairing, check_swap, draw_rows
from midas_aug.hardness import Hardness, check_hardness, measure_hardness
from midas_aug.tree import get_item, item_keys, map_items, resolve_key, take_rows

__all__ = ["MisalignAugment"]


class MisalignAugment:
    r"""Append misaligned samples, with soft labels and weights, to a multimodal batch.

    Args:
        modalities: At least two batch keys (positions of a tuple batch, attribute names of a
            dataclass). A modality is an array or any nesting of arrays with N rows each.
        num_classes: C.
        label: Batch key of the labels, or a callable ``(batch) -> labels``.
        confidence: ``"logits"`` (the call is given ``unimodal_logits``), ``"uniform"``, or a
            provider ``(batch, labels) -> (N, M)``; see `midas_aug.confidence`.
        pairing: ``"uniform"``, or a callable ``(labels, *, features, generator) -> (partner,
            valid)``, such as `midas_aug.functional.permutation_partners`. It is given the
            modalities as ``features``, a list in their order.
        swap: ``"each"`` (S = M·N), ``"one"`` or ``"permute"`` (S = N, the paper's way for more
            than two modalities); see `midas_aug.functional.plan_swaps`.
        hardness: ``"cosine"`` (Eq. 8), None, a callable ``(features, plan) -> (S,)``, or
            ``"auto"``: cosine where every modality is one (N, D) float array, none elsewhere
            (``out.hardness`` tells).
        misaligned_weight: λ (Eq. 11).
        seed: Makes the stream of draws reproducible; it differs in each call, loader worker,
            epoch and distributed rank. In loader workers it builds on the seed that the loader
            gives them, so fix that too (``torch.manual_seed`` or ``DataLoader(generator=...)``).
            None: the global generator of the batch's library.
        validate: Also make the checks that need the values of tensors on an accelerator (a label
            beyond ``num_classes``, a negative confidence), at the price of a sync in each call.

    Attributes:
        enabled: Set it to False for aligned rows only; loader workers that already run see it.

    Raises:
        MidasAugError: An argument is none of the above.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> augment = MisalignAugment(("image", "text"), 3, confidence="uniform", seed=0)
        >>> batch = {"image": torch.rand(2, 8), "text": torch.rand(2, 5)}
        >>> out = augment(batch, torch.tensor([0, 2]))
        >>> print(out)  # doctest: +NORMALIZE_WHITESPACE
        MisalignedBatch(2 aligned + 4 misaligned rows, modalities=('image', 'text'), labelled,
        with hard-sample weights)
        >>> out["image"].shape, out.targets[2]
        (torch.Size([6, 8]), tensor([0.5000, 0.0000, 0.5000]))
    """

    def __init__(
        self,
        modalities: Sequence[Hashable],
        num_classes: int,
        *,
        label: Hashable | Callable[[Any], Any] = "label",
        confidence: Literal["logits", "uniform"] | ConfidenceProvider = "logits",
        pairing: Literal["uniform"] | Pairing = "uniform",
        swap: Swap = "each",
        hardness: Hardness = "auto",
        misaligned_weight: float = 1.0,
        seed: int | None = None,
        validate: bool = False,
    ) -> None:
        self.modalities = _check_modalities(modalities)
        self.num_classes = _check_num_classes(num_classes)
        self.label = label
        if not callable(label) and label in self.modalities:
            raise MidasAugError(
                f"expected label to be another key than the modalities {self.modalities!r}, got "
                f"{label!r}"
            )
        self.confidence = _check_confidence_choice(confidence, self.modalities)
        self._provider_name = None if isinstance(confidence, str) else type(confidence).__name__
        check_pairing(pairing)
        self.pairing = pairing
        check_swap(swap)
        self.swap: Swap = swap
        check_hardness(hardness)
        self.hardness = hardness
        self.misaligned_weight = _check_weight(misaligned_weight)
        if seed is not None and not isinstance(seed, int | np.integer):
            raise MidasAugError(f"expected seed to be an integer or None, got {seed!r}")
        self.seed = seed
        self.validate = validate
        self._stream = DrawStream(None if seed is None else int(seed))
        self._enabled = True
        # Shared memory: a switch in the training process has to reach running workers.
        self._enabled_everywhere = share_memory(torch.ones(1, dtype=torch.bool, device="cpu"))
        self._enabled_view = self._enabled_everywhere.numpy()

    def __call__(
        self,
        batch: Any,
        labels: Array | None = None,
        *,
        unimodal_logits: Mapping[Any, Array] | Sequence[Array] | None = None,
        plan: SwapPlan | None = None,
        generator: Generator | None = None,
        materialize: bool = True,
    ) -> MisalignedBatch:
        """Augment one collated batch; ``batch`` itself stays as it is.

        Args:
            batch: Mapping, sequence, named tuple or dataclass that holds the modalities, N rows
                each. Other leaves with N rows follow the anchor, the rest passes through.
            labels: ``(N,)`` integers, in place of the batch's own. Negative ones are ignored rows.
            unimodal_logits: ``(N, C)`` of each modality's own classifier, by modality or in order.
                Only read by providers of confidence that use logits.
            plan: Draws to replay, as from `midas_aug.functional.plan_swaps` or ``out.plan``.
            generator: Where this call's draws come from, instead of ``seed``.
            materialize: False keeps the N rows of data as they are, for a head that swaps by
                ``out.source`` itself (`FactoredLinear`) or for ``out.gather(name, features)``.

        Raises:
            MidasAugError: The batch does not fit what was announced.
        """
        return self._augment(
            batch,
            labels,
            unimodal_logits=unimodal_logits,
            plan=plan,
            generator=generator,
            materialize=materialize,
        )

    def collate(
        self, collate_fn: Callable[[list[Any]], Any] | None = None, *, materialize: bool = True
    ) -> MisalignCollate:
        """Wrap a DataLoader's ``collate_fn``: batches come out augmented.

        When the confidence needs a model, the batches are drawn but not labelled; call
        ``out.relabel(...)`` in the training loop.

        Args:
            collate_fn: Makes a batch of samples; None is ``default_collate``.
            materialize: False keeps N rows of data, for late fusion: encode them, then swap the
                features with ``out.gather(name, features)``. Three times less to send to the
                training process with two modalities.
        """
        return MisalignCollate(self, collate_fn, materialize)

    @property
    def enabled(self) -> bool:
        """Whether misaligned rows are added."""
        if torch.compiler.is_compiling():
            return self._enabled
        return bool(self._enabled_view[0])

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = bool(value)
        self._enabled_everywhere.fill_(self._enabled)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of draws stands, and the switch."""
        return {"enabled": self.enabled, "stream": self._stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken (with the same ``seed``)."""
        self.enabled = state["enabled"]
        self._stream.load_state_dict(state["stream"])

    def _augment(
        self,
        batch: Any,
        labels: Array | None,
        *,
        unimodal_logits: Any = None,
        plan: SwapPlan | None = None,
        generator: Generator | None = None,
        materialize: bool = True,
        label_later: bool = False,
    ) -> MisalignedBatch:
        given = self._find_labels(batch) if labels is None else labels
        classes = as_labels(given, "the labels")
        check_label_range(classes, self.num_classes, force=self.validate)
        rows = len(classes)
        features = [get_item(batch, key, "modality") for key in self.modalities]

        enabled = self.enabled
        if plan is None and enabled:
            drawn = self._draw(given, features, generator)
        else:
            replayed = plan if enabled else None
            drawn = _with_aligned(classes, len(self.modalities), replayed)
        source, anchor, valid = drawn
        # The anchors of our own plans are the batch over and over, so the host knows them without
        # asking a device: lists of strings and CPU leaves can follow a batch on an accelerator.
        blocks = len(anchor) // max(rows, 1)
        anchors_repeat = plan is None or not enabled
        on_host = (lambda: list(range(rows)) * blocks) if anchors_repeat else None
        out = MisalignedBatch(
            data=self._swap(batch, rows, source, anchor, on_host) if materialize else batch,
            _labels=classes.clone(),  # the caller may reuse the memory
            _source=source,
            _anchor=anchor,
            _valid=valid,
            _rule=LabelRule(
                modalities=self.modalities,
                num_classes=self.num_classes,
                hardness=self.hardness,
                misaligned_weight=self.misaligned_weight,
                block_wise=plan is None and self.swap == "each" and self.pairing == "uniform",
                anchors_repeat=anchors_repeat,
                provider=self._provider_name if label_later else None,
            ),
            _numpy=isinstance(given, np.ndarray),
            _materialized=materialize,
        )
        if not enabled:
            return out
        hardness = self.hardness
        if label_later and hardness != "auto":
            hardness = None  # features come with the labels; only "auto" may do without
        weights = measure_hardness(
            hardness, features, self.modalities, out.plan, block_wise=out._rule.block_wise
        )
        if label_later:
            return replace(out, _hard_weights=weights)
        confidence = self._measure_confidence(batch, given, unimodal_logits)
        shares = out._stated_shares(self.confidence, confidence)
        return replace(out, _confidence=confidence, _shares=shares, _hard_weights=weights)

    def _draw(self, labels: Any, features: Any, generator: Generator | None) -> SwapPlan:
        return draw_rows(
            labels,
            len(self.modalities),
            swap=self.swap,
            pairing=self.pairing,
            features=features,
            num_classes=self.num_classes,
            generator=generator or self._stream.next_generator(labels),
        )

    def _find_labels(self, batch: Any) -> Any:
        if callable(self.label):
            return self.label(batch)
        if resolve_key(batch, self.label) is None:
            raise MidasAugError(
                f"expected labels under {self.label!r}, found the keys {item_keys(batch)!r}; pass "
                "augment(batch, labels), or name the key with label=..."
            )
        return get_item(batch, self.label)

    def _swap(
        self,
        batch: Any,
        rows: int,
        source: Tensor,
        anchor: Tensor,
        host_anchor: Callable[[], list[int]] | None,
    ) -> Any:
        keys = [resolve_key(batch, key) for key in self.modalities]

        def rows_of(key: Any, value: Any) -> Any:
            path = f"batch[{key!r}]"
            if key in keys:
                return take_rows(value, source[:, keys.index(key)], rows, path=path, strict=True)
            return take_rows(value, anchor, rows, path=path, strict=False, host_index=host_anchor)

        return map_items(rows_of, batch)

    def _measure_confidence(self, batch: Any, labels: Any, unimodal_logits: Any) -> Tensor:
        rows, count = len(labels), len(self.modalities)
        if unimodal_logits is not None:
            check_unimodal_logits(unimodal_logits, self.modalities, rows, self.num_classes)
        elif self.confidence == "logits":
            raise MidasAugError(
                "expected unimodal_logits, which confidence='logits' reads, got None; pass "
                "augment(batch, labels, unimodal_logits={modality: (N, C) logits}), or choose "
                "confidence='uniform' or a provider of midas_aug.confidence"
            )
        scores = ask(self._provider(), batch, labels, unimodal_logits)
        return check_confidence(scores, as_tensor(labels, "labels"), count, validate=self.validate)

    def _provider(self) -> ConfidenceProvider:
        if self.confidence == "uniform":
            return UniformConfidence(len(self.modalities))
        if self.confidence == "logits":
            return LogitConfidence(self.modalities)
        provider: ConfidenceProvider = self.confidence
        return provider

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_enabled_view"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        share_memory(self._enabled_everywhere)  # it is shared already unless this is a copy
        self._enabled_view = self._enabled_everywhere.numpy()

    def __repr__(self) -> str:
        return (
            f"MisalignAugment({self.modalities!r}, {self.num_classes}, label={self.label!r}, "
            f"confidence={self.confidence!r}, pairing={self.pairing!r}, swap={self.swap!r}, "
            f"hardness={self.hardness!r}, misaligned_weight={self.misaligned_weight}, "
            f"seed={self.seed})"
        )


def _with_aligned(labels: Tensor, num_modalities: int, plan: SwapPlan | None) -> SwapPlan:
    """The aligned rows, and those of a plan that is replayed behind them."""
    own = torch.arange(len(labels), device=labels.device)
    source = own.repeat(num_modalities, 1).t()  # memory of its own, which can be pinned
    aligned = SwapPlan(source, own, labels >= 0)
    if plan is None:
        return aligned
    swapped = _check_plan(plan, labels, num_modalities)
    return SwapPlan(*(torch.cat(parts) for parts in zip(aligned, swapped, strict=True)))


def _check_plan(plan: SwapPlan, labels: Tensor, num_modalities: int) -> SwapPlan:
    """View a plan as tensors on the labels' device, and drop rows that touch an ignored one."""
    source = as_labels(plan.source, "plan.source", ndim=2)
    anchor = as_labels(plan.anchor, "plan.anchor")
    valid = as_tensor(plan.valid, "plan.valid").bool()
    count = len(anchor)
    check_shape(source, (count, num_modalities), "plan.source", "one batch row a modality")
    check_shape(valid, (count,), "plan.valid", "one flag a misaligned sample")
    for name, part in zip(SwapPlan._fields, plan, strict=True):
        if isinstance(part, Tensor) and part.device != labels.device:
            raise MidasAugError(
                f"expected plan.{name} on the device of the labels, {labels.device}, got "
                f"{part.device}; move the plan or draw it from labels on that device"
            )
    check_rows(source, len(labels), "plan.source")
    check_rows(anchor, len(labels), "plan.anchor")
    labelled = (labels[source] >= 0).all(dim=1) & (labels[anchor] >= 0)
    return SwapPlan(source, anchor, valid & labelled)


def _check_modalities(modalities: Any) -> tuple[Any, ...]:
    if isinstance(modalities, str) or not isinstance(modalities, Sequence) or len(modalities) < 2:
        raise MidasAugError(
            "expected modalities to be a sequence of at least two batch keys, such as "
            f"('image', 'text'), got {modalities!r}"
        )
    if len(set(modalities)) != len(modalities):
        raise MidasAugError(f"expected modalities to be different keys, got {modalities!r}")
    return tuple(modalities)


def _check_num_classes(num_classes: Any) -> int:
    if not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise MidasAugError(f"expected num_classes to be a positive integer, got {num_classes!r}")
    return int(num_classes)


def _check_confidence_choice(confidence: Any, modalities: tuple[Any, ...]) -> Any:
    if isinstance(confidence, str):
        known = confidence in ("logits", "uniform")
    else:
        known = callable(confidence)
    if not known:
        raise MidasAugError(
            "expected confidence to be 'logits', 'uniform' or a provider (batch, labels) -> "
            f"(N, M), got {confidence!r}"
        )
    columns = tuple(getattr(confidence, "modalities", modalities))
    if columns != modalities and set(columns) == set(modalities):
        raise MidasAugError(
            f"expected the confidence provider's modalities in the order {modalities!r}, got "
            f"{columns!r}; build both with the same order, or shares go to the wrong modality"
        )
    return confidence


def _check_weight(weight: Any) -> float:
    if not isinstance(weight, Real) or not 0 <= float(weight) < float("inf"):
        raise MidasAugError(
            f"expected misaligned_weight (λ) to be a finite number of at least 0, got {weight!r}"
        )
    return float(weight)
