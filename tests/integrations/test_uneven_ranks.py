"""Two gloo processes whose batches do not fit together: both raise, and both can go on."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.integrations import distributed as module
from midas_aug.integrations.distributed import augment_across_ranks
from midas_aug.targets import ClassIndex
from tests.helpers.operators import OperatorCount

ROWS, CLASSES = 4, 3


class Unready(ClassIndex):
    """Fails in its own way where it meets class 2."""

    def check(self, labels: Any, *, force: bool = False) -> torch.Tensor:
        if int(labels.max()) == 2:
            raise ZeroDivisionError("of its own")
        return super().check(labels, force=force)


class Key:
    """A key whose repr holds an address."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.name == self.name


def batch(**options: Any) -> dict[str, Any]:
    """What fits on both ranks, but for what a case says."""
    features = {"a": torch.rand(ROWS, 5), "b": torch.rand(ROWS, 2)}
    return {"features": features, "labels": torch.tensor([0, 1, 1, 0])} | options


def features(**options: Any) -> dict[str, Any]:
    return batch(features=batch()["features"] | options)


def logits(n_rows: int = ROWS) -> dict[str, torch.Tensor]:
    return {name: torch.rand(n_rows, CLASSES) for name in "ab"}


# What rank 0 and rank 1 pass, and what each of them says.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {}


def add_case(name: str, first: Any, second: Any, words: str, of_second: str | None = None) -> None:
    CASES[name] = (first, second, words, words if of_second is None else of_second)


add_case(
    "padded per rank",
    batch(),
    features(a=torch.rand(ROWS, 4)),
    r"MidasAugError: expected features\['a'\] alike on every rank, got float32 \(4, 5\) on rank 0 "
    r"and float32 \(4, 4\) on rank 1; pad to one length on all ranks",
)
add_case(
    "another dtype",
    batch(),
    features(b=torch.rand(ROWS, 2).double()),
    r"features\['b'\] alike .* float32 \(4, 2\) on .* float64 \(4, 2\) on rank 1; convert to one",
)
add_case(
    "rows of features",
    features(a=torch.rand(3, 5)),
    batch(),
    r"features\['a'\] alike .* \(3, 5\) on rank 0 and .* \(4, 5\) on rank 1; pass one row per",
)
add_case(
    "rows of logits",
    batch(unimodal_logits=logits()),
    batch(unimodal_logits=logits(3)),
    r"unimodal_logits\['a'\] alike .* \(4, 3\) on rank 0 and .* \(3, 3\) on rank 1; pass one row",
)
add_case(
    "one more key",
    batch(),
    features(more=torch.rand(ROWS, 2)),
    r"the same arrays .*\['b'\]\"\] on rank 0 and .*\['more'\]\"\] on rank 1; pass the same",
)
add_case(
    "the order of keys",
    batch(features={"a": torch.rand(ROWS, 2), "b": torch.rand(ROWS, 2)}),
    batch(features={"b": torch.rand(ROWS, 2), "a": torch.rand(ROWS, 2)}),
    r"in the same order .*\['a'\].*\['b'\].* on rank 0 and .*\['b'\].*\['a'\].* on rank 1",
)
add_case(
    "logits of one rank alone",
    batch(unimodal_logits=logits()),
    batch(),
    r"the same arrays .*unimodal_logits\['a'\].* on rank 0 and .* on rank 1; pass the same arg",
)
add_case(
    "present of one rank alone",
    batch(),
    batch(present=torch.ones(ROWS, 2, dtype=torch.bool)),
    r"the same arrays .* on rank 0 and .*'present'.* on rank 1",
)
add_case(
    "a gradient on one rank alone",
    batch(),
    features(a=torch.rand(ROWS, 5, requires_grad=True)),
    r"float32 \(4, 5\) on rank 0 and float32 \(4, 5\) with a gradient on rank 1; train the same",
)
add_case(
    "uneven labels",
    batch(),
    batch(features={"a": torch.rand(3, 5), "b": torch.rand(3, 2)}, labels=torch.tensor([0, 1, 2])),
    r"labels alike .* int64 \(4,\) on rank 0 and int64 \(3,\) on rank 1; .*drop_last=True",
)
NO_ROW = "expected at least one row on every rank, got none; build the loaders with drop_last=True"
add_case(
    "no rows on one rank",
    batch(),
    batch(features={"a": torch.rand(0, 5), "b": torch.rand(0, 2)}, labels=torch.arange(0)),
    f"expected every rank to take its batch, got an error on rank 1: {NO_ROW}",
    f"MidasAugError: {NO_ROW}",
)
BAD_LABEL = "expected labels below num_classes=3, got 7"
add_case(
    "a bad label on one rank",
    batch(labels=torch.tensor([0, 1, 7, 0])),
    batch(),
    f"MidasAugError: {BAD_LABEL}",
    f"got an error on rank 0: {BAD_LABEL}",
)
add_case(
    "an error of a target's own",
    batch(target=Unready(CLASSES)),
    batch(target=Unready(CLASSES), labels=torch.tensor([0, 1, 2, 0])),
    "MidasAugError: .* got an error on rank 1: of its own",
    "ZeroDivisionError: of its own",
)
NUMPY = r"expected features\['b'\]\['ids'\] as a torch tensor with one row per label, got ndarray"
add_case(
    "NumPy on both",
    features(b={"ids": np.zeros((ROWS, 2))}),
    features(b={"ids": np.zeros((ROWS, 2))}),
    f"MidasAugError: {NUMPY}; convert it with torch.as_tensor",
)
add_case(
    "NumPy on one rank",
    features(b={"ids": torch.zeros(ROWS, 2)}),
    features(b={"ids": np.zeros((ROWS, 2))}),
    f"got an error on rank 1: {NUMPY}",
    f"MidasAugError: {NUMPY}",
)
NUMBER = (
    r"expected features\['more'\] as a torch tensor with one row per label, got a single number"
)
add_case(
    "a single number on one rank",
    features(more=torch.tensor(1.0)),
    batch(),
    f"MidasAugError: {NUMBER}",
    f"got an error on rank 0: {NUMBER}",
)


