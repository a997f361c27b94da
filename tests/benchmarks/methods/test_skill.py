"""Labels by skill as a method of the comparison."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.skill import Skill
from midas_aug.functional import plan_swaps, shares_by_source, skill_score
from tests.benchmarks.methods.helpers import encoded, set_up, tiny_model


@pytest.mark.parametrize("modalities", [2, 3])
def test_labels_by_skill_are_a_plain_swap_until_the_first_validation(modalities):
    model = tiny_model(modalities)
    method = set_up(Skill(misaligned_weight=0.5), model)
    features, labels = encoded(model)
    heads = model.classify(features)
    first = method.loss(features, labels).item()
    assert method.trained(0)

    plan = plan_swaps(labels, modalities, generator=torch.Generator().manual_seed(0))
    shares = shares_by_source(torch.ones(12, modalities), plan.source)
    mixed = {name: features[name][plan.source[:, m]] for m, name in enumerate(features)}
    log_p = model.fuse(mixed).log_softmax(dim=1)
    soft = -(shares * log_p.gather(1, labels[plan.source])).sum(dim=1).mean()
    aligned = F.cross_entropy(model.fuse(features), labels)
    unimodal = sum(F.cross_entropy(z, labels) for z in heads.values())
    assert first == pytest.approx((aligned + 0.5 * soft + unimodal).item(), rel=1e-5)

    with torch.no_grad():
        method.on_validation(features, labels)
    counts = torch.bincount(labels, minlength=3)
    expected = [float(skill_score(z, labels, counts)) for z in heads.values()]
    assert method.confidence.skill.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_skill_that_is_kept_apart_is_that_of_every_third_validation_row():
    model = tiny_model(2)
    method = set_up(Skill(apart=True), model)
    features, labels = encoded(model)
    with torch.no_grad():
        method.on_validation(features, labels)
        heads = model.classify(features)
        counts = torch.bincount(labels, minlength=3)
        expected = [float(skill_score(z[::3], labels[::3], counts)) for z in heads.values()]
    assert method.confidence.skill.tolist() == pytest.approx(expected, abs=1e-6)
