"""After the draws: no sync, no data-dependent shape, one graph; compiled equals eager."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from midas_aug import MidasLoss, MisalignAugment, RatioWeakModalityWeight, confidence
from midas_aug import functional as F
from tests.helpers.operators import OperatorCount

NAMES = ("a", "v")
ROWS, CLASSES = 32, 7


class Model(nn.Module):
    """Two linear encoders, unimodal heads and a fusion head, with the whole MIDAS step."""

    def __init__(self, augment: MisalignAugment, criterion: MidasLoss) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(6, 8), "v": nn.Linear(5, 8)})
        self.heads = nn.ModuleDict({name: nn.Linear(8, CLASSES) for name in NAMES})
        self.fusion = nn.Linear(16, CLASSES)
        self.augment = augment
        self.provider = augment.confidence if isinstance(augment.confidence, nn.Module) else None
        self.criterion = criterion

    def forward(self, a: Tensor, v: Tensor, labels: Tensor, plan: Any = None) -> Tensor:
        features = {"a": self.encoders["a"](a), "v": self.encoders["v"](v)}
        unimodal = {name: self.heads[name](features[name]) for name in NAMES}
        out = self.augment(features, labels, unimodal_logits=unimodal, plan=plan)
        logits = self.fusion(torch.cat([out["a"], out["v"]], dim=1))
        return self.criterion(logits, out, unimodal)


def build(rule: str = "paper", **options: Any) -> Model:
    torch.manual_seed(0)
    criterion = MidasLoss(2)
    if rule == "public code":
        criterion.weak_modality = RatioWeakModalityWeight(2)
    return Model(MisalignAugment(NAMES, CLASSES, **options), criterion)


def inputs(rows: int = ROWS, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(rows, 6, device=device),
        torch.randn(rows, 5, device=device),
        torch.randint(CLASSES, (rows,), device=device),
    )


OPTIONS: dict[str, Callable[[], Model]] = {
    "each": build,
    "one": lambda: build(swap="one"),
    "permute": lambda: build(swap="permute"),
    "permutation pairing": lambda: build(pairing=F.permutation_partners),
    "public code": lambda: build("public code"),
    "no hardness": lambda: build(hardness=None, confidence="uniform"),
    "prototypes": lambda: build(
        confidence=confidence.PrototypeConfidence({"a": 8, "v": 8}, CLASSES)
    ),
    "skill": lambda: build(
        confidence=confidence.SkillConfidence(("a", "b"), CLASSES), hardness=None
    ),
    "heads": lambda: build(confidence=confidence.HeadConfidence({"a": 8, "v": 8}, CLASSES)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_whole_training_step_never_waits_for_the_device(name):
    """Tensors on the meta device have no values: any look at one raises."""
    model = OPTIONS[name]().to("meta")
    with OperatorCount() as log:
        model(*inputs(device="meta")).backward()
    assert log.waiting == []


def test_fake_tensors_agree_that_nothing_reads_values():
    model = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss = model(*inputs())
        loss.backward()
    assert loss.shape == ()


def test_the_operator_log_can_fail():
    with OperatorCount() as log:
        labels = torch.arange(4)
        labels[labels > 1].sum().item()
        torch.multinomial(torch.ones(3), 1)
    assert set(log.waiting) == {"aten.index", "aten._local_scalar_dense", "aten.multinomial"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.arange(4, device="meta").max().item()


def test_the_step_stays_within_its_budget_of_operators():
    """Heads, draws, augment and loss, forward and backward: counted, never timed."""
    features = {name: torch.randn(ROWS, 8, requires_grad=True) for name in NAMES}
    model = build().to("meta")
    labels = torch.arange(ROWS) % CLASSES
    features = {
        name: feature.detach().to("meta").requires_grad_() for name, feature in features.items()
    }
    labels = labels.to("meta")
    with OperatorCount() as log:
        unimodal = {name: model.heads[name](features[name]) for name in NAMES}
        out = model.augment(features, labels, unimodal_logits=unimodal)
        logits = model.fusion(torch.cat([out["a"], out["v"]], dim=1))
        model.criterion(logits, out, unimodal).backward()
    assert log.operators <= 108


@pytest.fixture(scope="module")
def compiled() -> Any:
    torch._dynamo.reset()
    model = build()
    return model, torch.compile(model, fullgraph=True, dynamic=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_compiled_equals_eager_in_one_graph_over_batch_sizes(compiled):
    model, fast = compiled
    torch._dynamo.utils.counters.clear()
    for rows in (32, 48, 7, 64):
        data = inputs(rows)
        plan = F.plan_swaps(data[2], 2)
        before = model.criterion.weak_modality.alpha.clone()
        eager = model(*data, plan)
        gradients = torch.autograd.grad(eager, list(model.parameters()))
        stepped = model.criterion.weak_modality.alpha.clone()
        model.criterion.weak_modality.alpha.copy_(before)
        loss = fast(*data, plan)
        torch.testing.assert_close(loss, eager)
        for have, want in zip(
            torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True
        ):
            torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-6)
        assert torch.equal(model.criterion.weak_modality.alpha, stepped)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_draws_compile_too_where_no_generator_is_held():
    torch._dynamo.reset()

    def draw(labels: Tensor) -> Tensor:
        return F.plan_swaps(labels, 3, swap="permute").source

    labels = torch.arange(12) % 4
    source = torch.compile(draw, fullgraph=True, backend="aot_eager")(labels)
    assert source.shape == (12, 3)
    assert (labels[source].amax(dim=1) != labels[source].amin(dim=1)).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it finds its kernels
def test_forward_mode_differentiates_a_swap_of_features_that_want_a_gradient():
    rows, labels = torch.randn(6, 4, requires_grad=True), torch.arange(6) % 3
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform")
    tangent = torch.randn(6, 4)
    with forward_ad.dual_level():
        out = augment({"a": forward_ad.make_dual(rows, tangent), "b": torch.zeros(6, 2)}, labels)
        found = forward_ad.unpack_dual(out["a"]).tangent
    assert torch.equal(found, tangent[out.source[:, 0]])
