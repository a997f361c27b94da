"""What a confidence provider is."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from midas_aug._arrays import Array, ArrayT, as_labels, as_tensor, check_shape, elsewhere, like
from midas_aug._tree import in_order
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import label_shares, true_class_log_probability
from midas_aug.targets import ClassIndex, Target

__all__ = ["ConfidenceProvider", "LogitProvider", "UnimodalLogits", "as_provider"]

UnimodalLogits: TypeAlias = Mapping[Any, Array] | Sequence[Array]


class ConfidenceProvider(ABC):
    """Says how sure each modality's own classifier is of each row's label.

    Derive from it and write ``__call__``; where the provider has parameters or buffers, derive from
    ``nn.Module`` first, and write ``forward``. A plain function ``(batch, labels) -> (N, M)`` needs
    no class: `MisalignAugment` takes it as it is.

    Attributes:
        modalities: The names of the columns, in order, for `MisalignAugment` to check; None: any.
        needs_model: Whether it cannot run in a loader worker. ``augment.collate()`` then only
            draws there, and the training loop labels.
        takes_logits: Whether unimodal logits that are at hand are given to ``from_logits``.
        by_name: Whether it looks modalities up in the batch by their names. It is then given a
            mapping from the names where `MisalignAugment` has other keys for them.
        takes_target: Whether a call takes ``target=``, what the labels are of. Subclasses that
            write a call of their own have it set by what that takes.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.confidence import ConfidenceProvider
        >>> class Loudness(ConfidenceProvider):
        ...     def __call__(self, batch, labels):
        ...         return torch.stack([batch["volume"], 1 - batch["volume"]], dim=1)
        >>> augment = MisalignAugment(("audio", "video"), 2, confidence=Loudness())
        >>> batch = {"audio": torch.rand(2, 4), "video": torch.rand(2, 4)}
        >>> out = augment(batch | {"volume": torch.tensor([0.9, 0.9])}, torch.tensor([0, 1]))
        >>> out.shares[2]
        tensor([0.9000, 0.1000])
    """

    modalities: tuple[Any, ...] | None = None
    needs_model: bool = False
    takes_logits: bool = False
    by_name: bool = False
    takes_target: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        call = vars(cls).get("forward", vars(cls).get("__call__"))
        if inspect.isfunction(call):
            cls.takes_target = "target" in inspect.signature(call).parameters

    @abstractmethod
    def __call__(self, batch: Any, labels: Any, /) -> Any:
        """Confidences ``(N, M)``, finite and non-negative, of the library of ``labels``."""

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` from logits ``(N, C)`` of each modality that are at hand already.

        Raises:
            MidasAugError: The provider does not read logits.
        """
        raise MidasAugError(
            f"expected a provider that reads unimodal logits, got {type(self).__name__}; call it "
            "with the batch, or choose one with takes_logits, such as LogitConfidence"
        )

    def shares(self, confidence: Any, source: Any) -> Any:
        """Shares ``(S, M)`` of the misaligned rows: the confidences, normalised (Eq. 3).

        Args:
            confidence: ``(N, M)``.
            source: ``(S, M)`` integers, the batch row of each modality.
        """
        return label_shares(confidence, source)

    def shares_of_present(self, confidence: Any, source: Any, present: Any) -> Any:
        """`shares` where rows lack modalities: 0 for what a source lacks, the others sum to 1.

        Args:
            confidence: ``(N, M)``, 0 for what is absent.
            source: ``(S, M)`` integers, the batch row of each modality.
            present: ``(N, M)`` bool.
        """
        stated = as_tensor(self.shares(confidence, source), "shares")
        absent = ~as_tensor(present, "present").gather(0, as_labels(source, "source", ndim=2))
        return like(without_absent(stated, absent), confidence)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; nothing, unless a provider says otherwise."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """Take over the state of another run.

        Raises:
            MidasAugError: There is a state, and the provider has no place for it.
        """
        if state:
            raise MidasAugError(
                f"expected no state for {type(self).__name__}, which keeps none, got "
                f"{sorted(state)}; build the provider that the checkpoint was written with"
            )


@runtime_checkable
class LogitProvider(Protocol):
    """A provider whose confidences come from unimodal logits, which it can also give away."""

    @property
    def modalities(self) -> Any:
        """The keys of the modalities, in order."""
        ...

    def unimodal_logits(self, batch: Any) -> Any:
        """``(N, C)`` logits of each modality, by modality or in order."""
        ...

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """``(N, M)`` confidences from logits that are at hand already."""
        ...


class WrappedConfidence(ConfidenceProvider):
    """A plain callable as a provider; what it has of a provider's attributes counts.

    Attributes:
        wrapped: The callable.
    """

    def __init__(self, wrapped: Callable[[Any, Any], Any]) -> None:
        self.wrapped = wrapped
        names = getattr(wrapped, "modalities", None)
        self.modalities = None if names is None else tuple(names)
        # A loader worker has a stale copy of a module at best, and of one whose method this is.
        owner = getattr(wrapped, "__self__", wrapped)
        self.needs_model = bool(getattr(wrapped, "needs_model", isinstance(owner, nn.Module)))
        self.takes_logits = callable(getattr(wrapped, "from_logits", None))
        self.by_name = bool(getattr(wrapped, "by_name", False))
        if hasattr(wrapped, "target"):
            self.target = wrapped.target

    def __call__(self, batch: Any, labels: Any, /) -> Any:
        """What the callable says."""
        return self.wrapped(batch, labels)

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """The callable's own, where it has one."""
        own = getattr(self.wrapped, "from_logits", super().from_logits)
        return own(unimodal_logits, labels)

    def shares(self, confidence: Any, source: Any) -> Any:
        """The callable's own, where it has some."""
        return getattr(self.wrapped, "shares", super().shares)(confidence, source)

    def shares_of_present(self, confidence: Any, source: Any, present: Any) -> Any:
        """The callable's own, where it has some."""
        own = getattr(self.wrapped, "shares_of_present", super().shares_of_present)
        return own(confidence, source, present)

    def state_dict(self) -> dict[str, Any]:
        """The callable's own, where it has one."""
        state: dict[str, Any] = getattr(self.wrapped, "state_dict", super().state_dict)()
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """The callable's own, where it has one."""
        return getattr(self.wrapped, "load_state_dict", super().load_state_dict)(state)

    def __repr__(self) -> str:
        return repr(self.wrapped)


