"""MisalignedBatch: late fusion, late labels, devices."""

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug import functional as F
from midas_aug.confidence import (
    HeadConfidence,
    SkillConfidence,
    TableConfidence,
    UniformConfidence,
)

# Most batches here hold something without a cosine on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:hardness='auto'")

N, C = 6, 4
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def raw_batch() -> dict:
    return {
        "image": torch.randn(N, 3, 4, 4),
        "text": {"ids": torch.randint(9, (N, 5)), "length": torch.arange(N)},
        "label": LABELS,
        "name": [f"row {row}" for row in range(N)],
    }


def samples() -> list[dict]:
    batch = raw_batch()
    return [
        {
            "image": batch["image"][row],
            "text": {key: value[row] for key, value in batch["text"].items()},
            "label": int(LABELS[row]),
            "name": batch["name"][row],
        }
        for row in range(N)
    ]


def test_gathered_features_equal_the_features_of_gathered_inputs():
    """Lazy = materialised, bit for bit, for any row-wise encoder."""
    batch = raw_batch()
    augment = MisalignAugment(("image", "text"), C, confidence="uniform", seed=0)
    collate = augment.collate(lambda _: batch, materialize=False)
    lazy = collate([])
    eager = augment(batch, plan=lazy.plan)
    encode = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    assert lazy["image"] is batch["image"]
    assert torch.equal(lazy.gather("image", encode(lazy["image"])), encode(eager["image"]))
    nested = lazy.gather("text", {"summed": lazy["text"]["ids"].sum(dim=1)})
    assert torch.equal(nested["summed"], eager["text"]["ids"].sum(dim=1))
    for name in ("targets", "weights", "source", "anchor", "valid"):
        assert torch.equal(getattr(lazy, name), getattr(eager, name))


def test_gather_keeps_the_gradient_and_refuses_what_does_not_fit():
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    features = torch.randn(N, 2, requires_grad=True)
    out.gather("text", features).sum().backward()
    assert torch.equal(features.grad[:, 0], torch.bincount(out.source[:, 1], minlength=N).float())
    with pytest.raises(MidasAugError, match=r"one of \('image', 'text'\), got 'label'"):
        out.gather("label", features)
    with pytest.raises(MidasAugError, match=r"features of 'image'.*6 rows.*\(18, 2\)"):
        out.gather("image", torch.randn(18, 2))


def test_drawn_batches_have_no_labels_until_they_are_relabelled():
    augment = MisalignAugment(("image", "text"), C)
    drawn = augment.collate()(samples())
    for name in ("targets", "weights", "shares", "confidence"):
        with pytest.raises(MidasAugError, match=rf"\.{name}.*label\(unimodal_logits"):
            getattr(drawn, name)
    with pytest.raises(MidasAugError, match=r"out\.label"):
        drawn.folded_targets()
    assert "not labelled yet" in repr(drawn)

    logits = {"image": torch.randn(N, C), "text": torch.randn(N, C)}
    features = {"image": torch.randn(N, 5), "text": torch.randn(N, 3)}
    labelled = drawn.label(unimodal_logits=logits, features=features)
    direct = augment(features, LABELS, unimodal_logits=logits, plan=drawn.plan)
    for name in ("targets", "weights", "shares"):
        assert torch.equal(getattr(labelled, name), getattr(direct, name))
    assert labelled.data is drawn.data
    with pytest.raises(MidasAugError, match="unimodal_logits to label with"):
        drawn.label(features=features)


def test_a_criterion_names_the_missing_labels():
    drawn = MisalignAugment(("image", "text"), C).collate()(samples())
    with pytest.raises(MidasAugError, match=r"out\.label"):
        MidasLoss(2)(torch.randn(3 * N, C), drawn)


def test_relabel_takes_numbers_providers_and_logits_for_a_provider():
    augment = MisalignAugment(("image", "text"), C)
    drawn = augment.collate()(samples())
    numbers = torch.rand(N, 2)
    shares = drawn.label(confidence=numbers).shares
    assert torch.equal(shares[N:], F.label_shares(numbers, drawn.plan.source))

    heads = HeadConfidence({"image": 5, "text": 3}, C)
    features = {"image": torch.randn(N, 5), "text": torch.randn(N, 3)}
    by_features = drawn.label(confidence=heads, features=features)
    by_logits = drawn.label(confidence=heads, unimodal_logits=heads.unimodal_logits(features))
    assert torch.equal(by_features.shares, by_logits.shares)
    plain = drawn.label(unimodal_logits=heads.unimodal_logits(features))
    torch.testing.assert_close(by_features.shares, plain.shares)
    # Without features a provider sees the N rows of data that came in.
    seen = {}

    def provider(batch, labels):
        seen.update(batch)
        return torch.ones(len(labels), 2)

    drawn.label(confidence=provider)
    assert seen["name"] == [f"row {row}" for row in range(N)]
    assert torch.equal(seen["image"], drawn["image"][:N])


