"""Beyond two linear heads: more modalities, a fusion that costs something, compiled training."""

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.measure import Case
from benchmarks.speed.step import NAMES, Features, Heads, backward, mlp
from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional.plan import Swap


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Two to four modalities; a transformer as fusion; whole steps, compiled."""
    for n_modalities in (2, 3, 4):
        yield _by_modalities(8 if small else 64, n_modalities, device)
    for rows in (8,) if small else (64, 256):
        yield _transformer(rows, device, small)
    for rows in (8,) if small else (64, 256):
        yield _compiled(rows, device, small)


def _by_modalities(rows: int, n_modalities: int, device: torch.device) -> Case:
    """The heads of two to four modalities: ``"each"`` makes M·N rows, the others N."""
    names = tuple("abcd"[:n_modalities])
    width, classes = (16, 4) if rows < 64 else (512, 6)
    built = {
        swap: Heads.build(rows, width, classes, device, names=names, swap=swap)
        for swap in get_args(Swap)
    }
    variants = {"joint + unimodal": backward(built["each"].joint, built["each"].features)}
    for swap, heads in built.items():
        variants[f"swap={swap!r}"] = backward(heads.ours, heads.features)
    factored = built["each"]
    variants["factored"] = backward(factored.factored, factored.features)
    size: dict[str, int | str] = {"M": n_modalities, "N": rows, "D": width, "C": classes}
    return Case("heads by modalities", size, variants, reference="joint + unimodal")


class TokenFusion(nn.Module):
    """A transformer over the tokens of both modalities, and a linear head on their mean."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(R, T, width)`` to ``(R, C)``."""
        return self.head(self.encoder(tokens).mean(dim=1))  # type: ignore[no-any-return]


def _transformer(rows: int, device: torch.device, small: bool) -> Case:
    """A fusion that costs as much as encoders do: it sees every mixed row, too."""
    width, tokens, classes = (16, 4, 4) if small else (64, 16, 10)
    torch.manual_seed(0)
    fusion = TokenFusion(width, classes).to(device)
    heads = nn.ModuleDict({name: nn.Linear(width, classes) for name in NAMES}).to(device)
    features = {
        name: torch.randn(rows, tokens, width, device=device, requires_grad=True) for name in NAMES
    }
    labels, criterion = torch.randint(classes, (rows,), device=device), MidasLoss(2).to(device)

    def classify() -> Features:
        return {name: heads[name](features[name].mean(dim=1)) for name in NAMES}

    def joint() -> Tensor:
        loss = F.cross_entropy(fusion(torch.cat([features[n] for n in NAMES], dim=1)), labels)
        for logits in classify().values():
            loss = loss + F.cross_entropy(logits, labels)
        return loss

    def ours(augment: MisalignAugment) -> Tensor:
        unimodal = classify()
        out = augment(features, labels, unimodal_logits=unimodal)
        logits = fusion(torch.cat([out[name] for name in NAMES], dim=1))
        return criterion(logits, out, unimodal)  # type: ignore[no-any-return]

    variants = {"joint + unimodal": backward(joint)}
    for swap in ("each", "one"):
        augment = MisalignAugment(NAMES, classes, swap=swap)
        variants[f"swap={swap!r}"] = backward(ours, augment)
    size: dict[str, int | str] = {"N": rows, "tokens": 2 * tokens, "D": width}
    return Case("step, transformer fusion", size, variants, reference="joint + unimodal")


def _compiled(rows: int, device: torch.device, small: bool) -> Case:
    """Whole steps with MLPs, as a user compiles them, against joint training compiled alike."""
    width, classes = (16, 4) if small else (128, 10)
    heads = Heads.build(rows, width, classes, device)
    heads.augment = MisalignAugment(NAMES, classes, seed=0)
    encoders = nn.ModuleDict({name: mlp(width) for name in NAMES}).to(device)
    inputs = {name: torch.randn(rows, 256, device=device) for name in NAMES}

    def joint(batch: Features) -> Tensor:
        return heads.joint({name: encoders[name](batch[name]) for name in NAMES})

    def ours(batch: Features) -> Tensor:
        return heads.ours({name: encoders[name](batch[name]) for name in NAMES})

    variants = {
        "joint, compiled": backward(torch.compile(joint, fullgraph=True), inputs),
        "ours, compiled": backward(torch.compile(ours, fullgraph=True), inputs),
        "joint, eager": backward(joint, inputs),
        "ours, eager": backward(ours, inputs),
    }
    return Case("step, MLP, compiled", {"N": rows}, variants, reference="joint, compiled")
