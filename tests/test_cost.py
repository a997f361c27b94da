"""What a drop-in step costs, in exact numbers: the one place to change them, up or down.

They are of the PyTorch and Python that CI runs; others count differently, and are not asked.
"""

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from midas_aug import FactoredLinear, MidasLoss, MisalignAugment
from tests.helpers.memory import LiveBytes
from tests.helpers.operators import OperatorCount

ROWS, WIDTH, CLASSES, NAMES = 32, 8, 7, ("a", "b")


class Cost(NamedTuple):
    """Of one part of a step.

    Attributes:
        operators: That do work (no views), on the meta device.
        calls: Of Python functions of this package, on the CPU.
        bytes: The most that is held at one time, beyond what there was before, on the CPU.
    """

    operators: int
    calls: int
    bytes: int


COSTS = {
    "drop-in": {
        "draw": Cost(operators=26, calls=32, bytes=9160),
        "label": Cost(operators=17, calls=39, bytes=15712),
        "fusion": Cost(operators=2, calls=5, bytes=9280),
        "loss": Cost(operators=35, calls=49, bytes=11848),
        "backward": Cost(operators=26, calls=4, bytes=14240),
    },
    "factored": {
        "draw": Cost(operators=25, calls=20, bytes=3496),
        "label": Cost(operators=17, calls=39, bytes=11616),
        "fusion": Cost(operators=5, calls=22, bytes=10816),
        "loss": Cost(operators=35, calls=49, bytes=11848),
        "backward": Cost(operators=29, calls=4, bytes=11644),
    },
}
# Calls of Python functions, PyTorch's included, in 0.1.0 and now: of an augmentation that labels,
# without a seed and with one, and of the loss. Not more than half of what it was.
CALLS = {"augment": (205, 91), "seeded augment": (215, 106), "criterion": (156, 66)}
# Graphs of `torch.compile(fullgraph=True)` over batches of 2 to 511 rows: one of the first size and
# one for all others. One row, and 512 and more, which are paired by a table, have their own.
GRAPHS = 2


