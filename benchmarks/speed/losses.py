"""The loss of rows with two labels, against one hard label and against dense soft targets."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.measure import Call, Case
from midas_aug.functional import misaligned_cross_entropy, soft_targets


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Forward and backward of 4096 rows, 6 to 20,000 classes."""
    rows = 64 if small else 4096
    for classes in (6, 16) if small else (6, 101, 1000, 20_000):
        ways = variants(rows, classes, device)
        size: dict[str, int | str] = {"rows": rows, "C": classes}
        yield Case("loss", size, ways, reference="hard labels", memory=tuple(ways))


def variants(rows: int, classes: int, device: torch.device) -> dict[str, Call]:
    """Ways to compute the mean loss and its gradient."""
    logits = torch.randn(rows, classes, device=device, requires_grad=True)
    labels = torch.randint(classes, (rows, 2), device=device)
    shares = torch.rand(rows, 2, device=device).softmax(dim=1)
    first, second = labels.unbind(1)

    def gradient(loss: Tensor) -> object:
        return torch.autograd.grad(loss, logits)

    def two_calls() -> Tensor:
        losses = [F.cross_entropy(logits, label, reduction="none") for label in (first, second)]
        return (shares[:, 0] * losses[0] + shares[:, 1] * losses[1]).mean()

    def one_hot() -> Tensor:
        mix = shares[:, :1] * F.one_hot(first, classes) + shares[:, 1:] * F.one_hot(second, classes)
        return -(mix * logits.log_softmax(dim=1)).sum(dim=1).mean()

    def dense() -> Tensor:
        return F.cross_entropy(logits, soft_targets(labels, shares, classes))

    return {
        "hard labels": lambda: gradient(F.cross_entropy(logits, first)),
        "ours": lambda: gradient(misaligned_cross_entropy(logits, labels, shares).mean()),
        "dense targets": lambda: gradient(dense()),
        "two cross-entropies": lambda: gradient(two_calls()),
        "one-hot mix": lambda: gradient(one_hot()),
    }
