"""Predictions that are no numbers, or no logits: counted as they come up, told before scoring."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from midas_aug.errors import MidasAugError

__all__ = ["Faults"]

LOWEST = -1e37  # stands in for a logit of −inf: a probability of 0, and no NaN in a difference
NAMED_FAULTS = 6  # kinds of predictions that an error about NaN lists
SUM_ERROR = 1e-3  # how far from 1 probabilities in low precision may sum
SURE = 1e-6  # nearest to 0 or 1 that a probability is taken for, so that one error is not infinite


@dataclass
class Faults:
    """How many predictions of each kind there were, and how many cannot be scored.

    Attributes:
        seen: Predictions, by what an error calls them.
        faulty: Those that are no numbers.
        probable: Those that look like probabilities and not like one class for sure.
        improbable: Those that cannot be probabilities.
        too_likely: Of several labels a row, how much the loss falls where what was given is read
            as probabilities and not as logits.
    """

    seen: Counter[str] = field(default_factory=Counter)
    faulty: Counter[str] = field(default_factory=Counter)
    probable: Counter[str] = field(default_factory=Counter)
    improbable: Counter[str] = field(default_factory=Counter)
    too_likely: dict[str, float] = field(default_factory=dict)

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

    def suspect(self, logits: Tensor, what: str) -> None:
        """Look whether ``(R, C)`` logits are probabilities: from 0 to 1, with a sum of 1.

        A softmax taken twice keeps the order of the classes, so it would go unnoticed.
        """
        fits = (logits >= 0).all(dim=1) & ((logits.sum(dim=1) - 1).abs() <= SUM_ERROR)
        self.improbable[what] += int((~fits).sum())
        self.probable[what] += int((fits & (logits.amax(dim=1) < 1)).sum())

    def suspect_several(self, predictions: Tensor, labels: Tensor, what: str) -> None:
        """Look whether ``(R, C)`` predictions of zeros and ones are probabilities.

        All logits of a model may lie between 0 and 1, so the labels have to be likelier, too, where
        they are read as probabilities.
        """
        fits = ((predictions >= 0) & (predictions <= 1)).all(dim=1)
        self.improbable[what] += int((~fits).sum())
        self.probable[what] += int((fits & (predictions > 0).any(dim=1)).sum())
        given, wanted = predictions[fits].double(), labels[fits].double()
        sure = given.clamp(SURE, 1 - SURE)
        of_logits = F.binary_cross_entropy_with_logits(given, wanted, reduction="sum")
        fall = of_logits - F.binary_cross_entropy(sure, wanted, reduction="sum")
        self.too_likely[what] = self.too_likely.get(what, 0.0) + float(fall)

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(
            self.seen + other.seen,
            self.faulty + other.faulty,
            self.probable + other.probable,
            self.improbable + other.improbable,
            {
                what: self.too_likely.get(what, 0.0) + other.too_likely.get(what, 0.0)
                for what in self.too_likely | other.too_likely
            },
        )

    def check(self) -> None:
        """Raise where there was one.

        Raises:
            MidasAugError: Predictions are not finite, or all of a kind are probabilities.
        """
        self._check_numbers()
        certain = [what for what in self.probable if not self.improbable[what]]
        found = [what for what in certain if self.probable[what]]
        of_one = [what for what in found if what not in self.too_likely]
        if of_one:
            raise MidasAugError(
                f"expected logits, got probabilities (from 0 to 1, with a sum of 1) "
                f"{' and '.join(of_one)}; pass what comes before the softmax, or the logarithm"
            )
        likelier = [what for what in found if self.too_likely.get(what, 0.0) > 0]
        if likelier:
            raise MidasAugError(
                f"expected logits, got probabilities (from 0 to 1, and with these the labels are "
                f"likelier) {' and '.join(likelier)}; pass what comes before the sigmoid, or "
                "log(p / (1 - p))"
            )

    def _check_numbers(self) -> None:
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
