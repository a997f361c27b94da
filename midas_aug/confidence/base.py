"""What a confidence provider is."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from midas_aug._arrays import Array, ArrayT, as_labels, as_tensor, check_shape, like
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import true_class_log_probability
from midas_aug.tree import in_order

__all__ = ["ConfidenceProvider", "LogitProvider", "UnimodalLogits"]

UnimodalLogits: TypeAlias = Mapping[Any, Array] | Sequence[Array]


@runtime_checkable
class ConfidenceProvider(Protocol):
    """Any callable ``(batch, labels) -> (N, M)`` of non-negative numbers.

    An attribute ``needs_model`` says whether it cannot run in a loader worker (default: it is an
    ``nn.Module``): `collate` then draws there and leaves the labels to ``out.relabel`` in the
    training loop. An attribute ``modalities`` names the columns, for `MisalignAugment` to check.
    A method ``shares(confidence, source) -> (S, M)`` states the shares of the misaligned rows, with
    confidences ``(N, M)`` and source ``(S, M)`` as `midas_aug.functional.label_shares` takes them;
    without it they are the confidences, normalised.
    """

    def __call__(self, batch: Any, labels: Any, /) -> Any:
        """Confidences ``(N, M)``."""
        ...


@runtime_checkable
class LogitProvider(ConfidenceProvider, Protocol):
    """A provider whose confidences come from unimodal logits, which it can also give away."""

    @property
    def modalities(self) -> Sequence[Any]:
        """The keys of the modalities, in order."""
        ...

    def unimodal_logits(self, batch: Any) -> Any:
        """``(N, C)`` logits of each modality, by modality or in order."""
        ...

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """``(N, M)`` confidences from logits that are at hand already."""
        ...


def ask(
    provider: ConfidenceProvider, batch: Any, labels: Any, unimodal_logits: UnimodalLogits | None
) -> Any:
    """The provider's confidences, from logits that are at hand where it can use them."""
    from_logits = getattr(provider, "from_logits", None)
    if unimodal_logits is not None and from_logits is not None:
        return from_logits(unimodal_logits, labels)
    return provider(batch, labels)


def needs_model(provider: object) -> bool:
    """Whether a provider holds a model, of which a loader worker has a stale copy at best."""
    return bool(getattr(provider, "needs_model", isinstance(provider, nn.Module)))


def check_unimodal_logits(
    unimodal_logits: Any, modalities: Sequence[Any], rows: int, num_classes: int
) -> None:
    """Raise unless there are ``(N, C)`` logits for each modality."""
    found = in_order(unimodal_logits, modalities, "unimodal_logits")
    for key, logits in zip(modalities, found, strict=True):
        name = f"unimodal_logits[{key!r}]"
        why = "the N aligned rows, one column a class"
        check_shape(as_tensor(logits, name), (rows, num_classes), name, why)


def logits_to_confidence(
    unimodal_logits: UnimodalLogits,
    labels: ArrayT,
    modalities: Sequence[Hashable],
    temperatures: Sequence[Any] | None = None,
) -> ArrayT:
    """The true-class confidence of each modality, ``(N, M)`` (`true_class_confidence`)."""
    classes = as_labels(labels, "labels")
    columns: list[Tensor] = []
    width = None  # of logits that hold all labels
    for number, logits in enumerate(in_order(unimodal_logits, modalities, "unimodal_logits")):
        name = f"unimodal_logits[{modalities[number]!r}]"
        temperature = 1.0 if temperatures is None else temperatures[number]
        try:
            scores = as_tensor(logits, name)
            columns.append(
                true_class_log_probability(scores, classes, temperature, num_classes=width)
            )
            width = scores.shape[1]
        except MidasAugError as error:
            raise MidasAugError(f"{name}: {error}") from None
    confidence = torch.stack(columns, dim=1).exp_().masked_fill_(classes[:, None] < 0, 0.0)
    return like(confidence, labels)


def refuse_in_worker(provider: object) -> None:
    """Raise where a provider that holds a model is called inside a loader worker."""
    if not torch.compiler.is_compiling() and get_worker_info() is not None:
        raise MidasAugError(
            f"expected {type(provider).__name__} to be called in the training process, got a call "
            "in a DataLoader worker, where its weights are a stale copy; use augment.collate(), "
            "which only draws, and label in the loop with out.relabel(...)"
        )
