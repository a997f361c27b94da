"""Accelerate and Keras: scaling, checkpoints, and the loss that Keras makes of the weights."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.integrations.keras import KerasCollate, keras_batch
from midas_aug.integrations.module import AugmentModule

CLASSES, ROWS, BATCH = 4, 16, 8


def data() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "a": torch.randn(3, generator=generator),
            "b": torch.randn(5, generator=generator),
            "label": i % CLASSES,
        }
        for i in range(ROWS)
    ]


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fusion = nn.Linear(8, CLASSES)
        augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)
        self.augment = AugmentModule(augment)
        self.criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.3))

    def forward(self, batch: Any) -> torch.Tensor:
        out = self.augment(batch)
        return self.criterion(self.fusion(torch.cat([out["a"], out["b"]], dim=1)), out)


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_accelerate_scales_once_and_saves_what_is_in_the_model(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Fused()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data(), BATCH))
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch))
            optimizer.step()
            optimizer.zero_grad()
    twin = Fused()
    (sum(twin(batch) for batch in DataLoader(data(), BATCH)) / 2).backward()
    expected = (twin.fusion.weight - 0.1 * twin.fusion.weight.grad).detach()
    torch.testing.assert_close(model.fusion.weight.detach(), expected)

    accelerator.save_state(str(tmp_path))
    (batch,) = DataLoader(data(), ROWS)
    after = [model(batch).item() for _ in range(2)]
    model.criterion.weak_modality.alpha.fill_(9)
    accelerator.load_state(str(tmp_path))
    assert model.augment.state_dict()["stream.calls"] == 2
    assert [model(batch).item() for _ in range(2)] == after


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_the_loss_that_keras_computes_is_the_papers():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((5,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(joined))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    views, targets, weights = KerasCollate(augment)(data())
    assert views["a"].shape == (3 * ROWS, 3)
    given = {name: view.numpy() for name, view in views.items()}
    loss = model.test_on_batch(given, targets.numpy(), weights.numpy())
    logits = torch.tensor(np.asarray(model.predict(given, verbose=0)))
    expected = (weights * cross_entropy(logits, targets, reduction="none")).mean()
    assert float(np.asarray(loss).flatten()[0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_for_keras_is_the_batch():
    augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)
    (batch,) = DataLoader(data(), ROWS)
    out = augment(batch)
    views, targets, weights = keras_batch(out)
    assert views.keys() == {"a", "b"}
    assert torch.equal(views["b"], out["b"])
    assert torch.equal(targets, out.targets)
    assert torch.equal(weights, out.weights)


GROUPED = {"image": "a", "text": ["b", "mask"]}


def grouped() -> Any:
    (batch,) = DataLoader(data(), ROWS)
    batch["mask"] = torch.arange(ROWS)
    return MisalignAugment(GROUPED, CLASSES, confidence="uniform", hardness=None)(batch)


def test_a_modality_of_several_keys_is_a_mapping_for_keras():
    out = grouped()
    views, _, _ = keras_batch(out)
    assert views.keys() == {"image", "text"}
    assert torch.equal(views["image"], out["a"])
    assert views["text"].keys() == {"b", "mask"}
    assert torch.equal(views["text"]["b"], out["b"])
    assert torch.equal(views["text"]["mask"], out.source[:, 1])


def test_keras_gets_modalities_by_name_where_the_keys_are_other_names():
    crossed = MisalignAugment({"a": "b", "b": "a"}, CLASSES, confidence="uniform", seed=0)
    (batch,) = DataLoader(data(), ROWS)
    out = crossed(batch)
    views, _, _ = keras_batch(out)
    assert torch.equal(views["a"], out["b"])
    assert torch.equal(views["b"], out["a"])


def test_keras_gets_the_items_of_a_tuple_batch_by_their_positions():
    augment = MisalignAugment(
        {"image": 0, "text": [1, 2]}, CLASSES, label=3, confidence="uniform", hardness=None
    )
    batch = tuple(torch.rand(ROWS, width) for width in (3, 5, 2))
    views, _, _ = keras_batch(augment((*batch, torch.arange(ROWS) % CLASSES)))
    assert views.keys() == {"image", "text"}
    assert views["text"].keys() == {"1", "2"}


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_a_model_of_keras_takes_a_modality_of_several_keys():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    text = {"b": keras.Input((5,), name="b"), "mask": keras.Input((1,), name="mask")}
    inputs = {"image": keras.Input((3,), name="image"), "text": text}
    joined = keras.layers.Concatenate()([inputs["image"], text["b"], text["mask"]])
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(joined))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    rows = [sample | {"mask": torch.ones(1)} for sample in data()]
    collate = KerasCollate(MisalignAugment(GROUPED, CLASSES, confidence="uniform", hardness=None))
    before = [weight.copy() for weight in model.get_weights()]
    model.fit(DataLoader(rows, BATCH, collate_fn=collate), verbose=0)
    after = model.get_weights()
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


def test_keras_gets_no_batch_that_is_only_drawn():
    with pytest.raises(MidasAugError, match="a confidence that needs no model, got 'logits'"):
        KerasCollate(MisalignAugment(("a", "b"), CLASSES))


def test_keras_gets_nothing_else_either():
    with pytest.raises(MidasAugError, match="expected a MisalignAugment, got str"):
        KerasCollate("uniform")
    with pytest.raises(MidasAugError, match="expected a MisalignedBatch, got dict"):
        keras_batch({"a": torch.ones(2, 3)})


def test_a_batch_whose_rows_are_not_there_is_refused_for_keras():
    augment = MisalignAugment(("x", "z"), 3, confidence="uniform", hardness=None)
    batch = {"x": torch.rand(4, 2), "z": torch.rand(4, 3), "label": torch.arange(4) % 3}
    with pytest.raises(MidasAugError, match="drawn with materialize=False"):
        keras_batch(augment(batch, materialize=False))