def test_hardness_waits_for_features_where_only_they_have_it():
    features = {"image": torch.randn(N, 5), "text": torch.randn(N, 3)}
    logits = [torch.zeros(N, C)] * 2
    cosine = MisalignAugment(("image", "text"), C, hardness="cosine").collate()(samples())
    with pytest.raises(
        MidasAugError, match=r"\['text'\] hold something else.*pass features to label"
    ):
        cosine.label(unimodal_logits=logits)
    auto = MisalignAugment(("image", "text"), C).collate()(samples())
    plain = auto.label(unimodal_logits=logits).weights[N:]
    assert torch.equal(plain, torch.full_like(plain, 1.5))
    for drawn in (cosine, auto):
        weights = drawn.label(unimodal_logits=logits, features=features).weights[N:]
        expected = F.hard_sample_weights(list(features.values()), drawn.plan)
        torch.testing.assert_close(weights, 1.5 * expected)
    in_order = auto.label(unimodal_logits=logits, features=list(features.values()))
    assert torch.equal(
        in_order.weights[N:], auto.label(unimodal_logits=logits, features=features).weights[N:]
    )


def test_a_table_labels_in_the_worker_and_a_uniform_one_does_too():
    table = TableConfidence(("a", "b"), 100)
    table.update(torch.arange(N), torch.rand(N, 2))
    batch = raw_batch() | {"index": torch.arange(N)}
    for provider in (table, UniformConfidence(("a", "b"))):
        augment = MisalignAugment(("image", "text"), C, confidence=provider)
        out = augment.collate(lambda _: batch)([])
        expected = provider(batch, LABELS)
        assert torch.equal(out.shares[N:], F.label_shares(expected, out.plan.source))


def test_moving_moves_every_tensor_and_nothing_else():
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    moved = out.to("meta")
    assert moved["image"].device.type == moved["text"]["ids"].device.type == "meta"
    for name in ("targets", "weights", "shares", "source", "anchor", "valid", "labels"):
        assert getattr(moved, name).device.type == "meta"
    assert moved["name"] == out["name"]
    assert out["image"].device.type == "cpu"
    arrays = {key: value.numpy() for key, value in raw_batch().items() if key == "image"}
    in_numpy = MisalignAugment(("image", "other"), C, confidence="uniform")(
        arrays | {"other": arrays["image"]}, LABELS.numpy()
    )
    with pytest.raises(MidasAugError, match="torch tensors to move, got one of NumPy"):
        in_numpy.to("meta")


def test_pinning_pins_every_tensor(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    again = out.pin_memory()
    assert len(pinned) == 12  # image, ids, length, label; labels, readable, n_labelled, source,
    # anchor, valid, confidence, shares
    assert torch.equal(again.targets, out.targets)


def test_it_survives_a_pickle():
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    twin = pickle.loads(pickle.dumps(out))
    assert torch.equal(twin.targets, out.targets)
    assert torch.equal(twin["image"], out["image"])


def test_it_is_keyed_and_immutable():
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    with pytest.raises(TypeError, match="not iterable"):
        iter(out)
    with pytest.raises(AttributeError):
        out.data = {}
    with pytest.raises(MidasAugError, match=r"'audio'.*\['image', 'text', 'label', 'name'\]"):
        out["audio"]
    assert out.num_classes == C
    assert out.modalities == ("image", "text")
    assert out.hard_weights is None
    assert repr(out) == (
        "MisalignedBatch(6 aligned + 12 misaligned rows, modalities=('image', 'text'), labelled, "
        "without hard-sample weights)"
    )


def test_numpy_batches_answer_in_numpy():
    batch = {
        "a": np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32),
        "b": np.ones((N, 2)),
        "label": LABELS.numpy(),
    }
    out = MisalignAugment(("a", "b"), C)(
        batch, unimodal_logits={"a": np.zeros((N, C)), "b": np.zeros((N, C), np.float32)}
    )
    for name in ("source", "anchor", "valid", "labels", "source_labels", "is_misaligned"):
        assert isinstance(getattr(out, name), np.ndarray)
    for name in ("targets", "weights", "shares", "confidence"):
        assert getattr(out, name).dtype == np.float32
    assert out.folded_targets().dtype == np.float32
    assert out["b"].dtype == np.float64


