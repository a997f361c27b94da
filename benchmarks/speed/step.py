"""Training steps: forward, loss and backward, of the heads alone and with encoders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.measure import Call, Case
from midas_aug import FactoredLinear, MidasLoss, MisalignAugment
from midas_aug.functional import SwapPlan, plan_swaps
from midas_aug.functional.plan import Swap

NAMES = ("audio", "video")
Features = dict[str, Tensor]


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Heads at several sizes; whole steps with MLPs and small ResNets."""
    for rows in (8,) if small else (64, 256, 1024, 8192):
        for width, classes in ((16, 4),) if small else ((512, 6), (512, 101), (512, 1000)):
            heads = Heads.build(rows, width, classes, device)
            size: dict[str, int | str] = {"N": rows, "D": width, "C": classes}
            yield Case("heads", size, heads.variants(), reference="joint + unimodal")
    for rows in (8,) if small else (64, 256, 1024, 8192):
        yield _whole("MLP", rows, device, small)
    for rows in (4,) if small else (64,):
        yield _whole("ResNet", rows, device, small)
    for rows in (8,) if small else (64, 256, 1024):
        yield _compiled(rows, device)


def backward(loss: Callable[..., Tensor], *given: object) -> Call:
    """A loss and its backward pass."""

    def step() -> None:
        loss(*given).backward()  # type: ignore[no-untyped-call]

    return step


@dataclass
class Heads:
    """A fusion head and two unimodal heads on given features, and the steps to compare."""

    features: Features
    labels: Tensor
    unimodal: nn.ModuleDict
    fusion: FactoredLinear
    augment: MisalignAugment
    criterion: MidasLoss
    public_alpha: float = 1.0

    @classmethod
    def build(
        cls,
        rows: int,
        width: int,
        classes: int,
        device: torch.device,
        *,
        names: tuple[str, ...] = NAMES,
        swap: Swap = "each",
    ) -> "Heads":
        """Random features, ``(N, width)`` each."""
        torch.manual_seed(0)
        return cls(
            {name: torch.randn(rows, width, device=device, requires_grad=True) for name in names},
            torch.randint(classes, (rows,), device=device),
            nn.ModuleDict({name: nn.Linear(width, classes) for name in names}).to(device),
            FactoredLinear(dict.fromkeys(names, width), classes, device=device),
            MisalignAugment(names, classes, swap=swap),
            MidasLoss(len(names)).to(device),
        )

    def variants(self) -> dict[str, Call]:
        """The steps by name, each with its backward."""
        losses: dict[str, Callable[[Features], Tensor]] = {
            "joint + unimodal": self.joint,
            "Mixup of features": self.mixup,
            "ours": self.ours,
            "ours, factored": self.factored,
            "public code": self.public_code,
        }
        return {name: backward(loss, self.features) for name, loss in losses.items()}

    def concatenate(self, features: Features) -> Tensor:
        """The ordinary input of a fusion head."""
        return torch.cat(list(features.values()), dim=1)

    def classify(self, features: Features) -> Features:
        """Unimodal logits."""
        return {name: self.unimodal[name](features[name]) for name in features}

    def joint(self, features: Features) -> Tensor:
        """Joint training with unimodal losses."""
        loss = F.cross_entropy(self.fusion(self.concatenate(features)), self.labels)
        for logits in self.classify(features).values():
            loss = loss + F.cross_entropy(logits, self.labels)
        return loss

    def mixup(self, features: Features) -> Tensor:
        """One λ a batch, features and hard labels mixed, beside the unimodal losses."""
        other = torch.randperm(len(self.labels), device=self.labels.device)
        share = 0.7
        mixed = {m: share * f + (1 - share) * f[other] for m, f in features.items()}
        logits = self.fusion(self.concatenate(mixed))
        loss = share * F.cross_entropy(logits, self.labels)
        loss = loss + (1 - share) * F.cross_entropy(logits, self.labels[other])
        for own in self.classify(features).values():
            loss = loss + F.cross_entropy(own, self.labels)
        return loss

    def ours(self, features: Features) -> Tensor:
        """MIDAS, drop-in: swapped features, concatenated, any fusion head."""
        unimodal = self.classify(features)
        out = self.augment(features, self.labels, unimodal_logits=unimodal)
        logits = self.fusion(torch.cat([out[name] for name in features], dim=1))
        return self.criterion(logits, out, unimodal)  # type: ignore[no-any-return]

    def factored(self, features: Features) -> Tensor:
        """MIDAS with `FactoredLinear`."""
        unimodal = self.classify(features)
        out = self.augment(features, self.labels, unimodal_logits=unimodal, materialize=False)
        return self.criterion(  # type: ignore[no-any-return]
            self.fusion(features, out), out, unimodal
        )

    def public_code(self, features: Features) -> Tensor:
        """The structure of the public code's step, written from its description.

        A permutation of the batch, a fusion pass of its own for each swap, two cross-entropies a
        pass, and an α that is a Python number stepped by comparisons with tensors.
        """
        labels, rows = self.labels, torch.arange(len(self.labels), device=self.labels.device)
        other = torch.randperm(len(labels), device=labels.device)
        unimodal = self.classify(features)
        loss = F.cross_entropy(self.fusion(self.concatenate(features)), labels)
        for own in unimodal.values():
            loss = loss + F.cross_entropy(own, labels) / 2
        confidence = {m: own.softmax(dim=1)[rows, labels].detach() for m, own in unimodal.items()}
        means = {m: scores.mean() for m, scores in confidence.items()}
        weak = 0 if means["audio"] <= means["video"] else 1
        ratios = []
        for swapped in NAMES:
            mixed = {m: f[other] if m == swapped else f for m, f in features.items()}
            logits = self.fusion(self.concatenate(mixed))
            targets = [labels[other] if m == swapped else labels for m in NAMES]
            scores = [confidence[m][other] if m == swapped else confidence[m] for m in NAMES]
            total = scores[0] + scores[1]
            shares = [score / total for score in scores]
            shares[weak] = shares[weak] * self.public_alpha
            own, replaced = features[swapped].detach(), mixed[swapped].detach()
            hard = 1 + (F.cosine_similarity(own, replaced, dim=1) + 1) / 2
            losses = [F.cross_entropy(logits, target, reduction="none") for target in targets]
            loss = loss + (hard * (shares[0] * losses[0] + shares[1] * losses[1])).mean() / 2
            probabilities = logits.detach().softmax(dim=1)
            ratios.append(
                probabilities[rows, targets[0]].mean() / probabilities[rows, targets[1]].mean()
            )
        expected = means["audio"] / means["video"]
        received = (ratios[0] + ratios[1]) / 2
        if (received < expected) == (weak == 0):
            self.public_alpha += 0.05
        else:
            self.public_alpha = max(1.0, self.public_alpha - 0.05)
        return loss


