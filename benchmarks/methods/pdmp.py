"""PDMP: the modality that is best alone learns faster in the joint model."""

from dataclasses import dataclass

import torch

from benchmarks.common.model import ConcatFusion
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, scale_encoder_gradients


@dataclass
class PDMP(ComparingMethod):
    """PDMP (arXiv 2604.05773): joint training; encoder gradients times an asymmetric coefficient.

    The modality that does best when each is trained alone has a coefficient above 1, the others one
    below. The ranking comes from those runs and is given: this method trains no model alone.

    Ours, since no source at hand prints them: both coefficients.

    Attributes:
        best: Place of that modality in the model's order, from 0.
        prioritized: Its coefficient.
        others: That of each other modality.
    """

    best: int = 0
    prioritized: float = 1.5
    others: float = 0.5

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        if not 0 <= self.best < self.num_modalities:
            raise ValueError(
                f"PDMP puts one modality first: expected its place in {list(model.modalities)}, "
                f"from 0, got {self.best}"
            )
        self._factors = [self.others] * self.num_modalities
        self._factors[self.best] = self.prioritized

    def after_backward(self) -> None:
        scale_encoder_gradients(self.model, self._factors)
