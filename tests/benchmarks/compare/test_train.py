"""The training loop of the comparison."""

from dataclasses import dataclass

import pytest
import torch

from benchmarks.compare.encoders import WIDTH, build_encoder
from benchmarks.compare.tasks import Rows, Split
from benchmarks.compare.train import Regime, build_model, encode, fit, train
from benchmarks.methods.base import EpochRows, Method
from benchmarks.methods.training import WEIGHT_DECAY


def toy_split(rows=90, seed=0):
    """Three classes, told by the first modality well and by the second badly."""
    generator = torch.Generator().manual_seed(seed)

    def part(count):
        labels = torch.arange(count) % 3
        noise = torch.randn(count, 6, generator=generator)
        signal = torch.eye(6)[labels]
        second = 0.5 * signal + torch.randn(count, 6, generator=generator)
        return Rows({"a": 3 * signal + noise, "b": second}, labels)

    return Split(part(rows), part(45), part(45))


def run(method=None, split=None, test=True, **options):
    regime = Regime(**({"epochs": 4, "learning_rate": 0.05, "seed": 0} | options))
    return train(method or Method(), split or toy_split(), regime, test=test)


def without_time(outcome):
    return outcome._replace(seconds=0.0)


def test_a_run_learns_and_a_seed_decides_everything():
    first, again, other = run(), run(), run(seed=1)
    assert first.test["accuracy"] > 0.8
    assert without_time(first) == without_time(again)
    assert without_time(first) != without_time(other)


def test_weight_decay_is_that_of_the_run():
    def size(weight_decay):
        seen = []

        @dataclass
        class Looked(Method):
            def on_epoch_end(self, epoch):
                seen.append(sum(w.detach().square().sum().item() for w in self.model.parameters()))

        run(Looked(), test=False, epochs=2, weight_decay=weight_decay)
        return seen[-1]

    assert size(WEIGHT_DECAY) == size(1e-4)
    assert size(1.0) < 0.9 * size(0.0)


