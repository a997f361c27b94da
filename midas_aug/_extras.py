"""The error of an extra that is not installed."""

import importlib

from midas_aug.errors import MidasAugError

__all__ = ["require"]


def require(package: str, purpose: str, extra: str) -> None:
    """Raise unless ``package`` can be imported.

    Args:
        package: Name of the package to import.
        purpose: What it is needed for, as the message says it.
        extra: The extra of midas-aug that brings it, with all else that the purpose can use.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MidasAugError(
            f"expected {package} for {purpose}, got {error}; pip install {package}, or all that "
            f"can be used here: pip install '.[{extra}]' in a checkout of midas-aug"
        ) from error
