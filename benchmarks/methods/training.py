"""What every training loop of the benchmarks shares: the optimiser, and the choice of the epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.common.kinds import CLASSES, Kind
from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import EncodedRows, EpochRows, Method

BATCH_SIZE = 64
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4


def build_optimizer(
    model: ConcatFusion,
    method: Method,
    learning_rate: float,
    weight_decay: float = WEIGHT_DECAY,
) -> torch.optim.SGD:
    """The paper's SGD over the model and over what the method trains beside it."""
    parameters = [*model.parameters()]
    for module in method.extra_modules():
        parameters += module.parameters()
    return torch.optim.SGD(
        parameters, lr=learning_rate, momentum=MOMENTUM, weight_decay=weight_decay
    )


class Validation(NamedTuple):
    """Compared as a tuple: accuracy (or the kind's main score) first, then the lower loss."""

    score: float
    negative_nll: float


def validation_of(logits: Tensor, labels: Tensor, kind: Kind = CLASSES) -> Validation:
    """How good these logits ``(N, C)``, or other outputs, are."""
    return Validation(kind.score(logits, labels), -float(kind.loss(logits, labels)))


@torch.no_grad()
def validate(method: Method, rows: EncodedRows) -> Validation:
    """How good the model is now, from the encoded validation rows."""
    return validation_of(method.predict(rows.features), rows.labels, method.setting.kind)


def keep_only(features: Features, keep: Tensor | None) -> Features:
    """The features with those set to 0 that `EpochRows` does not keep."""
    if keep is None:
        return features
    columns = keep.unbind(dim=1)
    return {
        name: feature * kept[:, None]
        for (name, feature), kept in zip(features.items(), columns, strict=True)
    }


def batch_places(epoch: EpochRows, order: torch.Generator, size: int) -> Iterator[Tensor]:
    """Places in ``epoch.rows``, in random order, a batch at a time and group by group."""
    group = epoch.group
    if group is None:
        yield from torch.split(torch.randperm(len(epoch.rows), generator=order), size)
        return
    for number in sorted(set(group.tolist())):
        places = (group == number).nonzero().squeeze(1)
        yield from torch.split(places[torch.randperm(len(places), generator=order)], size)


@dataclass
class Best:
    """The weights of the best epoch so far."""

    epoch: int = -1
    reached: tuple[float, ...] = ()  # smaller than any
    weights: tuple[dict[str, Tensor], ...] = ()

    def keep_better(
        self, epoch: int, reached: Validation, model: ConcatFusion, method: Method
    ) -> None:
        """Keep the weights, if they are better than those before."""
        if reached > self.reached:
            self.epoch, self.reached = epoch, tuple(reached)
            self.weights = tuple(
                {name: value.clone() for name, value in module.state_dict().items()}
                for module in (model, *method.extra_modules())
            )

    def restore(self, model: ConcatFusion, method: Method) -> None:
        """Give model and method the best weights back."""
        for module, weights in zip((model, *method.extra_modules()), self.weights, strict=True):
            module.load_state_dict(weights)
