"""What `midas_aug.diagnostics.diagnose` is given: looked at, and told by name where it is wrong."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from midas_aug.confidence import ConfidenceProvider
from midas_aug.diagnostics.learning import learning_speed, read_log
from midas_aug.diagnostics.reading import Predict
from midas_aug.diagnostics.scores import LEARNED_AT
from midas_aug.errors import MidasAugError

__all__ = ["Model", "check_loaders", "learned_at", "parts_of", "unimodal_of"]

Model: TypeAlias = Predict | tuple[Predict, Predict]


def check_loaders(loader: Any, training: Any) -> None:
    """Raise unless rows can be read from both; there may be no training rows.

    Raises:
        MidasAugError: They are no iterables.
    """
    if not isinstance(loader, Iterable):
        raise MidasAugError(
            f"expected loader to be an iterable of batches, got {type(loader).__name__}; pass "
            "a DataLoader, or a list of batches"
        )
    if training is not None and not isinstance(training, Iterable):
        raise MidasAugError(
            "expected training as an iterable of training batches, or a mapping from modalities to "
            f"their training rows, got {type(training).__name__}; pass a DataLoader, a list of "
            "batches, or None"
        )


def parts_of(model: Any, encode: Predict | None) -> tuple[Predict | None, Predict]:
    """The encoder, if there is one, and what gives the logits.

    Raises:
        MidasAugError: They are no callables.
    """
    if encode is None and isinstance(model, tuple | list) and len(model) == 2:
        encode, model = model
    if callable(model) and (encode is None or callable(encode)):
        return _unwrapped(encode), _unwrapped(model)
    got = type(model).__name__ if encode is None else f"encode={encode!r} and {model!r}"
    raise MidasAugError(
        f"expected model as a callable(batch) -> logits or a pair (encode, fuse) of callables, got "
        f"{got}; encode takes a batch and gives features by modality, fuse takes these and gives "
        "logits"
    )


def unimodal_of(unimodal: Any) -> Predict | None:
    """The function that gives the logits of each modality's own classifier.

    Raises:
        MidasAugError: It is something else, such as the classifiers by name.
    """
    function = _unwrapped(unimodal)
    if function is None:
        return None
    kind = type(function).__name__
    if isinstance(function, ConfidenceProvider):
        way = "pass a callable that gives the logits that its confidences are of"
        if callable(getattr(function, "unimodal_logits", None)):
            way = "pass its method unimodal_logits"
        raise MidasAugError(
            "expected unimodal as a callable(features or batch) -> {modality: logits (N, C)}, got "
            f"{kind}, which takes labels and gives confidences; {way}"
        )
    is_bare = isinstance(function, nn.Module) and type(function).forward is nn.Module.forward
    if is_bare or not callable(function):  # such as an nn.ModuleDict, or a dict of heads
        raise MidasAugError(
            "expected unimodal as a callable(features or batch) -> {modality: logits (N, C)}, got "
            f"{kind}; call the heads in a function, as in lambda batch: {{'audio': "
            "audio_head(batch['audio']), 'video': video_head(batch['video'])}, after .eval() of "
            "each"
        )
    predict: Predict = function
    return predict


def _unwrapped(function: Any) -> Any:
    """A module without DDP, whose forward would wait for ranks that have no such batch."""
    return function.module if isinstance(function, DistributedDataParallel) else function


def learned_at(log: Any, names: Sequence[str]) -> dict[str, float]:
    """How early each modality was learned, as far as the log has the confidence of its head."""
    found = learning_speed(log)
    logged = [str(name) for name in read_log(log)["modalities"]]
    if not set(names) & set(logged):
        raise MidasAugError(
            f"expected a log of the modalities {list(names)!r}, got one of {logged!r}; pass the "
            "TrainingLog of this model"
        )
    return {LEARNED_AT.key(name): found[name] for name in names if name in found}
