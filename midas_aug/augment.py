"""`MisalignAugment`: the batch transform (Sec. 3.2-3.5)."""

import copy
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import Array
from midas_aug._checks import check_switch
from midas_aug._drawn import Draw, LabelRule
from midas_aug._draws import Draws
from midas_aug._hardness import HardnessSetting, check_hardness
from midas_aug._layout import BatchLayout
from midas_aug._present import find_present
from midas_aug._settings import (
    TWICE,
    check_keep,
    check_label,
    check_present_key,
    check_seed,
    check_weight,
    keys_by_modality,
    read_state,
    refuse_fixed,
    refuse_repeated,
    resolve_confidence,
)
from midas_aug._shared import SharedNumbers
from midas_aug._stream import DrawStream
from midas_aug.batch import MisalignedBatch
from midas_aug.collate import MisalignCollate
from midas_aug.confidence.base import ConfidenceProvider
from midas_aug.confidence.simple import UniformConfidence
from midas_aug.errors import MidasAugError
from midas_aug.functional import SwapPlan
from midas_aug.functional.pairing import OWN_PAIRINGS, Pairing
from midas_aug.functional.plan import (
    Swap,
    aligned_rows,
    check_pairing,
    check_swap,
    draw_rows,
    swapped_blocks,
)
from midas_aug.targets import Target, resolve_target

__all__ = ["MisalignAugment"]


