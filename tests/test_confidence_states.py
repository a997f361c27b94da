"""Providers that are modules: right in value and dtype however they came to life."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midas_aug import MidasAugError
from midas_aug.confidence import (
    CalibratedConfidence,
    FrozenConfidence,
    HeadConfidence,
    LogitConfidence,
    PrototypeConfidence,
    SkillConfidence,
)

N, C = 12, 4
LABELS = torch.arange(N) % C
DIMS = {"a": 5, "b": 3}
COUNTS = torch.tensor([5, 3, 2, 2])


def skill(**options: Any) -> SkillConfidence:
    return SkillConfidence(("a", "b"), C, **options)


PROVIDERS: dict[str, Callable[[], Any]] = {
    "prototypes": lambda: PrototypeConfidence(DIMS, C),
    "calibrated": lambda: CalibratedConfidence(LogitConfidence(("a", "b"))),
    "calibrated heads": lambda: CalibratedConfidence(HeadConfidence(DIMS, C)),
    "skill": skill,
    "skill of known classes": lambda: skill(class_counts=COUNTS),
}
every_provider = pytest.mark.parametrize("name", PROVIDERS)


def inputs(name: str) -> dict[str, Tensor]:
    """Features, or logits where the provider reads these."""
    generator = torch.Generator().manual_seed(1)
    widths = {"a": C, "b": C} if name == "calibrated" else DIMS
    return {key: torch.randn(N, width, generator=generator) for key, width in widths.items()}


def learn(name: str, provider: Any) -> Any:
    """The provider with a state of its own, whose numbers bfloat16 would round."""
    logits = [3.3 * torch.randn(N, C) + 3 * (LABELS[:, None] == torch.arange(C)) for _ in "ab"]
    if name == "prototypes":
        provider.update(inputs(name), LABELS)
    elif name.startswith("calibrated"):
        provider.fit(logits, LABELS)
    else:
        provider.update(logits, LABELS)
        provider.step()
    return provider


def states(provider: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in provider.named_buffers()}


def assert_states(provider: Any, wanted: dict[str, Tensor]) -> None:
    found = dict(provider.named_buffers())
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def assert_works(name: str, provider: Any, like: Any) -> None:
    """It says what a provider with the same state says that lived an ordinary life."""
    scores = provider(inputs(name), LABELS)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, like(inputs(name), LABELS))


@every_provider
def test_a_learnt_state_is_another_than_the_first(name):
    """Else the tests below could not fail."""
    first, learnt = states(PROVIDERS[name]()), states(learn(name, PROVIDERS[name]()))
    assert any(not torch.equal(first[key], learnt[key]) for key in first)
    rounded = (
        value.bfloat16().to(value.dtype) for value in learnt.values() if value.is_floating_point()
    )
    floats = (value for value in learnt.values() if value.is_floating_point())
    assert any(not torch.equal(*pair) for pair in zip(rounded, floats, strict=True))


@every_provider
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_matter(name, dtype):
    wanted = states(PROVIDERS[name]())
    torch.set_default_dtype(dtype)
    try:
        provider = PROVIDERS[name]()
    finally:
        torch.set_default_dtype(torch.float32)
    assert_states(provider, wanted)


@every_provider
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_of_the_model_keeps_the_state(name, dtype):
    provider = learn(name, PROVIDERS[name]())
    wanted = states(provider)
    model = nn.ModuleDict({"provider": provider}).to(dtype)
    assert_states(provider, wanted)
    if name != "calibrated heads":  # linear heads are cast, as they should be
        assert_works(name, model.to(torch.float32)["provider"], provider)


@pytest.mark.parametrize("name", ["prototypes", "skill", "calibrated"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_learns_and_labels_in_float32(name, dtype):
    provider = learn(name, PROVIDERS[name]().to(dtype))
    given = {key: value.to(dtype) for key, value in inputs(name).items()}
    if name == "prototypes":
        provider.update(given, LABELS)
    scores = provider(given, LABELS)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert {value.dtype for value in provider.buffers() if value.is_floating_point()} == {
        torch.float32
    }


@every_provider
def test_from_the_meta_device_it_starts_as_new(name):
    with torch.device("meta"):
        provider = PROVIDERS[name]()
    provider.to_empty(device="cpu")
    kept = [torch.full((64,), 7.7) for _ in range(100)]
    del kept  # memory that is not zero
    provider.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    wanted = PROVIDERS[name]()
    assert_states(provider, states(wanted))
    if name != "calibrated heads":  # these have drawn weights of their own
        assert_works(name, provider, wanted)


@every_provider
def test_it_can_be_put_back_to_where_it_started(name):
    provider = learn(name, PROVIDERS[name]())
    provider.reset_parameters()
    assert_states(provider, states(PROVIDERS[name]()))
    if name != "calibrated heads":
        assert_works(name, provider, PROVIDERS[name]())


@every_provider
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_checkpoint_gives_its_state(name, assign, device):
    learnt = learn(name, PROVIDERS[name]())
    with torch.device(device):
        provider = PROVIDERS[name]()
    if device == "meta" and not assign:
        provider.to_empty(device="cpu")
    provider.load_state_dict(learnt.state_dict(), assign=assign)
    assert_states(provider, states(learnt))
    assert_works(name, provider, learnt)


@every_provider
@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_in_bfloat16_is_taken_in_float32(name, assign):
    learnt = learn(name, PROVIDERS[name]())
    half = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in learnt.state_dict().items()
    }
    provider = PROVIDERS[name]()
    provider.load_state_dict(half, assign=assign)
    rounded = {
        key: value.bfloat16().float() if value.dtype == torch.float32 else value
        for key, value in states(learnt).items()
    }
    assert_states(provider, rounded)
    if name == "prototypes":  # a moving average does not move in bfloat16
        before = states(provider)
        provider.update({key: value + 1e-3 for key, value in inputs(name).items()}, LABELS)
        assert not torch.equal(provider.get_buffer("centroids_0"), before["centroids_0"])


@every_provider
@pytest.mark.parametrize("assign", [False, True])
def test_what_a_checkpoint_lacks_stays_as_it_was(name, assign):
    learnt = learn(name, PROVIDERS[name]())
    for left_out in states(learnt):
        provider = PROVIDERS[name]()
        part = {key: value for key, value in learnt.state_dict().items() if key != left_out}
        provider.load_state_dict(part, strict=False, assign=assign)
        first = states(PROVIDERS[name]())[left_out]
        assert torch.equal(provider.get_buffer(left_out), first)
        for key in states(learnt).keys() - {left_out}:
            assert torch.equal(provider.get_buffer(key), states(learnt)[key])


@every_provider
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_says_the_same_and_learns_by_itself(name, copied):
    provider = learn(name, PROVIDERS[name]())
    twin = copied(provider)
    assert_states(twin, states(provider))
    assert_works(name, twin, provider)
    before = states(provider)
    twin.reset_parameters()
    assert_states(provider, before)
    assert_states(twin, states(PROVIDERS[name]()))


class Model(nn.Module):
    """A model that holds providers, next to layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        for number, make in enumerate(PROVIDERS.values()):
            self.add_module(f"provider_{number}", make())
        self.frozen = FrozenConfidence({key: nn.Linear(dim, C) for key, dim in DIMS.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained_gives_every_provider_its_state(tmp_path, dtype):
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "with_providers"

    class Pretrained(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Any, providers: bool = True) -> None:
            super().__init__(config)
            self.layer = nn.Linear(4, 4)
            if providers:
                self.model = Model()
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    Pretrained(Config(), providers=False).save_pretrained(tmp_path / "without")
    kept = [torch.full((64,), 7.7) for _ in range(1000)]
    del kept
    loaded = Pretrained.from_pretrained(tmp_path / "without", dtype=dtype).model
    fresh = Model()
    for number, name in enumerate(PROVIDERS):
        provider = loaded.get_submodule(f"provider_{number}")
        assert_states(provider, states(fresh.get_submodule(f"provider_{number}")))
        learn(name, provider)

    saved = Pretrained(Config())
    saved.model = loaded
    saved.save_pretrained(tmp_path / "with")
    again = Pretrained.from_pretrained(tmp_path / "with", dtype=dtype).model
    for number, name in enumerate(PROVIDERS):
        provider = again.get_submodule(f"provider_{number}")
        assert_states(provider, states(loaded.get_submodule(f"provider_{number}")))
        if name != "calibrated heads":
            assert_works(name, provider, loaded.get_submodule(f"provider_{number}"))
    assert not again.frozen.training
    assert not any(parameter.requires_grad for parameter in again.frozen.parameters())


@pytest.mark.parametrize("assign", [False, True])
def test_frozen_classifiers_stay_frozen_when_they_are_loaded(assign):
    def make() -> FrozenConfidence:
        return FrozenConfidence({key: nn.Linear(dim, C) for key, dim in DIMS.items()})

    source, provider = make(), make()
    provider.load_state_dict(source.state_dict(), assign=assign)
    nn.ModuleDict({"frozen": provider}).train()
    assert not provider.training
    assert not any(parameter.requires_grad for parameter in provider.parameters())
    assert torch.equal(provider(inputs("heads"), LABELS), source(inputs("heads"), LABELS))


@pytest.mark.parametrize(
    ("name", "state", "bad"),
    [
        ("calibrated", "temperatures", float("nan")),
        ("calibrated", "temperatures", 0.0),
        ("calibrated", "temperatures", float("inf")),
        ("skill", "skill", float("nan")),
        ("skill", "skill", -0.5),
        ("skill", "steps", -1),
        ("skill of known classes", "class_counts", -1),
        ("prototypes", "centroids_1", float("nan")),
        ("prototypes", "centroids_0", float("-inf")),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_that_no_run_comes_to_is_refused_and_nothing_is_taken(name, state, bad, assign):
    saved = learn(name, PROVIDERS[name]()).state_dict()
    saved[state] = torch.full_like(saved[state], bad)
    provider = PROVIDERS[name]()
    with pytest.raises(MidasAugError, match=f"{state} in the checkpoint.*take an earlier one"):
        provider.load_state_dict(saved, assign=assign)
    assert_states(provider, states(PROVIDERS[name]()))
