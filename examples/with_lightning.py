"""Lightning: the loop is the Trainer's, and checkpoints hold alpha and the draws.

python examples/with_lightning.py
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from common import VIEWS, evaluate, parse, read, replacing, report, start, widths
from digits import CLASSES, ConcatFusion, Rows, samples
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.integrations.lightning import MidasCallback
from midas_aug.integrations.module import AugmentModule


class Model(ConcatFusion):
    """An encoder and a head for each view, and a fusion head; the swap sits in between."""

    def forward(self, batch: Any, augment: Any = None) -> Any:
        """Logits; with an augmentation also what it made, and the logits of the views' heads."""
        features = self.encode(batch)
        if augment is None:
            return self.fuse(features)
        unimodal = self.classify(features)
        out = augment(features, batch["label"], unimodal_logits=unimodal)
        return self.fuse(out), out, unimodal


class Training(lightning.LightningModule):
    """The model with the augmentation and the loss as parts of it."""

    def __init__(self, widths: Mapping[str, int], validation: Rows, order: torch.Generator) -> None:
        super().__init__()
        self.model = Model(widths)
        self.augment = AugmentModule(MisalignAugment(VIEWS, CLASSES, seed=0))
        self.criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
        self.validation = validation
        self.order = order

    def training_step(self, batch: Any, _: int) -> Any:
        logits, out, unimodal = self.model(batch, self.augment)
        return self.criterion(logits, out, unimodal_logits=unimodal)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)

    def on_train_epoch_end(self) -> None:
        self.eval()
        report(
            self.current_epoch,
            evaluate(self.model, self.validation),
            self.criterion.alpha,
        )
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["order"] = self.order.get_state()  # where the loader's shuffling stands

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.order.set_state(checkpoint["order"])


class Save(lightning.pytorch.callbacks.Checkpoint):
    """Keeps each epoch in the place of the one before; being a Checkpoint, it is called last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        with replacing(self.path, main=trainer.is_global_zero) as partial:
            trainer.save_checkpoint(partial)


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    path = options.checkpoint
    training, validation, order = start(path)
    module = Training(widths(training), validation, order)
    loader = DataLoader(samples(training), batch_size=64, shuffle=True, generator=order)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[MidasCallback(), *([Save(path)] if path else [])],  # the first: the warm-up
        logger=False,
        enable_checkpointing=bool(path),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    stopped = path if path and path.exists() else None
    if stopped:
        read(stopped, "state_dict", "order")  # Lightning itself would end with a traceback
    trainer.fit(module, loader, ckpt_path=stopped, weights_only=True)
    return evaluate(module.model, validation)


if __name__ == "__main__":
    main(parse(__doc__))
