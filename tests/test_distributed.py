"""Two gloo processes: the same α on both, equal to one process that is fed both halves."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn

from midas_aug import (
    MidasLoss,
    MisalignAugment,
    MisalignedBatch,
    RatioWeakModalityWeight,
    WeakModalityWeight,
)
from midas_aug import functional as F

ROWS, CLASSES, STEPS = 12, 5, 12


def make_criterion(rule: str, sync: bool = True) -> MidasLoss:
    criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.2, sync=sync))
    if rule == "public code":
        criterion.weak_modality = RatioWeakModalityWeight(2, step_size=0.2, sync=sync)
    return criterion


def make_half(step: int, rank: int) -> tuple[MisalignedBatch, torch.Tensor]:
    """What this rank sees in this step, from seeds alone."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    if step % 4 == 3 and rank == 0:
        labels.fill_(0)  # this rank has no partner in this step, the other one has
    logits = [torch.randn(ROWS, CLASSES, generator=generator) for _ in range(2)]
    augment = MisalignAugment(("a", "b"), CLASSES, hardness=None)
    data = {"a": torch.zeros(ROWS, 1), "b": torch.zeros(ROWS, 1)}
    out = augment(data, labels, unimodal_logits=logits, generator=generator)
    # Listens now to the one, now to the other modality, to a different degree on each rank.
    heard = torch.nn.functional.one_hot(out.source_labels[:, (step // 4) % 2], CLASSES)
    noise = torch.randn(3 * ROWS, CLASSES, generator=generator)
    return out, noise + (4.0 - 3.5 * rank) * heard


def join_halves(
    halves: list[tuple[MisalignedBatch, torch.Tensor]],
) -> tuple[MisalignedBatch, torch.Tensor]:
    """The batch of one process that has both halves, with the same draws."""
    outs, logits = zip(*halves, strict=True)
    parts = [out.plan for out in outs]
    blocks = [slice(0, ROWS), slice(ROWS, 2 * ROWS)]
    plan = F.SwapPlan(
        *(
            torch.cat([offset + part[block] for block in blocks for offset, part in pairs])
            if field != "valid"
            else torch.cat([part[block] for block in blocks for _, part in pairs])
            for field, pairs in (
                (field, [(ROWS * rank, getattr(part, field)) for rank, part in enumerate(parts)])
                for field in F.SwapPlan._fields
            )
        )
    )
    augment = MisalignAugment(
        ("a", "b"),
        CLASSES,
        hardness=None,
        confidence=lambda *_: torch.cat([out.confidence for out in outs]),
    )
    data = {"a": torch.zeros(2 * ROWS, 1), "b": torch.zeros(2 * ROWS, 1)}
    joined = augment(data, torch.cat([out.labels for out in outs]), plan=plan)
    rows = [
        logit[block]
        for block in (slice(0, ROWS), slice(ROWS, 2 * ROWS), slice(2 * ROWS, None))
        for logit in logits
    ]
    return joined, torch.cat(rows)


def run_rank(rank: int, folder: str, rule: str, sync: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    criterion = make_criterion(rule, sync)
    alphas = []
    for step in range(STEPS):
        out, logits = make_half(step, rank)
        criterion(logits, out)
        alphas.append(criterion.weak_modality.alpha.clone())
    if rank == 0:  # one rank may validate alone: an all-reduce would wait for the other
        criterion.eval()
        criterion(logits, out)
    # The ranks of a job draw differently from one seed.
    augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform", seed=0)
    data = {"a": torch.zeros(40, 1), "b": torch.zeros(40, 1)}
    source = augment(data, torch.arange(40) % CLASSES).source
    torch.save((torch.stack(alphas), source), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def run_two_ranks(rule: str, sync: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(folder, rule, sync), nprocs=2)
        return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("rule", ["paper", "public code"])
def test_ranks_agree_on_alpha_and_equal_one_process_with_both_halves(rule):
    (first, first_source), (second, second_source) = run_two_ranks(rule, sync=True)
    assert torch.equal(first, second)
    assert not torch.equal(first_source, second_source)
    criterion = make_criterion(rule)
    for step in range(STEPS):
        out, logits = join_halves([make_half(step, rank) for rank in range(2)])
        criterion(logits, out)
        assert torch.equal(criterion.weak_modality.alpha, first[step])
    assert first.max() > 1.3  # it moved


def test_without_sync_each_rank_keeps_its_own_alpha():
    (first, _), (second, _) = run_two_ranks("paper", sync=False)
    assert not torch.equal(first, second)


class Fused(nn.Module):
    """A whole feature-level model, to be wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(3, 8)})
        self.heads = nn.ModuleDict({"a": nn.Linear(8, CLASSES), "b": nn.Linear(8, CLASSES)})
        self.fusion = nn.Linear(16, CLASSES)
        self.augment = MisalignAugment(("a", "b"), CLASSES, seed=0)

    def forward(self, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[Any, Any, Any]:
        features = {name: encode(batch[name]) for name, encode in self.encoders.items()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        out = self.augment(features, labels, unimodal_logits=unimodal)
        return self.fusion(torch.cat([out["a"], out["b"]], dim=1)), out, unimodal


def train_wrapped(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Fused(), find_unused_parameters=True)
    criterion = MidasLoss(2, warmup_epochs=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    fusion = [model.module.fusion.weight.detach().clone()]
    for epoch in range(2):
        criterion.set_epoch(epoch)
        for _ in range(2):
            batch = {"a": torch.randn(ROWS, 4), "b": torch.randn(ROWS, 3)}
            logits, out, unimodal = model(batch, torch.arange(ROWS) % CLASSES)
            optimizer.zero_grad()
            criterion(logits, out, unimodal).backward()
            optimizer.step()
        fusion.append(model.module.fusion.weight.detach().clone())
    torch.save(torch.stack(fusion), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_a_wrapped_model_trains_through_the_warm_up_and_stays_the_same_on_all_ranks():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train_wrapped, args=(folder,), nprocs=2)
        first, second = (
            torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(2)
        )
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[1])  # the fusion head rests while the heads warm up
    assert not torch.equal(first[1], first[2])
