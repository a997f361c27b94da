"""OPM: on-the-fly prediction modulation (Wei et al., TPAMI 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features
from benchmarks.methods.shared import ComparingMethod, label_scores, mean_ratios, stack


def drop_rates(scores: Tensor, q_base: float, lam: float) -> Tensor:
    """q_m = q_base · (1 + λ·tanh(ρ_m − 1)) where ρ_m > 1, else 0; in [0, 1], ``(M,)``."""
    lead = torch.tanh((mean_ratios(scores) - 1).clamp(min=0))
    return torch.where(lead > 0, q_base * (1 + lam * lead), 0.0).clamp(0, 1)


def feature_factors(rates: Tensor, num_rows: int, generator: torch.Generator) -> Tensor:
    """b_{m,i} / (1 − θ), ``(M, B)``: b is 0 with probability q_m, θ is the mean of q.

    θ weighs modalities by feature width, and these are equal here.
    """
    kept = torch.rand(len(rates), num_rows, generator=generator) >= rates[:, None]
    return kept / (1 - rates.mean())


@dataclass
class OPM(ComparingMethod):
    """OPM: drop the features of a modality that is ahead, row by row, and scale up all the rest.

    The official code leaves out a row that has lost all its modalities. There is none: the weakest
    modality has ρ ≤ 1 and is never dropped, so that is not written down here.

    Not settled by the sources: q is that of the same batch (the code; the paper is said to use the
    batch before); with more than two modalities ρ is the mean of the pairwise ratios (the paper as
    others read it); q_base is 0.5 in the official script, 0.4 in its configuration.

    Attributes:
        q_base: Drop rate of a modality that is hardly ahead.
        lam: λ, by how much the lead raises the rate.
        p_exe: Probability that a batch is modulated at all.
        warmup: Fraction of the epochs without modulation; 6 of 100 officially.
    """

    q_base: float = 0.5
    lam: float = 0.5
    p_exe: float = 0.7
    warmup: float = 0.06

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        if self.epoch < round(self.warmup * self.setting.epochs):
            return super().loss(features, labels)
        if float(torch.rand((), generator=self.generator)) >= self.p_exe:
            return super().loss(features, labels)
        with torch.no_grad():
            scores = label_scores(stack(self.model.parts(features, detach=True)), labels)
            rates = drop_rates(scores, self.q_base, self.lam)
            factors = feature_factors(rates, len(labels), self.generator)
        scaled = {
            name: features[name] * factor[:, None]
            for name, factor in zip(self.model.modalities, factors, strict=True)
        }
        return F.cross_entropy(self.model.fuse(scaled), labels)
