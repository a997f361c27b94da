"""Misaligned accuracy by pair of classes, against a slow count."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midas_aug.diagnostics import diagnose
from midas_aug.diagnostics.class_pairs import ClassPairs


@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 3))
def test_pairs_are_counted_row_by_row(seed, classes, modalities):
    generator = torch.Generator().manual_seed(seed)
    parts, rows, right = [], Counter(), Counter()
    for _ in range(2):
        labels = torch.randint(-1, classes, (150, modalities), generator=generator)
        hits = torch.randint(2, (150,), generator=generator).float()
        counted = (torch.rand(150, generator=generator) < 0.8) & (labels >= 0).all(dim=1)
        part = ClassPairs(classes)
        part.add(hits, labels, counted)
        parts.append(part)
        for row in range(150):
            if counted[row]:
                pair = (int(labels[row].min()), int(labels[row].max()))
                rows[pair] += 1
                right[pair] += int(hits[row])
    found = parts[0].joined(parts[1:]).hardest()
    enough = {pair: right[pair] / count for pair, count in rows.items() if count >= 20}
    assert {pair.classes for pair in found} <= enough.keys()
    assert len(found) == min(len(enough), 10)
    for classes_of, accuracy, n_rows in found:
        assert accuracy == pytest.approx(enough[classes_of])
        assert n_rows == rows[classes_of]
    assert [pair.accuracy for pair in found] == sorted(pair.accuracy for pair in found)


def test_many_classes_are_not_counted():
    pairs = ClassPairs(5000)
    pairs.add(torch.ones(3), torch.tensor([[0, 1]] * 3), torch.ones(3, dtype=torch.bool))
    assert pairs.hardest() == ()


def test_a_report_names_the_pair_that_a_model_confuses():
    labels = torch.arange(200) % 4
    inputs = torch.eye(4)[labels]
    batch = {"a": inputs, "b": inputs, "label": labels}

    def model(batch):
        logits = batch["a"] + batch["b"]
        both = (logits[:, 1] > 0) & (logits[:, 3] > 0)  # of all mixes, it fails at these
        return torch.where(both[:, None], torch.tensor([9.0, 0, 9, 0]), logits)

    report = diagnose(model, [batch], ("a", "b"), resamples=20)
    worst, *others = report.class_pairs
    assert worst.classes == (1, 3)
    assert worst.accuracy == 0
    assert {pair.accuracy for pair in others} == {1.0}
    assert sum(pair.n_rows for pair in report.class_pairs) == 2000
    assert report.to_dict()["class_pairs"][0]["classes"] == [1, 3]
    assert "1 and 3" in report.to_html()
