"""The swap: rows of N + S samples of a modality, against copies of the same bytes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.speed.measure import Call, Case
from benchmarks.speed.pairing import draw_labels
from midas_aug.functional import gather_rows, plan_swaps


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """Features, then a modality of pictures; forward, then forward and backward."""
    shapes: list[tuple[int, ...]] = [(64, 8)]
    if not small:
        shapes = [(64, 512), (1024, 512), (8192, 512), (64, 3, 224, 224)]
    for shape in shapes:
        values = torch.randn(shape, device=device)
        own = torch.arange(shape[0], device=device)
        plan = plan_swaps(draw_labels(shape[0], 10, "uniform", device), 2)
        index = torch.cat([own, plan.source[:, 0]])
        size: dict[str, int | str] = {"rows": f"{shape[0]} → {len(index)}", "shape": str(shape[1:])}
        yield Case("swap", size, _forward(values, index), reference="clone")
        if len(shape) == 2:
            yield Case(
                "swap, with backward", size, _with_backward(values, index), reference="clone"
            )


def _forward(values: Tensor, index: Tensor) -> dict[str, Call]:
    like_result = values.index_select(0, index)
    target = torch.empty_like(like_result)
    rows = len(values)
    partner = index[rows : 2 * rows]
    wide = index.view(-1, *[1] * (values.ndim - 1)).expand(-1, *values.shape[1:])
    return {
        "clone": lambda: like_result.clone(),
        "copy_": lambda: target.copy_(like_result),
        "ours": lambda: gather_rows(values, index),
        "x[index]": lambda: values[index],
        "gather": lambda: values.gather(0, wide),
        "cat(x, select, x)": lambda: torch.cat([values, values.index_select(0, partner), values]),
    }


def _with_backward(values: Tensor, index: Tensor) -> dict[str, Call]:
    """As in a late fusion: the gradient is half of that of a concatenation of two modalities."""
    leaf = values.clone().requires_grad_()
    width = values.shape[1]
    gradient = torch.randn(len(index), 2 * width, device=values.device)[:, :width]
    copies = len(index) // len(values)

    def clone() -> object:
        return torch.autograd.grad(leaf.repeat(copies, 1), leaf, gradient)

    return {
        "clone": clone,
        "ours": lambda: torch.autograd.grad(gather_rows(leaf, index), leaf, gradient),
        "index_select": lambda: torch.autograd.grad(leaf.index_select(0, index), leaf, gradient),
        "x[index]": lambda: torch.autograd.grad(leaf[index], leaf, gradient),
    }
