"""A step with labels of every kind, modalities missing or not: no sync, and one graph."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midas_aug import MidasLoss, MisalignAugment
from tests.helpers.operators import OperatorCount
from tests.helpers.target_cases import KINDS, labels_of, target_of

NAMES = ("a", "v")
N, C = 12, 4


class Model(nn.Module):
    """Encoders, heads, fusion, augmentation and loss: one training step."""

    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        width = kind.width
        self.encoders = nn.ModuleDict({"a": nn.Linear(6, 8), "v": nn.Linear(5, 8)})
        self.heads = nn.ModuleDict({name: nn.Linear(8, width) for name in NAMES})
        self.fusion = nn.Linear(16, width)
        self.augment = MisalignAugment(NAMES, target=target_of(kind), **options)
        self.criterion = MidasLoss(2)

    def forward(
        self, a: Tensor, v: Tensor, labels: Tensor, present: Tensor | None = None
    ) -> Tensor:
        features = {"a": self.encoders["a"](a), "v": self.encoders["v"](v)}
        unimodal = {name: self.heads[name](features[name]) for name in NAMES}
        out = self.augment(features, labels, present=present, unimodal_logits=unimodal)
        logits = self.fusion(torch.cat([out["a"], out["v"]], dim=1))
        return self.criterion(logits, out, unimodal)


def parts(name, masked, rows=N, classes=C, **options):
    """A model, and what to call it with."""
    rng = np.random.default_rng(0)
    kind = KINDS[name](rng, classes)
    ids = np.arange(rows) % classes
    ids[1] = -1
    labels = torch.from_numpy(labels_of(kind, ids, rng))
    given = [torch.randn(rows, 6), torch.randn(rows, 5), labels]
    if masked:
        given.append(torch.rand(rows, 2) < 0.8)
    return Model(kind, **options), given


masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
EACH_KIND = [(name, "each") for name in KINDS]
OTHER_SWAPS = [(name, swap) for name in ("class", "multi-label") for swap in ("one", "permute")]


@masked_or_not
@pytest.mark.parametrize(("name", "swap"), EACH_KIND + OTHER_SWAPS)
def test_a_step_never_waits_for_the_device(name, swap, masked):
    """Tensors on the meta device have no values: any look at one raises."""
    model, given = parts(name, masked, swap=swap)
    with OperatorCount() as log:
        model.to("meta")(*(each.to("meta") for each in given)).backward()
    assert log.waiting == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("smoothed class", True),
        ("weighted distribution", False),
        ("multi-label", True),
        ("continuous", False),
    ],
)
def test_a_seeded_step_compiles_to_one_graph_and_equals_the_plain_one(name, masked):
    torch._dynamo.reset()
    plain, given = parts(name, masked, seed=7)
    twin, _ = parts(name, masked, seed=7)
    twin.load_state_dict(plain.state_dict())
    fast = torch.compile(twin, fullgraph=True, backend="eager")
    for _ in range(2):
        want, have = plain(*given), fast(*given)
        torch.testing.assert_close(have, want)
        gradients = torch.autograd.grad(want, list(plain.parameters()))
        found = torch.autograd.grad(have, list(twin.parameters()))
        for one, other in zip(found, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert torch.equal(twin.criterion.weak_modality.alpha, plain.criterion.weak_modality.alpha)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "masked"),
    [("class", True), ("multi-label", False), ("continuous", False)],
)
def test_the_default_compiler_makes_the_same_draws_and_labels(name, masked):
    """Its arithmetic on indices does not wrap as int64 does, and it fuses what others do not."""
    torch._dynamo.reset()
    plain, (a, v, labels, *present) = parts(name, masked, seed=7)
    twin, _ = parts(name, masked, seed=7)
    width = plain.fusion.out_features
    predictions = {one: torch.randn(N, width) for one in NAMES}

    def drawn(augment, *present):
        has = present[0] if present else None
        out = augment({"a": a, "v": v}, labels, present=has, unimodal_logits=predictions)
        return out.drawn.ids, out.source, out.valid, out.shares

    for _ in range(2):
        want = drawn(plain.augment, *present)
        have = torch.compile(drawn, fullgraph=True)(twin.augment, *present)
        for one, other in zip(have, want, strict=True):
            torch.testing.assert_close(one, other)


# Operators of a step without a mask, and with one.
BUDGETS = {
    "class": (130, 200),
    "weighted class": (142, 228),
    "smoothed class": (167, 252),
    "distribution": (164, 232),
    "weighted distribution": (198, 266),
    "multi-label": (191, 259),
    "continuous": (189, 257),
    "wide continuous": (189, 257),
    "binned continuous": (172, 240),
    "own": (152, 220),
}


@masked_or_not
@pytest.mark.parametrize("name", KINDS)
def test_a_step_stays_within_its_budget_of_operators_whatever_its_size(name, masked):
    """Counted, never timed: no loop over rows or classes hides in a target."""
    for rows, classes in ((12, 4), (48, 9)):
        model, given = parts(name, masked, rows, classes)
        with OperatorCount() as log:
            model.to("meta")(*(each.to("meta") for each in given)).backward()
        assert log.operators <= BUDGETS[name][masked]
