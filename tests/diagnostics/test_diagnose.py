"""`diagnose` and its report: right numbers on both levels, any M, any batch, and the bootstrap."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.confidence import HeadConfidence, UniformConfidence
from midas_aug.diagnostics import ModalityReport, accuracy, bootstrap, diagnose
from midas_aug.diagnostics.reading import progress_bar
from midas_aug.targets import Distribution
from tests.helpers import planted
from tests.helpers import strategies as own

OVERALL = {"accuracy", "majority", "ece", "misaligned_accuracy", "misaligned_accuracy_all"}
FUSED = {"late_fusion", "late_fusion_gain", "fitted_fusion", "fitted_fusion_gain", "fitting_gain"}
EACH = (
    "alone",
    "alone_signal",
    "followed",
    "confidence",
    "cost",
    "credit",
    "discrepancy",
    "head_accuracy",
    "head_ece",
)
EACH += ("fusion_weight", "head_gain", "head_skill", "memorised", "training_skill")
EACH += ("headroom", "permutation_importance", "shapley", "shapley_share", "signal", "smv")
EACH += ("smv_share", "without")


def run(built: planted.Planted, level: str = "feature", **options) -> ModalityReport:
    names = tuple(built.model.scales)
    options = {"training": built.training, "resamples": 200, "draws": 2} | options
    if level == "feature":
        model = (built.model.encode, built.model.fuse)
        return diagnose(model, built.loader, names, unimodal=built.unimodal, **options)
    heads = lambda batch: built.unimodal(built.model.encode(batch))  # noqa: E731
    return diagnose(built.model, built.loader, names, unimodal=heads, **options)


def joined(loader) -> dict[str, torch.Tensor]:
    return {key: torch.cat([batch[key] for batch in loader]) for key in loader[0]}


@pytest.fixture(scope="module")
def built() -> planted.Planted:
    return planted.make_case("balanced", rows=203, batch=50)


@torch.no_grad()
@pytest.mark.parametrize("removal", ["mean", "zero"])
@pytest.mark.parametrize("level", ["feature", "input"])
def test_scores_without_draws_are_what_a_hand_finds(built, level, removal):
    found = run(built, level, removal=removal).scores
    data, training = joined(built.loader), built.training[0]
    features = built.model.encode(data)
    away = {
        m: training[m].mean(dim=0) if removal == "mean" else torch.zeros(planted.WIDTH)
        for m in features
    }
    labels = data["label"]
    logits = {
        kept: built.model.fuse(
            {m: f if m in kept else away[m].expand_as(f) for m, f in features.items()}
        )
        for kept in [(), ("audio",), ("video",), ("audio", "video")]
    }
    acc = {kept: accuracy(value, labels).item() for kept, value in logits.items()}
    both = ("audio", "video")
    expected = {
        "accuracy": acc[both],
        "majority": np.bincount(labels).max() / len(labels),
        "without.audio": acc["video",],
        "cost.audio": acc[both] - acc["video",],
        "alone.audio": acc["audio",],
        "shapley.audio": (acc["audio",] - acc[()] + acc[both] - acc["video",]) / 2,
        "smv.audio": acc[both] + (acc["audio",] - acc["video",]) / 2,
    }
    for m, head in built.unimodal(features).items():
        expected[f"head_accuracy.{m}"] = accuracy(head, labels).item()
        expected[f"headroom.{m}"] = expected[f"head_accuracy.{m}"] - acc[m,]
        expected[f"alone_signal.{m}"] = acc[m,] - expected["majority"]
        expected[f"signal.{m}"] = expected[f"head_accuracy.{m}"] - expected["majority"]
    sums = [logits[m,].softmax(dim=1)[range(len(labels)), labels].sum() for m in both]
    expected["discrepancy.audio"] = (sums[0] / sums[1]).item()
    phi = [(acc[m,] - acc[()] + acc[both] - acc[o,]) / 2 for m, o in (both, both[::-1])]
    expected["shapley_share.audio"] = phi[0] / sum(phi)
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, abs=1e-5), key


@torch.no_grad()
@pytest.mark.parametrize("modalities", [2, 3])
def test_misaligned_scores_agree_with_every_possible_pair(modalities):
    case = planted.make_case("dominated", rows=60, modalities=modalities, batch=60)
    found = run(case, draws=40).scores
    data = joined(case.loader)
    labels, names = data["label"], tuple(case.model.scales)
    anchor, donor = (
        index.flatten() for index in torch.meshgrid(*[torch.arange(60)] * 2, indexing="ij")
    )
    different = labels[anchor] != labels[donor]
    hits, confidence, credit, followed = [], [], {}, {}
    for name in names:
        mixed = {m: data[m][donor if m == name else anchor] for m in names}
        probability = case.model(mixed).softmax(dim=1)
        top = probability.topk(2, dim=1).indices.sort(dim=1).values
        pair = torch.stack([labels[anchor], labels[donor]], dim=1).sort(dim=1).values
        hits.append((top == pair).all(dim=1))
        owners = [labels[donor if m == name else anchor] for m in names]
        rows = torch.arange(len(top))
        to_donor, to_anchor = probability[rows, labels[donor]], probability[rows, labels[anchor]]
        followed[name] = (to_donor > to_anchor)[different].float().mean().item()
        credit[name] = (to_donor / (to_donor + to_anchor))[different].mean().item()
        confidence.append(
            [probability[range(len(top)), owner][different].mean() for owner in owners]
        )
    right = torch.stack(hits).float()
    assert found["misaligned_accuracy"].value == pytest.approx(
        right[:, different].mean().item(), abs=0.03
    )
    # A permutation meets the own label as often as a random pair does.
    assert found["misaligned_accuracy_all"].value == pytest.approx(
        (right * different).mean().item(), abs=0.03
    )
    means = torch.tensor(confidence).mean(dim=0)
    for number, name in enumerate(names):
        assert found[f"confidence.{name}"].value == pytest.approx(means[number].item(), abs=0.03)
        # Of two modalities both disagree, whichever was swapped; of three only the swapped one.
        assert found[f"credit.{name}"].value == pytest.approx(credit[name], abs=0.03)
        assert found[f"followed.{name}"].value == pytest.approx(followed[name], abs=0.03)


def test_input_and_feature_level_agree_where_nothing_depends_on_the_batch(built):
    feature, inputs = run(built), run(built, "input")
    assert feature.settings["level"] == "feature"
    assert inputs.settings["level"] == "input"
    drawn = {"misaligned_accuracy", "misaligned_accuracy_all", "share_entropy", "share_collapsed"}
    for key, score in feature.scores.items():
        if key in drawn or key.startswith(("confidence", "credit", "followed", "permut")):
            assert inputs.scores[key].value == pytest.approx(score.value, abs=0.1), key
        else:
            assert inputs.scores[key] == pytest.approx(score, abs=1e-6), key


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_every_score_is_there_for_any_number_of_modalities(level, modalities):
    report = run(planted.make_case("balanced", rows=40, modalities=modalities), level)
    expected = OVERALL | FUSED | {"share_entropy", "share_collapsed"}
    expected |= {f"{key}.{m}" for key in EACH for m in report.modalities}
    shared = {key for key in report.scores if key.startswith("shared_errors.")}
    assert set(report.scores) - shared == expected
    assert len(shared) == modalities * (modalities - 1) / 2
    total = sum(report.scores[f"shapley.{m}"].value for m in report.modalities)
    smv = sum(report.scores[f"smv.{m}"].value for m in report.modalities)
    assert smv == pytest.approx(modalities * report.scores["accuracy"].value, abs=1e-5)
    assert 0 < total <= 1
    for key, (value, low, high) in report.scores.items():
        assert low <= high, key
        assert np.isfinite(value), key


def test_many_modalities_leave_the_shapley_values_out():
    names = tuple("abcdefg")
    labels = torch.arange(20) % 4
    batch = {name: F.one_hot(labels, 4).float() for name in names} | {"label": labels}
    report = diagnose(lambda b: sum(b[m] for m in names), [batch], names, resamples=10, draws=1)
    assert "cost.g" in report.scores
    assert "alone.g" in report.scores
    assert not any(key.startswith(("shapley", "smv")) for key in report.scores)


def test_the_same_call_gives_the_same_report_and_a_seed_changes_the_draws(built):
    first, second, other = run(built), run(built), run(built, seed=1)
    assert first.to_dict() == second.to_dict()
    assert first.scores["accuracy"].value == other.scores["accuracy"].value
    assert first.scores["confidence.audio"] != other.scores["confidence.audio"]


def test_the_global_generators_are_left_alone(built):
    before = torch.get_rng_state()
    run(built, removal="permute")
    assert torch.equal(before, torch.get_rng_state())


def test_removal_by_permutation_is_averaged_over_draws_and_says_so(built):
    report = run(built, removal="permute", draws=20)
    assert report.settings["removal"] == "other rows' values"
    for m in report.modalities:
        kept = report.scores[f"permutation_importance.{m}"].value
        found = report.scores[f"without.{m}"].value
        assert found == pytest.approx(kept * report.scores["accuracy"].value, abs=0.015)


def test_means_come_from_the_training_rows_or_by_name_from_the_diagnosed_ones(built):
    shifted = [{**batch, "audio": batch["audio"] + 9} for batch in built.training]
    usual, moved, own_rows = run(built), run(built, training=shifted), run(built, training=None)
    features = built.model.encode(built.training[0])
    mapped = run(built, training=features)
    assert usual.settings["removal"] == "mean of the training rows"
    assert own_rows.settings["removal"] == "mean of the diagnosed rows"
    assert usual.scores["without.audio"] != moved.scores["without.audio"]
    assert usual.scores["without.video"] == moved.scores["without.video"]
    of_labels = ("training_skill", "memorised")  # a mapping of features has none
    unlabelled = {k: score for k, score in usual.scores.items() if not k.startswith(of_labels)}
    assert unlabelled == mapped.scores
    twice = run(
        built,
        training=[
            {k: v[:200] for k, v in built.training[0].items()},
            {k: v[200:] for k, v in built.training[0].items()},
        ],
    )
    for key, score in usual.scores.items():
        assert twice.scores[key] == pytest.approx(score, abs=1e-5), key


class Batch(NamedTuple):
    audio: torch.Tensor
    video: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize("kind", ["tuple", "named", "nested", "callable label"])
def test_batches_of_any_structure_give_the_same_report(built, kind):
    usual = run(built, "input")
    options = {"training": None, "resamples": 200, "draws": 2}
    usual = diagnose(built.model, built.loader, ("audio", "video"), **options)

    def convert(batch):
        if kind == "tuple":
            return batch["audio"], batch["video"], batch["label"]
        if kind == "named":
            return Batch(**batch)
        if kind == "nested":
            halves = batch["audio"].split(4, dim=1)
            return {
                "audio": {"low": halves[0], "rest": (halves[1],)},
                "video": batch["video"],
                "label": batch["label"],
                "id": [str(n) for n in range(len(batch["label"]))],
            }
        return {**batch, "meta": {"label": batch["label"]}}

    def model(batch):
        if kind == "tuple":
            return built.model({"audio": batch[0], "video": batch[1]})
        if kind == "named":
            assert isinstance(batch, Batch)
            return built.model(batch._asdict())
        if kind == "nested":
            assert batch["id"][0] == "0"
            audio = torch.cat([batch["audio"]["low"], *batch["audio"]["rest"]], dim=1)
            return built.model({"audio": audio, "video": batch["video"]})
        return built.model(batch)

    keys = (0, 1) if kind == "tuple" else ("audio", "video")
    label = {"tuple": 2, "callable label": lambda batch: batch["meta"]["label"]}.get(kind, "label")
    found = diagnose(model, [convert(b) for b in built.loader], keys, label=label, **options)
    assert [s.value for s in found.scores.values()] == pytest.approx(
        [s.value for s in usual.scores.values()]
    )
    assert found.modalities == tuple(str(key) for key in keys)


@pytest.mark.parametrize("removal", ["mean", "zero", "permute"])
@pytest.mark.parametrize("level", ["feature", "input"])
def test_keys_of_one_modality_move_together(built, level, removal):
    """Audio in two items, and a third, its length, that tells where they are torn apart."""

    def convert(batch):
        low, high = batch["audio"].split(4, dim=1)
        rest = {"video": batch["video"], "label": batch["label"], "id": batch["label"].clone()}
        return {"low": low, "high": high, "sum": low.sum(1) + high.sum(1), **rest}

    def whole(batch):
        audio = torch.cat([batch["low"], batch["high"]], dim=1)
        assert torch.allclose(batch["sum"], audio.sum(dim=1), atol=1e-4)
        return {"audio": audio, "video": batch["video"]}

    groups = {"audio": ["low", "high", "sum"], "video": "video"}
    loader = [convert(batch) for batch in built.loader]
    options = {"removal": removal, "resamples": 20, "draws": 2}
    if level == "feature":
        model, usual = (lambda b: dict(b), lambda f: built.model(whole(f))), (dict, built.model)
    else:
        model, usual = lambda b: built.model(whole(b)), built.model
    heads = lambda b: built.unimodal(whole(b))  # noqa: E731
    found = diagnose(model, loader, groups, unimodal=heads, **options)
    plain = diagnose(usual, built.loader, ("audio", "video"), unimodal=built.unimodal, **options)
    assert found.modalities == ("audio", "video")
    assert found.scores.keys() == plain.scores.keys()
    for key, score in found.scores.items():
        assert score == pytest.approx(plain.scores[key], abs=1e-5), key
    training = [convert(batch) for batch in built.training]
    found = diagnose(model, loader, groups, training=training, **options).scores["cost.audio"]
    plain = run(built, level, **options).scores["cost.audio"]
    assert found.value == pytest.approx(plain.value, abs=1e-5)


def test_the_fusion_gets_what_the_encoder_gave_and_all_that_belongs_to_a_row(built):
    class Features(NamedTuple):
        audio: torch.Tensor
        video: torch.Tensor
        number: torch.Tensor

    def encode(batch):
        return Features(batch["audio"], batch["video"], batch["label"])

    def fuse(features):
        assert isinstance(features, Features)
        return built.model(features._asdict()) + 0.01 * features.number[:, None]

    options = {"resamples": 5, "draws": 1}
    found = diagnose((encode, fuse), built.loader, ("audio", "video"), **options)
    again = diagnose(fuse, built.loader, ("audio", "video"), encode=encode, **options)
    usual = diagnose((dict, built.model), built.loader, ("audio", "video"), **options)
    assert found.scores == again.scores
    assert found.scores["cost.audio"] == usual.scores["cost.audio"]
    assert again.settings["level"] == "feature"
    with pytest.raises(MidasAugError, match="pair \\(encode, fuse\\) of callables, got encode=3"):
        diagnose(fuse, built.loader, ("audio", "video"), encode=3)


def test_batches_are_moved_to_the_device_on_request(built):
    arrays = [{key: value.numpy() for key, value in batch.items()} for batch in built.loader]
    for level in ("feature", "input"):
        moved = run(built._replace(loader=arrays), level, device="cpu")
        assert moved.scores == run(built, level).scores


def test_token_ids_can_be_permuted_but_have_no_mean():
    labels = torch.arange(40) % 4
    loader = [{"ids": labels[:, None], "image": F.one_hot(labels, 4).float(), "label": labels}]
    model = lambda b: b["image"] + F.one_hot(b["ids"][:, 0], 4)  # noqa: E731
    report = diagnose(model, loader, ("ids", "image"), removal="permute", resamples=20)
    assert report.scores["accuracy"].value == 1.0
    with pytest.raises(MidasAugError, match="removal='permute'"):
        diagnose(model, loader, ("ids", "image"))


def test_the_callers_batches_and_modes_are_left_as_they_are(built):
    before = [{key: value.clone() for key, value in batch.items()} for batch in built.loader]
    built.model.train()
    built.model.head.eval()  # a frozen part stays frozen
    seen = []
    hook = built.model.head.register_forward_hook(lambda m, *_: seen.append(built.model.training))
    for level in ("feature", "input"):
        run(built, level)
        assert built.model.training
        assert not built.model.head.training
    assert seen
    assert not any(seen)
    hook.remove()
    for batch, old in zip(built.loader, before, strict=True):
        assert all(torch.equal(batch[key], old[key]) for key in old)


def test_modes_come_back_after_an_error(built):
    built.model.train()
    with pytest.raises(MidasAugError):
        diagnose(built.model, built.loader, ("audio", "video"), num_classes=3)
    assert built.model.training


def test_rows_without_a_label_do_not_count(built):
    data = joined(built.loader)
    extra = {key: torch.cat([value, value[:20]]) for key, value in data.items()}
    extra["label"][-20:] = -100
    extra["audio"][-20:] += 5
    usual = run(built)
    more = run(built._replace(loader=[extra]))
    assert more.settings["n_rows"] == usual.settings["n_rows"] == 203
    for key in ("accuracy", "without.audio", "head_accuracy.video", "smv.audio", "majority"):
        assert more.scores[key] == usual.scores[key]


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("kept", [slice(0, 1), slice(0, None, planted.CLASSES)])
def test_rows_of_one_class_have_no_partners_and_are_an_error(built, level, kept):
    one = {key: value[kept] for key, value in built.loader[0].items()}
    with pytest.raises(MidasAugError, match=r"rows of at least two classes, got .* of class 0"):
        run(built._replace(loader=[one]), level)


def test_batches_of_one_class_each_are_an_error_where_partners_come_from_the_batch(built):
    (data,) = [joined(built.loader)]
    batches = [
        {key: value[data["label"] == label] for key, value in data.items()}
        for label in range(planted.CLASSES)
    ]
    with pytest.raises(MidasAugError, match=r"got 5 of one class each; .*shuffle"):
        run(built._replace(loader=batches), "input")
    assert run(built._replace(loader=batches)).scores["accuracy"].value > 0.5


@pytest.mark.parametrize("level", ["feature", "input"])
def test_empty_batches_are_skipped_and_an_empty_set_is_an_error(built, level):
    empty = {key: value[:0] for key, value in built.loader[0].items()}
    found = run(built._replace(loader=[*built.loader, empty]), level)
    assert found.scores == run(built, level).scores
    for loader in ([], [empty]):
        with pytest.raises(MidasAugError, match="at least one row"):
            run(built._replace(loader=loader), level)


def test_hardness_has_quantiles_where_features_are_vectors(built):
    levels = list(run(built).hardness.values())
    assert levels == sorted(levels)
    assert 1 <= levels[0] < levels[-1] <= 2
    maps = dict(built.loader[0])
    maps["audio"] = maps["audio"][:, None]
    model = lambda b: built.model({**b, "audio": b["audio"].flatten(1)})  # noqa: E731
    report = diagnose(model, [maps], ("audio", "video"), resamples=10)
    assert report.hardness == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modalities": ("audio",)}, ["at least two batch keys", "('audio',)"]),
        ({"modalities": ("audio", "audio")}, ["different keys"]),
        ({"modalities": ("1", 1)}, ["can tell apart"]),
        ({"modalities": "av"}, ["sequence of at least two batch keys", "'av'"]),
        ({"modalities": None}, ["sequence of at least two batch keys", "None"]),
        ({"modalities": {"audio": ["audio", "smell"], "video": "video"}}, ["'smell'"]),
        ({"modalities": ("audio", "smell")}, ["'smell'", "'video'"]),
        ({"label": "target"}, ["'target'", "'label'"]),
        ({"removal": "noise"}, ["'permute'", "'noise'"]),
        ({"draws": 0}, ["draws", "0"]),
        ({"resamples": 0}, ["resamples", "0"]),
        ({"num_classes": 7}, ["7 classes", "5)"]),
        ({"training": []}, ["training"]),
        ({"training": {"audio": torch.ones(3, 8)}}, ["'video'"]),
        ({"training": {"audio": torch.ones(3, 9), "video": torch.ones(3, 8)}}, ["(8,)", "(9,)"]),
        ({"unimodal": lambda f: {"audio": torch.ones(203, 5)}}, ["'video'"]),
        ({"unimodal": lambda f: [torch.ones(1, 5)] * 2}, ["logits"]),
    ],
)
@pytest.mark.parametrize("level", ["feature", "input"])
def test_errors_say_what_came(built, change, words, level):
    options = {"modalities": ("audio", "video"), "training": None, "resamples": 10} | change
    model = (built.model.encode, built.model.fuse) if level == "feature" else built.model
    with pytest.raises(MidasAugError) as caught:
        diagnose(model, built.loader, **options)
    for word in ["expected", *words]:
        assert word in str(caught.value)


def test_words_can_be_permuted_but_not_zeroed():
    labels = torch.arange(20) % 2
    words = ["yes" if label else "no" for label in labels]
    loader = [{"text": words, "image": F.one_hot(labels, 2).float(), "label": labels}]
    model = lambda b: F.one_hot(torch.tensor([w == "yes" for w in b["text"]]).long(), 2)  # noqa: E731
    report = diagnose(lambda b: model(b).float(), loader, ("text", "image"), removal="permute")
    assert report.scores["cost.text"].value > 0.3
    assert report.scores["cost.image"].value == 0.0
    for removal in ("zero", "mean"):
        with pytest.raises(MidasAugError, match="only be removed with removal='permute'"):
            diagnose(lambda b: model(b).float(), loader, ("text", "image"), removal=removal)


@pytest.mark.parametrize("model", [None, (len,), (len, len, len), (len, 3)])
def test_a_model_is_a_callable_or_a_pair(built, model):
    with pytest.raises(MidasAugError, match="pair \\(encode, fuse\\) of callables"):
        diagnose(model, built.loader, ("audio", "video"))


def test_an_iterator_cannot_be_read_twice(built):
    with pytest.raises(MidasAugError, match="read twice"):
        diagnose(built.model, iter(built.loader), ("audio", "video"))
    diagnose(built.model, iter(built.loader), ("audio", "video"), removal="zero", resamples=5)


def test_features_of_different_length_name_the_way_out(built):
    data = [
        {"a": torch.ones(2, n, 3), "b": torch.ones(2, 1), "label": torch.arange(2)} for n in (4, 5)
    ]
    model = (lambda b: b, lambda f: f["a"].sum(dim=1))
    with pytest.raises(MidasAugError, match="one shape in all batches"):
        diagnose(model, data, ("a", "b"))
    with pytest.raises(MidasAugError, match="one shape in all batches"):
        diagnose(lambda b: b["a"].sum(dim=1), data, ("a", "b"))
    diagnose(lambda b: b["a"].sum(dim=1), data, ("a", "b"), removal="zero", resamples=5)


def test_large_sets_are_fused_in_slices(built, monkeypatch):
    whole = run(built)
    monkeypatch.setattr(sys.modules["midas_aug.diagnostics.reading"], "FUSE_ROWS", 60)
    sizes = []
    fuse = lambda f: sizes.append(len(f["audio"])) or built.model.fuse(f)  # noqa: E731
    sliced = diagnose(
        (built.model.encode, fuse),
        built.loader,
        ("audio", "video"),
        unimodal=built.unimodal,
        training=built.training,
        resamples=200,
        draws=2,
    )
    assert max(sizes) == 60
    for key, score in whole.scores.items():
        assert sliced.scores[key].value == pytest.approx(score.value, abs=1e-5), key


# ---------------------------------------------------------------- what a model returns


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class Pair(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


OUTPUTS = {
    "an array": lambda x: x.numpy(),
    "a ModelOutput": lambda x: SequenceClassifierOutput(loss=x.sum(), logits=x),
    "a ModelOutput with features": lambda x: SequenceClassifierOutput(logits=x, hidden_states=(x,)),
    "a dict": lambda x: {"features": x + 1, "logits": x},
    "a dataclass": lambda x: Output(x, x + 1),
    "a named tuple": lambda x: Pair(x.sum(), x),
    "(loss, logits)": lambda x: (x.sum(), x),
    "(logits, maps)": lambda x: [x, x[:, :, None]],
    "(logits, states)": lambda x: (x, [x + 1, x + 2]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("level", ["feature", "input"])
def test_logits_are_found_in_what_a_model_returns(built, kind, level):
    wrap = OUTPUTS[kind]
    options = {"resamples": 5, "draws": 1}
    heads = lambda f: {m: wrap(x) for m, x in built.unimodal(f).items()}  # noqa: E731
    if level == "feature":
        model, unimodal = (built.model.encode, lambda f: wrap(built.model.fuse(f))), heads
    else:
        model = lambda batch: wrap(built.model(batch))  # noqa: E731
        unimodal = lambda batch: heads(built.model.encode(batch))  # noqa: E731
    found = diagnose(model, built.loader, ("audio", "video"), unimodal=unimodal, **options)
    plain = run(built, level, training=None, **options)
    assert found.scores == plain.scores


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda x: None, "got NoneType"),
        (lambda x: {"scores": x}, "got the keys ['scores']"),
        (lambda x: (x, x + 1), "got a tuple of (50, 5), (50, 5)"),
        (lambda x: (x.sum(),), "got a tuple of ()"),
        (lambda x: x.tolist(), "got a list of list"),
        (lambda x: x[0], "shape (50, any), got (5,)"),
        (lambda x: x[:7], "shape (50, any), got (7, 5)"),
        (lambda x: x[:, :, None], "shape (50, any), got (50, 5, 1)"),
        (lambda x: x[:, :1], "a single logit x of two classes is the pair (0, x)"),
        (lambda x: x.argmax(dim=1), "shape (50, any), got (50,)"),
        (lambda x: x.long(), "float"),
    ],
)
def test_what_are_no_logits_is_refused_by_name(built, wrap, words):
    for model in (
        lambda batch: wrap(built.model(batch)),
        (built.model.encode, lambda features: wrap(built.model.fuse(features))),
    ):
        with pytest.raises(MidasAugError) as caught:
            diagnose(model, built.loader[:1], ("audio", "video"))
        assert words in str(caught.value)


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_rows_of_nan_are_counted_and_nothing_is_found(built, level, number):
    """A head that breaks in three rows, and a fusion that breaks where video is away."""

    def heads(features):
        found = dict(built.unimodal(features))
        found["video"] = found["video"].clone()
        found["video"][:3, 1] = number
        return found

    def fuse(features):
        logits = built.model.fuse(features)
        return torch.where(features["video"].any(dim=1, keepdim=True), logits, number)

    options = {"removal": "zero", "resamples": 5, "draws": 1}
    if level == "feature":
        model, unimodal = (built.model.encode, fuse), heads
    else:
        model = lambda batch: fuse(built.model.encode(batch))  # noqa: E731
        unimodal = lambda batch: heads(built.model.encode(batch))  # noqa: E731
    loader = [joined(built.loader)]
    with pytest.raises(MidasAugError) as caught:
        diagnose(model, loader, ("audio", "video"), unimodal=unimodal, **options)
    message = str(caught.value)
    assert "3 of 203 of the head of video" in message
    assert "203 of 203 with video removed" in message
    assert "of the whole model" not in message
    assert "with audio removed" not in message


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("removal", ["mean", "zero", "permute"])
def test_features_of_nan_in_rows_without_a_label_do_not_matter(built, level, removal):
    data = joined(built.loader)
    ignored = {key: value[:20].clone() for key, value in data.items()}
    ignored["label"][:] = -1
    extra = {key: torch.cat([ignored[key], data[key]]) for key in data}
    broken = {key: value.clone() for key, value in extra.items()}
    for m in ("audio", "video"):
        broken[m][:20] = torch.nan
    reports = [
        run(built._replace(loader=[batch]), level, removal=removal, training=None)
        for batch in (extra, broken)
    ]
    assert reports[0].scores == reports[1].scores
    assert all(np.isfinite(score.value) for score in reports[1].scores.values())


def test_a_mean_of_rows_that_are_not_finite_is_refused(built):
    training = {key: value.clone() for key, value in built.training[0].items()}
    training["video"][3, 2] = torch.nan
    for rows in ([training], training):
        for level in ("feature", "input"):
            with pytest.raises(MidasAugError, match="finite rows of 'video' to take the mean of"):
                run(built, level, training=rows)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", -1), ("seed", "0"), ("seed", True), ("draws", 2.0), ("resamples", "many")],
)
def test_numbers_are_checked_before_the_work(built, option, value):
    with pytest.raises(MidasAugError, match=f"expected {option}"):
        diagnose(built.model, [], ("audio", "video"), **{option: value})


# ---------------------------------------------------------------- the bootstrap


@own.quick
@given(own.seeds(), st.integers(1, 40))
def test_replicates_are_scores_of_resampled_rows(seed, rows):
    rng = np.random.default_rng(seed)
    top, below = rng.random(rows), rng.random(rows) + 0.5
    statistic = bootstrap.ratio(torch.from_numpy(top), torch.from_numpy(below))
    value, replicates = bootstrap.bootstrap({"r": statistic}, resamples=20, seed=seed)["r"]
    assert value == pytest.approx(top.sum() / below.sum())
    counts = np.concatenate(list(bootstrap.resampled_counts(rows, 20, seed)))
    assert counts.shape == (20, rows)
    assert (counts.sum(axis=1) == rows).all()
    for count, replicate in zip(counts, replicates, strict=True):
        chosen = np.repeat(np.arange(rows), count.astype(int))
        assert replicate == pytest.approx(top[chosen].sum() / below[chosen].sum())


def test_counts_do_not_depend_on_how_much_fits_into_memory(monkeypatch):
    whole = np.concatenate(list(bootstrap.resampled_counts(30, 50, 3)))
    monkeypatch.setattr(bootstrap, "MAX_COUNTS", 70)
    assert np.array_equal(whole, np.concatenate(list(bootstrap.resampled_counts(30, 50, 3))))


def test_shared_errors_are_held_against_the_head_with_more_of_them():
    wrong = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    for columns in (wrong, wrong.flip(1)):
        statistic = bootstrap.shared(columns)
        assert bootstrap.bootstrap({"s": statistic}, resamples=1, seed=0)["s"][0] == 0.5


def test_an_interval_of_a_mean_has_the_width_of_theory():
    rows = (torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    statistic = bootstrap.mean(rows)
    score = bootstrap.interval(*bootstrap.bootstrap({"m": statistic}, resamples=4000, seed=0)["m"])
    p = rows.mean().item()
    assert score.margin == pytest.approx(1.96 * (p * (1 - p) / 500) ** 0.5, rel=0.06)


def test_intervals_of_misaligned_scores_know_that_partners_are_random_too():
    """The spread over fresh sets of rows is what the interval of one set promises."""

    def draw(seed):
        case = planted.make_case("balanced", rows=100, batch=100, seed=seed)
        return run(case, draws=5).scores["misaligned_accuracy"]

    found = [draw(seed) for seed in range(40)]
    spread = 1.96 * np.std([score.value for score in found])
    promised = np.mean([score.margin for score in found])
    assert promised == pytest.approx(spread, rel=0.3)


# ---------------------------------------------------------------- the report


def test_a_report_is_a_table_and_findings(built):
    report = run(built, name="joint")
    text, markdown = str(report), report.to_markdown()
    for shown in (text, markdown):
        assert "joint" in shown
        assert "203 rows, 5 classes" in shown
        assert "mean of the training rows" in shown
        value, low, high = report.scores["without.audio"]
        assert f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in shown
        for finding in report.findings:
            assert f"- {finding.text}" in shown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 4}
    assert report._repr_markdown_() == markdown  # what a notebook asks for


def test_a_report_as_a_dict_is_json_and_has_all_scores(built):
    report = run(built, name="joint")
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["name"] == "joint"
    assert content["modalities"] == ["audio", "video"]
    assert set(content["scores"]) == set(report.scores)
    assert content["scores"]["accuracy"]["value"] == report.scores["accuracy"].value
    assert content["settings"]["draws"] == 2
    assert [f["kind"] for f in content["findings"]] == [f.kind for f in report.findings]
    assert list(content["hardness"]) == ["0.05", "0.25", "0.5", "0.75", "0.95"]


def other_model(built, name: str, scale: float) -> ModalityReport:
    fuse = lambda f: built.model.fuse({**f, "video": scale * f["video"]})  # noqa: E731
    return diagnose(
        (built.model.encode, fuse),
        built.loader,
        ("audio", "video"),
        training=built.training,
        resamples=200,
        draws=2,
        name=name,
    )


def test_reports_side_by_side_have_paired_differences(built):
    before, same, after = (
        other_model(built, n, s) for n, s in (("before", 0.2), ("same", 0.2), ("after", 1.0))
    )
    comparison = before.compare(same, after)
    differences = comparison.differences
    assert list(differences) == ["same", "after"]
    for key, score in differences["same"].items():
        assert score == (0.0, 0.0, 0.0), key
    change = differences["after"]["without.audio"]
    expected = after.scores["without.audio"].value - before.scores["without.audio"].value
    assert change.value == pytest.approx(expected)
    assert change.low <= change.value <= change.high
    # The rows of both go together: narrower than if they were two sets of rows.
    apart = np.hypot(before.scores["accuracy"].margin, after.scores["accuracy"].margin)
    assert differences["after"]["accuracy"].margin < apart
    text, markdown = str(comparison), comparison.to_markdown()
    for shown in (text, markdown):
        assert "after - before" in shown
        assert f"{100 * change.value:+.1f} [{100 * change.low:+.1f}" in shown
        assert "audio: accuracy without it" in shown
    assert len({line.count("|") for line in markdown.splitlines() if line}) == 1
    assert comparison._repr_markdown_() == markdown
    content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert [report["name"] for report in content["reports"]] == ["before", "same", "after"]
    assert content["differences"]["same"]["accuracy"] == {"value": 0, "low": 0, "high": 0}


def test_reports_draw_themselves(built, tmp_path):
    before, after = other_model(built, "before", 0.2), other_model(built, "after", 1.0)
    before.plot(tmp_path / "one.png")
    before.compare(after).plot(tmp_path / "two.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("one.png", "two.png"))


def test_reports_that_cannot_be_paired_are_refused(built):
    report = run(built, name="a")
    turned = built._replace(loader=built.loader[::-1])
    cases = [
        (run(turned, name="b"), "same rows in the same order"),
        (run(built, name="b", seed=1), "one seed"),
        (run(built, name="b", removal="zero"), "one removal"),
        (run(built, name="a"), "name of its own"),
        ("a report", "expected reports to compare with, got str"),
    ]
    for other, words in cases:
        with pytest.raises(MidasAugError, match=words):
            report.compare(other)


def test_what_is_no_loader_is_refused_by_name():
    with pytest.raises(MidasAugError, match=r"an iterable of batches, got int; pass a DataLoader"):
        diagnose(lambda batch: batch["a"], 5, ("a", "b"))
    batch = {"a": torch.rand(6, 3), "b": torch.rand(6, 3), "label": torch.arange(6) % 3}
    augmented = MisalignAugment(("a", "b"), 3, confidence="uniform")(batch)
    with pytest.raises(MidasAugError, match=r"augmented already; pass a loader without"):
        diagnose(lambda batch: batch["a"], [augmented], ("a", "b"))


# ---------------------------------------------------------------- what no row, no head, no name is


def three_classes(**changed):
    """Sixty rows of two modalities in three batches; the sum of the modalities is a model."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    data = {
        "a": 2 * F.one_hot(labels, 3) + torch.randn(60, 3, generator=draw),
        "b": torch.randn(60, 3, generator=draw),
        "label": labels,
    } | changed
    return [
        {key: value[start : start + 20] for key, value in data.items()} for start in (0, 20, 40)
    ]


