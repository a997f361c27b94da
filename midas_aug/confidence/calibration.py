"""Temperature scaling of unimodal classifiers (Guo et al., ICML 2017, arXiv 1706.04599)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_labels, as_scores, as_tensor, check_shape
from midas_aug._logits import warn_of_probabilities
from midas_aug._state import StatefulModule
from midas_aug._tree import in_order
from midas_aug.confidence.base import (
    ConfidenceProvider,
    LogitProvider,
    UnimodalLogits,
    check_modalities,
    check_widths,
    logits_to_confidence,
)
from midas_aug.confidence.models import OTHER_CLASSES
from midas_aug.confidence.simple import LOGITS_ELSEWHERE
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width
from midas_aug.targets import ClassIndex, Target

__all__ = ["CalibratedConfidence", "fit_temperature"]

LOWEST, HIGHEST = 0.05, 20.0


class CalibratedConfidence(StatefulModule, ConfidenceProvider):
    """Another provider's confidences at temperatures fitted on held-out data.

    Unimodal heads that memorise their training set are overconfident; a temperature for each
    modality, fitted on data they have not seen, makes their confidences comparable.

    Args:
        base: A provider with logits: `LogitConfidence`, `HeadConfidence`, `FrozenConfidence`.

    Attributes:
        temperatures: ``(M,)`` float32 buffer, 1 until fitted.

    Raises:
        MidasAugError: ``base`` has no logits to calibrate.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import CalibratedConfidence, LogitConfidence
        >>> calibrated = CalibratedConfidence(LogitConfidence(("x", "z")))
        >>> logits = {"x": torch.tensor([[9.0, 0.0]] * 4), "z": torch.tensor([[2.0, 0.0]] * 4)}
        >>> calibrated.fit(logits, torch.tensor([0, 0, 0, 1]))  # x is sure, but wrong one in four
        >>> calibrated(logits, torch.tensor([0, 0, 0, 0]))[0]
        tensor([0.7500, 0.7500])
    """

    modalities: tuple[Any, ...]
    takes_logits = True
    temperatures: Tensor

    def __init__(self, base: LogitProvider) -> None:
        super().__init__()
        if not isinstance(base, LogitProvider):
            raise MidasAugError(
                "expected a provider with unimodal_logits and from_logits, such as "
                f"LogitConfidence or HeadConfidence, got {type(base).__name__}; a temperature "
                "needs logits"
            )
        self.base = base
        self.modalities = check_modalities(base.modalities)
        self.target: Target | None = getattr(base, "target", None)
        if self.target is not None and not self.target.takes_temperature:
            raise MidasAugError(
                f"expected a target with logits, which a temperature divides, got {self.target!r}; "
                "its predictions are calibrated by its scale"
            )
        # Where it holds a model, loader workers have none.
        self.needs_model = bool(getattr(base, "needs_model", False))
        self.by_name = bool(getattr(base, "by_name", False))
        ones = partial(torch.ones, len(self.modalities), dtype=torch.float32)
        self.register_state("temperatures", ones, lowest=torch.finfo(torch.float32).tiny)

    @torch.no_grad()
    def fit(self, unimodal_logits: UnimodalLogits, labels: Array) -> None:
        """Fit one temperature a modality on held-out logits; not for the hot path.

        Args:
            unimodal_logits: ``(N, C)`` of each modality, by modality or in order.
            labels: ``(N, …)``, as the target has them; ignored rows are left out.

        Raises:
            MidasAugError: Shapes do not fit, no row has a label, or a row has no finite
                likelihood. The temperatures are then as they were.
        """
        self.ready()
        in_turn = in_order(unimodal_logits, self.modalities, "unimodal_logits")
        warn_of_probabilities(  # behind no_grad
            self, in_turn, self.modalities, stacklevel=3, target=self.target
        )
        found = [
            fit_temperature(logits, labels, f"unimodal_logits[{key!r}]", target=self.target)
            for key, logits in zip(self.modalities, in_turn, strict=True)
        ]
        cure = "pass what a classifier of the labels gives"
        check_widths(in_turn, self.modalities, self.target, cure)
        self.temperatures.copy_(torch.tensor(found, dtype=torch.float32))

    def unimodal_logits(self, batch: Any) -> Any:
        """The logits of ``base``, not divided by anything."""
        return self.base.unimodal_logits(batch)

    def from_logits(self, unimodal_logits: UnimodalLogits, labels: Any) -> Any:
        """Confidences ``(N, M)`` of undivided logits, at the fitted temperatures."""
        self.ready()
        return logits_to_confidence(
            unimodal_logits,
            labels,
            self.modalities,
            list(self.temperatures),
            target=self.target,
        )

    @torch.no_grad()
    def forward(self, batch: Any, labels: Any, *, target: Target | None = None) -> Any:
        """Confidences ``(N, M)``; no gradient.

        Args:
            batch: What ``base`` takes.
            labels: ``(N, …)``, as the target has them.
            target: What the labels are of, where ``base`` was not told.
        """
        logits, names = self.unimodal_logits(batch), self.modalities
        in_turn = in_order(logits, names, "unimodal_logits")
        known = target if self.target is None else self.target
        if self.needs_model:
            check_widths(in_turn, names, known, OTHER_CLASSES)
        else:
            check_widths(in_turn, names, known, LOGITS_ELSEWHERE, name="batch")
        if known is None or known.takes_temperature:
            warn_of_probabilities(self, in_turn, names, stacklevel=5, target=known)
        return self.from_logits(logits, labels)


def fit_temperature(
    logits: Array, labels: Array, name: str = "logits", *, target: Target | None = None
) -> float:
    """The temperature in [0.05, 20] that minimises the NLL of ``logits / T``.

    The loss of each target with logits is convex in 1/T, hence unimodal in log T: golden-section
    search finds it.

    Args:
        logits: ``(N, C)`` float.
        labels: ``(N,)`` integers; negative ones are left out. Or labels of ``target``.
        name: What an error message calls the logits.
        target: What a label is; None: a class index.

    Raises:
        MidasAugError: Shapes do not fit, no row has a label, or the likelihood of a row is not
            finite.
    """
    scores = as_scores(as_tensor(logits, name), name).detach().double()
    if target is None:
        target = ClassIndex(scores.shape[1])
        check_logit_width(as_labels(labels, "labels").cpu(), scores.shape[1], name)
    checked = target.check(labels)
    check_shape(scores, (len(checked), target.n_outputs), name, "one row a label")
    kept = target.label_ids(checked) >= 0
    scores, readable = scores[kept], target.filled(checked)[kept][:, None]
    if len(scores) == 0:
        raise MidasAugError(
            "expected at least one row with a label to fit a temperature on, got none; pass "
            "held-out rows with labels of at least 0"
        )
    lost = int((~target.log_likelihoods(scores, readable).isfinite()).sum())
    if lost:
        raise MidasAugError(
            f"expected {name} with a finite likelihood of each label, got {lost} of "
            f"{len(scores)} rows with NaN or infinity; leave these rows out, or mend the "
            "classifier"
        )

    def nll(log_temperature: Tensor) -> float:
        return -float(target.log_likelihoods(scores / log_temperature.exp(), readable).mean())

    low, high = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64).log()
    golden = (5**0.5 - 1) / 2
    inner, outer = high - golden * (high - low), low + golden * (high - low)
    left, right = nll(inner), nll(outer)
    for _ in range(40):  # to 3e-8 of the interval
        if left < right:
            high, outer, right = outer, inner, left
            inner = high - golden * (high - low)
            left = nll(inner)
        else:
            low, inner, left = inner, outer, right
            outer = low + golden * (high - low)
            right = nll(outer)
    return float(((low + high) / 2).exp())
