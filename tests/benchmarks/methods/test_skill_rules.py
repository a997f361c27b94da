"""The other rules to share a label by skill, against loops over rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.skill import Skill
from benchmarks.methods.skill_rules import (
    FOLDS,
    SkillAndHardSamples,
    SkillCrossFitted,
    SkillOfAnyPartner,
    SkillOfMixedRows,
    SkillSetsWeight,
    SkillTimesConfidence,
)
from midas_aug.functional import hard_sample_weights, sample_partners, skill_score
from tests.benchmarks.methods.helpers import encoded, generator, set_up, tiny_model, tiny_rows


def knowing_model(modalities=2):
    """A model whose first head knows the labels of most rows; the others do not."""
    model = tiny_model(modalities)
    features, labels = encoded(model)
    targets = F.one_hot(labels, 3) * 4.0 - 1
    with torch.no_grad():
        model.heads["m0"].weight.copy_(torch.linalg.lstsq(features["m0"], targets).solution.T)
    return model


def validated(method, model):
    """A method that has measured skill on some rows, and the rows."""
    features, labels = encoded(model)
    with torch.no_grad():
        method.on_validation(features, labels)
    return features, labels


def augmented(method, features, labels):
    """What ``method.loss`` trains on next."""
    return method.augment(
        features,
        labels,
        unimodal_logits=method.model.classify(features),
        generator=generator(5),
    )


@pytest.mark.parametrize("modalities", [2, 3])
def test_skill_times_confidence_shares_by_both(modalities):
    model = knowing_model(modalities)
    method = set_up(SkillTimesConfidence(), model)
    features, labels = validated(method, model)
    out = augmented(method, features, labels)
    heads = [z.detach().softmax(dim=1) for z in model.classify(features).values()]
    known = (method.confidence.skill + 0.02).tolist()
    for row in range(12, len(out.source)):
        rows = out.source[row].tolist()
        says = [known[m] * float(heads[m][i, labels[i]]) for m, i in enumerate(rows)]
        # The modalities that come from one row have one vote, their mean, and divide it equally.
        groups = {i: [m for m, j in enumerate(rows) if j == i] for i in rows}
        votes = {i: sum(says[m] for m in group) / len(group) for i, group in groups.items()}
        expected = [votes[i] / sum(votes.values()) / len(groups[i]) for i in rows]
        assert out.shares[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_hard_samples_weigh_as_in_the_paper():
    model = tiny_model(2)
    method = set_up(SkillAndHardSamples(misaligned_weight=0.5), model)
    features, labels = validated(method, model)
    out = augmented(method, features, labels)
    hard = out.hard_weights
    expected = hard_sample_weights(list(features.values()), out.plan)
    assert torch.allclose(hard, expected, atol=1e-5)
    assert hard.std() > 0.01

    log_p = model.fuse(out).log_softmax(dim=1)
    soft = -(out.shares[12:] * log_p[12:].gather(1, labels[out.source[12:]])).sum(dim=1)
    aligned = F.cross_entropy(model.fuse(features), labels)
    unimodal = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    method.generator = generator(5)
    loss = method.loss(features, labels)
    assert loss.item() == pytest.approx(
        (aligned + 0.5 * (hard * soft).mean() + unimodal).item(), rel=1e-5
    )


def test_partners_of_any_class_are_of_the_same_one_too():
    model = tiny_model(2)
    method = set_up(SkillOfAnyPartner(), model)
    features, labels = validated(method, model)
    source = augmented(method, features, labels).source[12:]
    assert sorted(source[:, 0].tolist()) == sorted([*range(12)] * 2)  # permutations
    same = labels[source[:, 0]] == labels[source[:, 1]]
    assert same.any()
    assert not same.all()
    usual = augmented(set_up(Skill(), model), features, labels).source[12:]
    assert not (labels[usual[:, 0]] == labels[usual[:, 1]]).any()


@pytest.mark.parametrize("modalities", [2, 3])
def test_skill_of_mixed_rows_is_that_of_the_fusion_when_all_others_contradict(modalities):
    model = tiny_model(modalities)
    method = set_up(SkillOfMixedRows(), model, seed=9)
    features, labels = validated(method, model)
    partner, valid = sample_partners(labels, generator=generator(9))
    assert valid.all()
    assert (labels[partner] != labels).all()
    counts = torch.bincount(labels, minlength=3)
    for place, name in enumerate(features):
        logits = []
        for row in range(12):
            of = {m: row if m == name else int(partner[row]) for m in features}
            logits.append(model.fuse({m: features[m][[i]] for m, i in of.items()})[0])
        with torch.no_grad():
            expected = skill_score(torch.stack(logits), labels, counts)
        assert float(method.confidence.skill[place]) == pytest.approx(float(expected), abs=1e-5)


def test_cross_fitting_measures_rows_that_models_have_not_seen_and_nothing_later():
    model = tiny_model(2)
    _, labels = tiny_rows(model, 12)
    folds = []

    def fit_apart(training, held_out):
        folds.append((set(training.tolist()), set(held_out.tolist())))
        knows = 3 * F.one_hot(labels[held_out], 3).float()
        return {"m0": knows, "m1": torch.zeros(len(held_out), 3)}

    method = SkillCrossFitted()
    setting = set_up(Skill(), model).setting._replace(fit_apart=fit_apart)
    method.setup(model, setting, generator())
    assert len(folds) == FOLDS
    for training, held_out in folds:
        assert training | held_out == set(range(12))
        assert not training & held_out
    assert sorted(row for _, held_out in folds for row in held_out) == list(range(12))
    measured = method.confidence.skill.tolist()
    assert measured[0] > 0.9
    assert measured[1] == pytest.approx(0, abs=1e-6)
    validated(method, model)
    assert method.confidence.skill.tolist() == measured


def test_cross_fitting_without_a_loop_that_can_says_so():
    with pytest.raises(ValueError, match="train models apart"):
        set_up(SkillCrossFitted(), tiny_model(2))


def test_the_weight_of_misaligned_rows_is_the_smaller_skill_over_the_larger():
    model = knowing_model()
    method = set_up(SkillSetsWeight(misaligned_weight=0.5), model)
    assert method.augment.misaligned_weight == 0.5  # nothing is known yet
    features, labels = validated(method, model)
    low, high = sorted((method.confidence.skill + 0.02).tolist())
    assert high > low
    assert method.augment.misaligned_weight == pytest.approx(0.5 * low / high, rel=1e-5)

    again = set_up(SkillSetsWeight(misaligned_weight=0.5), model)
    again.load_state_dict(method.state_dict())
    assert again.loss(features, labels).item() == method.loss(features, labels).item()
