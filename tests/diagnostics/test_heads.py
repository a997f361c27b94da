"""What a report says of the heads: skill here and on training rows, late fusion, learning speed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midas_aug import MidasAugError
from midas_aug.diagnostics import diagnose, late_fusion, learning_speed, report_from_logits
from midas_aug.diagnostics.bootstrap import bootstrap, interval
from midas_aug.diagnostics.heads import HeadRows, skill_statistics
from midas_aug.diagnostics.scores import HEAD_SKILL
from midas_aug.functional import skill_score
from tests.helpers import planted

NAMES = ("audio", "video")


def run(built: planted.Planted, level: str = "feature", **options):
    heads, model = built.unimodal, (built.model.encode, built.model.fuse)
    if level == "input":
        heads = lambda batch: built.unimodal(built.model.encode(batch))  # noqa: E731
        model = built.model
    options = {"training": built.training, "resamples": 100, "draws": 1} | options
    return diagnose(model, built.loader, NAMES, unimodal=heads, **options)


@torch.no_grad()
@pytest.mark.parametrize("removal", ["mean", "permute"])
@pytest.mark.parametrize("level", ["feature", "input"])
def test_skill_and_late_fusion_are_what_a_hand_finds(level, removal):
    built = planted.make_case("balanced", rows=203, batch=50)
    found = run(built, level, removal=removal).scores
    data = {key: torch.cat([batch[key] for batch in built.loader]) for key in built.loader[0]}
    heads = built.unimodal(built.model.encode(data))
    (training,) = built.training
    of_training = built.unimodal(built.model.encode(training))
    for m in NAMES:
        here = float(skill_score(heads[m], data["label"]))
        there = float(skill_score(of_training[m], training["label"]))
        assert found[f"head_skill.{m}"].value == pytest.approx(here, abs=1e-5)
        assert found[f"training_skill.{m}"].value == pytest.approx(there, abs=1e-5)
        assert found[f"memorised.{m}"].value == pytest.approx(there - here, abs=1e-5)
    fused = late_fusion(torch.stack(list(heads.values()))).argmax(dim=1) == data["label"]
    assert found["late_fusion"].value == pytest.approx(float(fused.float().mean()), abs=1e-6)
    for name in ("late_fusion", "fitted_fusion"):
        gain = found[name].value - found["accuracy"].value
        assert found[f"{name}_gain"].value == pytest.approx(gain, abs=1e-6)
    between = found["fitted_fusion"].value - found["late_fusion"].value
    assert found["fitting_gain"].value == pytest.approx(between, abs=1e-6)


def test_a_gain_over_the_model_is_paired_row_by_row():
    found = run(planted.make_case("copied")).scores
    gain = found["head_gain.audio"]  # the model and the head are wrong about the same rows
    assert gain.margin < 0.7 * found["head_accuracy.audio"].margin


def test_without_labels_of_training_rows_there_is_no_skill_of_them():
    built = planted.make_case("balanced", rows=60)
    (batch,) = built.training
    bare = [{m: batch[m] for m in NAMES}]
    for training in (bare, bare[0], None):
        found = run(built, training=training).scores
        assert "head_skill.audio" in found
        assert not any(key.startswith(("training_skill", "memorised")) for key in found)


def test_one_head_of_two_has_a_skill_but_no_late_fusion():
    labels = np.arange(40) % 4
    logits = np.eye(4)[labels] + 0.1
    saved = {"logits": logits, "labels": labels, "head_a": logits}
    found = report_from_logits(saved, modalities=("a", "b"), resamples=20).scores
    assert "head_skill.a" in found
    assert not any("fusion" in key for key in found)


def test_saved_training_rows_tell_what_is_memorised(tmp_path):
    generator = np.random.default_rng(0)
    labels, training = generator.integers(4, size=(2, 300))
    hint = np.eye(4)[labels] + generator.normal(size=(300, 4))
    saved = {
        "logits": hint,
        "labels": labels,
        "head_a": hint,
        "head_b": generator.normal(size=(300, 4)),
        "training_labels": training,
        "training_head_a": np.eye(4)[training] + generator.normal(size=(300, 4)),
        "training_head_b": 9.0 * np.eye(4)[training],
    }
    found = report_from_logits(saved, resamples=100).scores
    assert found["memorised.b"].low > 0.9
    assert found["memorised.a"].low < 0 < found["memorised.a"].high
    for left in (("training_labels",), ("training_head_a", "training_head_b")):
        rest = {key: value for key, value in saved.items() if key not in left}
        with pytest.raises(MidasAugError, match="together"):
            report_from_logits(rest, resamples=10)


# ---------------------------------------------------------------- rows that are kept


def filled(rows: int, kept: int, batch: int = 700, seed: int = 0) -> HeadRows:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(-1, 3, (rows,), generator=generator)
    logits = torch.nn.functional.one_hot(labels.clamp(min=0), 3).float()
    logits = logits + torch.randn(rows, 3, generator=generator)
    held = HeadRows(("a", "b"), seed=seed, kept=kept)
    for part in torch.arange(rows).split(batch):
        held.add([logits[part], 2 * logits[part]], labels[part])
    return held


@given(st.integers(1, 400), st.integers(1, 200))
def test_all_rows_with_a_label_are_kept_while_there_is_room(rows, batch):
    held = filled(rows, kept=10**6, batch=batch)
    assert held.place.tolist() == list(range(held.n_rows))
    assert torch.equal(held.logits[1], 2 * held.logits[0])


def test_of_many_rows_a_random_part_is_kept_in_bounded_memory():
    held = filled(40_000, kept=12_000)  # of 2 heads and 3 classes: 2000 rows
    assert len(held.labels) == held.logits.shape[1] == 2000
    assert held.n_rows > 25_000
    assert held.place.tolist() == sorted(set(held.place.tolist()))
    assert held.place.float().mean() == pytest.approx(held.n_rows / 2, rel=0.05)
    whole = filled(40_000, kept=10**7)
    assert torch.equal(held.labels, whole.labels[held.place])
    few, all_rows = (skill_statistics(rows, HEAD_SKILL) for rows in (held, whole))
    part = interval(*bootstrap(few, resamples=200, seed=0)["head_skill.a"])
    exact = bootstrap(all_rows, resamples=1, seed=0)["head_skill.a"][0]
    assert part.low < exact < part.high


def test_the_same_rows_are_kept_in_whatever_batches_they_came():
    assert torch.equal(
        filled(9000, kept=6000, batch=9000).place, filled(9000, kept=6000, batch=64).place
    )


def test_rows_of_one_class_have_no_skill():
    held = HeadRows(("a",))
    held.add([torch.randn(5, 3)], torch.ones(5, dtype=torch.int64))
    assert skill_statistics(held, HEAD_SKILL) == {}


# ---------------------------------------------------------------- how early


def log_of(**curves):
    epochs = len(next(iter(curves.values())))
    scores = {f"unimodal.{name}": curve for name, curve in curves.items()}
    return {"modalities": list(curves), "epoch": list(range(epochs)), "scores": scores}


def test_a_modality_is_learned_where_its_curve_first_is_half_as_high_as_ever():
    log = log_of(a=[0.1, 0.2, 0.6, 0.8, 0.3], b=[0.5, 0.5, 0.5, 0.5, 0.5], c=[None, 0.1, 0.2, 1, 1])
    assert learning_speed(log) == pytest.approx({"a": 1.5, "b": 0, "c": 2.375})


def test_a_report_says_how_early_each_modality_was_learned():
    built = planted.make_case("balanced", rows=60)
    found = run(built, log=log_of(audio=[0.1, 0.9], video=[0.1, 0.2])).scores
    assert found["learned_at.audio"].value == pytest.approx(0.4375)
    assert np.isnan(found["learned_at.audio"].low)
    with pytest.raises(MidasAugError, match=r"a log of the modalities \['audio', 'video'\]"):
        run(built, log=log_of(text=[0.1]))
    with pytest.raises(MidasAugError, match="expected a TrainingLog"):
        run(built, log=[1, 2])
