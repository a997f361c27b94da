"""Lightning: no swaps in validation, the warm-up ends, checkpoints hold α and the draws."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.diagnostics import TrainingLog
from midas_aug.integrations.module import AugmentModule

lightning = pytest.importorskip("lightning")
from midas_aug.integrations.lightning import MidasCallback  # noqa: E402

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("default")]
CLASSES, ROWS, BATCH = 4, 16, 8


def data(rows: int = ROWS) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "a": torch.full((3,), float(i)),
            "b": torch.randn(5, generator=generator),
            "label": i % CLASSES,
        }
        for i in range(rows)
    ]


class Stream(IterableDataset[dict[str, Any]]):
    """Samples without an end."""

    def __iter__(self) -> Any:
        while True:
            yield from data()


class AtInput(lightning.LightningModule):
    """Augments in the hook that Lightning calls for training and for validation."""

    def __init__(self, **warmup: int) -> None:
        super().__init__()
        augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)
        self.augment = AugmentModule(augment)
        self.criterion = MidasLoss(2, **warmup)
        self.heads = nn.ModuleDict({"a": nn.Linear(3, CLASSES), "b": nn.Linear(5, CLASSES)})
        self.fusion = nn.Linear(8, CLASSES)
        self.rows: dict[str, list[int]] = {"train": [], "validation": []}
        self.sources: list[torch.Tensor] = []
        self.fusion_weights: list[torch.Tensor] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.augment.draw(batch)

    def look(self, out: Any) -> Any:
        unimodal = {name: head(out[name][out.aligned]) for name, head in self.heads.items()}
        return self.fusion(torch.cat([out["a"], out["b"]], dim=1)), unimodal

    def training_step(self, out: Any, _: int) -> Any:
        self.rows["train"].append(len(out["a"]))
        self.sources.append(out.source)
        logits, unimodal = self.look(out)
        return self.criterion(logits, out, unimodal)

    def validation_step(self, out: Any, _: int) -> None:
        self.rows["validation"].append(len(out["a"]))
        logits, unimodal = self.look(out)
        self.log("loss", self.criterion(logits, out, unimodal))

    def on_train_epoch_end(self) -> None:
        self.fusion_weights.append(self.fusion.weight.detach().clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: Any,
    epochs: int,
    *callbacks: Any,
    path: Any = None,
    dataset: Any = None,
    **options: Any,
) -> Any:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[MidasCallback(), *callbacks],
        **options,
    )
    train = DataLoader(data() if dataset is None else dataset, BATCH)
    loaders = [train, DataLoader(data(), BATCH)]
    trainer.fit(module, *loaders, ckpt_path=path, weights_only=True)
    return trainer


def test_the_transfer_hook_swaps_in_training_and_leaves_validation_alone():
    module = AtInput()
    fit(module, 2)
    assert module.rows["train"] == [3 * BATCH] * 4
    assert module.rows["validation"] == [BATCH] * 6  # two of them before training, as a check
    assert module.augment.state_dict()["stream.calls"] == 4


def test_the_callback_ends_the_warm_up():
    module = AtInput(warmup_epochs=1)
    before = module.fusion.weight.detach().clone()
    fit(module, 2)
    assert torch.equal(module.fusion_weights[0], before)
    assert not torch.equal(module.fusion_weights[1], before)


def test_a_checkpoint_holds_alpha_and_the_draws(tmp_path):
    torch.manual_seed(0)
    whole = AtInput(warmup_epochs=1)
    torch.manual_seed(0)
    begun = AtInput(warmup_epochs=1)
    torch.manual_seed(1)
    resumed = AtInput(warmup_epochs=1)
    fit(whole, 3)
    fit(begun, 2).save_checkpoint(tmp_path / "two.ckpt")
    state = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]
    assert {
        "criterion.weak_modality.alpha",
        "criterion.epoch",
        "augment.stream.calls",
    } <= state.keys()
    fit(resumed, 3, path=tmp_path / "two.ckpt", num_sanity_val_steps=0)
    assert all(map(torch.equal, resumed.sources, whole.sources[4:]))
    assert (
        resumed.criterion.weak_modality.alpha.tolist()
        == whole.criterion.weak_modality.alpha.tolist()
    )


def test_gradients_that_are_accumulated_are_the_mean_of_the_batches():
    torch.manual_seed(0)
    module = AtInput()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    rows = data()
    twin = AtInput()
    twin.load_state_dict(start)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[MidasCallback()],
        accumulate_grad_batches=2,
    )
    trainer.fit(module, DataLoader(rows, BATCH))
    losses = [twin.training_step(twin.augment.draw(b), 0) for b in DataLoader(rows, BATCH)]
    (sum(losses) / 2).backward()
    torch.testing.assert_close(
        module.fusion.weight.detach(), (twin.fusion.weight - 0.1 * twin.fusion.weight.grad).detach()
    )


def test_a_loss_that_is_no_part_of_the_module_is_refused():
    module = AtInput()
    module.criterion = None
    with pytest.raises(MidasAugError, match="expected a MidasLoss among the modules of AtInput"):
        fit(module, 1)


@pytest.mark.parametrize(
    ("warmup", "options"),
    [
        ({"warmup_epochs": 2}, {"epochs": 2}),
        ({"warmup_steps": 4}, {"epochs": 2}),
        ({"warmup_epochs": 1}, {"epochs": 9, "max_steps": 2}),
        ({"warmup_epochs": 1}, {"epochs": -1, "max_steps": 4, "dataset": Stream()}),
        ({"warmup_steps": 4}, {"epochs": -1, "max_steps": 4, "dataset": Stream()}),
    ],
)
def test_a_warm_up_that_outlasts_the_training_is_told(warmup, options):
    with pytest.warns(UserWarning, match=r"warm-up of MidasLoss .*takes the whole training"):
        fit(AtInput(**warmup), **options)


@pytest.mark.parametrize(
    ("warmup", "options"),
    [
        ({"warmup_epochs": 1}, {"epochs": 2}),
        ({"warmup_steps": 3}, {"epochs": 2}),
        ({"warmup_steps": 3}, {"epochs": -1, "max_steps": 4, "dataset": Stream()}),
    ],
)
def test_a_warm_up_that_ends_in_time_is_not_spoken_of(warmup, options):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the warm-up of MidasLoss")
        fit(AtInput(**warmup), **options)


class Logging(AtInput):
    """Logs in every step, without saying how many rows there are."""

    def training_step(self, out: Any, _: int) -> Any:
        loss = super().training_step(out, _)
        self.log("train", float(len(out.labels)), on_epoch=True)
        return loss

    def validation_step(self, out: Any, _: int) -> None:
        self.log("first", float(len(out.labels)))
        self.log_dict({"second": float(len(out.labels))})
        self.log("told", float(len(out.labels)), batch_size=1)


def test_what_a_step_logs_is_weighed_by_the_aligned_rows():
    module = Logging()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*batch_size.*")
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[MidasCallback()],
        )
        rows = data(BATCH + BATCH // 2)  # the last batch is a half one
        trainer.fit(module, DataLoader(rows, BATCH), DataLoader(rows, BATCH))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    by_rows = (BATCH * BATCH + BATCH**2 / 4) / (1.5 * BATCH)
    for name in ("train_epoch", "first", "second"):
        assert found[name] == pytest.approx(by_rows), name
    assert found["told"] == pytest.approx(0.75 * BATCH)
    assert "log" not in vars(module)


class Data(lightning.LightningDataModule):
    """Augments in the hook of the data module, which comes before that of the module."""

    def __init__(self, augment: AugmentModule) -> None:
        super().__init__()
        self.augment = augment

    def train_dataloader(self) -> Any:
        return DataLoader(data(), BATCH)

    def val_dataloader(self) -> Any:
        return DataLoader(data(), BATCH)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.augment.draw(batch)


def test_the_hook_of_a_data_module_leaves_validation_alone_or_is_refused():
    module = AtInput()
    options = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(callbacks=[MidasCallback()], **options)
    trainer.fit(module, datamodule=Data(module.augment))
    assert module.rows["train"] == [3 * BATCH] * 2
    assert module.rows["validation"] == [BATCH] * 4
    trainer = lightning.Trainer(callbacks=[MidasCallback()], **options)
    other = AugmentModule(MisalignAugment(("a", "b"), CLASSES, confidence="uniform"))
    with pytest.raises(
        MidasAugError, match=r"Data\.augment to be a module of AtInput.*the same one"
    ):
        trainer.fit(AtInput(), datamodule=Data(other))


class Scores(lightning.pytorch.loggers.logger.DummyLogger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:  # type: ignore[override]
        self.told.append((dict(metrics), step))


def logged(module: Any, epochs: int, log: Any, *callbacks: Any, **options: Any) -> Scores:
    scores = Scores()
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "enable_checkpointing": False} | options
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=scores, callbacks=[MidasCallback(log), *callbacks], **settings
    )
    trainer.fit(module, DataLoader(data(), BATCH), DataLoader(data(), BATCH))
    return scores


def test_a_log_is_told_every_step_and_its_scores_go_to_the_loggers():
    lightning.seed_everything(0, verbose=False)
    module, log = AtInput(), TrainingLog(("a", "b"))
    scores = logged(module, 3, log)
    assert [record["epoch"] for record in log.records] == [0, 1, 2]
    assert {"loss.total", "loss.misaligned", "alpha.a", "share.b", "accuracy"} <= set(
        log.records[0]
    )
    ours = [(told, step) for told, step in scores.told if "midas/alpha.a" in told]
    assert [step for _, step in ours] == [2, 4, 6]
    assert ours[-1][0]["midas/loss.total"] == log.records[-1]["loss.total"]
    assert "forward" not in vars(module.criterion)  # as it was
    lightning.seed_everything(0, verbose=False)
    plain = AtInput()
    fit(plain, 3)
    torch.testing.assert_close(plain.fusion.weight, module.fusion.weight)  # it changes nothing


def test_a_checkpoint_of_lightning_holds_the_log():
    log = TrainingLog(("a", "b"))
    logged(AtInput(), 2, log)
    other = TrainingLog(("a", "b"))
    MidasCallback(other).load_state_dict(MidasCallback(log).state_dict())
    assert other.records == log.records
    assert MidasCallback().state_dict() == {}
    MidasCallback().load_state_dict({})


def test_a_log_leaves_the_loss_alone_after_an_error():
    class Broken(AtInput):
        def on_train_epoch_end(self) -> None:
            raise OSError("no more")

    module = Broken()
    with pytest.raises(OSError, match="no more"):
        logged(module, 1, TrainingLog(("a", "b")))
    assert "forward" not in vars(module.criterion)
    assert "log" not in vars(module)


def test_a_log_that_is_none_is_refused_at_once():
    with pytest.raises(MidasAugError, match=r"log to be a TrainingLog or None, got True; .*built"):
        MidasCallback(log=True)
