"""Linear probes against scikit-learn, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from midas_aug import MidasAugError
from midas_aug.diagnostics import diagnose, linear_probes
from tests.helpers import planted

NAMES = ("audio", "video")


def batches(built: planted.Planted, size: int = 100):
    (training,) = built.training
    return planted.split(training, size)


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_a_probe_is_a_logistic_regression_of_standardised_features(decay):
    built = planted.make_case("balanced")
    loader = batches(built)
    loader[0]["label"][:7] = -1
    probes = linear_probes(built.model.encode, loader, NAMES, weight_decay=decay)
    data = {key: torch.cat([batch[key] for batch in loader]) for key in loader[0]}
    counted = data["label"] >= 0
    found = probes(built.model.encode(data))
    for m in NAMES:
        rows = data[m][counted]
        scaled = (data[m] - rows.mean(dim=0)) / rows.std(dim=0, correction=0)
        exact = LogisticRegression(C=1 / (decay * int(counted.sum())), max_iter=5000, tol=1e-8)
        exact.fit(scaled[counted].numpy(), data["label"][counted].numpy())
        wanted = torch.from_numpy(exact.predict_proba(scaled.numpy())).float()
        assert torch.allclose(found[m].softmax(dim=1), wanted, atol=5e-3)


def test_with_probes_a_model_without_heads_gets_advice():
    built = planted.make_case("dominated")
    options = {"training": built.training, "resamples": 50, "draws": 1}
    model = (built.model.encode, built.model.fuse)
    bare = diagnose(model, built.loader, NAMES, **options)
    assert [one.action for one in bare.advice] == ["ask_heads"]
    assert "linear_probes" in bare.advice[0].text
    probes = linear_probes(built.model.encode, built.training, NAMES)
    report = diagnose(model, built.loader, NAMES, unimodal=probes, **options)
    assert [one.action for one in report.advice] == ["paper"]


def test_the_encoder_is_asked_in_eval_mode_and_left_as_it_was():
    class Encoder(nn.Module):
        def forward(self, batch):
            assert not self.training
            return batch

    encoder = Encoder().train()
    linear_probes(encoder, planted.make_case("balanced").training, NAMES)
    assert encoder.training


def test_a_feature_that_never_changes_is_no_trouble():
    labels = torch.arange(40) % 4
    batch = {"a": torch.ones(40, 3), "b": torch.eye(4)[labels], "label": labels}
    logits = linear_probes(lambda batch: batch, [batch], ("a", "b"), num_classes=6)(batch)
    assert logits["a"].isfinite().all()
    assert logits["b"].shape == (40, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": []}, "training rows with a label"),
        ({"modalities": {"a": "audio", "v": "video"}}, "got a mapping"),
        ({"num_classes": 3}, "num_classes as an integer of at least 5"),
        ({"weight_decay": -1}, "weight_decay of at least 0"),
        ({"weight_decay": math.nan}, "weight_decay of at least 0"),
        ({"encode": lambda b: {m: b[m][:, None] for m in NAMES}}, r"shape \(600, D\).*pool it"),
        ({"encode": lambda b: {m: b[m] * math.nan for m in NAMES}}, "finite feature 'audio'"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    built = planted.make_case("balanced")
    given = {"encode": built.model.encode, "training": built.training, "modalities": NAMES}
    with pytest.raises(MidasAugError, match=words):
        linear_probes(**(given | change))
