"""How early each modality was learned, from the curves of a training log."""

from collections.abc import Mapping
from typing import Any

from midas_aug.diagnostics import scores
from midas_aug.errors import MidasAugError

__all__ = ["learning_speed", "read_log"]

HALF = 0.5


def learning_speed(log: Any) -> dict[str, float]:
    """The epoch by which each modality's head was half as sure of its labels as it ever became.

    A modality that is learned long before the others is the one that joint training leans on: by
    the time the others are ready, the loss has gone. Read it beside the skill on held-out rows: an
    early modality is either easy or memorised.

    Args:
        log: A `TrainingLog`, or what its ``to_dict()`` gave. Read is the confidence of the unimodal
            heads in the labels of the training rows, ``unimodal.m``.

    Returns:
        For each modality the epoch, between two of the log by linear interpolation. Those whose
        confidence the log does not have are left out.

    Raises:
        MidasAugError: It is no log.

    Example:
        >>> from midas_aug.diagnostics import learning_speed
        >>> learning_speed({
        ...     "modalities": ["audio", "video"],
        ...     "epoch": [0, 1, 2],
        ...     "scores": {"unimodal.audio": [0.6, 0.8, 0.8], "unimodal.video": [0.1, 0.2, 0.6]},
        ... })
        {'audio': 0.0, 'video': 1.25}
    """
    content = read_log(log)
    found = {}
    for name in content["modalities"]:
        curve = [
            (float(epoch), value)
            for epoch, value in zip(
                content["epoch"],
                content["scores"].get(scores.UNIMODAL.key(name), []),
                strict=False,
            )
            if value is not None
        ]
        if curve:
            found[str(name)] = _first_at(curve, HALF * max(value for _, value in curve))
    return found


def read_log(log: Any) -> Mapping[str, Any]:
    """What a log's ``to_dict()`` gives.

    Raises:
        MidasAugError: It is no log.
    """
    content = log.to_dict() if hasattr(log, "to_dict") else log
    if not isinstance(content, Mapping) or not {"modalities", "epoch", "scores"} <= set(content):
        raise MidasAugError(
            f"expected a TrainingLog or its to_dict(), got {type(log).__name__}; build one with "
            "TrainingLog(modalities), and call update and end_epoch in the training loop"
        )
    return content


def _first_at(curve: list[tuple[float, float]], level: float) -> float:
    """Where the curve reaches the level for the first time."""
    before, low = curve[0]
    for epoch, value in curve:
        if value >= level:
            rise = value - low
            return before + (epoch - before) * ((level - low) / rise if rise > 0 else 0.0)
        before, low = epoch, value
    return before
