"""The swap: rows of N + S samples of a modality, against copies of the same bytes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.speed.measure import Call, Case
from benchmarks.speed.pairing import draw_labels
from midas_aug import MisalignAugment, MisalignedBatch
from midas_aug.functional import gather_rows


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Features, then a modality of pictures; forward, then forward and backward."""
    shapes: list[tuple[int, ...]] = [(64, 8)]
    if not small:
        shapes = [(64, 512), (1024, 512), (8192, 512), (64, 3, 224, 224)]
    for shape in shapes:
        values = torch.randn(shape, device=device)
        labels = draw_labels(shape[0], 10, "uniform", device)
        augment = MisalignAugment(("a", "b"), 10, confidence="uniform", hardness=None)
        out = augment.draw({"a": values, "b": values}, labels, materialize=False)
        rows = out.source.shape[0]
        size: dict[str, int | str] = {"rows": f"{shape[0]} → {rows}", "shape": str(shape[1:])}
        yield Case("swap", size, _forward(values, out), reference="clone")
        if len(shape) == 2:
            yield Case("swap, with backward", size, _with_backward(values, out), reference="clone")


def _forward(values: Tensor, out: MisalignedBatch) -> dict[str, Call]:
    index = out.source[:, 0]
    like_result = values.index_select(0, index)
    target = torch.empty_like(like_result)
    rows = len(values)
    partner = index[rows : 2 * rows]
    wide = index.view(-1, *[1] * (values.ndim - 1)).expand(-1, *values.shape[1:])
    return {
        "clone": lambda: like_result.clone(),
        "copy_": lambda: target.copy_(like_result),
        "ours": lambda: out.gather("a", values),
        "gather_rows": lambda: gather_rows(values, index),
        "x[index]": lambda: values[index],
        "gather": lambda: values.gather(0, wide),
        "cat(x, select, x)": lambda: torch.cat([values, values.index_select(0, partner), values]),
    }


def _with_backward(values: Tensor, out: MisalignedBatch) -> dict[str, Call]:
    """As in a late fusion: the gradient is half of that of a concatenation of two modalities."""
    index = out.source[:, 0]
    leaf = values.clone().requires_grad_()
    width = values.shape[1]
    gradient = torch.randn(len(index), 2 * width, device=values.device)[:, :width]
    copies = len(index) // len(values)

    def clone() -> object:
        return torch.autograd.grad(leaf.repeat(copies, 1), leaf, gradient)

    return {
        "clone": clone,
        "ours": lambda: torch.autograd.grad(out.gather("a", leaf), leaf, gradient),
        "gather_rows": lambda: torch.autograd.grad(gather_rows(leaf, index), leaf, gradient),
        "index_select": lambda: torch.autograd.grad(leaf.index_select(0, index), leaf, gradient),
        "x[index]": lambda: torch.autograd.grad(leaf[index], leaf, gradient),
    }
