"""The scores of the comparison, by the worked examples and by slow loops."""

import numpy as np
import pytest
import torch

from benchmarks.common import metrics
from tests.helpers import reference


def test_macro_f1_is_of_the_whole_set():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 0, 2, 2])]
    assert metrics.macro_f1(logits, labels) == pytest.approx(2 / 3)


class Model:
    """Adds up its features, which are logits already; modality a speaks louder."""

    def __call__(self, features):
        return 2 * features["a"] + features["b"]


@pytest.fixture
def rows():
    labels = torch.arange(60) % 4
    torch.manual_seed(1)
    features = {m: 2 * torch.eye(4)[labels] + torch.randn(60, 4) for m in "ab"}
    return metrics.Scored(features, labels)


def test_all_scores_are_what_loops_count(rows):
    features, labels = rows
    training = {m: f[:30] + 1 for m, f in features.items()}
    found = metrics.evaluate(Model(), rows, training)

    hits, first, second = [], [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(metrics.DRAWS):
        partner, _ = metrics.sample_partners(labels, generator=generator)
        for swapped in "ab":
            source_a = partner if swapped == "a" else torch.arange(60)
            source_b = partner if swapped == "b" else torch.arange(60)
            for row in range(60):
                one, other = int(source_a[row]), int(source_b[row])
                logits = (2 * features["a"][one] + features["b"][other]).numpy()
                sources = np.array([[int(labels[one]), int(labels[other])]])
                assert sources[0, 0] != sources[0, 1]
                hits.append(reference.misaligned_accuracy(logits[None], sources, np.array([True])))
                probability = np.exp(logits) / np.exp(logits).sum()
                first.append(probability[sources[0, 0]])
                second.append(probability[sources[0, 1]])
    assert found["misaligned_accuracy"] == pytest.approx(np.mean(hits))
    assert found["confidence.a"] == pytest.approx(np.mean(first), abs=1e-5)
    assert found["confidence.b"] == pytest.approx(np.mean(second), abs=1e-5)

    absent = training["a"].mean(dim=0)
    right = [
        int((2 * absent + features["b"][row]).argmax()) == int(labels[row]) for row in range(60)
    ]
    assert found["without.a"] == pytest.approx(np.mean(right))
    assert found["smv.a"] + found["smv.b"] == pytest.approx(2 * found["accuracy"])
    nothing = 2 * training["a"].mean(dim=0) + training["b"].mean(dim=0)
    constant = float((labels == nothing.argmax()).float().mean())
    gap = found["accuracy"] - constant
    assert found["shapley.a"] + found["shapley.b"] == pytest.approx(gap, abs=1e-6)
    assert found["shapley.a"] > found["shapley.b"]


def test_one_modality_has_no_misaligned_scores(rows):
    only = metrics.Scored({"a": rows.features["a"]}, rows.labels)
    found = metrics.evaluate(lambda features: features["a"], only, only.features)
    assert set(found) == {"accuracy", "macro_f1", "nll"}


def test_one_class_gives_numbers():
    rows = metrics.Scored({m: torch.rand(6, 3) for m in "ab"}, torch.zeros(6, dtype=torch.int64))
    found = metrics.evaluate(Model(), rows, rows.features)
    assert found["misaligned_accuracy"] == 0
    assert all(np.isfinite(value) for value in found.values())
