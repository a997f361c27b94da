"""AUG: a sum of classifiers a modality, which grows where a modality is behind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.lemda import seeded_linear
from benchmarks.methods.shared import SMALLEST_SCORE, ComparingMethod, label_scores, stack


class GrowingClassifiers(nn.Module):
    """Embeddings ReLU(Linear(f_m)) and one output layer for all of them.

    All that may ever be needed are there from the start, so that one optimiser has them; those not
    in use yet get no gradient and stay as they are.

    Attributes:
        used: ``(M,)`` how many embeddings of each modality are in use; a buffer, so that the
            weights of an epoch come with the number that they were trained for.
    """

    used: Tensor

    def __init__(
        self, model: ConcatFusion, width: int, most: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    seeded_linear(model.width, width, generator) for _ in range(most)
                )
                for name in model.modalities
            }
        )
        self.output = seeded_linear(width, model.num_classes, generator)
        self.register_buffer("used", torch.ones(len(model.modalities), dtype=torch.int64))

    def stages(self, number: int, name: str, features: Tensor) -> list[Tensor]:
        """Logits ``(B, C)`` of each classifier in use of a modality, which predicts their sum."""
        layers = self.embeddings[name]
        assert isinstance(layers, nn.ModuleList)  # for the type checker
        in_use = layers[: int(self.used[number])]
        return [self.output(F.relu(layer(features))) for layer in in_use]


def boosting_loss(stages: list[Tensor], labels: Tensor, penalty: float) -> Tensor:
    """CE(Σ) + CE(Σ without the last) + CE(last) − λ CE(last, y · p), of logits ``(B, C)`` each.

    p are the probabilities of the sum without the last one, as constants. One classifier alone has
    its cross-entropy.
    """
    whole = F.cross_entropy(torch.stack(stages).sum(dim=0), labels)
    if len(stages) == 1:
        return whole
    before, last = torch.stack(stages[:-1]).sum(dim=0), stages[-1]
    rows = torch.arange(len(labels), device=labels.device)
    known = before.detach().softmax(dim=1)[rows, labels]
    fresh = F.cross_entropy(last, labels, reduction="none")
    return whole + F.cross_entropy(before, labels) + ((1 - penalty * known) * fresh).mean()


@dataclass
class AUG(ComparingMethod):
    """AUG (NeurIPS 2025): boosted unimodal classifiers, no joint logits.

    After the first epoch, and after every tenth of the epochs, the modality with the lowest score
    gets another classifier if the highest score exceeds its by more than ``margin``. Scores are the
    probabilities of the labels, summed over the epoch's batches. A prediction is the mean of the
    modalities' sums.

    Ours: one step a batch for all modalities, which share the output layer alone, where the
    original takes one each in turn; equal weights at evaluation in place of 0.4 for sound and 0.6
    for video; with three modalities or more, the lowest score against the highest. In the released
    code, as we read it, the optimiser is made before any classifier is added and so trains none of
    these; here they are trained.

    Attributes:
        penalty: λ: 0.1 to 1 in the source, 0.5 in its code.
        period: Between two additions, as a fraction of the epochs; 20 of 200 on CREMA-D.
        margin: Of the ratio of the scores.
        width: Of an embedding.
    """

    penalty: float = 0.5
    period: float = 0.1
    margin: float = 0.01
    width: int = 256

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._every = max(1, round(self.period * setting.epochs))
        most = 2 + setting.epochs // self._every
        self.classifiers = GrowingClassifiers(model, self.width, most, generator)
        self._scores = torch.zeros(self.num_modalities)
        self._ended = 0  # epochs

    def extra_modules(self) -> Iterable[nn.Module]:
        return (self.classifiers,)

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        stages = self._stages(features)
        sums = torch.stack([torch.stack(logits).sum(dim=0) for logits in stages])
        self._scores += label_scores(sums.detach(), labels)
        losses = [boosting_loss(logits, labels, self.penalty) for logits in stages]
        return torch.stack(losses).sum()

    def _stages(self, features: Features) -> list[list[Tensor]]:
        return [
            self.classifiers.stages(number, name, features[name])
            for number, name in enumerate(self.model.modalities)
        ]

    def on_epoch_end(self, epoch: int) -> None:
        self._ended = epoch + 1

    def on_validation(self, features: Features, labels: Tensor) -> None:
        """Grow only now, lest the epoch be validated with a classifier that is untrained."""
        if self._ended == 1 or self._ended % self._every == 0:
            scores = self._scores.clamp(min=SMALLEST_SCORE)
            if float(scores.max() / scores.min()) > 1 + self.margin:
                self.classifiers.used[scores.argmin()] += 1
        self._scores = torch.zeros(self.num_modalities)

    def predict(self, features: Features) -> Tensor:
        return stack(self.parts(features)).sum(dim=0)

    def parts(self, features: Features) -> Features:
        sums = [torch.stack(logits).sum(dim=0) for logits in self._stages(features)]
        shares = [logits / self.num_modalities for logits in sums]
        return dict(zip(self.model.modalities, shares, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scores": self._scores, "ended": self._ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._scores, self._ended = state["scores"], state["ended"]
