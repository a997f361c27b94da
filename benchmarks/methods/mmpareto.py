"""MMPareto: where the joint and the unimodal gradient of an encoder conflict, a mixture."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, stack, summed_cross_entropy


def pareto_gradient(joint: Tensor, alone: Tensor, gamma: float) -> Tensor:
    """γ times the mixture of two gradients ``(P,)``, no shorter than their sum.

    Gradients that do not conflict have the weights ½ and ½; others those of the shortest convex
    mixture. The mixture is doubled, so that the first case is the sum, and lengthened to the sum's
    norm where it is shorter.
    """
    total = joint + alone
    if float(joint @ alone) >= 0:
        return gamma * total
    apart = joint - alone
    share = ((alone - joint) @ alone / (apart @ apart)).clamp(0, 1)
    mixed = 2 * (share * joint + (1 - share) * alone)
    short = mixed.norm()
    if 0 < short < total.norm():
        mixed = mixed * (total.norm() / short)
    return gamma * mixed


@dataclass
class MMPareto(ComparingMethod):
    """MMPareto (ICML 2024): joint and unimodal losses, mixed encoder by encoder.

    Heads and fusion layer keep their own gradients.

    Attributes:
        gamma: γ, factor of the encoders' gradients.
    """

    gamma: float = 1.5

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._encoders = [[*model.encoders[name].parameters()] for name in model.modalities]

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        joint = F.cross_entropy(self.model.fuse(features), labels)
        parameters = [parameter for encoder in self._encoders for parameter in encoder]
        found = torch.autograd.grad(joint, parameters, retain_graph=True, materialize_grads=True)
        self._joint = dict(zip(map(id, parameters), found, strict=True))
        return joint + summed_cross_entropy(stack(self.model.classify(features)), labels)

    def after_backward(self) -> None:
        for encoder in self._encoders:
            trained = [parameter for parameter in encoder if parameter.grad is not None]
            joint = torch.cat([self._joint[id(parameter)].flatten() for parameter in trained])
            total = torch.cat(
                [parameter.grad.flatten() for parameter in trained if parameter.grad is not None]
            )
            mixed = pareto_gradient(joint, total - joint, self.gamma)
            sizes = [parameter.numel() for parameter in trained]
            for parameter, gradient in zip(trained, torch.split(mixed, sizes), strict=True):
                parameter.grad = gradient.view_as(parameter).clone()
