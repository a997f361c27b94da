"""Kinds of labels: the loss and the score of each, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.common.kinds import CLASSES, MAIN_SCORES, NUMBER, TAGS

seeds = st.integers(0, 2**16)


@given(seeds, st.integers(1, 12), st.integers(2, 5))
def test_classes_are_told_by_the_highest_output(seed, num_rows, num_classes):
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(num_rows, num_classes)))
    labels = torch.from_numpy(rng.integers(num_classes, size=num_rows))
    right = sum(int(row.argmax()) == int(label) for row, label in zip(outputs, labels, strict=True))
    scores = CLASSES.scores(outputs, labels)
    assert scores["accuracy"] == pytest.approx(right / num_rows)
    assert scores["nll"] == pytest.approx(float(F.cross_entropy(outputs, labels)))
    assert list(scores) == ["accuracy", "nll", "macro_f1"]


def average_precision(scores, truth):
    """The mean over the rows with the tag of the precision down to their rank."""
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    found, precisions = 0, []
    for rank, row in enumerate(order, start=1):
        if truth[row]:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / len(precisions)


@given(seeds, st.integers(1, 15), st.integers(2, 5))
def test_tags_are_told_by_the_mean_average_precision_of_those_that_occur(seed, num_rows, num_tags):
    rng = np.random.default_rng(seed)
    outputs = rng.permutation(num_rows * num_tags).reshape(num_rows, num_tags) / 10 - 2
    labels = (rng.random((num_rows, num_tags)) < 0.4).astype(float)
    labels[0, :2] = 1  # torchmetrics wants two tags
    expected = [
        average_precision(outputs[:, tag], labels[:, tag])
        for tag in range(num_tags)
        if labels[:, tag].any()
    ]
    scores = TAGS.scores(torch.from_numpy(outputs).float(), torch.from_numpy(labels).float())
    assert scores["mean_average_precision"] == pytest.approx(np.mean(expected), abs=1e-5)
    p = 1 / (1 + np.exp(-outputs))
    loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert scores["nll"] == pytest.approx(loss, rel=1e-4)


@given(seeds, st.integers(2, 15))
def test_a_number_is_told_by_the_share_of_its_variance(seed, num_rows):
    rng = np.random.default_rng(seed)
    outputs, labels = rng.normal(size=(num_rows, 1)), rng.normal(size=num_rows)
    missed = sum((outputs[row, 0] - labels[row]) ** 2 for row in range(num_rows))
    spread = sum((labels[row] - labels.mean()) ** 2 for row in range(num_rows))
    scores = NUMBER.scores(torch.from_numpy(outputs), torch.from_numpy(labels))
    assert scores == pytest.approx({"r2": 1 - missed / spread, "nll": missed / num_rows / 2})


def test_a_number_of_a_diverged_run_is_the_worst():
    outputs = torch.tensor([[math.nan], [1.0]])
    assert NUMBER.score(outputs, torch.tensor([0.0, 1.0])) == -math.inf


def test_outputs_are_as_many_as_the_labels_say():
    assert CLASSES.num_outputs(torch.tensor([0, 4, 2])) == 5
    assert TAGS.num_outputs(torch.zeros(3, 7)) == 7
    assert NUMBER.num_outputs(torch.zeros(3)) == 1
    assert len(set(MAIN_SCORES)) == 3
