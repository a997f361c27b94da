"""The Hugging Face Trainer: what the model gets, how the loss is scaled, what is checkpointed."""

import warnings
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import IterableDataset, default_collate

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.confidence import (
    ConfidenceProvider,
    LogitConfidence,
    SkillConfidence,
    TableConfidence,
)
from midas_aug.diagnostics import TrainingLog
from midas_aug.integrations.module import AugmentModule

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from midas_aug.integrations.huggingface import MidasCallback, MidasTrainer  # noqa: E402

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("default")]
CLASSES, ROWS, BATCH = 4, 16, 8
INPUTS = {"image": ["pixels"], "text": ["ids", "mask"]}


def data() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "pixels": torch.randn(3, generator=generator),
            "ids": torch.randint(9, (5,), generator=generator),
            "mask": torch.ones(5, dtype=torch.long),
            "label": i % CLASSES,
            "file": "name",  # no input of the model
        }
        for i in range(ROWS)
    ]


class Classifier(nn.Module):
    """A classifier that knows its inputs, integer labels and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 3)
        self.fusion = nn.Linear(6, CLASSES)
        self.calls: list[tuple[int, bool]] = []

    def forward(self, pixels: Any, ids: Any, mask: Any, labels: Any = None) -> dict[str, Any]:
        self.calls.append((len(pixels), labels is None))
        words = (self.words(ids) * mask[:, :, None]).sum(dim=1)
        logits = self.fusion(torch.cat([pixels, words], dim=1))
        return {"logits": logits} | (
            {} if labels is None else {"loss": cross_entropy(logits, labels)}
        )


def uniform(**options: Any) -> MisalignAugment:
    options = {"confidence": "uniform", "label": "labels", "seed": 0} | options
    return MisalignAugment(("image", "text"), CLASSES, **options)


def arguments(folder: Any, **options: Any) -> Any:
    settings = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return transformers.TrainingArguments(output_dir=str(folder), **(settings | options))


def make(
    folder: Any,
    model: nn.Module | None = None,
    augment: MisalignAugment | None = None,
    dataset: Any = None,
    **options: Any,
) -> Any:
    return MidasTrainer(
        model or Classifier(),
        arguments(folder, **options),
        train_dataset=dataset or data(),
        eval_dataset=dataset or data(),
        augment=augment or uniform(),
        inputs=INPUTS,
    )


def test_training_batches_are_misaligned_and_evaluation_is_left_alone(tmp_path):
    model = Classifier()
    trainer = make(tmp_path, model)
    trainer.train()
    assert model.calls == [(3 * BATCH, True)] * 2
    model.calls.clear()
    metrics = trainer.evaluate()
    assert model.calls == [(BATCH, False)] * 2
    with torch.no_grad():
        expected = [model(**batch)["loss"] for batch in trainer.get_eval_dataloader()]
    assert metrics["eval_loss"] == pytest.approx(float(sum(expected)) / 2)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_is_that_of_the_mean_loss_of_the_batches(tmp_path, steps):
    model = Classifier()
    trainer = make(tmp_path, model, gradient_accumulation_steps=steps, max_steps=1)
    twin = Classifier()
    batches = list(trainer.get_train_dataloader())  # in the order of training: it is seeded
    trainer.augment.load_state_dict(uniform().state_dict())
    trainer.train()
    weak = WeakModalityWeight(2)
    total = 0
    for batch in batches[:steps]:
        out = batch["misaligned"]
        logits = twin(batch["pixels"], batch["ids"], batch["mask"])["logits"]
        targets, weights = weak.fold(out)
        total = total + (weights * cross_entropy(logits, targets, reduction="none")).mean() / steps
        weak.update(logits.detach(), out)
    total.backward()
    expected = (twin.fusion.weight - 0.1 * twin.fusion.weight.grad).detach()
    torch.testing.assert_close(model.fusion.weight.detach(), expected)


def test_a_checkpoint_brings_back_alpha_and_the_draws(tmp_path):
    seen: dict[str, list[torch.Tensor]] = {"whole": [], "resumed": []}

    def watch(trainer: Any, name: str) -> Any:
        inner = trainer.criterion.forward

        def forward(logits: Any, out: Any, *rest: Any) -> Any:
            seen[name].append(out.source.clone())
            return inner(logits, out, *rest)

        trainer.criterion.forward = forward
        return trainer

    whole = watch(make(tmp_path / "whole", num_train_epochs=3), "whole")
    whole.train()
    begun = make(tmp_path / "begun", num_train_epochs=2, save_strategy="epoch")
    begun.train()
    resumed = make(tmp_path / "begun", num_train_epochs=3, save_strategy="epoch")
    watch(resumed, "resumed").train(resume_from_checkpoint=True)
    assert len(seen["resumed"]) == 2
    assert all(map(torch.equal, seen["resumed"], seen["whole"][4:]))
    alpha = resumed.criterion.weak_modality.alpha
    assert alpha.tolist() == whole.criterion.weak_modality.alpha.tolist()
    assert torch.equal(resumed.model.fusion.weight, whole.model.fusion.weight)


@pytest.mark.parametrize("drops", [True, False])
def test_the_index_of_a_table_is_looked_up_and_kept_from_the_model(tmp_path, drops):
    table = TableConfidence(("image", "text"), ROWS, index="position")
    table.update(torch.arange(ROWS), torch.stack([torch.arange(ROWS) / ROWS, torch.ones(ROWS)], 1))
    rows = [{**sample, "position": i} for i, sample in enumerate(data())]
    model = Classifier()
    trainer = make(
        tmp_path, model, uniform(confidence=table), dataset=rows, remove_unused_columns=drops
    )
    pixels = torch.stack([row["pixels"] for row in rows])
    for batch in trainer.get_train_dataloader():
        out = batch["misaligned"]
        rows_of = [int((pixels == row).all(dim=1).nonzero()) for row in batch["pixels"][:BATCH]]
        torch.testing.assert_close(out.confidence[:, 0], torch.tensor(rows_of) / ROWS)
        assert set(batch) == {"pixels", "ids", "mask", "labels", "misaligned"}
    trainer.train()
    assert model.calls == [(3 * BATCH, True)] * 2
    assert trainer.args.remove_unused_columns is drops
    if drops:
        assert trainer.evaluate()["eval_loss"] > 0


def test_a_checkpoint_brings_back_the_state_of_the_confidence(tmp_path):
    first, second = (SkillConfidence(("image", "text"), CLASSES) for _ in range(2))
    labels = torch.arange(ROWS) % CLASSES
    first.update([9 * one_hot(labels).float(), torch.zeros(ROWS, CLASSES)], labels)
    first.step()
    make(tmp_path, augment=uniform(confidence=first), save_strategy="epoch").train()
    options = {"num_train_epochs": 2, "save_strategy": "epoch"}
    resumed = make(tmp_path, augment=uniform(confidence=second), **options)
    assert not torch.equal(second.skill, first.skill)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(second.skill, first.skill)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), r"expected the file .*midas_aug\.pt, found none"),
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "a file that cannot be read"),
        (lambda file: file.write_bytes(b""), "a file that cannot be read"),
        (lambda file: torch.save({"augment": {}}, file), r"the keys .* got \['augment'\]"),
        (lambda file: torch.save([1], file), "the keys .* got 'list'"),
    ],
)
def test_a_checkpoint_without_its_state_says_what_to_do(tmp_path, damage, message):
    make(tmp_path, save_strategy="epoch").train()
    [file] = tmp_path.glob("checkpoint-*/midas_aug.pt")
    damage(file)
    with pytest.raises(MidasAugError, match=f"{message}.*resume from a checkpoint that is whole"):
        make(tmp_path, num_train_epochs=2).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    skilled = uniform(confidence=SkillConfidence(("image", "text"), CLASSES))
    make(tmp_path, augment=skilled, save_strategy="epoch").train()
    message = r"midas_aug\.pt .*does not fit .*UniformConfidence.*was written with"
    with pytest.raises(MidasAugError, match=message):
        make(tmp_path, num_train_epochs=2).train(resume_from_checkpoint=True)


def test_every_training_with_a_new_model_starts_fresh(tmp_path):
    skill = SkillConfidence(("image", "text"), CLASSES)
    trainer = MidasTrainer(
        args=arguments(tmp_path),
        model_init=Classifier,
        train_dataset=data(),
        augment=uniform(confidence=skill),
        inputs=INPUTS,
    )
    losses, start = [], skill.skill.clone()
    for trial in range(2):
        losses.append(trainer.train().training_loss)
        assert trainer.augment.state_dict()["stream"]["calls"] == 2, trial
        if trial == 0:
            assert trainer.criterion.weak_modality.alpha.abs().sum() > 0
            skill.skill.fill_(0.5)
    assert torch.equal(skill.skill, start)
    assert losses[0] == losses[1]


def test_what_was_saved_stays_whole_where_saving_fails(tmp_path, monkeypatch):
    trainer = make(tmp_path)
    folder = tmp_path / "checkpoint-1"
    trainer.save_model(str(folder))
    before = (folder / "midas_aug.pt").read_bytes()

    def fail(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(transformers.Trainer, "save_model", lambda *_, **__: None)
    with pytest.raises(OSError, match="full"):
        trainer.save_model(str(folder))
    assert (folder / "midas_aug.pt").read_bytes() == before


def test_what_does_not_go_with_soft_labels_is_refused(tmp_path):
    model = Classifier()
    model.config = transformers.PretrainedConfig()
    with pytest.raises(MidasAugError, match=r"label_smoothing_factor=0, got 0\.1"):
        make(tmp_path, model, label_smoothing_factor=0.1)
    options = {"args": arguments(tmp_path), "inputs": INPUTS}
    with pytest.raises(MidasAugError, match="a confidence that needs no model, got 'logits'"):
        MidasTrainer(model, augment=uniform(confidence="logits"), **options)
    with pytest.raises(MidasAugError, match="no compute_loss_func"):
        MidasTrainer(model, augment=uniform(), compute_loss_func=lambda *_: 0, **options)
    with pytest.raises(MidasAugError, match=r"inputs of the modalities \('image', 'text'\)"):
        MidasTrainer(model, args=arguments(tmp_path), augment=uniform(), inputs={"image": ["ids"]})


def test_parts_of_another_kind_are_refused_by_name(tmp_path):
    def build(augment: Any = None, **options: Any) -> None:
        MidasTrainer(
            Classifier(),
            arguments(tmp_path),
            augment=augment or uniform(),
            inputs=INPUTS,
            **options,
        )

    with pytest.raises(MidasAugError, match="expected a MisalignAugment, got str"):
        build("uniform")
    with pytest.raises(MidasAugError, match="AugmentModule; pass its attribute augment"):
        build(AugmentModule(uniform()))
    with pytest.raises(MidasAugError, match="criterion to be a MidasLoss, got CrossEntropyLoss"):
        build(criterion=nn.CrossEntropyLoss())
    with pytest.raises(MidasAugError, match=r"2 modalities \('image', 'text'\), got one for 3"):
        build(criterion=MidasLoss(3))


def test_a_model_without_logits_is_named(tmp_path):
    class Scores(Classifier):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return {"scores": super().forward(*args, **kwargs)["logits"]}

    with pytest.raises(MidasAugError, match=r"returns logits, got the keys \['scores'\]"):
        make(tmp_path, Scores(), max_steps=1, remove_unused_columns=False).train()


def test_an_input_that_is_not_there_is_named(tmp_path):
    trainer = make(tmp_path)
    trainer.collate_inputs = {**INPUTS, "text": ["ids", "typo"]}
    with pytest.raises(MidasAugError, match=r"found no \['typo'\].*remove_unused_columns"):
        next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("inputs", [None, {"image": "pixels", "text": ["ids", "mask"]}])
def test_the_mapping_of_the_augmentation_names_the_inputs(tmp_path, inputs):
    weights = []
    keys = {"image": "pixels", "text": ["ids", "mask"]}
    for modalities, given in ((keys, inputs), (("image", "text"), INPUTS)):
        model = Classifier()
        augment = MisalignAugment(
            modalities, CLASSES, label="labels", confidence="uniform", hardness=None, seed=0
        )
        options = {"train_dataset": data(), "augment": augment, "inputs": given}
        MidasTrainer(model, arguments(tmp_path), **options).train()
        assert model.calls == [(3 * BATCH, True)] * 2
        weights.append(model.fusion.weight)
    assert torch.equal(*weights)


class Masked(nn.Module):
    """A classifier that is told which modalities a row has, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.Linear(3, CLASSES)
        self.given: list[dict[str, Any]] = []

    def forward(
        self, pixels: Any, ids: Any, mask: Any, present: Any, labels: Any = None
    ) -> dict[str, Any]:
        self.given.append({"pixels": pixels, "ids": ids, "present": present})
        return {"logits": self.fusion(pixels)}


