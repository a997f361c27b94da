"""Numbers and names as findings and advice write them."""

from collections.abc import Sequence
from typing import Any

from midas_aug.diagnostics.bootstrap import Score
from midas_aug.errors import MidasAugError

__all__ = ["beside", "check_name", "listed", "percent"]


def check_name(name: Any) -> str:
    """What tables and figures are to call a model.

    Raises:
        MidasAugError: It is no string.
    """
    if not isinstance(name, str):
        raise MidasAugError(
            f"expected name as a string, got {name!r}; it is what tables and figures call the model"
        )
    return name


def percent(score: Score) -> str:
    """A fraction in percent, as ``0.4 ± 0.9``."""
    value = f"{100 * score.value:.1f}"
    return f"{value} ± {100 * score.margin:.1f}" if score.margin == score.margin else value


def beside(gain: Score) -> str:
    """A difference to the model, as ``3.1 ± 0.9 points above the model``."""
    side = "below" if gain.value < 0 else "above"
    number = percent(
        Score(abs(gain.value), abs(gain.value) - gain.margin, abs(gain.value) + gain.margin)
    )
    return f"{number} points {side} the model"


def listed(names: Sequence[str]) -> str:
    """As ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
