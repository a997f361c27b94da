"""Two epochs of training whose last batch is short, to be compiled by any trainer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.integrations.module import AugmentModule

NAMES, CLASSES = ("a", "b"), 4
ROWS, BATCH, EPOCHS, RATE = 20, 8, 2, 0.1  # batches of 8, 8 and 4 rows
BACKEND = "eager"  # functions are traced as by any other; what they become runs as it is


class Run(NamedTuple):
    """What a training was.

    Attributes:
        losses: Of each step.
        alpha: After the last one.
        draws: How many seeded calls there were.
        graphs: How many were compiled.
        breaks: Why a graph ended before the function that it was made of; one line each.
    """

    losses: list[float]
    alpha: list[float]
    draws: int
    graphs: int
    breaks: list[str]


class Model(nn.Module):
    """Encoders, heads, fusion, augmentation and loss, as docs/trainers.md has it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({"a": nn.Linear(3, 8), "b": nn.Linear(5, 8)})
        self.heads = nn.ModuleDict({name: nn.Linear(8, CLASSES) for name in NAMES})
        self.fusion = nn.Linear(16, CLASSES)
        self.augment = AugmentModule(MisalignAugment(NAMES, CLASSES, label="labels", seed=0))
        self.criterion = MidasLoss(2, **({"warmup_epochs": 1} | options))
        self.criterion.alpha.fill_(2.0)  # so that it moves whatever is drawn

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = {"a": self.encoders["a"](a), "b": self.encoders["b"](b)}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        out = self.augment(features, labels, unimodal_logits=unimodal)
        logits = self.fusion(torch.cat([out["a"], out["b"]], dim=1))
        return {"loss": self.criterion(logits, out, unimodal), "logits": logits}


def samples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "a": torch.randn(3, generator=generator),
            "b": torch.randn(5, generator=generator),
            "labels": i % CLASSES,
        }
        for i in range(ROWS)
    ]


def loader(rank: int = 0, n_ranks: int = 1) -> Any:
    """Batches in the order of the samples, a share of each for each rank."""
    return DataLoader(samples()[rank::n_ranks], BATCH // n_ranks)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE)


def forget_graphs() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def run_of(losses: list[float], model: Any) -> Run:
    """What a training was that ends now, of a `Model`."""
    counters = torch._dynamo.utils.counters
    return Run(
        losses=losses,
        alpha=model.criterion.alpha.tolist(),
        draws=int(model.augment.draws),
        graphs=counters["stats"]["unique_graphs"],
        breaks=[reason.splitlines()[0] for reason in counters["graph_break"]],
    )


def loop(model: Any, own: Model, batches: Any, optimizer: Any = None, backward: Any = None) -> Run:
    """Train ``model``, which is ``own`` or a trainer's wrapper of it, in a plain loop."""
    optimizer = optimizer or sgd(model)
    losses = []
    for epoch in range(EPOCHS):
        own.criterion.set_epoch(epoch)
        for batch in batches:
            loss = model(**batch)["loss"]
            optimizer.zero_grad()
            loss.backward() if backward is None else backward(loss)
            optimizer.step()
            losses.append(loss.item())
    return run_of(losses, own)
