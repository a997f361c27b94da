"""The target that two arguments name: ``num_classes`` is short for one of them."""

from typing import Any

from midas_aug.errors import MidasAugError
from midas_aug.targets.base import Target
from midas_aug.targets.class_index import ClassIndex

__all__ = ["resolve_target"]


def resolve_target(num_classes: Any, target: Any) -> Target:
    """``target``, or ``ClassIndex(num_classes)``.

    Raises:
        MidasAugError: Neither is given, or both are, or ``target`` is none.
    """
    if isinstance(num_classes, Target):
        raise MidasAugError(
            f"expected num_classes to be an integer, got {num_classes!r}; pass it by its name, "
            "target=..."
        )
    if target is None:
        if num_classes is None:
            raise MidasAugError(
                "expected num_classes or target, got neither; pass num_classes=C where a label is "
                "one class index, else one of midas_aug.targets, such as target=MultiLabel(C)"
            )
        return ClassIndex(num_classes)
    if num_classes is not None:
        raise MidasAugError(
            f"expected num_classes or target, got both, {num_classes!r} and {target!r}; a target "
            "says what the classes are: leave num_classes out"
        )
    if not isinstance(target, Target):
        name = target.__name__ if isinstance(target, type) else repr(target)
        raise MidasAugError(
            f"expected target to be one that is built, such as midas_aug.targets.MultiLabel(10), "
            f"got {name}; derive one of your own from midas_aug.targets.Target"
        )
    return target
