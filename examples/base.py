"""MIDAS in a plain PyTorch loop, on handwritten digits in two views: the script to start from.

Each examples/with_*.py is this script in another trainer; docs/trainers.md shows what differs.

    python examples/base.py                                           # a few seconds
    python examples/base.py --epochs 10 --checkpoint runs/base.pt     # goes on where it stopped
"""

import argparse
from typing import Any

import torch
from common import VIEWS, evaluate, load, parse, report, save, start, widths
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
    parts = {"model": model, "optimizer": optimizer, "augment": augment, "criterion": criterion}
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        criterion.set_epoch(epoch)
        model.train()
        for batch in loader:
            logits, out, unimodal = model(batch, augment)
            loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        report(epoch, evaluate(model, validation), criterion.alpha)
        save(options.checkpoint, parts, order, epoch)
    return evaluate(model, validation)


if __name__ == "__main__":
    main(parse(__doc__))