@pytest.mark.parametrize("modalities", ["mapping", "names"])
@pytest.mark.parametrize("form", ["tensor", "mapping"])
def test_the_model_is_told_which_modalities_the_mixed_rows_have(tmp_path, modalities, form):
    has = torch.tensor([[row % 3 > 0, row % 5 > 0] for row in range(ROWS)])
    rows = []
    for row, (image, text) in enumerate(has):
        values = {"pixels": torch.full((3,), row / 1.0), "ids": torch.full((5,), row)}
        flags = {"image": image, "text": text} if form == "mapping" else torch.stack((image, text))
        mask = torch.ones(5, dtype=torch.long)
        rows.append({**values, "mask": mask, "labels": row % CLASSES, "present": flags})
    names = ("image", "text") if modalities == "names" else INPUTS
    options = {"label": "labels", "confidence": "uniform", "hardness": None, "seed": 0}
    model = Masked()
    MidasTrainer(
        model,
        arguments(tmp_path, per_device_train_batch_size=ROWS),
        train_dataset=rows,
        augment=MisalignAugment(names, CLASSES, present="present", **options),
        inputs=INPUTS,
        data_collator=default_collate,
    ).train()
    [given] = model.given
    told = given["present"]
    if form == "mapping":
        told = torch.stack([told["image"], told["text"]], dim=1)
    image, text = given["pixels"][:, 0].long(), given["ids"][:, 0]
    assert torch.equal(told, torch.stack([has[image, 0], has[text, 1]], dim=1))
    assert not torch.equal(told, told[:ROWS].repeat(3, 1))  # not that of the anchors