def summed(batch):
    return batch["a"] + batch["b"]


QUICK = {"modalities": ("a", "b"), "resamples": 5, "draws": 1}
LEVELS = {"input": summed, "feature": (lambda b: {"a": b["a"], "b": b["b"]}, summed)}


@pytest.mark.parametrize("removal", ["zero", "mean", "permute"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_set_without_a_row_that_counts_says_why(level, removal):
    ignored = torch.full((60,), -1)
    lacking = torch.zeros(60, 2, dtype=torch.bool)
    some = torch.where(torch.arange(60) < 12, ignored, torch.arange(60) % 3)
    cases = [
        ([], {}, "got none from the loader"),
        ([{key: value[:0] for key, value in three_classes()[0].items()}], {}, "none from the load"),
        (three_classes(label=ignored), {}, "one row with a label, got 60 without one"),
        (three_classes(has=lacking), {"present": "has"}, "got 60 that lack a modality and 0 with"),
        (three_classes(has=lacking, label=some), {"present": "has"}, "got 48 .* and 12 without"),
    ]
    for loader, options, words in cases:
        with pytest.raises(MidasAugError, match=words) as caught:
            diagnose(LEVELS[level], loader, removal=removal, **QUICK, **options)
        assert "training" not in str(caught.value)


@pytest.mark.parametrize("level", LEVELS)
def test_training_batches_without_rows_are_told_where_they_are_given(level):
    with pytest.raises(MidasAugError, match="expected training batches with rows, got none"):
        diagnose(LEVELS[level], three_classes(), training=[], **QUICK)


@pytest.mark.parametrize(
    ("unimodal", "words"),
    [
        (
            nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}),
            r"got ModuleDict; call .*eval",
        ),
        ({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}, "got dict; call the heads in a function"),
        (nn.ModuleList([nn.Linear(3, 3)] * 2), "got ModuleList; call the heads in a function"),
        (HeadConfidence({"a": 3, "b": 3}, 3), "got HeadConfidence, .* its method unimodal_logits"),
        (
            UniformConfidence(("a", "b")),
            "got UniformConfidence, .* pass a callable that gives the logits",
        ),
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_heads_that_are_no_function_are_told_how_to_become_one(unimodal, words, level):
    with pytest.raises(MidasAugError, match=words):
        diagnose(LEVELS[level], three_classes(), unimodal=unimodal, **QUICK)


@pytest.mark.parametrize("level", LEVELS)
def test_what_the_refusal_of_heads_advises_works(level):
    heads = HeadConfidence({"a": 3, "b": 3}, 3)
    by_name = nn.ModuleDict(zip("ab", heads.heads, strict=True)).eval()
    function = lambda batch: {m: by_name[m](batch[m]) for m in by_name}  # noqa: E731
    reports = [
        diagnose(LEVELS[level], three_classes(), unimodal=unimodal, **QUICK)
        for unimodal in (heads.unimodal_logits, function)
    ]
    assert "head_accuracy.a" in reports[0].scores
    assert reports[0].to_dict() == reports[1].to_dict()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("name", None, "name as a string, got None"), ("progress", "no", "True or False, got 'no'")],
)
def test_names_and_switches_are_checked_before_the_work(option, value, words):
    def never(batch):
        raise AssertionError

    with pytest.raises(MidasAugError, match=words):
        diagnose(never, three_classes(), **QUICK, **{option: value})


