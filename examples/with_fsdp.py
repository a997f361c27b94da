"""Fully sharded data parallel (FSDP2); a checkpoint is whole and fits any number of ranks.

torchrun --nproc_per_node 2 examples/with_fsdp.py
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from common import VIEWS, evaluate, load, parse, report, save, start, widths
from digits import CLASSES, ConcatFusion, samples
from torch import distributed
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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


class Whole:
    """The state of a sharded model and its optimizer, as if they were in one piece."""

    # Not strict: after a warm-up the optimizer has no state of the fusion head yet.
    OPTIONS = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """On rank 0; the other ranks, which have to call it as well, get nothing."""
        states = sharded.get_state_dict(self.model, self.optimizer, options=self.OPTIONS)
        return dict(zip(("model", "optimizer"), states, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        keys = sharded.set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=self.OPTIONS,
        )
        if keys.missing_keys or keys.unexpected_keys:
            raise ValueError(str(keys))
        for name, parameter in self.model.named_parameters():
            if name not in state["optimizer"]["state"]:  # PyTorch has made up a step of nothing
                self.optimizer.state.pop(parameter, None)


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    rank = distributed.get_rank()
    training, validation, order = start(options.checkpoint)
    model: Any = Model(widths(training))
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    fully_shard(model, mesh=mesh)  # alpha is no parameter: each rank has all of it
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    sampler: Any = DistributedSampler(samples(training), seed=0)
    loader = DataLoader(sampler.dataset, batch_size=32, sampler=sampler, generator=order)
    parts = {"model": Whole(model, optimizer), "augment": augment, "criterion": criterion}
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
        scores = evaluate(model, validation)  # on all ranks, each of which holds a part
        if rank == 0:
            report(epoch, scores, criterion.alpha)
        save(options.checkpoint, parts, order, epoch, main=rank == 0)
    return evaluate(model, validation)


if __name__ == "__main__":
    options = parse(__doc__)
    distributed.init_process_group("gloo")
    try:
        main(options)
    finally:
        distributed.destroy_process_group()