class Unlabelled(Classifier):
    """A classifier that takes no labels."""

    def forward(self, pixels: Any, ids: Any, mask: Any) -> dict[str, Any]:  # type: ignore[override]
        return super().forward(pixels, ids, mask)


def test_labels_reach_the_augmentation_where_the_model_takes_none(tmp_path):
    rows = [{**row, "labels": row["label"]} for row in data()]
    model = Unlabelled()
    MidasTrainer(
        model,
        arguments(tmp_path),
        train_dataset=rows,
        augment=uniform(),
        inputs=INPUTS,
        data_collator=default_collate,
    ).train()
    assert model.calls == [(3 * BATCH, True)] * 2


def test_a_stream_is_misaligned_in_one_process_and_not_handed_to_several_in_parts(
    tmp_path, monkeypatch
):
    model = Classifier()
    make(tmp_path, model, dataset=Stream(), max_steps=2).train()
    assert model.calls == [(3 * BATCH, True)] * 2
    monkeypatch.setattr(transformers.TrainingArguments, "world_size", 2)
    message = r"each of the 2 processes.*accelerator_config=\{'dispatch_batches': False\}"
    with pytest.raises(MidasAugError, match=message):
        make(tmp_path, dataset=Stream(), max_steps=2).get_train_dataloader()
    alone = {"accelerator_config": {"dispatch_batches": False}, "max_steps": 2}
    trainer = make(tmp_path, dataset=Stream(), **alone)
    assert len(next(iter(trainer.get_train_dataloader()))["pixels"]) == 3 * BATCH