def _whole(kind: str, rows: int, device: torch.device, small: bool) -> Case:
    """The same steps behind encoders; input-level augmentation sends 3N rows through them."""
    heads = Heads.build(rows, 128, 10, device)
    encoder = mlp if kind == "MLP" else _resnet
    encoders = nn.ModuleDict({name: encoder() for name in NAMES}).to(device)
    shape = (256,) if kind == "MLP" else (3, 8, 8) if small else (3, 32, 32)
    inputs = {name: torch.randn(rows, *shape, device=device) for name in NAMES}
    raw = MisalignAugment(NAMES, 10, confidence="uniform", hardness=None)

    def encode(batch: Features) -> Features:
        return {name: encoders[name](batch[name]) for name in NAMES}

    def at_input_level() -> Tensor:
        out = raw(inputs, heads.labels)
        logits = heads.fusion(heads.concatenate(encode({name: out[name] for name in NAMES})))
        losses = F.cross_entropy(logits, out.targets, reduction="none")
        mean: Tensor = (losses * out.weights).mean()
        return mean

    variants = {
        "joint + unimodal": backward(lambda: heads.joint(encode(inputs))),
        "Mixup of features": backward(lambda: heads.mixup(encode(inputs))),
        "ours": backward(lambda: heads.ours(encode(inputs))),
        "ours, factored": backward(lambda: heads.factored(encode(inputs))),
        "public code": backward(lambda: heads.public_code(encode(inputs))),
        "ours, input level": backward(at_input_level),
    }
    return Case(f"step, {kind}", {"N": rows}, variants, reference="joint + unimodal")


def mlp(width: int = 128) -> nn.Module:
    """An encoder of 256 numbers."""
    return nn.Sequential(
        nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, width)
    )


class _Block(nn.Module):
    """Two 3 × 3 convolutions with a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norms[0](self.first(images)).relu()
        return (images + self.norms[1](self.second(hidden))).relu()  # type: ignore[no-any-return]


def _resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        _Block(16),
        nn.Conv2d(16, 32, 3, 2, padding=1),
        _Block(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 128),
    )


def _compiled(rows: int, device: torch.device) -> Case:
    """Augment and loss on given draws, eagerly and as one compiled graph."""
    heads = Heads.build(rows, 128, 10, device)
    plan = plan_swaps(heads.labels, 2)

    def step(features: Features, labels: Tensor, drawn: SwapPlan) -> Tensor:
        unimodal = heads.classify(features)
        out = heads.augment(features, labels, unimodal_logits=unimodal, plan=drawn)
        logits = heads.fusion(torch.cat([out[name] for name in NAMES], dim=1))
        return heads.criterion(logits, out, unimodal)  # type: ignore[no-any-return]

    one_graph = torch.compile(step, fullgraph=True, dynamic=True)

    given = (heads.features, heads.labels, plan)
    variants = {"eager": backward(step, *given), "compiled": backward(one_graph, *given)}
    return Case("augment and loss", {"N": rows, "D": 128, "C": 10}, variants, reference="eager")
