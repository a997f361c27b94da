"""The augmentation as a module: it follows train and eval, and the draws are in its state."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.confidence import TableConfidence
from midas_aug.integrations.module import AugmentModule, find_losses

CLASSES, ROWS = 4, 8


def make(confidence: str = "uniform", seed: int | None = 0) -> AugmentModule:
    return AugmentModule(MisalignAugment(("a", "b"), CLASSES, confidence=confidence, seed=seed))


def batch() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(ROWS, 3),
        "b": torch.randn(ROWS, 5),
        "label": torch.arange(ROWS) % CLASSES,
    }


def test_in_training_it_is_the_augmentation():
    data = batch()
    plain = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)(data)
    out = make()(data)
    assert torch.equal(out.source, plain.source)
    assert torch.equal(out["b"], plain["b"])
    assert torch.equal(out.targets, plain.targets)


@pytest.mark.parametrize("confidence", ["uniform", "logits"])
def test_in_eval_mode_it_adds_no_rows_draws_nothing_and_asks_for_nothing(confidence):
    module = make(confidence)
    data = batch()
    for out in (module.eval()(data), module.draw(data), module(data, data["label"])):
        assert torch.equal(out["a"], data["a"])
        assert len(out.source) == ROWS
        assert torch.equal(out.weights, torch.ones(ROWS))
        assert torch.equal(out.targets.argmax(dim=1), data["label"])
    assert module.state_dict()["stream.calls"] == 0
    assert MidasLoss(2)(torch.randn(ROWS, CLASSES), out) > 0


def test_numpy_batches_are_left_as_they_are_too():
    data = {key: value.numpy() for key, value in batch().items()}
    assert len(make().eval()(data).source) == ROWS


@pytest.mark.parametrize(
    "label", ["label", lambda batch: batch["label"], lambda batch: batch.label]
)
@pytest.mark.parametrize("confidence", ["uniform", "logits"])
def test_a_trained_model_predicts_without_labels(confidence, label):
    keys = {"a": "a", "b": ["b", "mask"]}
    augment = MisalignAugment(keys, CLASSES, confidence=confidence, label=label)
    module = AugmentModule(augment).eval()
    data = {"a": {"x": torch.randn(ROWS, 3)}, "b": torch.randn(ROWS, 5), "mask": [1] * ROWS}
    for out in (module(data), module.draw(data)):
        assert torch.equal(out["a"]["x"], data["a"]["x"])
        assert torch.equal(out["b"], data["b"])
        assert out.labels.tolist() == [-1] * ROWS
        loss = MidasLoss(2).eval()(torch.randn(ROWS, CLASSES), out)
        assert loss == 0
    with pytest.raises((MidasAugError, KeyError, AttributeError)):
        module.train()(data)


def test_prediction_without_labels_takes_numpy_lists_and_tuples():
    batches = {
        "arrays": (("a", "b"), {"a": np.ones((ROWS, 3)), "b": np.ones((ROWS, 5))}),
        "lists": (("a", "b"), {"a": ["text"] * ROWS, "b": torch.ones(ROWS, 5)}),
        "tuple": ((0, 1), (torch.ones(ROWS, 3), torch.ones(ROWS, 5))),
        "none": (("a", "b"), {"a": torch.ones(ROWS, 3), "b": torch.ones(ROWS, 5), "label": None}),
    }
    for name, (modalities, data) in batches.items():
        label = 2 if name == "tuple" else "label"
        module = AugmentModule(MisalignAugment(modalities, CLASSES, label=label)).eval()
        out = module(data)
        assert out.labels.tolist() == [-1] * ROWS, name
        assert out.is_numpy == (name == "arrays")


def test_labels_under_another_key_are_not_taken_for_none():
    data = batch()
    data["labels"] = data.pop("label")
    with pytest.raises(MidasAugError, match=r"expected labels under 'label', found .*'labels'"):
        make().eval()(data)


def test_a_batch_is_drawn_where_the_labels_need_a_model():
    module, data = make("logits"), batch()
    out = module.draw(data, materialize=False)
    assert len(out["a"]) == ROWS
    assert len(out.source) == 3 * ROWS
    with pytest.raises(MidasAugError, match="label"):
        out.targets  # noqa: B018
    with pytest.raises(MidasAugError, match="expected unimodal_logits"):
        module(data)


def test_the_model_that_holds_it_resumes_the_draws():
    model, data = nn.ModuleDict({"augment": make()}), batch()
    for _ in range(3):
        model["augment"](data)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    expected = [model["augment"](data).source for _ in range(2)]
    resumed = nn.ModuleDict({"augment": make()})
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(resumed["augment"](data).source, source) for source in expected)
    assert not torch.equal(expected[0], expected[1])
    fresh = make()
    assert not torch.equal(fresh(data).source, expected[0])


def test_a_table_is_no_part_of_the_state_of_the_model():
    """A model would fit no other data set; the table is saved beside it."""
    table = TableConfidence(("a", "b"), ROWS)
    model = AugmentModule(MisalignAugment(("a", "b"), CLASSES, confidence=table, seed=0))
    table.update(torch.arange(ROWS), torch.rand(ROWS, 2))
    assert model.state_dict().keys() == {"stream.calls"}
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "table": table.state_dict()}, file)
    file.seek(0)
    other = TableConfidence(("a", "b"), ROWS)
    other.load_state_dict(torch.load(file, weights_only=True)["table"])
    assert torch.equal(other.table, table.table)


def test_a_copy_draws_on_by_itself():
    module, data = make(), batch()
    twin = copy.deepcopy(module)
    module(data)
    assert twin.state_dict()["stream.calls"] == 0
    assert module.state_dict()["stream.calls"] == 1


def test_what_is_no_augmentation_is_refused():
    with pytest.raises(MidasAugError, match="expected a MisalignAugment, got Linear"):
        AugmentModule(nn.Linear(2, 2))


def test_losses_are_found_in_the_model_or_the_message_says_what_gets_lost():
    criterion = MidasLoss(2)
    assert find_losses(nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([criterion])])) == [criterion]
    with pytest.raises(MidasAugError, match=r"MidasLoss among the modules of Linear.*saved"):
        find_losses(nn.Linear(2, 2))