class Fused(nn.Module):
    """Augments in its forward and gives its own loss."""

    def __init__(self, **warmup: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 3)
        self.heads = nn.ModuleDict({"image": nn.Linear(3, CLASSES), "text": nn.Linear(3, CLASSES)})
        self.fusion = nn.Linear(6, CLASSES)
        self.augment = AugmentModule(MisalignAugment(("image", "text"), CLASSES, seed=0))
        self.criterion = MidasLoss(2, **warmup)
        self.losses: list[torch.Tensor] = []

    def forward(self, pixels: Any, ids: Any, labels: Any = None) -> dict[str, Any]:
        features = {"image": pixels, "text": self.words(ids).sum(dim=1)}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        out = self.augment(features, labels, unimodal_logits=unimodal)
        logits = self.fusion(torch.cat([out["image"], out["text"]], dim=1))
        if labels is None:
            return {"logits": logits}
        loss = self.criterion(logits, out, unimodal)
        self.losses.append(loss.detach())
        return {"loss": loss, "logits": logits}


class WithKwargs(Fused):
    """A forward that makes the Trainer believe that the loss is scaled."""

    def forward(self, pixels: Any, ids: Any, labels: Any, **_: Any) -> dict[str, Any]:
        return super().forward(pixels, ids, labels)


class Stream(IterableDataset[dict[str, Any]]):
    """Samples without an end."""

    def __iter__(self) -> Any:
        while True:
            yield from data()


def stock(
    folder: Any, model: nn.Module, dataset: Any = None, log: Any = None, **options: Any
) -> Any:
    return transformers.Trainer(
        model,
        arguments(folder, **options),
        train_dataset=data() if dataset is None else dataset,
        eval_dataset=data(),
        callbacks=[MidasCallback(log)],
    )


