"""Ways to read a trained model: as it is, with fitted weights, one modality alone.

They differ in what is predicted and in the epoch that is selected, not in the training, so one run
gives a result for each.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.base import EncodedRows, Method
from benchmarks.methods.training import Validation, validation_of
from midas_aug.functional import fit_fusion_weights


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

    def weighed(self, method: Method, features: Features) -> list[Tensor]:
        """What has a weight, ``(N, C)`` each."""
        return list(method.parts(features).values())

    def measure(self, method: Method, rows: EncodedRows, epoch: int) -> None:
        weighed = self.weighed(method, rows.features)
        self.weights = self.measured[epoch] = fit_fusion_weights(weighed, rows.labels)

    def restore(self, epoch: int) -> None:
        self.weights = self.measured[epoch]

    def predict(self, method: Method, features: Features) -> Tensor:
        return torch.einsum("k,knc->nc", self.weights, torch.stack(self.weighed(method, features)))


@dataclass
class FittedHeads(FittedWeights):
    """Σ_m w_m u_m + Σ_m v_m log h_m: a weight for each unimodal head, too, where heads are trained.

    u are the additive parts of the joint logits, h the probabilities of the heads. As both are
    linear in the features, and what the logarithm subtracts is the same for all classes, the whole
    still folds into one linear layer.
    """

    def weighed(self, method: Method, features: Features) -> list[Tensor]:
        heads = method.model.classify(features).values()
        return [*super().weighed(method, features), *(z.log_softmax(dim=1) for z in heads)]


def third(rows: EncodedRows, place: int) -> EncodedRows:
    """Every third row, from the one at ``place``: 0, 1 or 2."""
    features = {name: values[place::3] for name, values in rows.features.items()}
    return EncodedRows(features, rows.labels[place::3])


@dataclass
class FittedHeadsApart(FittedHeads):
    """`FittedHeads` whose weights and whose epoch come from different validation rows.

    The second third of them for the weights, the last one for the epoch. The first is left for what
    training itself measures.
    """

    @torch.no_grad()
    def validate(self, method: Method, rows: EncodedRows, epoch: int) -> Validation:
        self.measure(method, third(rows, 1), epoch)
        selecting = third(rows, 2)
        outputs = self.predict(method, selecting.features)
        return validation_of(outputs, selecting.labels, method.setting.kind)


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
