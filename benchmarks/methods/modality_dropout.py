"""Plain modality dropout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.shared import ComparingMethod


def kept_modalities(
    num_modalities: int, num_rows: int, rate: float, generator: torch.Generator
) -> Tensor:
    """``(M, B)`` bool: with probability `rate` a row loses one modality, each as likely."""
    loses = torch.rand(num_rows, generator=generator) < rate
    lost = torch.randint(num_modalities, (num_rows,), generator=generator)
    return ~(loses & (lost == torch.arange(num_modalities)[:, None]))


@dataclass
class ModalityDropout(ComparingMethod):
    """In training, a row loses the feature of one random modality with probability `rate`.

    The feature is set to 0 as in `SMV`; the others are not scaled up, as evaluation has all of
    them and a row at most one less. A row never loses more than one modality, so that one is always
    left; where modalities are missing, a row loses none that is its last. No paper's recipe: the
    simplest control for the methods that choose what to drop.

    Attributes:
        rate: p.
    """

    rate: float = 0.5

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        kept = kept_modalities(self.num_modalities, len(labels), self.rate, self.generator)
        if self.present is not None:
            kept |= self.present.sum(dim=1) == 1
        left = {
            name: features[name] * of_modality[:, None]
            for name, of_modality in zip(self.model.modalities, kept, strict=True)
        }
        return super().loss(left, labels)
