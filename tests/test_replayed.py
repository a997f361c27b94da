"""What is replayed: plans that touch ignored rows, and streams that go on in a loader worker."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from midas_aug import MisalignAugment
from midas_aug import functional as F

LABELS = torch.tensor([0, 1, -1, 2])


@pytest.mark.parametrize(
    ("source", "anchor", "valid"),
    [
        ([0, 1], 0, True),
        ([0, 1], 2, False),  # only the anchor is ignored: an own plan never has this
        ([2, 1], 1, False),
        ([0, 2], 0, False),
        ([2, 2], 2, False),
        ([0, 1], 3, True),
    ],
)
def test_a_replayed_sample_counts_if_its_anchor_and_all_its_sources_do(source, anchor, valid):
    plan = F.SwapPlan(torch.tensor([source]), torch.tensor([anchor]), torch.tensor([True]))
    batch = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    out = MisalignAugment(("a", "b"), 3, confidence="uniform")(batch, LABELS, plan=plan)
    assert out.valid[4:].tolist() == [valid]
    assert (out.weights[4:] > 0).tolist() == [valid]


def as_worker(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    worker: Any = None if seed is None else SimpleNamespace(seed=seed, id=0, num_workers=1)
    monkeypatch.setattr("midas_aug._stream.get_worker_info", lambda: worker)


def sources(augment: MisalignAugment, calls: int) -> list[Any]:
    labels = torch.arange(64) % 3
    batch = {"a": labels, "b": labels, "label": labels}
    return [augment.draw(batch).source.tolist() for _ in range(calls)]


def test_a_state_that_is_loaded_in_a_worker_goes_on_there(monkeypatch):
    """Without the worker's seed the next call would take it for a new worker, and start anew."""
    as_worker(monkeypatch, 5)
    first = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
    drawn = sources(first, 4)
    as_worker(monkeypatch, None)
    resumed = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
    as_worker(monkeypatch, 5)
    state = first.state_dict()
    state["stream"] = {"calls": 2}
    resumed.load_state_dict(state)
    assert sources(resumed, 2) == drawn[2:]


def test_a_new_worker_starts_its_own_count_and_a_kept_one_goes_on(monkeypatch):
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
    in_process = sources(augment, 2)
    as_worker(monkeypatch, 5)
    fifth = sources(augment, 3)
    as_worker(monkeypatch, 6)
    sixth = sources(augment, 3)
    as_worker(monkeypatch, 5)
    assert sources(augment, 3) == fifth
    assert len({str(each) for each in in_process + fifth + sixth}) == 8