def without_absent(shares: Tensor, absent: Tensor) -> Tensor:
    """Shares ``(R, M)``, 0 where a modality is absent, that sum to 1 again."""
    nothing = absent.all(dim=1, keepdim=True)  # such a row weighs 0; its shares stay as they are
    # Where those that are there have no share at all, they are even.
    least = torch.finfo(shares.dtype).tiny
    kept = shares.clamp(min=least).masked_fill(absent & ~nothing, 0.0)
    return kept / kept.sum(dim=1, keepdim=True)


def as_provider(thing: Any) -> ConfidenceProvider:
    """Take a provider as it is, and wrap a plain callable ``(batch, labels) -> (N, M)``.

    Raises:
        MidasAugError: It is neither, or a class in place of an object.
    """
    if isinstance(thing, ConfidenceProvider):
        return thing
    if isinstance(thing, type) or not callable(thing):
        raise MidasAugError(
            "expected a confidence provider, or a function (batch, labels) -> (N, M), got "
            f"{thing!r}; pass one that is built, such as UniformConfidence(('image', 'text'))"
        )
    if isinstance(thing, nn.ModuleDict | nn.ModuleList):
        raise MidasAugError(
            "expected a confidence provider, or a function (batch, labels) -> (N, M), got "
            f"{type(thing).__name__}, which cannot be called; pass FrozenConfidence({{modality: "
            "classifier}) for classifiers that are trained already, or leave confidence='logits' "
            "and give each call unimodal_logits={modality: classifier(features)}"
        )
    return WrappedConfidence(thing)


def module_of(provider: ConfidenceProvider) -> nn.Module | None:
    """The module that a provider is, or wraps: what belongs into a model that holds it."""
    inner = provider.wrapped if isinstance(provider, WrappedConfidence) else provider
    return inner if isinstance(inner, nn.Module) else None


def check_unimodal_logits(
    unimodal_logits: Any,
    modalities: Sequence[Any],
    n_rows: int,
    target: Target,
    device: torch.device | None = None,
) -> list[Tensor]:
    """The predictions ``(N, C)`` of each modality, in order, checked; None: on any device."""
    found = []
    in_turn = in_order(unimodal_logits, modalities, "unimodal_logits")
    for key, logits in zip(modalities, in_turn, strict=True):
        name = f"unimodal_logits[{key!r}]"
        scores = target.predictions(logits, name)
        if (*scores.shape,) != (n_rows, target.n_outputs):
            why = "the N aligned rows, one column per class"
            if isinstance(target, ClassIndex):
                why += _of_one_logit(target, scores.shape[1])
            check_shape(scores, (n_rows, target.n_outputs), name, why)
        if device is not None and scores.device != device:
            raise MidasAugError(elsewhere(name, scores, device))
        found.append(scores)
    return found


def logits_to_confidence(
    unimodal_logits: UnimodalLogits,
    labels: ArrayT,
    modalities: Sequence[Hashable],
    temperatures: Sequence[Any] | None = None,
    *,
    target: Target | None = None,
) -> ArrayT:
    """The confidence of each modality, ``(N, M)`` (`true_class_confidence`).

    ``target`` is what the labels are; None: class indices.
    """
    if target is not None and not isinstance(target, ClassIndex):
        return _target_confidence(unimodal_logits, labels, modalities, temperatures, target)
    classes = as_labels(labels, "labels")
    in_turn = in_order(unimodal_logits, modalities, "unimodal_logits")
    check_widths(in_turn, modalities, target, "pass what a classifier of the labels gives")
    columns: list[Tensor] = []
    width = None  # of logits that hold all labels
    for number, logits in enumerate(in_turn):
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


