"""Plain loops that the methods are compared with."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def slow_softmax(row: Any) -> list[float]:
    powers = [math.exp(value) for value in torch.as_tensor(row).tolist()]
    return [power / math.fsum(powers) for power in powers]


def slow_ratios(scores: Any) -> list[float]:
    count = len(scores)
    return [
        sum(scores[m] / scores[j] for j in range(count) if j != m) / (count - 1)
        for m in range(count)
    ]


def slow_shapley(values: dict[frozenset[str], float], names: list[str]) -> dict[str, float]:
    """The mean gain over all orders in which the modalities can join."""
    gains = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            gains[name] += (values[before | {name}] - values[before]) / len(orders)
    return gains


Array = npt.NDArray[Any]


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def kl(p: Array, q: Array) -> float:
    return math.fsum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True))


def slow_js(first: Array, second: Array) -> float:
    p, q = softmax(first), softmax(second)
    return 0.5 * (kl(p, (p + q) / 2) + kl(q, (p + q) / 2))


def slow_reverse_js(first: Array, second: Array) -> float:
    p, q = softmax(first), softmax(second)
    return 0.5 * (kl((p + q) / 2, p) + kl((p + q) / 2, q))
