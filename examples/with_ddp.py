"""Distributed data parallel: each rank draws its own partners, alpha is the same on all.

torchrun --nproc_per_node 2 examples/with_ddp.py
"""

import argparse
from typing import Any

import torch
from common import VIEWS, evaluate, load, parse, report, save, start, widths
from digits import CLASSES, ConcatFusion, samples
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

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
    rank = distributed.get_rank()
    training, validation, order = start(options.checkpoint)
    model: Any = Model(widths(training))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    sampler: Any = DistributedSampler(samples(training), seed=0)
    loader = DataLoader(sampler.dataset, batch_size=32, sampler=sampler, generator=order)
    # In the warm-up the fusion head has no gradient.
    model = DistributedDataParallel(model, find_unused_parameters=True)
    parts = {"model": model, "optimizer": optimizer, "augment": augment, "criterion": criterion}
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        criterion.set_epoch(epoch)
        sampler.set_epoch(epoch)
        model.train()
        for batch in loader:
            logits, out, unimodal = model(batch, augment)
            loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        if rank == 0:
            report(epoch, evaluate(model.module, validation), criterion.alpha)
            save(options.checkpoint, parts, order, epoch)
    distributed.barrier()
    return evaluate(model.module, validation)


if __name__ == "__main__":
    options = parse(__doc__)
    distributed.init_process_group("gloo")
    try:
        main(options)
    finally:
        distributed.destroy_process_group()
