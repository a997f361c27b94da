"""What is replayed: plans that touch ignored rows, and streams that go on in a loader worker.

And forward passes that activation checkpointing repeats inside a backward pass.
"""

import gc
import pickle
import weakref
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing  # which shares tensors
from torch.utils.checkpoint import checkpoint

from midas_aug import (
    MidasAugError,
    MidasLoss,
    MisalignAugment,
    RatioWeakModalityWeight,
    WeakModalityWeight,
)
from midas_aug import functional as F
from midas_aug.targets import Distribution

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


def test_no_number_of_one_call_comes_again_in_another():
    """Calls once shared all numbers but one a lane, moved by a row."""
    stream = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0).stream
    labels = torch.arange(500) % 3
    seen = []
    for _ in range(20):
        draws = stream.next_draws(labels)
        seen += [draws.bits((500, 2)) for _ in range(4)]
    assert len(torch.cat(seen).unique()) == 20 * 4 * 1000


def test_partners_of_one_call_say_nothing_about_those_of_the_next():
    """Of labels that repeat every other row: the partner of row n + 1, one row on, is a guess."""
    labels = torch.arange(64) % 2
    augment = MisalignAugment(("a", "b"), 2, confidence="uniform", seed=0)
    batch = {"a": labels, "b": labels, "label": labels}
    drawn = [augment.draw(batch).source[64:128, 0] for _ in range(200)]
    followed = [
        (now[:-1] == (before[1:] - 1) % 64).float().mean() for before, now in pairwise(drawn)
    ]
    assert float(torch.stack(followed).mean()) < 2 / 32  # of 32 rows of another class


class Elsewhere(torch.Tensor):
    """Labels whose values are not looked at, as those on an accelerator are not."""


class Repeated:
    """Training steps with draws, loss and α inside one function, checkpointed or not."""

    def __init__(
        self,
        checkpointed: bool,
        criterion: MidasLoss,
        *,
        reentrant: bool = False,
        labels: type[torch.Tensor] = torch.Tensor,
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
                "label": torch.randint(3, (9,), generator=generator).as_subclass(labels),
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


@pytest.mark.parametrize("labels", [torch.Tensor, Elsewhere])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rule", [WeakModalityWeight, RatioWeakModalityWeight])
def test_a_repeated_forward_pass_has_its_draws_and_its_alpha_and_steps_neither(
    rule, reentrant, labels
):
    states = []
    for checkpointed in (False, True):
        criterion = MidasLoss(2, weak_modality=rule(2, step_size=0.5))
        run = Repeated(checkpointed, criterion, reentrant=reentrant, labels=labels)
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


@pytest.mark.parametrize("labels", [torch.Tensor, Elsewhere])
def test_passes_that_wait_for_one_backward_pass_are_told_apart_by_their_labels(labels):
    grads = []
    for checkpointed in (False, True):
        rule = WeakModalityWeight(2, step_size=0.5)
        run = Repeated(checkpointed, MidasLoss(2, weak_modality=rule), labels=labels)
        (run.loss(0) + 2 * run.loss(1) + 3 * run.loss(2)).backward()
        grads.append(run.state())
    torch.testing.assert_close(*grads)


def test_what_is_kept_for_a_repetition_does_not_grow_with_the_classes():
    """Wide targets of 64 steps are let go; one number a row is kept."""
    criterion = MidasLoss(2)
    augment = MisalignAugment(("a", "b"), target=Distribution(50), confidence="uniform", seed=0)
    alive = []
    for _ in range(3):
        labels = torch.rand(8, 50)
        labels = labels / labels.sum(dim=1, keepdim=True)
        out = augment({"a": torch.rand(8, 2), "b": torch.rand(8, 2)}, labels)
        logits = torch.zeros(24, 50, requires_grad=True)
        criterion(logits, out, {"a": logits[:8], "b": logits[:8]}).backward()
        alive += [weakref.ref(labels), weakref.ref(out.labels)]
        del labels, out, logits
    gc.collect()
    assert [one() for one in alive] == [None] * 6


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


@pytest.mark.parametrize("compiled", [False, True])
def test_a_rank_that_is_known_later_counts_in_eager_and_in_compiled_calls(monkeypatch, compiled):
    """An augmentation is often built before the process group is."""
    labels = torch.arange(16) % 4
    batch = {"a": labels, "b": labels}

    def sources_of(rank, own=None):
        torch.compiler.reset()  # a process has one rank
        augment = MisalignAugment(("a", "b"), 4, confidence="uniform", seed=0)
        monkeypatch.setattr("midas_aug._stream.in_process_group", lambda: rank is not None)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)

        def draw(batch, labels):
            return augment.draw(batch, labels).source

        augment.stream.rank = own
        call = torch.compile(draw, backend="eager", fullgraph=True) if compiled else draw
        first = call(batch, labels).tolist()
        augment.stream.rank = 5
        return first, call(batch, labels).tolist()

    (none, _), (zero, _), (one, five), (own, _) = (
        sources_of(None), sources_of(0), sources_of(1), sources_of(0, own=1)
    )  # fmt: skip
    assert none == zero
    assert one not in (zero, five)
    assert own == one


def test_a_spawned_process_has_counts_and_alpha_of_its_own():
    """Tensors of what is handed to `mp.spawn` lie in memory that all ranks share."""
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
    criterion = MidasLoss(2, warmup_steps=3)
    for thing in (augment.stream, criterion):
        there = pickle.loads(bytes(ForkingPickler.dumps(thing)))
        for name, value in there.named_buffers():
            value.add_(1)
            assert not torch.equal(value, thing.get_buffer(name)), name