def check_widths(
    logits: Sequence[Any],
    modalities: Sequence[Any],
    target: Target | None,
    cure: str,
    *,
    name: str = "unimodal_logits",
) -> None:
    """Raise where class logits have not one column a class; None: not as many as one another.

    Args:
        logits: ``(N, C)`` of each modality, in order.
        modalities: Their names.
        target: What a label is; None: a class index. One that is no class index is not looked at.
        cure: The end of the message.
        name: What the message calls the logits.
    """
    if target is not None and not isinstance(target, ClassIndex):
        return
    shapes = {
        f"{name}[{key!r}]": as_tensor(each, f"{name}[{key!r}]").shape
        for key, each in zip(modalities, logits, strict=True)
    }
    if any(len(shape) != 2 for shape in shapes.values()):
        return  # refused for a better reason by who reads them
    first = next(iter(shapes.values()))
    for called, shape in shapes.items():
        if target is not None and shape[1] != target.n_outputs:
            raise MidasAugError(
                f"expected {called} of shape ({shape[0]}, {target.n_outputs}), one column a class, "
                f"got {tuple(shape)}; {cure}{_of_one_logit(target, shape[1])}"
            )
        if shape[1] != first[1]:
            found = ", ".join(f"{shape[1]} in {called}" for called, shape in shapes.items())
            raise MidasAugError(
                "expected logits with as many columns in one modality as in another, one a class, "
                f"got {found}; {cure}"
            )


def _of_one_logit(target: ClassIndex, width: int) -> str:
    """What is to be said of logits with one column."""
    if width != 1:
        return ""
    return (
        "; one logit is for binary cross-entropy, while this takes the softmax over the classes: "
        f"build that head with {target.num_classes} outputs"
    )


def _target_confidence(
    unimodal_logits: UnimodalLogits,
    labels: ArrayT,
    modalities: Sequence[Hashable],
    temperatures: Sequence[Any] | None,
    target: Target,
) -> ArrayT:
    """exp(−loss) of each modality's prediction for the label, ``(N, M)``; 0 without a label."""
    checked = target.check(labels)
    ignored = target.label_ids(checked) < 0
    logits = check_unimodal_logits(unimodal_logits, modalities, checked.shape[0], target)
    if temperatures is not None:
        logits = [scores / t for scores, t in zip(logits, temperatures, strict=True)]
    confidence = target.head_log_likelihoods(logits, target.filled(checked)).t().exp_()
    return like(confidence.masked_fill_(ignored[:, None], 0.0), labels)


def refuse_in_worker(provider: object) -> None:
    """Raise where a provider that holds a model is called inside a loader worker."""
    if not torch.compiler.is_compiling() and get_worker_info() is not None:
        raise MidasAugError(
            f"expected {type(provider).__name__} to be called in the training process, got a call "
            "in a DataLoader worker, where its weights are a stale copy; use augment.collate(), "
            "which only draws, and label in the loop with out.label(...)"
        )


def check_modalities(modalities: Any) -> tuple[Any, ...]:
    """The names of the modalities, which come first in every provider's constructor."""
    if isinstance(modalities, (Mapping, Sequence)) and not isinstance(modalities, str):
        names = tuple(modalities)
        if len(names) >= 2 and len(set(names)) == len(names):
            return names
    raise MidasAugError(
        "expected modalities to be at least two different names, such as ('image', 'text'), got "
        f"{modalities!r}; pass the modalities of MisalignAugment, in the same order"
    )


def check_held(modalities: Any, what: str) -> Mapping[Any, Any]:
    """The mapping from each modality's name to what a provider holds for it."""
    if isinstance(modalities, Mapping):
        return modalities
    if isinstance(modalities, nn.ModuleDict):
        return dict(modalities.items())
    raise MidasAugError(
        f"expected modalities to be a mapping from names to {what}, got {modalities!r}; name each "
        "modality as MisalignAugment does, in the same order"
    )


def check_finite(confidence: Tensor, expected: str) -> None:
    """Raise unless all confidences are finite and non-negative; looks at the values.

    ``expected`` is what the message says was expected.
    """
    if confidence.numel() == 0:
        return
    low, high = (float(bound) for bound in confidence.aminmax())
    if not (low >= 0 and high < float("inf")):  # NaN is neither
        found = "NaN" if math.isnan(low) else f"{low} … {high}"
        raise MidasAugError(
            f"expected {expected}, got {found}; a provider gives "
            "probabilities or other non-negative numbers, not logits, and a classifier that "
            "diverged gives nothing to go by"
        )
