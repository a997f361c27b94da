"""Labels shared by the measured skill of each modality: `midas_aug.recipes.skill`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.kinds import CLASSES
from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.reading import third
from midas_aug import recipes


@dataclass
class Skill(Method):
    """Misaligned samples of all rows and modalities, no α, no cosine, no warm-up.

    The skill is measured on the validation rows after every epoch, against the class frequencies of
    the training rows where labels are classes. That is one number a modality from rows that select
    the epoch as well.

    Attributes:
        misaligned_weight: λ.
        unimodal_weight: Of the sum of the heads' losses.
        apart: The skill is measured on the first third of the validation rows alone.
    """

    misaligned_weight: float = 1.0
    unimodal_weight: float = 1.0
    apart: bool = False

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        classes = setting.kind is CLASSES
        self.augment, self.criterion = recipes.skill(
            model.modalities,
            target=setting.kind.target(model.num_classes),
            class_counts=torch.bincount(setting.labels, minlength=model.num_classes)
            if classes
            else None,
            misaligned_weight=self.misaligned_weight,
            unimodal_weight=self.unimodal_weight,
        )
        self.confidence = self.augment.confidence

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        unimodal = self.model.classify(features)
        out = self.augment(
            features,
            labels,
            unimodal_logits=unimodal,
            generator=self.generator,
            present=self.present,
        )
        loss: Tensor = self.criterion(self.model.fuse(out), out, unimodal_logits=unimodal)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"confidence": self.confidence.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.confidence.load_state_dict(state["confidence"])

    def on_validation(self, features: Features, labels: Tensor) -> None:
        present = self.setting.present_validation
        if self.apart:
            features, labels = third(EncodedRows(features, labels), 0)
            present = None if present is None else present[::3]
        self.confidence.update(self.model.classify(features), labels, present=present)
        self.confidence.step()