@pytest.mark.parametrize("path", [None, 3])
def test_a_report_is_saved_to_a_path(path):
    report = diagnose(summed, three_classes(), **QUICK)
    for saved in (report, report.compare(replace(report, name="other"))):
        with pytest.raises(MidasAugError, match="the path of a file, got"):
            saved.save(path)


@pytest.mark.parametrize("removal", ["zero", "mean"])
def test_numpy_batches_are_refused_where_tensors_would_stand_in_for_them(removal):
    calls = []
    model = lambda b: calls.append(b) or torch.as_tensor(b["a"] + b["b"])  # noqa: E731
    loader = [{key: value.numpy() for key, value in batch.items()} for batch in three_classes()]
    with pytest.raises(MidasAugError, match=r"'a' to hold tensors, got NumPy arrays; .*device='cp"):
        diagnose(model, loader, removal=removal, **QUICK)
    assert not calls
    tensors = diagnose(summed, three_classes(), removal=removal, **QUICK)
    moved = diagnose(model, loader, removal=removal, device="cpu", **QUICK)
    assert moved.scores == tensors.scores
    assert diagnose(model, loader, removal="permute", **QUICK).scores["cost.a"].value > 0.2


def test_a_list_of_arrays_has_no_row_that_could_stand_in_for_it():
    loader = [{**batch, "a": list(batch["a"])} for batch in three_classes()]
    model = lambda b: torch.stack(b["a"]) + b["b"]  # noqa: E731
    for options in ({"removal": "zero"}, {"removal": "mean"}, {"training": loader}):
        with pytest.raises(MidasAugError, match="got a list, with a row an item; it can only be"):
            diagnose(model, loader, **QUICK, **options)
    assert diagnose(model, loader, removal="permute", **QUICK).scores["cost.a"].value > 0.2


