"""What is replayed: plans that touch ignored rows, and streams that go on in a loader worker.

And forward passes that activation checkpointing repeats inside a backward pass.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from midas_aug import (
    MidasAugError,
    MidasLoss,
    MisalignAugment,
    RatioWeakModalityWeight,
    WeakModalityWeight,
)
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


@pytest.mark.parametrize(
    ("anchors", "weights"),
    [
        ([0], [2.5]),
        ([0, 2], [3.0, 0.0]),
        ([0, 0, 3], [3.5 / 3] * 3),
        ([2], [0.0]),
        ([2, 2], [0.0, 0.0]),
    ],
)
def test_the_weights_of_a_replayed_plan_are_a_mean_over_its_labelled_anchors(anchors, weights):
    """λ is 1/2, and a mean of N + S weighted losses divides by N + S."""
    size = len(anchors)
    source = torch.tensor([[0, 1]] * size)
    plan = F.SwapPlan(source, torch.tensor(anchors), torch.ones(size, dtype=torch.bool))
    batch = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    augment = MisalignAugment(
        ("a", "b"), 3, confidence="uniform", hardness=None, misaligned_weight=0.5
    )
    out = augment(batch, LABELS, plan=plan)
    torch.testing.assert_close(out.weights[4:], torch.tensor(weights))
    torch.testing.assert_close(out.weights[:4], (4 + size) / 3 * (LABELS >= 0))


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


class Repeated:
    """Training steps with draws, loss and α inside one function, checkpointed or not."""

    def __init__(
        self, checkpointed: bool, criterion: MidasLoss, *, reentrant: bool = False
    ) -> None:
        self.checkpointed = checkpointed
        self.reentrant = reentrant
        self.criterion = criterion
        self.augment = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(7, 3, generator=generator).requires_grad_()
        self.batches = [
            {
                "a": torch.randn(9, 4, generator=generator),
                "b": torch.randn(9, 3, generator=generator),
                "label": torch.randint(3, (9,), generator=generator),
            }
            for _ in range(4)
        ]

    def loss(self, number: int) -> torch.Tensor:
        def forward(weight: torch.Tensor) -> torch.Tensor:
            out = self.augment(self.batches[number])
            logits = torch.cat([out["a"], out["b"]], dim=1) @ weight
            return self.criterion(logits, out, {"a": logits[:9], "b": logits[:9]})

        if self.checkpointed:
            return checkpoint(forward, self.weight, use_reentrant=self.reentrant)
        return forward(self.weight)

    def state(self) -> list[torch.Tensor]:
        return [
            self.weight.grad.clone(),
            self.criterion.alpha.clone(),
            self.criterion.steps.clone(),
            self.augment.stream.calls.clone(),
        ]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rule", [WeakModalityWeight, RatioWeakModalityWeight])
def test_a_repeated_forward_pass_has_its_draws_and_its_alpha_and_steps_neither(rule, reentrant):
    states = []
    for checkpointed in (False, True):
        criterion = MidasLoss(2, weak_modality=rule(2, step_size=0.5))
        run = Repeated(checkpointed, criterion, reentrant=reentrant)
        seen = []
        for number in range(4):
            if number == 2:
                run.criterion.weak_modality.alpha.fill_(3.0)  # not what the last step gave
            run.loss(number).backward()
            seen.append(run.state())
        assert len({float(alpha.max()) for _, alpha, _, _ in seen}) > 1  # or nothing is tested
        states.append(seen)
    for plain, repeated in zip(*states, strict=True):
        torch.testing.assert_close(plain, repeated)


def test_passes_that_wait_for_one_backward_pass_are_told_apart_by_their_labels():
    grads = []
    for checkpointed in (False, True):
        rule = WeakModalityWeight(2, step_size=0.5)
        run = Repeated(checkpointed, MidasLoss(2, weak_modality=rule))
        (run.loss(0) + 2 * run.loss(1) + 3 * run.loss(2)).backward()
        grads.append(run.state())
    torch.testing.assert_close(*grads)


def test_passes_with_the_same_labels_cannot_be_told_apart_and_say_so():
    run = Repeated(True, MidasLoss(2))
    with pytest.raises(MidasAugError, match="belong to none or to several"):
        (run.loss(0) + run.loss(0)).backward()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rule", ["paper", None])
def test_a_repeated_step_of_the_warm_up_counts_once_and_is_repeated_as_one(rule, reentrant):
    """The last one, too, after which the warm-up is over before the step is repeated."""
    states = []
    for checkpointed in (False, True):
        criterion = MidasLoss(2, weak_modality=rule, warmup_steps=2)
        run, seen = Repeated(checkpointed, criterion, reentrant=reentrant), []
        for number in range(4):
            run.loss(number).backward()
            seen.append(run.state())
        states.append(seen)
    assert [int(steps) for _, _, steps, _ in states[1]] == [1, 2, 2, 2]
    for plain, repeated in zip(*states, strict=True):
        torch.testing.assert_close(repeated, plain)


def test_passes_of_the_warm_up_and_after_it_may_wait_for_one_backward_pass():
    grads = []
    for checkpointed in (False, True):
        run = Repeated(checkpointed, MidasLoss(2, warmup_steps=2))
        (run.loss(0) + 2 * run.loss(1) + 3 * run.loss(2)).backward()
        grads.append(run.state())
    torch.testing.assert_close(*grads)


def test_every_worker_of_many_has_draws_of_its_own(monkeypatch):
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
    seen = set()
    for seed in range(12):
        as_worker(monkeypatch, seed)
        seen.add(str(sources(augment, 1)))
    assert len(seen) == 12