def test_gather_rows_works_alone_on_trees_of_either_library():
    tree = {"x": torch.arange(4), "y": (torch.arange(8).view(4, 2), torch.arange(4) * 10)}
    taken = F.gather_rows(tree, torch.tensor([3, 3, 0]))
    assert taken["x"].tolist() == [3, 3, 0]
    assert taken["y"][1].tolist() == [30, 30, 0]
    assert F.gather_rows(np.arange(4) * 2, np.array([1, 1])).tolist() == [2, 2]
    with pytest.raises(MidasAugError, match=r"tree\['y'\].*4 rows.*\(5,\)"):
        F.gather_rows({"x": torch.arange(4), "y": torch.arange(5)}, torch.tensor([0]))
    with pytest.raises(MidasAugError, match="an array with rows, got str"):
        F.gather_rows("text", torch.tensor([0]))


@pytest.mark.parametrize("enabled", [True, False])
def test_every_row_of_a_batch_has_memory_of_its_own(enabled):
    """Pinning copies with the strides of the original, and a stride of 0 cannot be copied into."""
    augment = MisalignAugment(("a", "b"), 3, confidence=SkillConfidence(("a", "b"), 3))
    augment.enabled = enabled
    batch = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    out = augment(batch, torch.arange(4) % 3)
    for tensor in (out.source, out.anchor, out.valid, out.labels, out.shares):
        assert tensor is None or 0 not in tensor.stride()


def test_it_has_the_length_and_the_values_of_a_mapping_and_is_none():
    """Trainers rebuild a mapping of their own accord, which would lose the draws."""
    out = MisalignAugment(("image", "text"), C, confidence="uniform")(raw_batch())
    assert len(out) == len(out.keys()) == len(out.values())
    assert len(out.values()[0]) == len(out["image"]) == 3 * N
    assert dict(out).keys() == raw_batch().keys()
    assert not isinstance(out, Mapping)


def test_what_a_drawn_batch_cannot_know_it_refuses_and_the_rest_it_tells_at_once():
    batch = {"image": torch.rand(N, 3), "text": torch.rand(N, 2), "label": LABELS}
    drawn = MisalignAugment(("image", "text"), C).draw(batch)
    for name in ("confidence", "source_confidence", "shares", "targets", "weights"):
        with pytest.raises(MidasAugError, match=rf"a labelled batch for \.{name}, got one"):
            getattr(drawn, name)
    assert torch.equal(drawn.source_labels, LABELS[drawn.source])
    assert float(drawn.divisor) == int((LABELS >= 0).sum())
    assert bool(drawn.present.all())
    assert drawn.absent is None


@pytest.mark.parametrize("materialize", [True, False])
def test_a_provider_sees_the_rows_that_came_in_and_what_is_kept_as_it_is(materialize):
    def look(batch, labels):
        seen.append(batch)
        return torch.ones(len(labels), 2)

    seen, table = [], torch.rand(5 * N, 2)
    batch = {"image": torch.rand(N, 3), "text": torch.rand(N, 2), "label": LABELS, "table": table}
    augment = MisalignAugment(("image", "text"), C, confidence=look, keep=["table"])
    augment(batch, materialize=materialize)
    assert all(torch.equal(seen[0][key], batch[key]) for key in batch)
    augment = MisalignAugment((0, 1), C, confidence=look, label=2)
    for kind in (tuple, list):
        columns = kind([torch.rand(N, 3), torch.rand(N, 2), LABELS])
        augment(columns, materialize=materialize)
        assert all(map(torch.equal, seen[-1], columns))


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_float32_numbers_whatever_the_default_dtype(dtype, replayed):
    augment = MisalignAugment(("a", "b"), C, confidence="uniform", hardness=None)
    batch, labels = {"a": torch.rand(8, 3), "b": torch.rand(8, 3)}, torch.arange(8) % C
    labels[2] = -1  # a mean of seven rows
    plan = augment(batch, labels).plan if replayed else None
    torch.set_default_dtype(dtype)
    try:
        weights = augment(batch, labels, plan=plan).weights
    finally:
        torch.set_default_dtype(torch.float32)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights[0], torch.tensor(24 / 7))
    torch.testing.assert_close(weights[8:].sum(), torch.tensor(24.0))
