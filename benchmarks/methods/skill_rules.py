"""Other rules to share a label by skill, each `Skill` with one thing changed.

They come with the suite `rules`, which asks whether one of them is better where modalities compete.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.skill import Skill
from midas_aug import MisalignAugment
from midas_aug.confidence import ConfidenceProvider, LogitConfidence, SkillConfidence
from midas_aug.functional import permutation_partners, sample_partners

FOLDS = 3


def changed(method: Skill, **settings: Any) -> MisalignAugment:
    """The augmentation of a method that is set up, with some of its settings changed."""
    augment = method.augment
    kept = {
        "target": augment.target,
        "confidence": augment.confidence,
        "hardness": augment.hardness,
        "misaligned_weight": augment.misaligned_weight,
    }
    return MisalignAugment(augment.modalities, **(kept | settings))


class SkillTimesLogits(ConfidenceProvider):
    """(skill_m + ε) · p_m(label): how much a modality knows, and how sure it is in this row.

    Args:
        skill: Measured by the caller.
        confidence: Of the rows.
    """

    needs_model = True
    takes_logits = True

    def __init__(self, skill: SkillConfidence, confidence: LogitConfidence) -> None:
        self.skill = skill
        self.confidence = confidence
        self.modalities = skill.modalities

    def __call__(self, batch: Any, labels: Tensor, /) -> Tensor:
        """Of a batch that holds logits; see `LogitConfidence`."""
        sure: Tensor = self.confidence(batch, labels)
        known: Tensor = self.skill(batch, labels)
        return known * sure

    def from_logits(self, unimodal_logits: Any, labels: Any) -> Tensor:
        """``(N, M)`` of logits that are at hand."""
        sure: Tensor = self.confidence.from_logits(unimodal_logits, labels)
        known: Tensor = self.skill({}, labels)
        return known * sure

    def shares(self, confidence: Tensor, source: Tensor) -> Tensor:
        """By source, as `SkillConfidence` has them."""
        shares: Tensor = self.skill.shares(confidence, source)
        return shares


@dataclass
class SkillTimesConfidence(Skill):
    """Shares by skill times the confidence of the row's own classifier."""

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        sure = LogitConfidence(model.modalities, target=self.augment.target)
        self.augment = changed(self, confidence=SkillTimesLogits(self.confidence, sure))


@dataclass
class SkillAndHardSamples(Skill):
    """With the paper's weights of hard samples (Eq. 8)."""

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self.augment = changed(self, hardness="cosine")


@dataclass
class SkillOfAnyPartner(Skill):
    """Partners of the same class and of others, by a permutation of the batch."""

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self.augment = changed(self, pairing=permutation_partners)


@dataclass
class SkillOfMixedRows(Skill):
    """Skill of the fused output about one modality's class, where all others are of another row.

    Not what the heads know, then, but how well the fusion hears a modality that is contradicted.
    """

    def on_validation(self, features: Features, labels: Tensor) -> None:
        partner, _ = sample_partners(labels, generator=self.generator)
        heard = {
            name: self.model.fuse(
                {
                    other: values if other == name else values[partner]
                    for other, values in features.items()
                }
            )
            for name in features
        }
        self.confidence.update(heard, labels)
        self.confidence.step()


@dataclass
class SkillCrossFitted(Skill):
    """Skill of models that are trained apart, each on two thirds of the training rows.

    Measured before training on the third that they have not seen, and fixed. No validation row is
    looked at for it, and training takes two trainings more of late fusion.
    """

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        if setting.fit_apart is None:
            raise ValueError("cross-fitting needs a setting that can train models apart")
        self.confidence.cross_fit(setting.fit_apart, setting.labels, folds=FOLDS)

    def on_validation(self, features: Features, labels: Tensor) -> None:
        """Nothing is measured on these rows."""


@dataclass
class SkillSetsWeight(Skill):
    """λ is the smaller skill over the larger one: where a modality knows nothing, hardly a mix."""

    def on_validation(self, features: Features, labels: Tensor) -> None:
        super().on_validation(features, labels)
        self._set_weight()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._set_weight()

    def _set_weight(self) -> None:
        low, high = (self.confidence.skill + self.confidence.eps).aminmax()
        self.augment.misaligned_weight = self.misaligned_weight * float(low / high)
