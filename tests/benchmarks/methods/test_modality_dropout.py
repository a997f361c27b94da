"""Modality dropout, by its effect on features."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.methods import modality_dropout
from benchmarks.methods.base import Method
from benchmarks.methods.modality_dropout import ModalityDropout
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_same_gradients,
    seeds,
    set_up,
    started,
    step_gradients,
    tiny_model,
    tiny_rows,
)


@given(st.integers(2, 4), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]), seeds)
def test_modality_dropout_takes_at_most_one(m: int, n: int, rate: float, seed: int) -> None:
    kept = modality_dropout.kept_modalities(m, n, rate, torch.Generator().manual_seed(seed))
    assert kept.shape == (m, n)
    lost = (~kept).sum(dim=0)
    assert (lost <= 1).all()
    if rate in (0, 1):
        assert (lost == rate).all()


def test_modality_dropout_takes_each_as_often() -> None:
    kept = modality_dropout.kept_modalities(3, 6000, 0.6, torch.Generator().manual_seed(0))
    assert_close((~kept).double().mean(dim=1), [0.2] * 3, atol=0.02)


def test_modality_dropout_sets_features_to_zero_and_scales_nothing() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    loss = started(ModalityDropout(rate=0.7), model).loss(features, labels)
    kept = modality_dropout.kept_modalities(3, 12, 0.7, torch.Generator().manual_seed(0))
    assert not kept.all()
    left = {n: f * k[:, None] for (n, f), k in zip(features.items(), kept, strict=True)}
    assert_close(loss, F.cross_entropy(model.fuse(left), labels))


def test_modality_dropout_takes_no_row_its_last_modality() -> None:
    model = tiny_model(2)
    inputs, labels = tiny_rows(model, 12)
    present = torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) < 0.5
    present |= ~present.any(dim=1, keepdim=True)
    features = {
        name: feature * has[:, None]
        for (name, feature), has in zip(model.encode(inputs).items(), present.T, strict=True)
    }
    method = started(ModalityDropout(rate=1.0), model)
    method.present = present
    kept = modality_dropout.kept_modalities(2, 12, 1.0, torch.Generator().manual_seed(0))
    left = {
        name: feature * torch.where(present.all(dim=1), keep, True)[:, None]
        for (name, feature), keep in zip(features.items(), kept, strict=True)
    }
    assert 2 < int(present.all(dim=1).sum()) < 10
    assert_close(method.loss(features, labels), F.cross_entropy(model.fuse(left), labels))


def test_modality_dropout_with_a_rate_of_zero_is_joint_training() -> None:
    model = tiny_model(2)
    plain = step_gradients(set_up(Method(), model), model)
    assert_same_gradients(step_gradients(started(ModalityDropout(rate=0), model), model), plain)