class MisalignAugment:
    r"""Append misaligned samples, with soft labels and weights, to a multimodal batch.

    `draw` makes the samples and `MisalignedBatch.label` their labels; a call does both.

    Args:
        modalities: At least two batch keys (positions of a tuple batch, attribute names of a
            dataclass), or a mapping from a modality's name to its key or keys:
            ``{"image": "pixel_values", "text": ["input_ids", "attention_mask"]}``. All keys of a
            modality move together. What a key holds has N rows: an array, a list of N items, or any
            nesting of mappings, tuples and dataclasses of these.
        num_classes: C, where a label is one class index; short for ``target=ClassIndex(C)``.
        target: What a label is: one of `midas_aug.targets`.
        label: Batch key of the labels, or a callable ``(batch) -> labels``.
        confidence: ``"logits"`` (the call is given ``unimodal_logits``), ``"uniform"``, or a
            provider ``(batch, labels) -> (N, M)``; see `midas_aug.confidence`.
        pairing: ``"uniform"``, or a callable ``(labels, *, features, generator) -> (partner,
            valid)``, such as `midas_aug.functional.permutation_partners`. It is given the
            modalities as ``features``, a list in their order.
        swap: ``"each"`` (S = M·N), ``"one"`` or ``"permute"`` (S = N, the paper's way for more
            than two modalities); see `midas_aug.functional.plan_swaps`.
        hardness: ``"cosine"`` (Eq. 8), None, a callable ``(features, plan) -> (S,)``, or
            ``"auto"``: cosine where every modality is float features, ``(N, D)``, or
            ``(N, T, D)`` and ``(N, D, …)``, whose further axes are averaged; none elsewhere
            (``out.hard_weights`` tells).
        misaligned_weight: λ (Eq. 11).
        present: Where a batch says which modalities each row has, a key or a callable ``(batch) ->
            present``; see `draw`. None: every row has all, unless a call says otherwise.
        keep: Keys of the batch that are passed through untouched, such as class weights or a table
            of names, even where their length happens to be N.
        seed: Makes the draws reproducible; they differ in each call, loader worker, epoch and
            distributed rank. In loader workers they build on the seed that the loader gives them,
            so fix that too (``torch.manual_seed`` or ``DataLoader(generator=...)``). None: the
            global generator of the batch's library.
        validate: Also make the checks that need the values of tensors on an accelerator (a label
            beyond ``num_classes``, a negative confidence), at the price of a sync in each call.

    Attributes:
        keys: The batch keys of each modality, by its name.
        enabled: Set it to False for aligned rows only; loader workers that already run see it.
        misaligned_weight: λ, which may be set anew, for a schedule; loader workers that already run
            and label do not see it.
        stream: The draws of a seeded augmentation. Ranks that share a batch (tensor parallel) set
            ``augment.stream.rank`` to one number.

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
        modalities: Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]],
        num_classes: int | None = None,
        *,
        target: Target | None = None,
        label: Hashable | Callable[[Any], Any] = "label",
        confidence: Literal["logits", "uniform"] | ConfidenceProvider | Any = "logits",
        pairing: Literal["uniform"] | Pairing = "uniform",
        swap: Swap = "each",
        hardness: HardnessSetting = "auto",
        misaligned_weight: float = 1.0,
        present: Hashable | Callable[[Any], Any] | None = None,
        keep: Sequence[Hashable] = (),
        seed: int | None = None,
        validate: bool = False,
    ) -> None:
        keys = keys_by_modality(modalities)
        self.keys = keys
        self.modalities: tuple[Any, ...] = tuple(keys)
        self.target = resolve_target(num_classes, target)
        self.num_classes = self.target.num_classes
        self.label = check_label(label, keys)
        self.present = check_present_key(present, keys, self.label)
        self.confidence = resolve_confidence(confidence, self.modalities, self.target)
        check_pairing(pairing)
        self.pairing = pairing
        check_swap(swap)
        self.swap: Swap = swap
        check_hardness(hardness)
        self.hardness = hardness
        self.keep = check_keep(keep, keys)
        self.seed = check_seed(seed)
        self.validate = check_switch(validate, "validate")
        self.stream = DrawStream(self.seed)
        self._swapped_blocks = swapped_blocks(swap, len(keys))
        self._block_wise = swap == "each" and pairing == "uniform"
        self._layout = BatchLayout(keys, self.label, self.keep, self.present)
        self._rule = LabelRule(
            keys=keys,
            keep=self.keep,
            target=self.target,
            hardness=hardness,
            misaligned_weight=check_weight(misaligned_weight),
            provider=None if isinstance(confidence, str) else type(confidence).__name__,
            validate=self.validate,
        )
        # A switch in the training process has to reach running workers.
        self._switch = SharedNumbers(torch.ones(1, dtype=torch.bool, device="cpu"))
        self._enabled = True
        self._enabled_view = self._switch.tensor.numpy()

    def __call__(
        self,
        batch: Any,
        labels: Array | None = None,
        *,
        unimodal_logits: Mapping[Any, Array] | Sequence[Array] | None = None,
        present: Mapping[Any, Array] | Array | None = None,
        plan: SwapPlan | None = None,
        generator: Draws = None,
        materialize: bool = True,
    ) -> MisalignedBatch:
        """Augment one collated batch: `draw`, then label. ``batch`` itself stays as it is.

        Args:
            batch: See `draw`.
            labels: See `draw`.
            unimodal_logits: ``(N, C)`` of each modality's own classifier, by modality or in order.
                Only read by providers of confidence that use logits.
            present: See `draw`.
            plan: See `draw`.
            generator: See `draw`.
            materialize: See `draw`.

        Raises:
            MidasAugError: The batch is not what the constructor was told to expect.
        """
        drawn = self.draw(
            batch,
            labels,
            present=present,
            plan=plan,
            generator=generator,
            materialize=materialize,
        )
        facts = drawn.drawn
        if facts.source.shape[0] == facts.labels.shape[0]:
            return drawn  # switched off, or a plan without rows: there is nothing to label
        confidence = None if self.confidence == "logits" else self.confidence
        return drawn.label(confidence, unimodal_logits=unimodal_logits)

    def draw(
        self,
        batch: Any,
        labels: Array | None = None,
        *,
        present: Mapping[Any, Array] | Array | None = None,
        plan: SwapPlan | None = None,
        generator: Draws = None,
        materialize: bool = True,
    ) -> MisalignedBatch:
        """Draw the misaligned samples of a batch, to be labelled later by `MisalignedBatch.label`.

        Args:
            batch: Mapping, sequence, named tuple or dataclass that holds the modalities, N rows
                each. Everything else that has rows follows the anchor.
            labels: ``(N,)`` integers, in place of the batch's own. Negative ones are ignored rows.
                With a ``target``, labels as it takes them.
            present: Which modalities each row has: a mapping from their names to ``(N,)`` bool, or
                ``(N, M)`` bool; in place of what the batch says. An absent modality is never given
                to another row, and has no share in a label, no unimodal loss and no hardness. A
                mixed row whose anchor has nothing left, or whose modality no partner has, weighs
                0, and so does a row without any. What stands in for an absent modality is up to
                the model: fill it with zeros, or mask it in the fusion by ``out.present``.
            plan: Draws to replay, as from `midas_aug.functional.plan_swaps` or ``out.plan``.
            generator: Where this call's draws come from, instead of ``seed``.
            materialize: False keeps the N rows of data as they are, for a head that swaps by
                ``out.source`` itself (`FactoredLinear`) or for ``out.gather(name, features)``.

        Raises:
            MidasAugError: The batch is not what the constructor was told to expect.
        """
        if isinstance(batch, MisalignedBatch):
            raise MidasAugError(TWICE)
        if type(materialize) is not bool:
            check_switch(materialize, "materialize")
        given = self.find_labels(batch) if labels is None else labels
        force = self.validate and not torch.compiler.is_compiling()
        checked = self.target.check(given, force=force).clone()  # memory may be reused
        n_rows, ids = checked.shape[0], self.target.label_ids(checked)
        has = None
        if present is not None or self.present is not None:
            has = find_present(batch, self.present, present, self.modalities, checked)
            ids = ids.masked_fill(~has.any(dim=1), -1)
        enabled = self.enabled
        replayed, is_fresh = plan if enabled else None, enabled and plan is None
        if is_fresh:
            rows, n_labelled = self._draw_rows(batch, given, ids, generator, has)
        else:
            rows, n_labelled = aligned_rows(ids, len(self.modalities), replayed, has)
        swapped = self._swapped_blocks if is_fresh else (None,) * len(self.modalities)
        source, anchor, valid = rows
        if materialize:
            data = self._layout.swap(batch, n_rows, source, anchor, replayed is None, swapped)
        else:
            self._layout.check_modalities(batch, n_rows)
            data = batch
        facts = Draw(
            labels=checked,
            given=given if isinstance(given, Tensor) else checked,
            readable=self.target.filled(checked),
            ids=ids,
            n_labelled=n_labelled,
            source=source,
            anchor=anchor,
            valid=valid,
            ignored=~valid,
            absent=None if has is None else ~has.gather(0, source),
            anchors_repeat=replayed is None,
            swapped_blocks=swapped,
            block_wise=self._block_wise and is_fresh and has is None,
        )
        return MisalignedBatch(
            data,
            facts,
            self._rule,
            numpy=isinstance(given, np.ndarray),
            materialized=materialize,
        )

    def collate(
        self, collate_fn: Callable[[list[Any]], Any] | None = None, *, materialize: bool = True
    ) -> MisalignCollate:
        """Wrap a DataLoader's ``collate_fn``: batches come out augmented.

        When the confidence needs a model, the batches are drawn but not labelled; call
        ``out.label(...)`` in the training loop.

        Args:
            collate_fn: Makes a batch of samples; None is ``default_collate``.
            materialize: False keeps N rows of data, for a fusion after the encoders: encode them,
                then swap the features with ``out.gather(name, features)``. Three times less to send
                to the training process with two modalities.
        """
        return MisalignCollate(self, collate_fn, materialize)

    @property
    def needs_model(self) -> bool:
        """Whether the confidence comes from a model, so that only the training loop can label."""
        return isinstance(self.confidence, str) or bool(self.confidence.needs_model)

    def without_provider(self) -> "MisalignAugment":
        """A copy that draws the same and holds no model."""
        other = copy.copy(self)
        vars(other)["confidence"] = "logits"  # the rule goes on to name the provider
        return other

    @property
    def enabled(self) -> bool:
        """Whether misaligned rows are added."""
        if torch.compiler.is_compiling():
            return self._enabled
        return bool(self._enabled_view[0])

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = check_switch(value, "enabled")
        self._switch.write(torch.tensor([self._enabled], device="cpu"))

    @property
    def misaligned_weight(self) -> float:
        """λ, of the batches that are drawn from now on."""
        return self._rule.misaligned_weight

    @misaligned_weight.setter
    def misaligned_weight(self, value: float) -> None:
        self._rule = dataclasses.replace(self._rule, misaligned_weight=check_weight(value))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            refuse_fixed(name, value)
        super().__setattr__(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of draws stands, and the switch."""
        return {"enabled": self.enabled, "stream": {"calls": int(self.stream.calls)}}

    def load_state_dict(self, state: Any) -> None:
        """Go on exactly where ``state`` was taken (with the same ``seed``).

        Raises:
            MidasAugError: ``state`` is not what `state_dict` gives; nothing is changed then.
        """
        enabled, calls = read_state(state)
        self.stream.set_calls(calls)
        self.enabled = enabled

    def _draw_rows(
        self, batch: Any, given: Any, ids: Tensor, generator: Draws, present: Tensor | None
    ) -> tuple[SwapPlan, Tensor]:
        features: list[Any] | None = None
        if self.pairing != "uniform":
            features = self._layout.modalities(batch)
        if generator is not None:
            refuse_repeated()
        elif self.pairing == "uniform" or self.pairing in OWN_PAIRINGS:
            generator = self.stream.next_draws(ids, given)
        else:
            generator = self.stream.next_generator(given)
        return draw_rows(
            given,
            ids,
            len(self.modalities),
            swap=self.swap,
            pairing=self.pairing,
            features=features,
            num_classes=self.target.num_ids,
            generator=generator,
            present=present,
        )

    def find_labels(self, batch: Any) -> Any:
        """The labels of a batch, by its key or callable."""
        return self._layout.find_labels(batch)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_enabled_view"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._enabled_view = self._switch.tensor.numpy()

    def __repr__(self) -> str:
        plain = repr(self.target) == f"ClassIndex({self.num_classes})"
        labels = f"{self.num_classes}" if plain else f"target={self.target!r}"
        uniform = isinstance(self.confidence, UniformConfidence)
        return (
            f"MisalignAugment({self.modalities!r}, {labels}, label={self.label!r}, "
            f"confidence={'uniform' if uniform else self.confidence!r}, pairing={self.pairing!r}, "
            f"swap={self.swap!r}, hardness={self.hardness!r}, "
            f"misaligned_weight={self.misaligned_weight}, present={self.present!r}, "
            f"seed={self.seed})"
        )
