"""MASAM: sharpness-aware steps for the one modality that leads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, stack, summed_cross_entropy

SMALLEST_NORM = 1e-12


def cosine(first: list[Tensor], second: list[Tensor]) -> float:
    """Of two gradients of the same parameters, each as one vector; 0 if one of them is 0."""
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (first, second))
    return float(F.cosine_similarity(one, other, dim=0))


def perturbation(joint: list[Tensor], alike: float, rho: float) -> list[Tensor]:
    """ε along the joint gradient, of norm ρ cos; of norm ρ if the cosine is not above 0."""
    norm = torch.cat([gradient.flatten() for gradient in joint]).norm().clamp(min=SMALLEST_NORM)
    radius = rho * (alike if alike > 0 else 1.0)
    return [gradient * (radius / norm) for gradient in joint]


@dataclass
class MASAM(ComparingMethod):
    """MASAM (ICLR 2026): L = CE(z, y) + Σ_m CE(h_m, y), sharpness-aware for one encoder a step.

    The score of a modality is w times how far the running mean of its loss has fallen below its
    last loss (0 if it has not) plus 1 − w times the cosine of its encoder's joint and unimodal
    gradients. The highest score is perturbed: its encoder moves by ρ cos along the joint gradient,
    and by all of ρ where the cosine is not above 0, as the released code does. All encoders take
    the gradient found there; the heads and the fusion layer take that of the unperturbed model.

    Ours: one cosine an encoder, over all its parameters, where the code has one a tensor; the norm
    is a plain one; batch norm statistics are those of the first pass.

    Attributes:
        rho: ρ: 0.3 for CREMA-D.
        score_weight: w: 0.8 for CREMA-D.
        momentum: Of the running mean of the losses; 0.91 for CREMA-D.
    """

    rho: float = 0.3
    score_weight: float = 0.8
    momentum: float = 0.91

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._inputs: dict[str, Tensor] = {}
        for name in model.modalities:
            model.encoders[name].register_forward_pre_hook(self._remember(name))
        self._means: Tensor | None = None  # (M,) of the losses, running
        self._last = torch.zeros(self.num_modalities)

    def _remember(self, name: str) -> Any:
        def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                self._inputs[name] = inputs[0]

        return remember

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        joint = F.cross_entropy(self.model.fuse(features), labels)
        heads = stack(self.model.classify(features))
        parameters = [*self.model.encoders.parameters()]
        found = torch.autograd.grad(joint, parameters, retain_graph=True, materialize_grads=True)
        self._joint = dict(zip(map(id, parameters), found, strict=True))
        self._labels = labels
        with torch.no_grad():
            alone = torch.stack([F.cross_entropy(logits, labels) for logits in heads])
        self._fallen = self.follow(alone)
        return joint + summed_cross_entropy(heads, labels)

    def follow(self, losses: Tensor) -> Tensor:
        """How far the running means have fallen below the last losses, with these in them."""
        if self._means is None:
            self._means, fallen = losses, torch.zeros_like(losses)
        else:
            self._means = self.momentum * self._means + (1 - self.momentum) * losses
            fallen = (self._last - self._means).clamp(min=0)
        self._last = losses
        return fallen

    def after_backward(self) -> None:
        alike, joint = [], []
        for name in self.model.modalities:
            parameters = [*self.model.encoders[name].parameters()]
            of_joint = [self._joint[id(parameter)] for parameter in parameters]
            total = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            alone = [a - b for a, b in zip(total, of_joint, strict=True)]
            alike.append(cosine(alone, of_joint))
            joint.append(of_joint)
        scores = self.score_weight * self._fallen.cpu()
        scores = scores + (1 - self.score_weight) * torch.tensor(alike)
        leader = int(scores.argmax())
        if self.rho > 0:
            step = perturbation(joint[leader], alike[leader], self.rho)
            self._take_gradients_at(self.model.modalities[leader], step)

    def _take_gradients_at(self, leader: str, step: list[Tensor]) -> None:
        """Give all encoders the gradients of the loss with the leader's weights moved."""
        features, moved = {}, []
        for name in self.model.modalities:
            encoder = self.model.encoders[name]
            weights = {key: value.detach() for key, value in encoder.named_parameters()}
            if name == leader:
                moves = zip(weights.items(), step, strict=True)
                weights = {key: value + move for (key, value), move in moves}
            weights = {key: value.requires_grad_() for key, value in weights.items()}
            buffers = {key: value.clone() for key, value in encoder.named_buffers()}
            feature = functional_call(encoder, weights | buffers, (self._inputs[name],))
            features[name] = feature.to(self._labels.device)
            moved += list(weights.values())
        if self.present is not None:
            columns = zip(features.items(), self.present.unbind(dim=1), strict=True)
            features = {name: feature * kept[:, None] for (name, feature), kept in columns}
        heads = stack(self.model.classify(features))
        loss = F.cross_entropy(self.model.fuse(features), self._labels)
        loss = loss + summed_cross_entropy(heads, self._labels)
        found = torch.autograd.grad(loss, moved, materialize_grads=True)
        for parameter, gradient in zip(self.model.encoders.parameters(), found, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self._means, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._means, self._last = state["means"], state["last"]
