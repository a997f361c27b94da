"""What the diagnostics need beyond the three dependencies of the package."""

import importlib

from midas_aug.errors import MidasAugError

__all__ = ["require"]


def require(package: str, purpose: str) -> None:
    """Raise unless ``package`` can be imported; the message says how to install it."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MidasAugError(
            f"expected {package} for {purpose}, got {error}; pip install {package}, or all that "
            "the diagnostics can use: pip install '.[diagnostics]' in a checkout of midas-aug"
        ) from error
