"""Loaders beyond the plain one: state in the middle of an epoch, iterable data, tar shards."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.integrations.loaders import ResumableDataset

ROWS, BATCH, CLASSES = 48, 8, 4


def sample(index: int) -> dict[str, Any]:
    return {
        "image": torch.full((3,), float(index)),
        "text": torch.full((2,), 100.0 + index),
        "label": index % CLASSES,
    }


def uniform(**options: Any) -> MisalignAugment:
    return MisalignAugment(("image", "text"), CLASSES, confidence="uniform", **options)


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("workers", "context", "confidence"),
    [(0, None, "uniform"), (2, "fork", "uniform"), (2, "spawn", "logits")],
)
def test_a_stateful_loader_resumes_in_the_middle_of_an_epoch(workers, context, confidence):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> Any:
        augment = MisalignAugment(("image", "text"), CLASSES, confidence=confidence, seed=0)
        return torchdata.StatefulDataLoader(
            ResumableDataset([sample(i) for i in range(ROWS)], augment),
            batch_size=BATCH,
            num_workers=workers,
            multiprocessing_context=context,
            collate_fn=augment.collate(),
            generator=torch.Generator().manual_seed(0),
        )

    loader = make()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    expected = [out.source for out in iterator]
    assert len(expected) == 3
    resumed = make()
    resumed.load_state_dict(state)
    assert all(map(torch.equal, [out.source for out in resumed], expected))
    fresh = [out.source for out in make()]
    assert not torch.equal(fresh[0], expected[0])


class Own(list):  # type: ignore[type-arg]
    """A data set with a state of its own."""

    place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def test_the_state_of_the_data_set_itself_is_kept_as_well():
    augment = uniform(seed=0)
    dataset = ResumableDataset(Own([sample(0), sample(1)]), augment)
    dataset.dataset.place = 7
    augment({"image": torch.ones(2, 1), "text": torch.ones(2, 1)}, torch.tensor([0, 1]))
    state = dataset.state_dict()
    other = ResumableDataset(Own([sample(0), sample(1)]), uniform(seed=0))
    other.load_state_dict(state)
    assert other.dataset.place == 7
    assert other.state_dict() == state
    assert len(other) == 2
    with pytest.raises(MidasAugError, match="expected a MisalignAugment, got int"):
        ResumableDataset([], 0)
    for bad in ({}, None, {"augment": state["augment"]}, {"augment": {}, "dataset": None}):
        with pytest.raises(MidasAugError, match="expected the state of a ResumableDataset"):
            other.load_state_dict(bad)
    assert other.state_dict() == state


GOOD: Any = {"augment": {"enabled": True, "stream": {"calls": 5}}, "dataset": None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (GOOD | {"dataset": {"x": 1}}, r"load_state_dict\(\), got list and a state of dict; wrap"),
        (torch.zeros(3), "expected the state of a ResumableDataset.*got 'Tensor'"),
        ([1, 2], "got 'list'; pass what"),
        ("augment", "got 'str'"),
        (GOOD | {"augment": torch.zeros(3)}, "expected the state of a ResumableDataset"),
        (GOOD | {"augment": {"stream": [5]}}, "expected the state of a ResumableDataset"),
        (GOOD | {"augment": {"stream": {"calls": "5"}}}, "number of calls"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_taken(state, words):
    augment = uniform(seed=0)
    with pytest.raises(MidasAugError, match=words):
        ResumableDataset([sample(0)], augment).load_state_dict(state)
    assert int(augment.stream.calls) == 0


@pytest.mark.parametrize(
    ("calls", "own"), [(-1, {"place": 7}), (1 << 63, {"place": 7}), (5, {"elsewhere": 7})]
)
def test_neither_the_stream_nor_the_data_set_takes_half_a_state(calls, own):
    augment, data = uniform(seed=0), Own([sample(0)])
    with pytest.raises(KeyError if calls == 5 else MidasAugError):
        ResumableDataset(data, augment).load_state_dict(
            {"augment": {"stream": {"calls": calls}}, "dataset": own}
        )
    assert (int(augment.stream.calls), data.place) == (0, 0)


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Samples without numbers, shared out among the workers."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (sample(index) for index in range(first, ROWS, step))


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_iterable_data_draws_anew_in_every_worker_and_epoch(context, persistent):
    loader = DataLoader(
        Stream(),
        batch_size=BATCH,
        num_workers=2,
        multiprocessing_context=context,
        persistent_workers=persistent,
        collate_fn=uniform(seed=0).collate(),
        generator=torch.Generator().manual_seed(0),
    )
    batches = [out for _ in range(2) for out in loader]
    assert len(batches) == 12
    assert len({out.source.numpy().tobytes() for out in batches}) == 12
    for out in batches:
        own = out["image"][out.aligned, 0].long()
        assert torch.equal(out["text"][:, 0].long() - 100, own[out.source[:, 1]])


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_tar_shards_are_augmented_as_they_are_batched(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "shard.tar"
    with webdataset.TarWriter(str(path)) as shard:
        for index in range(ROWS):
            views = {f"{key}.pth": value for key, value in sample(index).items() if key != "label"}
            shard.write({"__key__": f"{index:03d}", "cls": index % CLASSES, **views})

    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": row["image.pth"], "text": row["text.pth"], "label": row["cls"]}

    augment = uniform(seed=0)
    dataset = webdataset.WebDataset(str(path), shardshuffle=False).decode().map(named)
    dataset = dataset.batched(BATCH, collation_fn=augment.collate())
    batches = list(DataLoader(dataset, batch_size=None))
    assert len(batches) == ROWS // BATCH
    for out in batches:
        assert len(out["image"]) == 3 * BATCH
        own = out["image"][out.aligned, 0].long()
        assert torch.equal(out["image"][:, 0].long(), own[out.source[:, 0]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is for an accelerator")
def test_a_loader_pins_the_memory_of_every_tensor():
    loader = DataLoader(
        [sample(i) for i in range(ROWS)],
        batch_size=BATCH,
        pin_memory=True,
        num_workers=1,
        collate_fn=uniform(seed=0).collate(),
    )
    out = next(iter(loader))
    assert out["image"].is_pinned()
    assert out.source.is_pinned()
    assert out.to("cuda", non_blocking=True)["text"].device.type == "cuda"