def augment_on_this_rank(
    labels: Any, target: Any = None, modalities: Any = ("a", "b"), **options: Any
) -> Any:
    target = ClassIndex(CLASSES) if target is None else target
    augment = MisalignAugment(modalities, target=target, confidence="uniform", seed=0)
    return augment_across_ranks(augment, labels=labels, **options)


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    told = {}
    for name, (*of_ranks, _, _) in CASES.items():
        try:
            augment_on_this_rank(**of_ranks[rank])
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    # Both are in step, and what fits goes through: masks, and keys with an address.
    one, other = Key("one"), Key("other")
    encoded = torch.rand(ROWS, 5, requires_grad=True)
    given = batch(
        modalities=(one, other),
        features={one: encoded, other: {"mask": torch.rand(ROWS, 2) > 0.5}},
        unimodal_logits=[torch.rand(ROWS, CLASSES) for _ in range(2)],
        present={one: [True] * ROWS, other: torch.ones(ROWS, dtype=torch.bool)},
    )
    out = augment_on_this_rank(**given)
    out[one].sum().backward()
    went_on = (out[other]["mask"].dtype, len(out.whole.labels), bool(encoded.grad.any()))
    torch.save((told, went_on), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, (folder,), nprocs=2)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_every_rank_says_what_differs_or_was_refused(ranks, name):
    for (told, _), words in zip(ranks, CASES[name][2:], strict=True):
        assert name in told, "it went through"
        assert re.search(words, told[name])


def test_after_all_that_the_ranks_are_in_step(ranks):
    assert [went_on for _, went_on in ranks] == [(torch.bool, 2 * ROWS, True)] * 2


@pytest.mark.parametrize("with_all", [False, True])
def test_what_lies_on_a_device_is_gathered_and_not_looked_at(monkeypatch, with_all):
    """Tensors on the meta device have no values: any look at one raises."""
    gathered = []

    def all_gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
        gathered.append(own.device.type)

    for name, stand_in in (("get_world_size", lambda: 2), ("all_gather", all_gather)):
        monkeypatch.setattr(dist, name, stand_in)
    monkeypatch.setattr(module, "several_ranks", lambda: True)
    with torch.device("meta"):
        given = batch(unimodal_logits=logits() if with_all else None)
        given["labels"] = torch.zeros(ROWS, dtype=torch.long)
        given["present"] = torch.ones(ROWS, 2, dtype=torch.bool) if with_all else None
    augment = MisalignAugment(("a", "b"), CLASSES, confidence="uniform")
    with OperatorCount() as count:
        out = augment_across_ranks(augment, **given)
    assert count.waiting == []
    assert len(out.whole.labels) == 2 * ROWS
    assert gathered == ["meta"] * (6 if with_all else 3)
    with pytest.raises(MidasAugError, match=r"expected features\['b'\] as a torch tensor"):
        augment_across_ranks(
            augment, {"a": given["features"]["a"], "b": np.zeros(ROWS)}, given["labels"]
        )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_rank_compiles_into_one_graph_with_its_loss(tmp_path, backend):
    torch._dynamo.reset()
    rendezvous = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        augments = [MisalignAugment(("a", "b"), CLASSES, seed=0) for _ in range(2)]
        criterion, fusion = MidasLoss(2, weak_modality=None), torch.nn.Linear(7, CLASSES)

        def step(augment: MisalignAugment, features: Any, labels: Any, unimodal: Any) -> Any:
            out = augment_across_ranks(augment, features, labels, unimodal_logits=unimodal)
            return criterion(fusion(torch.cat([out["a"], out["b"]], dim=1)), out, unimodal)

        compiled = torch.compile(step, fullgraph=True, backend=backend)
        for _ in range(2):
            given = (*batch().values(), logits())
            torch.testing.assert_close(compiled(augments[0], *given), step(augments[1], *given))
    finally:
        dist.destroy_process_group()