def test_a_progress_bar_is_shown_on_request_and_does_not_touch_stdout(built, capsys):
    run(built, progress=True)
    run(built, progress=False)
    assert capsys.readouterr().out == ""
    for show in (True, False):
        with progress_bar(show) as watch:
            assert list(watch(iter("abc"), "letters")) == ["a", "b", "c"]


def test_a_module_with_dropout_is_diagnosed_in_eval_mode():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 2))
    labels = torch.arange(30) % 2
    batch = {"a": torch.randn(30, 4), "b": torch.randn(30, 4), "label": labels}
    pair = (lambda b: {"a": b["a"], "b": b["b"]}, Sum(model))
    reports = [diagnose(pair, [batch], ("a", "b"), resamples=5) for _ in range(2)]
    assert reports[0].to_dict() == reports[1].to_dict()


class Sum(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features):
        return self.inner(features["a"] + features["b"])


# ---------------------------------------------------------------- what is told of arguments


def scores_of(width: int):
    """Logits of any width for a batch or its features."""
    return lambda given: torch.randn(len(given["a"]), width)


def heads_of(*widths: int):
    """The heads of a and b."""
    return lambda given: {m: scores_of(width)(given) for m, width in zip("ab", widths, strict=True)}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("width", "options", "words"),
    [
        (2, {}, "the model's logits with a column for each class, got 2 columns and the label 2"),
        (3, {"unimodal": heads_of(2, 3)}, "the logits of the head of 'a' with a column for each"),
        (3, {"unimodal": heads_of(3, 4)}, "of the head of 'b' with a column|\\[3, 4\\] columns"),
        (4, {"unimodal": heads_of(3, 3)}, "of the head of 'a' .* the model's logits have 4"),
    ],
)
def test_narrow_logits_are_told_as_such_where_nobody_has_announced_classes(
    level, width, options, words
):
    model = scores_of(width) if level == "input" else (LEVELS["feature"][0], scores_of(width))
    with pytest.raises(MidasAugError, match=words) as caught:
        diagnose(model, three_classes(), **QUICK, **options)
    assert "num_classes" not in str(caught.value)


