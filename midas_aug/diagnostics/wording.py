"""Numbers and names as findings and advice write them."""

from collections.abc import Sequence

from midas_aug.diagnostics.bootstrap import Score

__all__ = ["listed", "percent"]


def percent(score: Score) -> str:
    """A fraction in percent, as ``0.4 ± 0.9``."""
    value = f"{100 * score.value:.1f}"
    return f"{value} ± {100 * score.margin:.1f}" if score.margin == score.margin else value


def listed(names: Sequence[str]) -> str:
    """As ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
