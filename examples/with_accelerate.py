"""Hugging Face Accelerate: one process or many, checkpoints with all state.

python examples/with_accelerate.py
accelerate launch --cpu --num_processes 2 examples/with_accelerate.py
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs  # New
from digits import CLASSES, LateFusion, Rows, accuracy, load_splits, samples
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps

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


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(0)
    model: Any = Model({view: values.shape[1] for view, values in training.views.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    data = samples(training)
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=order)
    warm_up = DistributedDataParallelKwargs(find_unused_parameters=True)  # New: no fusion yet
    accelerator = Accelerator(cpu=True, kwargs_handlers=[warm_up])  # New
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # New
    accelerator.register_for_checkpointing(augment, criterion)  # New: alpha and the draws
    parts = {"accelerator": accelerator}  # New
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        criterion.set_epoch(epoch)
        model.train()
        for batch in loader:
            logits, out, unimodal = model(batch, augment)
            loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            accelerator.backward(loss)  # New
            optimizer.step()
        model.eval()
        if accelerator.is_main_process:  # New
            report(epoch, evaluate(model, validation), criterion.weak.alpha)  # New
        save(options.checkpoint, parts, order, epoch)
    return evaluate(model, validation)


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


def save(path: Path | None, parts: Mapping[str, Any], order: torch.Generator, epoch: int) -> None:
    """Keep all that the next epoch depends on."""
    if path is not None:
        parts["accelerator"].save_state(str(path))  # New: on every process
        progress = {"order": order.get_state(), "epoch": epoch + 1}  # New
        torch.save(progress, path / f"progress-{parts['accelerator'].process_index}.pt")  # New


def load(path: Path | None, parts: Mapping[str, Any], order: torch.Generator) -> int:
    """Take up what was kept, if there is something; the epoch to go on with."""
    if path is None or not path.exists():
        return 0
    parts["accelerator"].load_state(str(path))  # New
    progress = path / f"progress-{parts['accelerator'].process_index}.pt"  # New
    state = torch.load(progress, weights_only=True)  # New
    order.set_state(state["order"])
    return int(state["epoch"])


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint", type=Path, help="goes on from here, and is kept up to date")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)  # quick enough, and the same numbers on any number of cores
    main(parse())
