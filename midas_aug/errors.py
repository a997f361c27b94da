"""The one exception class of the package."""

__all__ = ["MidasAugError"]


class MidasAugError(ValueError):
    """Bad input; the message says what was expected, what came and what to do."""