def test_announced_classes_are_told_by_the_argument_that_has_announced_them():
    with pytest.raises(MidasAugError, match="labels below num_classes=2, got 2"):
        diagnose(scores_of(2), three_classes(), num_classes=2, **QUICK)
    with pytest.raises(MidasAugError, match=r"of the 4 classes, got .*; check num_classes and"):
        diagnose(scores_of(3), three_classes(), num_classes=4, **QUICK)
    soft = [{**b, "label": F.one_hot(b["label"], 3).float()} for b in three_classes()]
    with pytest.raises(MidasAugError, match=r"of the 3 classes, got .*; check target and"):
        diagnose(scores_of(2), soft, target=Distribution(3), **QUICK)


@pytest.mark.parametrize(
    ("widths", "words"),
    [((2, 2), "the head of 'a' .* 2 columns and the label 2"), ((3, 4), "\\[3, 4\\] columns")],
)
def test_heads_are_read_with_the_labels_of_training_rows(widths, words):
    two = [{**batch, "label": batch["label"] % 2} for batch in three_classes()]
    options = {"unimodal": heads_of(*widths), "training": three_classes(), "removal": "zero"}
    with pytest.raises(MidasAugError, match=words):
        diagnose(scores_of(widths[0]), two, **QUICK, **options)


