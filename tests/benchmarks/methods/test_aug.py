"""AUG, against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.aug import AUG, boosting_loss
from tests.benchmarks.methods.helpers import assert_close, encoded, set_up, started, tiny_model
from tests.benchmarks.methods.slow_references import slow_softmax


def slow_boosting(stages, labels, penalty):
    total = 0.0
    for row, label in enumerate(labels.tolist()):
        summed = [sum(float(z[row, c]) for z in stages) for c in range(stages[0].shape[1])]
        total -= math.log(slow_softmax(summed)[label])
        if len(stages) > 1:
            before = [value - float(stages[-1][row, c]) for c, value in enumerate(summed)]
            known = slow_softmax(before)[label]
            fresh = -math.log(slow_softmax(stages[-1][row])[label])
            total += -math.log(known) + fresh - penalty * known * fresh
    return total / len(labels)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_loss_of_a_modality_is_that_of_a_loop(count):
    stages = [torch.randn(5, 3, dtype=torch.float64) for _ in range(count)]
    labels = torch.tensor([0, 2, 1, 1, 0])
    assert_close(boosting_loss(stages, labels, 0.5), slow_boosting(stages, labels, 0.5), 1e-6)


def test_what_the_last_classifier_is_told_to_leave_is_a_constant():
    before, last = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    labels = torch.tensor([0, 1, 2, 0])
    (found,) = torch.autograd.grad(boosting_loss([before, last], labels, 0.5), before)
    plain = F.cross_entropy(before + last, labels) + F.cross_entropy(before, labels)
    (wanted,) = torch.autograd.grad(plain, before)
    assert_close(found, wanted, atol=1e-6)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_a_prediction_is_the_mean_of_the_sums_and_the_loss_their_sum(num_modalities):
    model = tiny_model(num_modalities)
    method = started(AUG(width=8), model)
    method.classifiers.used[1] = 2
    features, labels = encoded(model)
    sums, loss = [], 0.0
    for number, name in enumerate(model.modalities):
        layers = method.classifiers.embeddings[name]
        stages = [
            method.classifiers.output(F.relu(layer(features[name])))
            for layer in layers[: 2 if number == 1 else 1]
        ]
        sums.append(sum(stages))
        loss += slow_boosting([stage.detach() for stage in stages], labels, 0.5)
    assert_close(method.predict(features).detach(), (sum(sums) / num_modalities).detach())
    assert_close(sum(method.parts(features).values()).detach(), method.predict(features).detach())
    assert_close(method.loss(features, labels), loss)


def test_the_modality_that_is_behind_grows_after_the_first_epoch_and_at_every_period():
    model = tiny_model(2)
    method = set_up(AUG(width=8, period=0.25), model, epochs=8)
    features, labels = encoded(model)
    used = []
    for epoch in range(8):
        method.on_epoch_start(epoch)
        with torch.no_grad():
            sums = [z * 2 for z in method.parts(features).values()]
            scores = [
                sum(slow_softmax(row)[y] for row, y in zip(z, labels.tolist(), strict=True))
                for z in sums
            ]
            method.loss(features, labels)
        grown = list(used[-1] if used else (1, 1))
        if epoch in (0, 1, 3, 5, 7):
            grown[scores.index(min(scores))] += 1
        method.on_epoch_end(epoch)
        assert method.classifiers.used.tolist() == list(used[-1] if used else (1, 1))
        method.on_validation(features, labels)
        used.append(method.classifiers.used.tolist())
        assert used[-1] == grown
    assert sum(used[-1]) == 7


def test_a_lead_within_the_margin_adds_nothing():
    model = tiny_model(2)
    method = set_up(AUG(width=8, margin=1e9), model, epochs=4)
    features, labels = encoded(model)
    method.on_epoch_start(0)
    method.loss(features, labels)
    method.on_epoch_end(0)
    method.on_validation(features, labels)
    assert method.classifiers.used.tolist() == [1, 1]


def test_there_is_room_for_as_many_as_can_be_added():
    for epochs in (1, 3, 8, 30):
        model = tiny_model(2)
        method = set_up(AUG(width=4, period=0.1), model, epochs=epochs)
        features, labels = encoded(model)
        for epoch in range(epochs):
            method.on_epoch_start(epoch)
            method.on_epoch_end(epoch)
            with torch.no_grad():
                method.loss(features, labels)
            method.on_validation(features, labels)
        most = len(method.classifiers.embeddings["m0"])
        assert int(method.classifiers.used.max()) <= most
        assert all(len(z) <= most for z in method.classifiers.embeddings.values())


def test_the_weights_of_an_epoch_come_with_its_number_of_classifiers():
    model = tiny_model(2)
    method = started(AUG(width=8), model)
    kept = {name: value.clone() for name, value in method.classifiers.state_dict().items()}
    features, _ = encoded(model)
    before = method.predict(features)
    method.classifiers.used += 1
    assert not torch.equal(method.predict(features), before)
    method.classifiers.load_state_dict(kept)
    assert torch.equal(method.predict(features), before)


def test_a_classifier_that_is_not_in_use_gets_no_gradient():
    model = tiny_model(2)
    method = started(AUG(width=8), model)
    features, labels = encoded(model)
    method.loss(features, labels).backward()
    first, second, *_ = method.classifiers.embeddings["m0"]
    assert first.weight.grad is not None
    assert second.weight.grad is None
    assert model.fusion.weight.grad is None
