"""Models that are built to be balanced, dominated, fed with noise or a copy, …; linear, quick.

Class prototypes plus Gaussian noise make each modality; joint model and heads are linear and
trained by full-batch gradient descent, each on its own rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CLASSES, WIDTH = 5, 8
CASES = ("balanced", "dominated", "noise", "copied", "memorised", "missing")
WIDE = 500  # columns of a modality that tells the training rows apart


class Planted(NamedTuple):
    """A model with its heads, and batches to diagnose it on."""

    model: LinearFusion
    heads: nn.ModuleDict
    loader: list[dict[str, Tensor]]
    training: list[dict[str, Tensor]]

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: head(features[name]) for name, head in self.heads.items()}


class LinearFusion(nn.Module):
    """Encoders that only scale, and one linear head on everything."""

    def __init__(self, scales: dict[str, float], widths: dict[str, int]) -> None:
        super().__init__()
        self.scales = scales
        self.head = nn.Linear(sum(widths.values()), CLASSES)

    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: scale * batch[name] for name, scale in self.scales.items()}

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(torch.cat([features[name] for name in self.scales], dim=1))
        return logits

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.fuse(self.encode(batch))


def make_case(
    case: str, *, rows: int = 600, modalities: int = 2, batch: int = 150, seed: int = 0
) -> Planted:
    """Data, a joint model and a head for each modality; ``seed`` is that of the diagnosed rows."""
    generator = torch.Generator().manual_seed(0)
    names = ("audio", "video", "text", "touch")[:modalities]
    prototypes = {name: 1.5 * torch.randn(CLASSES, WIDTH, generator=generator) for name in names}
    scales = dict.fromkeys(names, 1.0)
    noise = dict.fromkeys(names, 1.6)
    widths = dict.fromkeys(names, WIDTH)
    if case == "dominated":
        # Features this small hardly move the shared head before the loss is gone.
        noise["audio"], scales["video"] = 0.6, 0.03
    if case == "memorised":
        widths["video"] = WIDE

    def draw(count: int) -> dict[str, Tensor]:
        labels = torch.arange(count) % CLASSES
        data = {
            name: prototypes[name][labels]
            + noise[name] * torch.randn(count, WIDTH, generator=generator)
            for name in names
        }
        if case == "noise":
            data["video"] = 2 * torch.randn(count, WIDTH, generator=generator)
        if case == "copied":
            data["video"] = data["audio"] + 0.01 * torch.randn(count, WIDTH, generator=generator)
        if case == "memorised":  # a hint of the class, and a hundred ways to know the row
            apart = torch.randn(count, WIDE, generator=generator)
            apart[:, :WIDTH] += 0.2 * prototypes["video"][labels]
            data["video"] = apart
        if case == "missing":  # every other row comes without a picture
            data["video"] = data["video"] * (torch.arange(count) // CLASSES % 2)[:, None]
        return {**data, "label": labels}

    training = draw(600)
    generator.manual_seed(seed + 1)
    held_out = draw(rows)
    torch.manual_seed(0)
    model = LinearFusion(scales, widths)
    heads = nn.ModuleDict({name: nn.Linear(widths[name], CLASSES) for name in names})
    features = model.encode(training)
    fit(model.head, lambda: model.fuse(features), training["label"], steps=100, rate=0.1)
    for name, head in heads.items():
        at = features[name]
        rate = 0.1 / scales[name] ** 2  # as if the feature had scale 1
        fit(head, lambda head=head, at=at: head(at), training["label"], steps=300, rate=rate)
    return Planted(model, heads, split(held_out, batch), [training])


@torch.enable_grad()
def fit(module: nn.Module, predict: Any, labels: Tensor, *, steps: int, rate: float) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(predict(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def split(data: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    return [
        {name: value[start : start + size] for name, value in data.items()}
        for start in range(0, len(data["label"]), size)
    ]
