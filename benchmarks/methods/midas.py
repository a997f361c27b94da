"""MIDAS, the plain swap and all that lies between them, through the package's public interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Method, Setting
from midas_aug import MidasLoss, MisalignAugment, RatioWeakModalityWeight, functional


@dataclass
class Midas(Method):
    """MIDAS (arXiv 2509.25831) as published, or with parts of it switched off.

    With all parts off, and without unimodal losses, it is the plain swap: the same misaligned
    samples at the same λ, both labels ½, no weights.

    Two modalities give two misaligned samples a row; three give one (A.2), and so do two with
    ``one``.

    Attributes:
        misaligned_weight: λ.
        warmup: Fraction of the epochs that train the unimodal losses alone. The paper's data sets
            have 10 of 70, 0 of 70 and 2 of 30 epochs.
        soft_labels: Labels shared by unimodal confidence; otherwise equally.
        weak_modality: α moves (η = 0.05).
        hard_samples: Cosine weights.
        one: Of each row one modality is swapped, drawn anew; otherwise each in turn (M = 2).
        every: Misaligned samples in every so many batches; the others are aligned rows alone.
        unimodal_weight: Of the sum of the heads' losses; 0 for no heads. The paper's is 1.
    """

    misaligned_weight: float = 1.0
    warmup: float = 1 / 7
    soft_labels: bool = True
    weak_modality: bool = True
    hard_samples: bool = True
    unimodal_weight: float = 1.0
    one: bool = False
    every: int = 1

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self.augment = MisalignAugment(
            model.modalities,
            target=setting.kind.target(model.num_classes),
            confidence="logits" if self.soft_labels else "uniform",
            hardness="cosine" if self.hard_samples else None,
            misaligned_weight=self.misaligned_weight,
            **self.swapping(),
        )
        self.criterion = self.build_criterion()
        self.batches = 0

    def swapping(self) -> dict[str, Any]:
        """How samples are misaligned."""
        if self.one:
            return {"swap": "one"}
        return {"swap": "each" if self.num_modalities == 2 else "permute"}

    def weight_of_heads(self) -> float:
        """Factor of the sum of the unimodal losses."""
        return self.unimodal_weight

    def build_criterion(self) -> MidasLoss:
        """The loss, and with it the weak-modality weights."""
        return MidasLoss(
            self.num_modalities,
            unimodal_weight=self.weight_of_heads(),
            weak_modality="paper" if self.weak_modality else None,
            warmup_epochs=round(self.warmup * self.setting.epochs),
        )

    def on_epoch_start(self, epoch: int) -> None:
        self.criterion.set_epoch(epoch)

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        self.augment.enabled = not self.criterion.warming_up and self.batches % self.every == 0
        self.batches += 1
        unimodal = self.model.classify(features) if self.unimodal_weight else None
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
        own = {"criterion": self.criterion.state_dict(), "batches": self.batches}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.criterion.load_state_dict(state["criterion"])
        self.batches = state["batches"]

    def trained(self, epoch: int) -> bool:
        return not self.criterion.warming_up


@dataclass
class MidasPublicCode(Midas):
    """MIDAS with the choices of the authors' research code, where it departs from the paper.

    Partners are a permutation of the batch (a row may meet its own class, or itself), the unimodal
    losses are averaged, and α is one number stepped by ratios of means. That rule knows two
    modalities; with three, the paper's α is used. Every modality is swapped in turn.
    """

    def swapping(self) -> dict[str, Any]:
        return {"swap": "each", "pairing": functional.permutation_partners}

    def weight_of_heads(self) -> float:
        return super().weight_of_heads() / self.num_modalities

    def build_criterion(self) -> MidasLoss:
        criterion = super().build_criterion()
        if self.num_modalities == 2:
            criterion.weak_modality = RatioWeakModalityWeight(2)
        return criterion
