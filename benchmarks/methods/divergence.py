"""Divergences between predictions, from log-probabilities; classes are the last dimension."""

import math

import torch
from torch import Tensor


def kullback_leibler(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) of each row."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """½ [KL(p‖r) + KL(q‖r)] of each row, with r = (p + q)/2."""
    log_r = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (kullback_leibler(log_p, log_r) + kullback_leibler(log_q, log_r))


def reverse_jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """½ [KL(r‖p) + KL(r‖q)] of each row, with r = (p + q)/2; without an upper bound."""
    log_r = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (kullback_leibler(log_r, log_p) + kullback_leibler(log_r, log_q))