def test_a_model_that_augments_itself_is_evaluated_without_swaps(tmp_path):
    model = Fused()
    trainer = stock(tmp_path, model)
    trainer.train()
    unlabelled = [{"pixels": row["pixels"], "ids": row["ids"]} for row in data()]
    with_labels, without = trainer.predict(data()), trainer.predict(unlabelled)
    assert with_labels.predictions.shape == (ROWS, CLASSES)
    assert (without.predictions == with_labels.predictions).all()
    assert model.augment.state_dict()["stream.calls"] == 2


def test_the_callback_ends_the_warm_up_and_checkpoints_hold_all(tmp_path):
    whole = Fused(warmup_epochs=1)
    before = whole.fusion.weight.detach().clone()
    stock(tmp_path / "whole", whole, num_train_epochs=3).train()
    begun = Fused(warmup_epochs=1)
    with pytest.warns(UserWarning, match=r"warmup_epochs=1 takes the whole training .length 1"):
        stock(tmp_path / "begun", begun, save_strategy="epoch").train()
    assert torch.equal(begun.fusion.weight, before)  # one epoch, of warm-up
    resumed = Fused(warmup_epochs=1)
    trainer = stock(tmp_path / "begun", resumed, num_train_epochs=3, save_strategy="epoch")
    trainer.train(resume_from_checkpoint=True)
    assert not torch.equal(resumed.fusion.weight, before)
    assert [loss.item() for loss in resumed.losses] == [loss.item() for loss in whole.losses[2:]]
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_an_unscaled_loss_under_accumulation_is_refused(tmp_path):
    stock(tmp_path, Fused(), gradient_accumulation_steps=2).train()
    stock(tmp_path, WithKwargs()).train()
    message = r"2 steps that are accumulated, got WithKwargs.*accepts_loss_kwargs = False"
    with pytest.raises(MidasAugError, match=message):
        stock(tmp_path, WithKwargs(), gradient_accumulation_steps=2).train()
    with pytest.raises(MidasAugError, match="expected a MidasLoss among the modules"):
        stock(tmp_path, Classifier()).train()


@pytest.mark.parametrize("attribute", ["world_size", "n_gpu"])
def test_a_loss_that_several_devices_would_multiply_is_refused(tmp_path, attribute):
    settings = {"world_size": 1, "n_gpu": 1, attribute: 2}
    args = SimpleNamespace(
        gradient_accumulation_steps=1, average_tokens_across_devices=True, **settings
    )
    state = SimpleNamespace(max_steps=4, num_train_epochs=2)
    callback, model = MidasCallback(), WithKwargs()
    with pytest.raises(MidasAugError, match=r"2 processes or devices.*accepts_loss_kwargs = False"):
        callback.on_train_begin(args, state, None, model=model)
    args.average_tokens_across_devices = False
    callback.on_train_begin(args, state, None, model=model)
    args.average_tokens_across_devices, model.accepts_loss_kwargs = True, False
    callback.on_train_begin(args, state, None, model=model)
    callback.on_train_begin(args, state, None, model=Fused())


