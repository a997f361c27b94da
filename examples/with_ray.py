"""Ray Train: Ray starts the workers, the loop is that of DDP.

python examples/with_ray.py
"""

import argparse
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from common import VIEWS, evaluate, load, parse, read, report, save, start, widths
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
    loader = ray.train.torch.prepare_data_loader(loader)  # a share of the rows
    # In the warm-up the fusion head has no gradient.
    unused = {"find_unused_parameters": True}
    model = ray.train.torch.prepare_model(model, parallel_strategy_kwargs=unused)
    rank = ray.train.get_context().get_world_rank()
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
        if rank == 0:
            report(epoch, evaluate(model.module, validation), criterion.alpha)
            save(options.checkpoint, parts, order, epoch)
    scores = evaluate(model.module, validation)
    ray.train.report(scores)
    return scores


if __name__ == "__main__":
    options = parse(__doc__)
    if options.checkpoint:  # workers run in a folder of their own
        options.checkpoint = options.checkpoint.resolve()
        if options.checkpoint.exists():
            read(options.checkpoint)  # a damaged one is found before Ray has started
    ray.init(num_cpus=2, include_dashboard=False)
    trainer = ray.train.torch.TorchTrainer(
        main,
        train_loop_config=options,
        run_config=ray.train.RunConfig(storage_path=str(Path("runs/ray").resolve())),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    )
    trainer.fit()
