"""Ways to read a trained model: as it is, with a fitted weight a modality, one modality alone.

They differ in what is predicted and in the epoch that is selected, not in the training, so one run
gives a result for each.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features, LateFusion
from benchmarks.methods.base import EncodedRows, Method
from benchmarks.methods.shared import stack
from benchmarks.methods.training import Validation, validation_of

PULL = 1e-4  # towards 1, so that rows which are all told apart have finite weights
NEWTON_STEPS = 50
SMALLEST_STEP = 1e-6


class Reading:
    """As the method predicts."""

    def looks_at(self, features: Features) -> Features:
        """The features that ``predict`` is scored with."""
        return features

    def measure(self, method: Method, rows: EncodedRows, epoch: int) -> None:
        """Fit to the encoded validation rows what ``predict`` needs."""

    def restore(self, epoch: int) -> None:
        """Predict as after this epoch's ``measure``."""

    def predict(self, method: Method, features: Features) -> Tensor:
        """Class logits ``(N, C)``."""
        return method.predict(features)

    @torch.no_grad()
    def validate(self, method: Method, rows: EncodedRows, epoch: int) -> Validation:
        """Measure, and how good the model is now."""
        self.measure(method, rows, epoch)
        outputs = self.predict(method, self.looks_at(rows.features))
        return validation_of(outputs, rows.labels, method.setting.kind)


@dataclass
class FittedWeights(Reading):
    """Σ_m w_m u_m with one weight a modality, fitted on the validation rows after each epoch.

    u_m are the additive parts of the joint logits, or the log-probabilities of models that were
    trained apart. Training never sees the weights.
    """

    weights: Tensor = field(default_factory=lambda: torch.ones(0))
    measured: dict[int, Tensor] = field(default_factory=dict)  # by epoch

    def measure(self, method: Method, rows: EncodedRows, epoch: int) -> None:
        parts = stack(method.parts(rows.features))
        self.weights = self.measured[epoch] = fit_weights(parts, rows.labels)

    def restore(self, epoch: int) -> None:
        self.weights = self.measured[epoch]

    def predict(self, method: Method, features: Features) -> Tensor:
        parts = stack(method.parts(features))
        return torch.einsum("m,mnc->nc", self.weights, parts)


@dataclass
class Alone(Reading):
    """The part of one modality, of models that were trained apart.

    Attributes:
        modality: Which.
    """

    modality: str

    def looks_at(self, features: Features) -> Features:
        return {self.modality: features[self.modality]}

    def predict(self, method: Method, features: Features) -> Tensor:
        logits: Tensor = method.model.heads[self.modality](features[self.modality])
        return logits


@torch.no_grad()
def fit_weights(parts: Tensor, labels: Tensor) -> Tensor:
    """The w that minimises the mean cross-entropy of Σ_m w_m u_m + `PULL` / 2 · |w − 1|².

    Convex, by Newton's method with halved steps, in float64.

    Args:
        parts: ``(M, N, C)`` u.
        labels: ``(N,)``.

    Returns:
        ``(M,)`` of the dtype of ``parts``; a weight may be negative.
    """
    scores = parts.double()
    truth = scores[:, torch.arange(len(labels)), labels]
    weights = torch.ones(len(scores), dtype=torch.float64)

    def loss(candidate: Tensor) -> Tensor:
        logits = torch.einsum("m,mnc->nc", candidate, scores)
        return F.cross_entropy(logits, labels) + PULL / 2 * (candidate - 1).square().sum()

    for _ in range(NEWTON_STEPS):
        shares = torch.einsum("m,mnc->nc", weights, scores).softmax(dim=1)
        means = (scores * shares).sum(dim=2)  # (M, N)
        gradient = (means - truth).mean(dim=1) + PULL * (weights - 1)
        squares = torch.einsum("knc,mnc,nc->km", scores, scores, shares) / len(labels)
        pull = PULL * torch.eye(len(scores), dtype=torch.float64)
        curvature = squares - means @ means.T / len(labels) + pull
        step: Tensor = torch.linalg.solve(curvature, gradient)
        before = loss(weights)
        while loss(weights - step) > before and float(step.abs().max()) > SMALLEST_STEP:
            step = step.div(2)
        if float(step.abs().max()) <= SMALLEST_STEP:
            break
        weights = weights.sub(step)
    return weights.to(parts.dtype)


@torch.no_grad()
def fold_weights(model: LateFusion, weights: Tensor) -> None:
    """Multiply them into the fusion layer, so that ``model.fuse`` gives Σ_m w_m u_m.

    Each part has its share of the bias: the bias is multiplied by the mean weight.
    """
    model.fusion.weight.mul_(weights.repeat_interleave(model.width))
    model.fusion.bias.mul_(weights.mean())