def test_an_encoder_may_learn_at_another_speed_than_the_rest():
    """At speed 0 it stays as it began, but for weight decay."""
    split = toy_split()
    fitted = {
        speed: fit(Method(), split, Regime(1, 0.05, seed=0, speed={"a": speed}))
        for speed in (0.0, 0.5, 1.0)
    }
    began = build_model(split, 0)
    moved = {
        speed: (one.model.encoders["a"][0].weight - began.encoders["a"][0].weight).abs().max()
        for speed, one in fitted.items()
    }
    assert moved[0.0] < 1e-4
    assert moved[0.0] < moved[0.5] < moved[1.0]
    usual = fit(Method(), split, Regime(1, 0.05, seed=0))
    for one, other in zip(usual.model.parameters(), fitted[1.0].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_models_that_are_trained_apart_see_their_rows_alone():
    """Rows that are held out, or in neither part, could hold anything."""

    def fitted(split):
        @dataclass
        class Asks(Method):
            def setup(self, model, setting, generator):
                super().setup(model, setting, generator)
                self.logits = setting.fit_apart(torch.arange(40), torch.arange(60, 90))

        method = Asks()
        run(method, split, epochs=1)
        return method.logits

    split = toy_split()
    logits = fitted(split)
    assert set(logits) == {"a", "b"}
    assert logits["a"].shape == (30, 3)
    labels = split.training.labels
    assert (logits["a"].argmax(dim=1) == labels[60:]).float().mean() > 0.5
    changed = labels.clone()
    changed[40:] = 0
    inputs = {name: values.clone() for name, values in split.training.inputs.items()}
    for values in inputs.values():
        values[40:60] = 7
    again = fitted(split._replace(training=Rows(inputs, changed)))
    assert all(torch.equal(logits[name], again[name]) for name in logits)


def test_words_that_models_trained_apart_have_not_met_are_none():
    words = torch.arange(90)[:, None] + 1  # one of its own in each row
    labels = torch.arange(90) % 3
    part = Rows({"a": torch.randn(90, 6), "b": words}, labels)

    @dataclass
    class Asks(Method):
        def setup(self, model, setting, generator):
            super().setup(model, setting, generator)
            self.logits = setting.fit_apart(torch.arange(60), torch.arange(60, 90))["b"]

    method = Asks()
    run(method, Split(part, part, part), epochs=1)
    assert torch.equal(method.logits, method.logits[:1].expand(30, 3))  # as of no word at all


def test_test_rows_are_scored_only_on_request():
    split = toy_split()
    garbage = Rows({m: v * float("nan") for m, v in split.test.inputs.items()}, split.test.labels)
    outcome = run(split=split._replace(test=garbage), test=False)
    assert outcome.test is None
    assert outcome.validation == run(split=split).validation


def test_the_best_epoch_is_selected_and_restored():
    """A method that forgets everything at the end keeps what it knew before."""

    @dataclass
    class Forgetful(Method):
        def on_epoch_end(self, epoch):
            if epoch >= 2:
                torch.nn.init.zeros_(self.model.fusion.weight)
                torch.nn.init.zeros_(self.model.fusion.bias)

    outcome = run(Forgetful(), epochs=6)
    assert outcome.epoch < 2
    assert outcome.test["accuracy"] > 0.7


def test_epochs_of_a_warmup_are_not_selected():
    @dataclass
    class Late(Method):
        def trained(self, epoch):
            return epoch == 3

    assert run(Late()).epoch == 3


def test_rows_that_are_not_kept_are_zero():
    seen = []

    @dataclass
    class Half(Method):
        def epoch_rows(self, epoch):
            keep = torch.zeros(10, 2, dtype=torch.bool)
            keep[:, 0] = True
            return EpochRows(torch.arange(10), keep)

        def loss(self, features, labels):
            seen.append(features)
            return super().loss(features, labels)

    outcome = run(Half(), epochs=2)
    assert outcome.steps == 2
    assert all(bool((features["b"] == 0).all()) for features in seen)
    assert all(bool((features["a"] != 0).any()) for features in seen)


def test_no_batch_has_rows_of_two_groups_and_groups_come_in_order():
    group = torch.arange(200) % 3 // 2  # every third row is of group 1
    seen = []

    @dataclass
    class Grouped(Method):
        def epoch_rows(self, epoch):
            return EpochRows(torch.arange(200), group=group)

        def on_batch(self, rows):
            super().on_batch(rows)
            seen.append(rows)

    run(Grouped(), split=toy_split(rows=200), epochs=1)
    assert [sorted(set(group[rows].tolist())) for rows in seen] == [[0], [0], [0], [1], [1]]
    assert [len(rows) for rows in seen] == [64, 64, 6, 64, 2]
    assert sorted(torch.cat(seen).tolist()) == list(range(200))


def test_hooks_are_called_in_order():
    calls = []

    class Watched(Method):
        def __getattribute__(self, name):
            if name in hooks:
                calls.append(name)
            return super().__getattribute__(name)

    epoch = ["on_epoch_start", "epoch_rows", "loss", "after_backward", "after_step", "on_epoch_end"]
    hooks = ["setup", *epoch]
    run(Watched(), split=toy_split(rows=64), epochs=2)
    assert calls == ["setup", *epoch, *epoch]


def test_modules_of_a_method_are_trained_and_restored():
    @dataclass
    class Extra(Method):
        def setup(self, model, setting, generator):
            super().setup(model, setting, generator)
            self.layer = torch.nn.Linear(3, 3)
            self.before = self.layer.weight.detach().clone()

        def extra_modules(self):
            return (self.layer,)

        def predict(self, features):
            return self.layer(super().predict(features))

        def loss(self, features, labels):
            return torch.nn.functional.cross_entropy(self.predict(features), labels)

    method = Extra()
    run(method)
    assert not torch.equal(method.layer.weight, method.before)


def test_initial_weights_depend_on_the_seed_alone():
    split = toy_split()
    one, other = build_model(split, 3), build_model(split, 3)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert not torch.equal(build_model(split, 4).fusion.weight, one.fusion.weight)


def test_encoding_all_rows_is_in_eval_mode_and_leaves_the_mode():
    images = {"image": torch.randn(600, 3, 16, 16)}
    rows = Rows(images, torch.arange(600) % 2)
    model = build_model(Split(rows, rows, rows), 0).train()
    statistics = model.encoders["image"][1].running_mean.clone()
    features = encode(model, rows)["image"]
    assert model.training
    assert torch.equal(model.encoders["image"][1].running_mean, statistics)
    torch.testing.assert_close(features, model.eval().encode(images)["image"])


@pytest.mark.parametrize("shape", [(5,), (4, 40), (3, 32, 32)])
def test_encoders_by_shape(shape):
    features = build_encoder(shape)(torch.randn(2, *shape))
    assert features.shape == (2, WIDTH)
    assert bool((features >= 0).all())


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"got rows of shape \(\)"):
        build_encoder(())