def parts(way: str, device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The parts of a step in turn; each has to run before the next is asked for."""
    torch.manual_seed(0)
    factored = way == "factored"
    place = torch.device(device)
    features = {name: torch.randn(ROWS, WIDTH, device=place, requires_grad=True) for name in NAMES}
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, CLASSES) for name in NAMES}).to(place)
    fusion = FactoredLinear(dict.fromkeys(NAMES, WIDTH), CLASSES, device=place)
    augment, criterion = MisalignAugment(NAMES, CLASSES), MidasLoss(2).to(place)
    labels = (torch.arange(ROWS) % CLASSES).to(place)
    have: dict[str, Any] = {}

    def keep(name: str, make: Callable[[], Any]) -> tuple[str, Callable[[], Any]]:
        return name, lambda: have.update({name: make()})

    def logits() -> Any:
        out = have["label"]
        return fusion(features, out) if factored else fusion(torch.cat([out["a"], out["b"]], dim=1))

    unimodal = {name: heads[name](features[name]) for name in NAMES}
    yield keep("draw", lambda: augment.draw(features, labels, materialize=not factored))
    yield keep("label", lambda: have["draw"].label(unimodal_logits=unimodal))
    yield keep("fusion", logits)
    yield keep("loss", lambda: criterion(have["fusion"], have["label"], unimodal))
    yield keep("backward", lambda: have["loss"].backward())


def calls_of_this_package(call: Callable[[], Any]) -> int:
    """Python functions of the package that run while ``call`` does."""
    return calls_below(str(Path(__file__).parents[1] / "midas_aug"), call)


def calls_below(folder: str, call: Callable[[], Any]) -> int:
    """Python functions of files below ``folder`` that run while ``call`` does."""
    calls = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(folder)

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(before)
    return calls


def measured(way: str) -> dict[str, Cost]:
    operators: dict[str, int] = {}
    for name, part in parts(way, "meta"):
        with OperatorCount() as count:
            part()
        assert count.waiting == []
        operators[name] = count.operators
    calls: dict[str, int] = {}
    for _ in range(2):  # what is done once in a process is done
        for name, part in parts(way, "cpu"):
            calls[name] = calls_of_this_package(part)
    peaks: dict[str, int] = {}
    for name, part in parts(way, "cpu"):
        with LiveBytes() as live:
            part()
        peaks[name] = live.peak
    return {name: Cost(operators[name], calls[name], peaks[name]) for name in operators}


def is_counted_for() -> bool:
    """Whether this is the PyTorch and the Python that the numbers are of."""
    pinned = re.search(r"^torch==(\S+)$", Path(".ci/constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    return torch.__version__.split("+")[0] == pinned[1] and sys.version_info[:2] == (3, 11)


@pytest.mark.skipif(not is_counted_for(), reason="counts are of another PyTorch or Python")
@pytest.mark.parametrize("way", ["drop-in", "factored"])
def test_a_step_costs_exactly_what_it_did(way: str) -> None:
    assert measured(way) == COSTS[way]


@pytest.mark.skipif(not is_counted_for(), reason="counts are of another PyTorch or Python")
def test_calls_of_python_functions_are_half_of_what_they_were() -> None:
    rows = 64
    features = {name: torch.randn(rows, WIDTH, requires_grad=True) for name in NAMES}
    unimodal = {name: nn.Linear(WIDTH, CLASSES)(features[name]) for name in NAMES}
    fusion, criterion = nn.Linear(2 * WIDTH, CLASSES), MidasLoss(2)
    labels = torch.arange(rows) % CLASSES
    found = {}
    for name, seed in (("augment", None), ("seeded augment", 3)):
        augment = MisalignAugment(NAMES, CLASSES, seed=seed)
        for _ in range(2):  # what is done once is done
            out = augment(features, labels, unimodal_logits=unimodal)
            logits = fusion(torch.cat([out["a"], out["b"]], dim=1))
            criterion(logits, out, unimodal)
        again = partial(augment, features, labels, unimodal_logits=unimodal)
        found[name] = calls_below("", again)
        out = again()
        found["criterion"] = calls_below("", partial(criterion, logits, out, unimodal))
    for name, (before, now) in CALLS.items():
        assert found[name] == now, name
        assert 2 * now <= before, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_seeded_step_compiles_once_for_one_size_and_once_for_all() -> None:
    """Also for the last, short batch of an epoch; with the same draws as an eager step."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def build() -> Any:
        torch.manual_seed(0)
        heads = nn.ModuleDict({name: nn.Linear(WIDTH, CLASSES) for name in NAMES})
        fusion, criterion = nn.Linear(2 * WIDTH, CLASSES), MidasLoss(2)
        augment = MisalignAugment(NAMES, CLASSES, seed=7)

        def step(features: Any, labels: Any) -> Any:
            unimodal = {name: heads[name](features[name]) for name in NAMES}
            out = augment(features, labels, unimodal_logits=unimodal)
            logits = fusion(torch.cat([out["a"], out["b"]], dim=1))
            return criterion(logits, out, unimodal), out.source

        return step

    plain, fast = build(), torch.compile(build(), fullgraph=True, backend="aot_eager")
    for rows in (32, 48, 7, 64, 33, 511, 2):
        features = {name: torch.randn(rows, WIDTH) for name in NAMES}
        labels = torch.arange(rows) % CLASSES
        (want, source), (have, compiled_source) = plain(features, labels), fast(features, labels)
        assert torch.equal(compiled_source, source)
        torch.testing.assert_close(have, want)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == GRAPHS


def test_the_size_of_the_features_makes_no_graph_of_its_own() -> None:
    """Eager steps take another way to the cosines from 2^15 numbers on."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    augment = MisalignAugment(NAMES, CLASSES, confidence="uniform", seed=7)
    step = torch.compile(augment, fullgraph=True, backend="eager", dynamic=True)
    for rows in (20, 50, 60, 100):
        step({name: torch.randn(rows, 600) for name in NAMES}, torch.arange(rows) % CLASSES)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_memory_is_counted_while_it_is_held() -> None:
    with LiveBytes() as live:
        first = torch.zeros(100)
        double = first * 2
        view = double.view(10, 10)
        del double
        assert (live.now, live.peak) == (800, 800)
        del view
    assert (live.now, live.peak) == (400, 800)
    assert first.shape == (100,)


def test_calls_are_those_of_this_package() -> None:
    augment = MisalignAugment(NAMES, CLASSES)
    assert calls_of_this_package(lambda: augment.needs_model) == 1
    assert calls_of_this_package(lambda: re.compile("a")) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_warm_up_has_two_graphs_however_many_epochs_there_are() -> None:
    """PyTorch gives up after eight: it must not see the number of the epoch."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    augment, criterion = MisalignAugment(NAMES, CLASSES, seed=0), MidasLoss(2, warmup_epochs=3)
    features = {name: torch.randn(ROWS, CLASSES) for name in NAMES}
    labels = torch.arange(ROWS) % CLASSES

    @torch.compile(fullgraph=True, backend="eager")
    def loss() -> Any:
        out = augment(features, labels, unimodal_logits=features)
        return criterion(out["a"] + out["b"], out, features)

    losses = []
    for epoch in range(12):
        criterion.set_epoch(epoch)
        losses.append(float(loss()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert losses[0] == losses[1] == losses[2]  # of the unimodal heads alone
    assert all(later > losses[0] for later in losses[3:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_warm_up_by_steps_is_not_compiled_and_can_be_once_it_is_over() -> None:
    torch._dynamo.reset()
    out = MisalignAugment(NAMES, CLASSES, confidence="uniform", hardness=None)(
        {name: torch.zeros(2, 3) for name in NAMES}, torch.tensor([0, 1])
    )
    logits, unimodal = torch.zeros(6, CLASSES), [torch.zeros(2, CLASSES)] * 2
    criterion = MidasLoss(2, warmup_steps=2)
    fast = torch.compile(criterion, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="expected a warm-up in epochs where the loss is compiled"):
        fast(logits, out, unimodal)
    for _ in range(2):
        criterion(logits, out, unimodal)
    assert fast(logits, out, unimodal) > criterion.compute(logits, out, unimodal).unimodal
