"""Readings of one training: fitted weights, one modality alone."""

import pytest
import torch

from benchmarks.compare.train import Regime, train, train_readings
from benchmarks.methods.base import EncodedRows, Method
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.reading import (
    Alone,
    FittedHeads,
    FittedHeadsApart,
    FittedWeights,
    Reading,
    third,
)
from midas_aug import FusionWeights
from tests.benchmarks.compare.test_train import toy_split
from tests.benchmarks.methods.helpers import (
    encoded,
    set_up,
    tiny_model,
)


@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_folded_weights_predict_what_the_reading_predicts(num_modalities):
    model = tiny_model(num_modalities)
    method = set_up(Method(), model)
    features, labels = encoded(model)
    reading = FittedWeights()
    with torch.no_grad():
        reading.validate(method, EncodedRows(features, labels), epoch=0)
        expected = reading.predict(method, features)
    fitted = FusionWeights(model.fusion, [model.width] * num_modalities)
    fitted.update(list(features.values()), labels)
    torch.testing.assert_close(fitted.step(), reading.weights)
    model.fusion = fitted.folded()
    torch.testing.assert_close(model.fuse(features), expected)
    assert not torch.equal(reading.weights, torch.ones(num_modalities))


def test_fitted_late_fusion_weighs_log_probabilities():
    model = tiny_model(2)
    method = set_up(LateFusionOfUnimodal(), model)
    features, _ = encoded(model)
    reading = FittedWeights(weights=torch.tensor([2.0, 0.5]))
    first, second = (z.log_softmax(dim=1) for z in model.classify(features).values())
    torch.testing.assert_close(reading.predict(method, features), 2 * first + 0.5 * second)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_folded_heads_predict_what_their_reading_predicts(num_modalities):
    model = tiny_model(num_modalities)
    method = set_up(Method(), model)
    features, labels = encoded(model)
    reading = FittedHeads()
    with torch.no_grad():
        reading.validate(method, EncodedRows(features, labels), epoch=0)
        expected = reading.predict(method, features).softmax(dim=1)
    dims = dict.fromkeys(model.modalities, model.width)
    fitted = FusionWeights(model.fusion, dims, heads=model.heads)
    fitted.update(features, labels)
    torch.testing.assert_close(fitted.step(), reading.weights, atol=1e-4, rtol=1e-4)
    model.fusion = fitted.folded()
    torch.testing.assert_close(model.fuse(features).softmax(dim=1), expected)


def test_weights_and_epochs_that_are_kept_apart_share_no_row():
    model = tiny_model(2)
    method = set_up(Method(), model)
    features, labels = encoded(model)

    def read(changed=()):
        """Weights, and the accuracy, with the labels of some rows changed."""
        others = labels.clone()
        others[list(changed)] = (labels[list(changed)] + 1) % model.num_classes
        reading = FittedHeadsApart()
        reached = reading.validate(method, EncodedRows(features, others), epoch=0)
        return reading.weights, reached

    weights, reached = read()
    rows = range(len(labels))
    assert torch.equal(weights, read(rows[0::3])[0])
    assert reached == read(rows[0::3])[1]
    assert not torch.equal(weights, read(rows[1::3])[0])
    other_weights, other_reached = read(rows[2::3])
    assert torch.equal(weights, other_weights)
    assert reached != other_reached
    fitted = FittedHeads()
    fitted.measure(method, third(EncodedRows(features, labels), 1), epoch=0)
    assert torch.equal(weights, fitted.weights)


def test_one_training_gives_each_reading_what_a_run_of_its_own_would():
    regime = Regime(epochs=3, learning_rate=0.05, seed=0)
    split = toy_split()
    together = train_readings(
        LateFusionOfUnimodal(),
        split,
        {"all": Reading(), "fitted": FittedWeights(), "a": Alone("a"), "b": Alone("b")},
        regime,
        test=True,
    )
    apart = train(LateFusionOfUnimodal(), split, regime, test=True)
    assert together["all"]._replace(seconds=0) == apart._replace(seconds=0)
    assert together["a"].test["accuracy"] > together["b"].test["accuracy"]
    assert set(together["a"].test) == {"accuracy", "macro_f1", "nll"}
    assert together["fitted"].validation["nll"] < together["all"].validation["nll"]


def test_the_epoch_that_is_restored_has_the_weights_of_that_epoch():
    reading = FittedWeights()
    model = tiny_model(2)
    method = set_up(Method(), model)
    rows = EncodedRows(*encoded(model))
    with torch.no_grad():
        reading.validate(method, rows, epoch=0)
        first = reading.weights
        model.fusion.weight *= 3
        reading.validate(method, rows, epoch=1)
    assert not torch.equal(reading.weights, first)
    reading.restore(0)
    assert torch.equal(reading.weights, first)
