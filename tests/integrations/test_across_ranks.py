"""2 and 4 gloo processes against one process that has the whole batch: losses, gradients, α."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.functional import SwapPlan
from midas_aug.integrations.distributed import AllRanksBatch, augment_across_ranks
from midas_aug.targets import ClassIndex

ROWS, CLASSES, STEPS = 4, 5, 6  # rows of a rank
DIMS = {"a": 4, "b": 3}
GATHERED = ("gathered", "permuted", "uneven")


def rows_of(step: int, rank: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What this rank sees in this step, from seeds alone."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    data = {name: torch.randn(ROWS, dim, generator=generator) for name, dim in DIMS.items()}
    if rank == 0 and step == 1:  # no partner among its own rows
        return data, torch.zeros(ROWS, dtype=torch.long)
    return data, (torch.arange(ROWS) + rank + step) % CLASSES


def uneven_rows_of(step: int, rank: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, Any]:
    """The same, with labels and modalities that are missing on some ranks more than on others."""
    data, labels = rows_of(step, rank)
    present = torch.ones(ROWS, 2, dtype=torch.bool)
    if rank == 0:
        present[:-1, 1] = False  # all but one row of this rank have "a" alone
    if rank == 1:
        labels = labels.clone()
        labels[: ROWS - step % 2] = -1  # in every second step no row of this rank has a label
    return data, labels, present


class Fused(nn.Module):
    """A whole feature-level model; `gather` takes partners from all ranks."""

    def __init__(self, gather: bool = False, swap: Any = "each", class_weight: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({name: nn.Linear(dim, 6) for name, dim in DIMS.items()})
        self.heads = nn.ModuleDict({name: nn.Linear(6, CLASSES) for name in DIMS})
        self.fusion = nn.Linear(12, CLASSES)
        self.gather = gather
        target = ClassIndex(CLASSES, class_weight=class_weight)
        self.augment = MisalignAugment(tuple(DIMS), target=target, seed=0, swap=swap)

    def forward(
        self, data: Any, labels: torch.Tensor, present: Any = None, plan: Any = None
    ) -> Any:
        features = {name: encode(data[name]) for name, encode in self.encoders.items()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        if self.gather:
            out: Any = augment_across_ranks(
                self.augment, features, labels, unimodal_logits=unimodal, present=present
            )
        else:
            out = self.augment(
                features, labels, unimodal_logits=unimodal, present=present, plan=plan
            )
        return self.fusion(torch.cat([out["a"], out["b"]], dim=1)), out, unimodal


SEEN: dict[str, Any] = dict.fromkeys(("ddp", "fsdp", "gathered", "permuted"), rows_of)
SEEN["uneven"] = uneven_rows_of
MODELS: dict[str, dict[str, Any]] = {
    "permuted": {"swap": "permute"},
    "uneven": {"class_weight": (1.0, 5.0, 0.2, 2.0, 1.0)},
}


def train(model: Any, rank: int, folder: str, name: str) -> None:
    """Some steps; what a rank saw, drew and computed goes into a file."""
    criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.3))
    criterion.weak_modality.alpha.fill_(2.0)  # so that it moves whatever is drawn
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, plans, alphas = [], [], []
    for step in range(STEPS):
        logits, out, unimodal = model(*SEEN[name](step, rank))
        loss = criterion(logits, out, unimodal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        plans.append(tuple((out.whole if hasattr(out, "whole") else out).plan))
        alphas.append(criterion.weak_modality.alpha.clone())
    weights = {
        key.removeprefix("module."): getattr(value, "full_tensor", lambda value=value: value)()
        for key, value in model.state_dict().items()
    }
    torch.save((losses, plans, torch.stack(alphas), weights), Path(folder, f"{name}-{rank}.pt"))


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    train(DistributedDataParallel(Fused()), rank, folder, "ddp")
    for name in GATHERED:
        model = Fused(gather=True, **MODELS.get(name, {}))
        train(DistributedDataParallel(model), rank, folder, name)
    sharded = Fused()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (world,)))
    train(sharded, rank, folder, "fsdp")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(request.param, folder), nprocs=request.param)
        return request.param, {
            name: [
                torch.load(Path(folder, f"{name}-{rank}.pt"), weights_only=True)
                for rank in range(request.param)
            ]
            for name in SEEN
        }


def join(plans: list[Any], gathered: bool) -> SwapPlan:
    """The plan of one process that has all rows, with the draws of the ranks."""
    pool = ROWS * len(plans)
    parts = []
    for rank, (source, anchor, valid) in enumerate(plans):
        if gathered:
            own = anchor // ROWS == rank
            parts.append((source[own], anchor[own], valid[own]))
        else:
            parts.append((source + ROWS * rank, anchor + ROWS * rank, valid))
    joined = [torch.cat(part) for part in zip(*parts, strict=True)]
    blocks = len(joined[1]) // pool
    assert torch.equal(joined[1].sort().values, torch.arange(pool).repeat_interleave(blocks))
    return SwapPlan(*joined)


@pytest.mark.parametrize("name", SEEN)
def test_ranks_train_as_one_process_with_the_whole_batch(ranks, name):
    world, results = ranks
    model = Fused(**MODELS.get(name, {}))
    criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.3))
    criterion.weak_modality.alpha.fill_(2.0)  # so that it moves whatever is drawn
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(STEPS):
        parts = zip(*(SEEN[name](step, rank) for rank in range(world)), strict=True)
        data, *others = parts  # labels, and what is present
        every = {key: torch.cat([part[key] for part in data]) for key in DIMS}
        plans = [plan[step] for _, plan, _, _ in results[name]]
        plan = join(plans, gathered=name in GATHERED)
        logits, out, unimodal = model(every, *map(torch.cat, others), plan=plan)
        loss = criterion(logits, out, unimodal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told = torch.stack([losses[step] for losses, _, _, _ in results[name]])
        torch.testing.assert_close(told.mean(), loss.detach())
        for _, _, alphas, _ in results[name]:
            torch.testing.assert_close(alphas[step], criterion.weak_modality.alpha)
    for _, _, _, weights in results[name]:
        for key, value in model.state_dict().items():
            torch.testing.assert_close(weights[key], value, msg=key)
    assert (results[name][0][2][0] - 2).abs().min() > 0.2  # α moved, and was not 1


@pytest.mark.parametrize("name", ["ddp", "fsdp", "gathered"])
def test_ranks_draw_differently_and_agree_on_alpha_bit_for_bit(ranks, name):
    _, results = ranks
    (_, plans, alphas, _), (_, others, _, _) = results[name][:2]
    assert not torch.equal(plans[2][0], others[2][0])
    assert all(torch.equal(alphas, told) for _, _, told, _ in results[name])


def test_a_rank_of_one_class_finds_partners_only_among_all_ranks(ranks):
    _, results = ranks
    assert not results["ddp"][0][1][1][2].any()  # rank 0, step 1: valid
    assert results["gathered"][0][1][1][2].all()


def test_one_process_gathers_nothing_and_equals_the_augmentation():
    data, labels = rows_of(0, 0)
    gathered, plain = Fused(gather=True), Fused()
    logits, out, unimodal = gathered(data, labels)
    expected, other, _ = plain(data, labels)
    assert torch.equal(logits, expected)
    for field in ("labels", "source_labels", "shares", "weights", "valid", "targets", "source"):
        assert torch.equal(getattr(out, field), getattr(other, field)), field
    ours, theirs = MidasLoss(2)(logits, out, unimodal), MidasLoss(2)(expected, other, unimodal)
    torch.testing.assert_close(ours, theirs)
    assert repr(out).startswith("AllRanksBatch(4 aligned rows of MisalignedBatch(4 aligned + 8")
    with pytest.raises(MidasAugError, match="expected one of the modalities"):
        out["label"]
    with pytest.raises(MidasAugError, match="expected labels as a torch tensor"):
        augment_across_ranks(gathered.augment, data, labels.numpy())
    with pytest.raises(MidasAugError, match="expected a MisalignAugment, got str"):
        augment_across_ranks("uniform", data, labels)


GROUPED = {"image": "px", "text": ["ids", "mask"]}


def grouped_features() -> dict[str, torch.Tensor]:
    numbers = torch.arange(6)
    return {"px": torch.randn(6, 4), "ids": numbers, "mask": numbers[:, None].repeat(1, 2) + 10}


def test_a_modality_of_several_keys_is_found_by_its_name_and_by_its_keys():
    augment = MisalignAugment(GROUPED, 3, confidence="uniform", hardness=None)
    labels = torch.arange(6) % 3
    out = augment_across_ranks(augment, grouped_features(), labels)
    of_text = out.source[:, 1]
    assert out["text"].keys() == {"ids", "mask"}
    assert torch.equal(out["text"]["ids"], of_text)
    assert torch.equal(out["text"]["mask"][:, 1], of_text + 10)
    assert torch.equal(out["ids"], of_text)
    assert torch.equal(out["mask"], out["text"]["mask"])
    assert torch.equal(out["image"], out["px"])
    assert torch.equal(out["px"], out.whole["px"][out.source[:, 0]])
    with pytest.raises(MidasAugError, match=r"expected one of .*'text'.*'mask'.*got 'label'"):
        out["label"]


def test_each_rank_has_its_own_rows_of_a_modality_of_several_keys():
    whole = MisalignAugment(GROUPED, 3, confidence="uniform", hardness=None)(
        grouped_features(), torch.arange(6) % 3, materialize=False
    )
    for rank in range(3):
        out = AllRanksBatch(whole, 2, rank)
        assert out["ids"][out.aligned].tolist() == [2 * rank, 2 * rank + 1]
        assert torch.equal(out["text"]["ids"], whole.source[out.index, 1])


def test_a_key_that_is_the_name_of_another_modality_is_a_key():
    """As in the batch of one process."""
    crossed = {"a": "b", "b": "a"}
    augment = MisalignAugment(crossed, 3, confidence="uniform", hardness=None)
    features = {"a": torch.arange(4), "b": torch.arange(4) + 10}
    labels = torch.arange(4) % 3
    out = augment_across_ranks(augment, features, labels)
    want = augment(features, labels, plan=out.whole.plan)
    for key in ("a", "b"):
        assert torch.equal(out[key], want[key])


def test_features_in_a_tuple_are_found_by_their_position():
    augment = MisalignAugment((0, 1), 3, confidence="uniform", hardness=None)
    out = augment_across_ranks(augment, (torch.rand(4, 2), torch.arange(4)), torch.arange(4) % 3)
    assert torch.equal(out[1], out.source[:, 1])
    assert torch.equal(out[-1], out[1])
