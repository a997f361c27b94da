"""Draws of the mixing methods."""

from __future__ import annotations

import pytest
import torch

from benchmarks.methods.draws import dirichlet, dropout, permutations
from tests.benchmarks.methods.helpers import assert_close, generator


def test_permutations_have_every_row_once_and_differ() -> None:
    drawn = permutations(50, (2, 3), generator())
    assert drawn.shape == (2, 3, 50)
    assert (drawn.sort(dim=-1).values == torch.arange(50)).all()
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 6


def test_dropout_keeps_the_mean() -> None:
    dropped = dropout(torch.ones(100_000), 0.25, generator())
    assert set(dropped.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert_close(dropped.mean(), 1.0, atol=0.01)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_two_dirichlet_shares_are_beta(alpha: float) -> None:
    share = dirichlet(torch.full((50_000, 2), alpha), generator())[:, 0]
    assert_close(share.mean(), 0.5, atol=0.01)
    assert_close(share.var(), 1 / (4 * (2 * alpha + 1)), atol=0.005)
