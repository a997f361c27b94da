"""The error of an extra that is not installed."""

import importlib

from midas_aug.errors import MidasAugError

__all__ = ["require"]


def require(package: str, extra: str) -> None:
    """Raise unless ``package`` can be imported; the message names the extra that brings it."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MidasAugError(
            f"expected {package} for midas_aug.integrations, got {error}; pip install {package}, "
            f"or all that this needs: pip install '.[{extra}]' in a checkout of midas-aug"
        ) from error
