"""Numbers and names as findings and advice write them."""

from collections.abc import Sequence

from midas_aug.diagnostics.bootstrap import Score

__all__ = ["beside", "listed", "percent"]


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
