"""Same-class re-pairing."""

import torch

from benchmarks.compare.train import Regime, train
from benchmarks.methods.same_class import SameClass
from tests.benchmarks.compare.test_train import toy_split
from tests.benchmarks.methods.helpers import set_up, tiny_model


def test_same_class_re_pairing_permutes_within_classes_and_anew_each_epoch():
    method = set_up(SameClass(), tiny_model(3), num_rows=40)
    labels = method.setting.labels
    first, second = method.sources(0), method.sources(1)
    for source in (first, second):
        for column in source.unbind(dim=1):
            assert torch.equal(column.sort().values, torch.arange(40))
            assert torch.equal(labels[column], labels)
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_re_paired_rows_reach_the_encoders():
    seen = []

    class Watched(SameClass):
        def loss(self, features, labels):
            seen.append(labels)
            return super().loss(features, labels)

        def sources(self, epoch):
            self.order = super().sources(epoch)
            return torch.zeros_like(self.order)  # row 0 for all

    method = Watched()
    split = toy_split()
    outcome = train(method, split, Regime(epochs=2, learning_rate=0.05, seed=0), test=True)
    assert torch.equal(torch.cat(seen[:2]).sort().values, split.training.labels.sort().values)
    assert outcome.test["accuracy"] < 0.5  # every input was that of row 0
