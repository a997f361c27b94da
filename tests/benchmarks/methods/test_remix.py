"""Data Remixing, against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.remix import DataRemixing, divergence_from_uniform
from tests.benchmarks.methods.helpers import (
    assert_close,
    encoded,
    random_parts,
    set_up,
    started,
    tiny_model,
)
from tests.benchmarks.methods.slow_references import slow_softmax


def uneven_model(num_modalities):
    """A model that is the most certain of another modality from row to row."""
    model = tiny_model(num_modalities)
    with torch.no_grad():
        for number, head in enumerate(model.heads.values()):
            head.bias.zero_()
            head.weight *= 1 + number
    return model


def slow_divergence(row):
    return math.fsum(p * math.log(p * len(row)) for p in slow_softmax(row))


def test_the_divergence_is_that_of_a_loop():
    logits = random_parts(0, m=3, n=5, c=4)
    wanted = [[slow_divergence(row) for row in of_modality] for of_modality in logits]
    assert_close(divergence_from_uniform(logits), torch.tensor(wanted).double(), atol=1e-6)
    certain = torch.tensor([[[1000.0, 0.0]]])
    assert_close(divergence_from_uniform(certain), [[math.log(2)]])


def test_the_warmup_trains_all_modalities_with_half_of_the_heads():
    model = tiny_model(2)
    method = started(DataRemixing(), model)
    features, labels = encoded(model)
    heads = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    wanted = F.cross_entropy(model.fuse(features), labels) + 0.5 * heads
    assert_close(method.loss(features, labels), wanted.item())
    assert method.epoch_rows(0).keep is None


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_each_row_keeps_the_modality_that_is_least_certain(num_modalities):
    model = uneven_model(num_modalities)
    method = set_up(DataRemixing(warmup=0.5), model, epochs=4)
    method.on_epoch_end(0)
    assert method.epoch_rows(1).keep is None
    method.on_epoch_end(1)
    rows, keep, group = method.epoch_rows(2)
    features, _ = encoded(model)
    heads = [*model.classify(features).values()]
    wanted = []
    for row in range(12):
        certain = [slow_divergence(head[row]) for head in heads]
        wanted.append(certain.index(min(certain)))
    assert rows.tolist() == list(range(12))
    assert group.tolist() == wanted
    assert len(set(wanted)) > 1
    assert keep.tolist() == [[m == one for m in range(num_modalities)] for one in wanted]


def test_a_batch_of_one_modality_trains_its_encoder_and_head_alone():
    model = uneven_model(2)
    method = set_up(DataRemixing(warmup=0, gamma=0.5), model)
    method.on_epoch_end(0)
    _, keep, group = method.epoch_rows(1)
    for number, name in enumerate(model.modalities):
        places = (group == number).nonzero().squeeze(1)
        features, labels = encoded(model)
        features = {
            key: feature[places] * keep[places, column, None]
            for column, (key, feature) in enumerate(features.items())
        }
        method.on_batch(places)
        loss = method.loss(features, labels[places])
        wanted = F.cross_entropy(model.fuse(features), labels[places])
        own = F.cross_entropy(model.heads[name](features[name]), labels[places])
        assert_close(loss, (wanted + 0.5 * own).item())
        model.zero_grad()
        loss.backward()
        for key in model.modalities:
            gradient = model.encoders[key][0].weight.grad.abs().max()
            assert (float(gradient) > 0) is (key == name)
            own = model.heads[key].weight.grad.abs().max()
            assert (float(own) > 0) is (key == name)
