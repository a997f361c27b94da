"""Hugging Face Accelerate: one process or many, checkpoints with all state.

python examples/with_accelerate.py
torchrun --nproc_per_node 2 examples/with_accelerate.py
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from common import VIEWS, evaluate, parse, read, reading, replacing, report, start, widths
from digits import CLASSES, ConcatFusion, samples
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment


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


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    training, validation, order = start(options.checkpoint)
    model: Any = Model(widths(training))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    loader = DataLoader(samples(training), batch_size=64, shuffle=True, generator=order)
    # In the warm-up the fusion head has no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[unused])
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(augment, criterion)  # alpha, and where the draws stand
    first = load(options.checkpoint, accelerator, order)

    for epoch in range(first, options.epochs):
        criterion.set_epoch(epoch)
        model.train()
        for batch in loader:
            logits, out, unimodal = model(batch, augment)
            loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        model.eval()
        if accelerator.is_main_process:
            report(epoch, evaluate(model, validation), criterion.alpha)
        save(options.checkpoint, accelerator, order, epoch)
    return evaluate(model, validation)


def save(path: Path | None, accelerator: Any, order: torch.Generator, epoch: int) -> None:
    """Every process calls this. A folder for each epoch; the older ones go when it is whole."""
    if path is None:
        return
    main = accelerator.is_main_process
    older = checkpoints(path)
    with replacing(path / f"epoch-{epoch + 1}", main=main) as partial:
        accelerator.save_state(str(partial))
        if main:  # the order is the same in all processes: Accelerate sees to that
            progress = {"order": order.get_state(), "epoch": epoch + 1}
            torch.save(progress, partial / "progress.pt")
        accelerator.wait_for_everyone()
    if main:
        for folder in older:
            shutil.rmtree(folder)
    accelerator.wait_for_everyone()


def load(path: Path | None, accelerator: Any, order: torch.Generator) -> int:
    """Restore the newest checkpoint, if there is one; the epoch to go on with."""
    if path is None:
        return 0
    with reading(path):
        path.mkdir(parents=True, exist_ok=True)
    if not (folders := checkpoints(path)):
        return 0
    progress = read(folders[-1] / "progress.pt", "order", "epoch")
    with reading(folders[-1]):
        accelerator.load_state(str(folders[-1]))
        order.set_state(progress["order"])
        return int(progress["epoch"])


def checkpoints(path: Path) -> list[Path]:
    """The folders that are whole, the newest last."""
    folders = [folder for folder in path.glob("epoch-*") if folder.suffix != ".partial"]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("epoch-")))


if __name__ == "__main__":
    main(parse(__doc__))
