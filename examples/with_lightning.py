"""Lightning: the loop is the Trainer's, and checkpoints hold alpha and the draws.

python examples/with_lightning.py
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning  # New
import torch
from digits import CLASSES, LateFusion, Rows, accuracy, load_splits, samples
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps
from midas_aug.integrations.lightning import MidasCallback  # New
from midas_aug.integrations.module import AugmentModule  # New

VIEWS = ("pix", "fou")


class Model(LateFusion):
    """An encoder and a head for each view, and a fusion head; the swap sits in between."""

    def forward(self, batch: Any, augment: Any = None) -> Any:
        """Logits; with an augmentation also what it made, and the logits of the views' heads."""
        features = self.encode(batch)
        if augment is None:
            return self.fuse(features)
        unimodal = self.classify(features)
        out = augment(features, batch["label"], unimodal_logits=unimodal)
        return self.fuse(out), out, unimodal


# New from here
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
        report(self.current_epoch, evaluate(self.model, self.validation), self.criterion.weak.alpha)
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["order"] = self.order.get_state()  # where the loader's shuffling stands

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.order.set_state(checkpoint["order"])


# New to here
def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(0)
    widths = {view: values.shape[1] for view, values in training.views.items()}  # New
    module = Training(widths, validation, order)  # New
    data = samples(training)
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=order)
    path = options.checkpoint  # New
    trainer = lightning.Trainer(  # New
        max_epochs=options.epochs,  # New
        accelerator="cpu",  # New
        devices=1,  # New
        callbacks=[MidasCallback()],  # New: the warm-up
        logger=False,  # New
        enable_checkpointing=False,  # New
        enable_progress_bar=False,  # New
        enable_model_summary=False,  # New
    )  # New
    stopped = path if path and path.exists() else None  # New
    trainer.fit(module, loader, ckpt_path=stopped, weights_only=True)  # New
    if path:  # New
        trainer.save_checkpoint(path)  # New
    return evaluate(module.model, validation)  # New


@torch.no_grad()
def evaluate(predict: Callable[[dict[str, Tensor]], Tensor], rows: Rows) -> dict[str, float]:
    """Accuracy, and how often the labels of a misaligned row are the two that score highest."""
    plan = plan_swaps(rows.labels, len(VIEWS), generator=torch.Generator().manual_seed(0))
    mixed = {view: gather_rows(rows.views[view], plan.source[:, m]) for m, view in enumerate(VIEWS)}
    labels = rows.labels[plan.source]
    return {
        "accuracy": accuracy(predict(rows.views), rows.labels),
        "misaligned": float(misaligned_accuracy(predict(mixed), labels, valid=plan.valid)),
    }


def report(epoch: int, scores: Mapping[str, float], alpha: Tensor) -> None:
    """Print a line."""
    words = [f"{name} {100 * score:.1f} %" for name, score in scores.items()]
    print(f"epoch {epoch}: {', '.join(words)}, alpha {[round(a, 2) for a in alpha.tolist()]}")


# New: Lightning saves and loads
def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint", type=Path, help="goes on from here, and is kept up to date")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)  # quick enough, and the same numbers on any number of cores
    main(parse())