class Adapted(nn.Module):
    """A stand-in for a PEFT wrapper: its forward takes anything and hands it on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.peft_config: dict[str, Any] = {}
        self.base = model

    def get_base_model(self) -> nn.Module:
        return self.base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)


def test_a_model_inside_adapters_is_judged_by_its_own_forward():
    args = SimpleNamespace(gradient_accumulation_steps=2, world_size=1, n_gpu=1)
    state = SimpleNamespace(max_steps=4, num_train_epochs=2)
    MidasCallback().on_train_begin(args, state, None, model=Adapted(Fused()))
    with pytest.raises(MidasAugError, match="got WithKwargs"):
        MidasCallback().on_train_begin(args, state, None, model=Adapted(WithKwargs()))


def test_a_warm_up_in_epochs_of_a_stream_is_refused_and_one_in_steps_ends(tmp_path):
    with pytest.raises(MidasAugError, match=r"without a length.*warmup_steps"):
        stock(tmp_path, Fused(warmup_epochs=1), Stream(), max_steps=4).train()
    model = Fused(warmup_steps=2)
    before = model.fusion.weight.detach().clone()
    stock(tmp_path, model, Stream(), max_steps=4).train()
    assert not torch.equal(model.fusion.weight, before)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_warm_up_that_outlasts_the_training_is_told(tmp_path, accumulated):
    options = {"max_steps": 4 // accumulated, "gradient_accumulation_steps": accumulated}
    with pytest.warns(UserWarning, match=r"warmup_steps=4 takes the whole training .length 4"):
        stock(tmp_path, Fused(warmup_steps=4), Stream(), **options).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stock(tmp_path, Fused(warmup_steps=3), Stream(), **options).train()


def test_the_trainer_at_input_level_takes_no_warm_up(tmp_path):
    with pytest.raises(MidasAugError, match=r"without a warm-up.*MidasCallback"):
        MidasTrainer(
            Classifier(),
            arguments(tmp_path),
            augment=uniform(),
            inputs=INPUTS,
            criterion=MidasLoss(2, warmup_steps=1),
        )


@pytest.mark.parametrize("level", ["feature", "input"])
def test_a_log_is_told_every_step_and_its_scores_are_in_the_history(tmp_path, level):
    log, options = TrainingLog(("image", "text")), {"num_train_epochs": 2}
    if level == "input":
        trainer = MidasTrainer(
            Classifier(),
            arguments(tmp_path, **options),
            train_dataset=data(),
            augment=uniform(),
            inputs=INPUTS,
            log=log,
        )
        criterion = trainer.criterion
    else:
        trainer = stock(tmp_path, Fused(), log=log, **options)
        criterion = trainer.model.criterion
    trainer.train()
    assert [record["epoch"] for record in log.records] == [0, 1]
    name = f"alpha.{log.modalities[0]}"
    assert {"loss.total", "loss.misaligned", name, "accuracy"} <= set(log.records[0])
    history = [one for one in trainer.state.log_history if f"midas/{name}" in one]
    assert [one["epoch"] for one in history] == [1, 2]
    assert history[1][f"midas/{name}"] == log.records[1][name]
    assert "forward" not in vars(criterion)  # as it was
    plain = Fused() if level == "feature" else Classifier()
    (stock if level == "feature" else make)(tmp_path, plain, **options).train()
    torch.testing.assert_close(plain.fusion.weight, trainer.model.fusion.weight)


def test_a_log_that_is_none_is_refused_at_once(tmp_path):
    message = r"log to be a TrainingLog or None, got True; .*TrainingLog\(augment\.modalities\)"
    with pytest.raises(MidasAugError, match=message):
        MidasCallback(log=True)
    with pytest.raises(MidasAugError, match=message):
        MidasTrainer(Classifier(), arguments(tmp_path), augment=uniform(), inputs=INPUTS, log=True)


class Named(NamedTuple):
    loss: Any
    logits: Any


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: Named(logits.sum(), logits),
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: (None, logits),
        lambda logits: (logits, torch.zeros(3)),
        lambda logits: logits,
    ],
)
def test_logits_are_found_in_what_a_model_returns(wrap, tmp_path):
    class Wrapped(Classifier):
        def forward(self, pixels: Any, ids: Any, mask: Any, labels: Any = None) -> Any:
            return wrap(super().forward(pixels, ids, mask)["logits"])

    plain, wrapped = make(tmp_path), make(tmp_path, model=Wrapped())
    for trainer in (plain, wrapped):
        trainer.train()
    torch.testing.assert_close(wrapped.model.fusion.weight, plain.model.fusion.weight)


def test_logits_that_the_batch_brings_stay_in_it(tmp_path):
    samples = [
        sample | {f"{name}_logits": torch.randn(CLASSES) for name in INPUTS} for sample in data()
    ]
    augment = uniform(confidence=LogitConfidence(("image_logits", "text_logits")))
    make(tmp_path, augment=augment, dataset=samples).train()


def test_a_state_of_numpy_arrays_comes_back(tmp_path):
    class Counting(ConfidenceProvider):
        def __init__(self) -> None:
            self.seen = np.zeros(2)

        def __call__(self, batch: Any, labels: Any) -> Any:
            self.seen += 1
            return torch.ones(len(labels), 2)

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen, "last": np.float32(self.seen[0])}

        def load_state_dict(self, state: Any) -> None:
            self.seen = state["seen"]

    made = {"save_strategy": "epoch"}
    first = make(tmp_path, augment=uniform(confidence=Counting()), **made)
    first.train()
    seen = first.augment.confidence.seen.copy()
    again = make(tmp_path, augment=uniform(confidence=Counting()), num_train_epochs=2, **made)
    again.train(resume_from_checkpoint=True)
    assert again.augment.confidence.seen.tolist() == (2 * seen).tolist()