@pytest.mark.parametrize("level", LEVELS)
def test_one_logit_per_row_is_told_as_such(level):
    two = [{**batch, "label": batch["label"] % 2} for batch in three_classes()]
    squeezed = lambda given: given["a"][:, 0]  # noqa: E731
    model = squeezed if level == "input" else (LEVELS["feature"][0], squeezed)
    words = "model's logits of shape .N, C., got one logit per row, .* two for two classes"
    with pytest.raises(MidasAugError, match=words):
        diagnose(model, two, **QUICK)
    heads = lambda given: {"a": squeezed(given), "b": given["b"]}  # noqa: E731
    model = scores_of(3) if level == "input" else (LEVELS["feature"][0], scores_of(3))
    with pytest.raises(MidasAugError, match=r"the head of 'a' of shape .N, C., got one logit per"):
        diagnose(model, two, unimodal=heads, **QUICK)


@pytest.mark.parametrize("device", ["nope", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_told_before_the_work(device):
    def model(batch):
        raise AssertionError("work was begun")

    with pytest.raises(MidasAugError, match="expected device as one that this machine has"):
        diagnose(model, three_classes(), device=device, **QUICK)


@pytest.mark.parametrize("removal", ["zero", "mean", "permute"])
def test_training_rows_come_in_batches(removal):
    with pytest.raises(
        MidasAugError, match=r"training as an iterable of training batches.*got int"
    ):
        diagnose(scores_of(3), three_classes(), training=3, removal=removal, **QUICK)


class OnAccelerator(torch.Tensor):
    """A tensor whose values nobody may look at before it is on the CPU."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("kind", [torch.Tensor, OnAccelerator])
def test_a_negative_label_in_an_unsigned_dtype_is_not_left_out_in_silence(kind):
    labels = torch.from_numpy(np.array([2**64 - 1, 0, 1, 2, 0, 1], dtype=np.uint64))
    batch = {"a": torch.randn(6, 3), "b": torch.randn(6, 3), "label": labels.as_subclass(kind)}
    with pytest.raises(MidasAugError, match=r"above 2.63; a negative label"):
        diagnose(scores_of(3), [batch], **QUICK)
