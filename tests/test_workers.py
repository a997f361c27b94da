"""DataLoader workers: fork and spawn alike, new draws in every worker and epoch, live switches."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from midas_aug import MidasAugError, MisalignAugment, MisalignedBatch
from midas_aug.confidence import HeadConfidence, TableConfidence

ROWS, BATCH, CLASSES = 48, 8, 4


class Digits(Dataset):
    """Rows that carry their number; module level, so that spawned workers can load it."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.full((3,), float(index)),
            "text": torch.full((2,), 100.0 + index),
            "label": index % CLASSES,
            "index": index,
        }


def collate_by_hand(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A user's own collate function."""
    keys = ("image", "text")
    batch: dict[str, Any] = {key: torch.stack([row[key] for row in samples]) for key in keys}
    batch["label"] = torch.tensor([row["label"] for row in samples])
    batch["index"] = torch.tensor([row["index"] for row in samples])
    return batch


def make_loader(
    augment: MisalignAugment, context: str | None = "fork", **options: Any
) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    settings = {"num_workers": 2, "multiprocessing_context": context} | options
    if settings["num_workers"] == 0:
        settings["multiprocessing_context"] = None
    return DataLoader(
        Digits(), batch_size=BATCH, collate_fn=augment.collate(), generator=generator, **settings
    )


def epoch_sources(loader: DataLoader) -> list[torch.Tensor]:
    return [out.source for out in loader]


def uniform(**options: Any) -> MisalignAugment:
    return MisalignAugment(("image", "text"), CLASSES, confidence="uniform", **options)


def test_fork_and_spawn_draw_the_same_and_every_worker_and_epoch_draws_anew():
    draws = {}
    for calls, context in enumerate(("fork", "spawn")):
        augment = uniform(seed=5)
        for _ in range(calls):  # what the training process drew before is of no account
            augment({"image": torch.ones(2, 1), "text": torch.ones(2, 1)}, torch.tensor([0, 1]))
        loader = make_loader(augment, context)
        draws[context] = [epoch_sources(loader) for _ in range(2)]
    for fork, spawn in zip(*draws.values(), strict=True):
        assert all(map(torch.equal, fork, spawn))
    first, second = draws["fork"]
    batches = [*first, *second]
    different = {batch.numpy().tobytes() for batch in batches}
    assert len(different) == len(batches)  # 12 batches: 2 workers × 3 batches × 2 epochs


def test_the_stream_is_reproducible_from_the_seed_and_the_loaders_generator():
    runs = [epoch_sources(make_loader(uniform(seed=1))) for _ in range(2)]
    assert all(map(torch.equal, *runs))
    other = epoch_sources(make_loader(uniform(seed=2)))
    assert not any(map(torch.equal, runs[0], other))


def test_without_a_seed_workers_still_differ():
    sources = epoch_sources(make_loader(uniform()))
    assert len({source.numpy().tobytes() for source in sources}) == len(sources)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_see_the_switch_and_go_on_drawing(context):
    augment = copy.deepcopy(uniform(seed=0))  # a copy has a switch of its own, shared as well
    loader = make_loader(augment, context, persistent_workers=True)
    first, second = epoch_sources(loader), epoch_sources(loader)
    assert not any(map(torch.equal, first, second))
    augment.enabled = False
    assert [len(out.source) for out in loader] == [BATCH] * (ROWS // BATCH)
    augment.enabled = True
    assert [len(out.source) for out in loader] == [3 * BATCH] * (ROWS // BATCH)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_read_what_the_training_loop_writes(context, tmp_path):
    for path in (None, tmp_path / "table.bin"):
        table = TableConfidence(("a", "b"), ROWS, path=path)
        augment = MisalignAugment(("image", "text"), CLASSES, confidence=table, seed=0)
        loader = make_loader(augment, context, persistent_workers=True)
        for out in loader:
            assert torch.equal(out.shares, torch.full_like(out.shares, 0.5))
        table.update(torch.arange(ROWS), torch.tensor([[0.9, 0.1]]).expand(ROWS, 2))
        for out in loader:
            misaligned = out.shares[out.misaligned]
            torch.testing.assert_close(misaligned, torch.tensor([[0.9, 0.1]]).expand_as(misaligned))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_batch_is_complete_and_right(workers):
    augment = uniform(seed=0)
    loader = make_loader(augment, num_workers=workers)
    seen = []
    for out in loader:
        assert isinstance(out, MisalignedBatch)
        index = out["index"][out.aligned]
        assert torch.equal(out["image"][:, 0].long(), index[out.source[:, 0]])
        assert torch.equal(out["text"][:, 0].long() - 100, index[out.source[:, 1]])
        assert torch.equal(out["label"], out.labels[out.anchor])
        seen += index.tolist()
    assert sorted(seen) == list(range(ROWS))


def test_a_users_own_collate_function_and_late_fusion():
    augment = uniform(seed=0)
    loader = DataLoader(
        Digits(),
        batch_size=BATCH,
        num_workers=1,
        collate_fn=augment.collate(collate_by_hand, materialize=False),
    )
    out = next(iter(loader))
    assert len(out["image"]) == BATCH
    assert out.gather("image", out["image"] * 2)[:, 0].tolist() == (2 * out.source[:, 0]).tolist()


def test_workers_draw_and_the_loop_labels_when_confidence_needs_a_model():
    heads = HeadConfidence({"image": 3, "text": 2}, CLASSES)
    for confidence in ("logits", heads):
        augment = MisalignAugment(("image", "text"), CLASSES, confidence=confidence)
        out = next(iter(make_loader(augment)))
        with pytest.raises(MidasAugError, match=r"out.label"):
            out.weights  # noqa: B018
        features = {key: out[key][out.aligned] for key in ("image", "text")}
        unimodal = heads.unimodal_logits(features)
        given = {"confidence": heads} if confidence is heads else {}
        labelled = out.label(unimodal_logits=unimodal, features=features, **given)
        assert labelled.targets.shape == (3 * BATCH, CLASSES)


class InWorker:
    """Calls a model's provider where it must not be called."""

    def __init__(self, heads: HeadConfidence) -> None:
        self.heads = heads

    def __call__(self, samples: list[dict[str, Any]]) -> Any:
        batch = collate_by_hand(samples)
        return self.heads(batch, batch["label"])


def test_a_model_in_a_worker_is_refused_with_the_way_out():
    heads = HeadConfidence({"image": 3, "text": 2}, CLASSES)
    loader = DataLoader(Digits(), batch_size=BATCH, num_workers=1, collate_fn=InWorker(heads))
    with pytest.raises(MidasAugError, match=r"HeadConfidence.*DataLoader worker.*out\.label"):
        next(iter(loader))


def test_the_collate_function_pickles():
    collate = pickle.loads(pickle.dumps(uniform(seed=3).collate(collate_by_hand)))
    out = collate([Digits()[row] for row in range(4)])
    assert len(out.source) == 12


def test_a_hardness_that_cannot_travel_is_refused_before_it_hangs_a_worker():
    with pytest.raises(MidasAugError, match="hardness that pickles"):
        uniform(hardness=lambda features, plan: plan.anchor * 1.0).collate()
