"""Labels of other kinds, and missing modalities, where a loader or a trainer is in between."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.confidence import HeadConfidence
from midas_aug.integrations.keras import keras_batch
from midas_aug.integrations.module import AugmentModule
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel, Target

ROWS, BATCH = 16, 8
TARGETS = [ClassIndex(3), Distribution(3), MultiLabel(3), Continuous(), Continuous(3)]


def labels_of(target: Target, n_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(n_rows, 3, generator=generator)
    if isinstance(target, ClassIndex):
        return torch.arange(n_rows) % 3
    if isinstance(target, Distribution):
        return numbers.softmax(dim=1)
    if isinstance(target, MultiLabel):
        return (numbers > 0.5).long()
    return numbers[:, 0] if target.n_outputs == 1 else numbers


def samples(target: Target, n_rows: int = ROWS) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    labels = labels_of(target, n_rows)
    return [
        {
            "a": torch.randn(3, generator=generator),
            "b": torch.randn(5, generator=generator),
            "has": torch.tensor([True, i % 3 != 0]),
            "label": labels[i],
        }
        for i in range(n_rows)
    ]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_loader_brings_every_kind_of_label_and_what_is_missing(target, n_workers):
    augment = MisalignAugment(
        ("a", "b"), target=target, confidence="uniform", present="has", seed=0
    )
    loader = DataLoader(samples(target), BATCH, num_workers=n_workers, collate_fn=augment.collate())
    for number, out in enumerate(loader):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        torch.testing.assert_close(out.labels, target.check(labels_of(target, ROWS)[rows]))
        has = torch.stack([sample["has"] for sample in samples(target)[rows]])
        assert torch.equal(out.present, has.gather(0, out.source))
        assert (out.shares[~out.present] == 0).all()
        loss = MidasLoss(2)(torch.zeros(len(out.source), target.n_outputs), out)
        assert loss.isfinite()


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_trained_model_predicts_without_labels_of_any_kind(target, library):
    module = AugmentModule(MisalignAugment(("a", "b"), target=target)).eval()
    data: Any = {"a": torch.randn(ROWS, 3), "b": torch.randn(ROWS, 5)}
    if library == "numpy":
        data = {key: value.numpy() for key, value in data.items()}
    out = module(data)
    assert not torch.as_tensor(out.valid).any()
    loss = MidasLoss(2).eval()(torch.randn(ROWS, target.n_outputs), out)
    assert loss == 0


def test_in_eval_mode_missing_modalities_are_known_too():
    augment = MisalignAugment(("a", "b"), target=ClassIndex(3), present="has")
    data = torch.utils.data.default_collate(samples(ClassIndex(3)))
    out = AugmentModule(augment).eval()(data)
    assert torch.equal(out.present, data["has"])
    mask = torch.ones(ROWS, 2, dtype=torch.bool)
    assert AugmentModule(augment).eval()(data, present=mask).present.all()


def test_heads_of_a_target_label_and_learn():
    target = MultiLabel(3)
    heads = HeadConfidence({"a": 3, "b": 5}, target=target)
    data = torch.utils.data.default_collate(samples(target))
    augment = AugmentModule(MisalignAugment(("a", "b"), target=target, confidence=heads))
    unimodal = heads.unimodal_logits(data)
    out = augment(data, unimodal_logits=unimodal)
    wanted = [
        (-binary_cross_entropy_with_logits(z, out.labels, reduction="none").mean(dim=1)).exp()
        for z in unimodal.values()
    ]
    torch.testing.assert_close(out.confidence, torch.stack(wanted, dim=1))
    MidasLoss(2)(torch.zeros(3 * ROWS, 3), out, unimodal).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in augment.parameters())


def test_keras_gets_soft_multi_labels_and_no_numbers():
    rng = np.random.default_rng(0)
    batch = {"a": rng.random((8, 3)), "b": rng.random((8, 5))}
    tags = (rng.random((8, 3)) > 0.5).astype(np.int64)
    augment = MisalignAugment(("a", "b"), target=MultiLabel(3), confidence="uniform", seed=0)
    out = augment(batch, tags)
    _, targets, weights = keras_batch(out)
    logits = torch.randn(24, 3)
    rows = binary_cross_entropy_with_logits(logits, torch.as_tensor(targets), reduction="none")
    stock = (rows.mean(dim=1) * torch.as_tensor(weights)).mean()
    criterion = MidasLoss(2, weak_modality=None, unimodal_weight=0)
    torch.testing.assert_close(stock, criterion(logits, out))
    numbers = MisalignAugment(("a", "b"), target=Continuous(), confidence="uniform", seed=0)
    with pytest.raises(MidasAugError, match=r"Continuous.*MidasLoss"):
        keras_batch(numbers(batch, rng.random(8)))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.Linear(8, 3)

    def forward(self, a: Any, b: Any, labels: Any = None) -> dict[str, Any]:
        logits = self.fusion(torch.cat([a, b], dim=1))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": binary_cross_entropy_with_logits(logits, labels.float())}


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_the_trainer_of_hugging_face_takes_several_labels_and_a_mask(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from midas_aug.integrations.huggingface import MidasTrainer

    augment = MisalignAugment(
        ("a", "b"),
        target=MultiLabel(3),
        confidence="uniform",
        label="labels",
        present="has",
        seed=0,
    )
    rows = [
        {("labels" if key == "label" else key): value for key, value in sample.items()}
        for sample in samples(MultiLabel(3))
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = MidasTrainer(
        Tagger(), arguments, train_dataset=rows, eval_dataset=rows, augment=augment
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"a", "b", "labels", "misaligned"}
    out = batch["misaligned"]
    assert not out.present.all()
    assert np.isfinite(trainer.train().training_loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])
