"""Predictions that are no numbers: counted where they come up, told before anything is scored."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from midas_aug.errors import MidasAugError

__all__ = ["Faults"]

LOWEST = -1e37  # stands in for a logit of −inf: a probability of 0, and no NaN in a difference
NAMED_FAULTS = 6  # kinds of predictions that an error about NaN lists


@dataclass
class Faults:
    """How many predictions of each kind there were, and how many were no numbers."""

    seen: Counter[str] = field(default_factory=Counter)
    faulty: Counter[str] = field(default_factory=Counter)

    def usable(self, logits: Tensor, what: str, counted: Tensor) -> Tensor:
        """Logits to score. Rows with a NaN are counted, and −inf becomes a low number.

        Args:
            logits: ``(R, C)``.
            what: What an error calls these predictions, as in "12 of 200 of the whole model".
            counted: ``(R,)`` bool.
        """
        values = logits if logits.dtype == torch.float64 else logits.float()
        has_nan = (values.isnan() | (values == torch.inf)).any(dim=1)
        faulty = has_nan | (values == -torch.inf).all(dim=1)
        self.seen[what] += int(counted.sum())
        self.faulty[what] += int((faulty & counted).sum())
        return values.clamp(min=LOWEST)

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(self.seen + other.seen, self.faulty + other.faulty)

    def check(self) -> None:
        """Raise where there was one.

        Raises:
            MidasAugError: Predictions are not finite.
        """
        faults = [
            f"{count} of {self.seen[what]} {what}" for what, count in self.faulty.items() if count
        ]
        if not faults:
            return
        more = len(faults) - NAMED_FAULTS
        listed = ", ".join(faults[:NAMED_FAULTS]) + (f" and {more} other kinds" * (more > 0))
        raise MidasAugError(
            f"expected finite logits, got rows with NaN or infinity: {listed}; nothing can be "
            "said of a model that has diverged, so look at its weights and inputs (logits of "
            "−inf for classes that are ruled out are fine)"
        )
