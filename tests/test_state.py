"""States of a module: right in value and dtype however the module came to life."""

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midas_aug import MidasAugError
from midas_aug._state import Mirror, StatefulModule


class Counter(StatefulModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_state("weight", partial(torch.full, (2,), 3.0))
        self.register_state("steps", partial(torch.zeros, (), dtype=torch.int64))
        self.register_state("seen", partial(torch.ones, 2, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        self.ready()
        return x * self.weight


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.counter = Counter()


def assert_first(counter: Counter) -> None:
    assert_dtypes(counter)
    assert counter.weight.tolist() == [3.0, 3.0]
    assert int(counter.steps) == 0
    assert counter.seen.tolist() == [True, True]


def assert_dtypes(counter: Counter) -> None:
    assert counter.weight.dtype == torch.float32
    assert counter.steps.dtype == torch.int64
    assert counter.seen.dtype == torch.bool
    assert {type(buffer) for buffer in counter.buffers()} == {Tensor}


def moved() -> Counter:
    counter = Counter()
    counter.weight.copy_(torch.tensor([16.05, 1.0]))
    counter.steps += 7
    return counter


@pytest.fixture(params=[torch.bfloat16, torch.float64])
def default_dtype(request: Any) -> Any:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_the_default_dtype_does_not_matter(default_dtype: torch.dtype) -> None:
    assert_first(Counter())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_of_the_model_keeps_dtype_and_value(dtype: torch.dtype) -> None:
    model = Model()
    model.counter = moved()
    model.to(dtype).to(torch.float32)
    assert_dtypes(model.counter)
    assert model.counter.weight.tolist() == moved().weight.tolist()


def test_built_on_the_meta_device_it_has_its_values() -> None:
    with torch.device("meta"):
        model = Model()
    assert model.layer.weight.is_meta
    assert_first(model.counter)


def test_to_empty_keeps_the_values() -> None:
    with torch.device("meta"):
        model = Model()
    model.to_empty(device="cpu")
    assert_first(model.counter)
    counter = moved().to_empty(device="cpu")
    assert counter.steps.item() == 7


def test_back_from_the_meta_device_it_starts_anew() -> None:
    counter = moved().to("meta")
    assert counter.weight.is_meta
    assert_first(counter.to_empty(device="cpu"))


def test_reset_parameters_puts_every_state_back() -> None:
    counter = moved()
    weight = counter.weight
    counter.reset_parameters()
    assert_first(counter)
    assert counter.weight is weight


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("meta", [True, False])
def test_a_checkpoint_in_half_precision_becomes_float32(assign: bool, meta: bool) -> None:
    state = {**moved().state_dict(), "weight": torch.tensor([16.0, 2.0], dtype=torch.bfloat16)}
    with torch.device("meta" if meta else "cpu"):
        counter = Counter()
    counter.load_state_dict(state, assign=assign)
    assert_dtypes(counter)
    assert counter.weight.tolist() == [16.0, 2.0]
    assert int(counter.steps) == 7


@pytest.mark.parametrize("assign", [True, False])
def test_what_a_checkpoint_has_not_stays_as_it_was(assign: bool) -> None:
    with torch.device("meta"):
        counter = Counter()
    counter.load_state_dict({"steps": torch.tensor(7)}, strict=False, assign=assign)
    assert int(counter.steps) == 7
    counter.steps.zero_()
    assert_first(counter)


class Bounded(StatefulModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_state("weight", partial(torch.ones, 2), lowest=1)
        self.register_state("steps", partial(torch.zeros, (), dtype=torch.int64), lowest=0)


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize(
    ("name", "bad"),
    [("weight", 0.5), ("weight", float("nan")), ("weight", float("inf")), ("steps", -1)],
)
def test_a_checkpoint_beyond_the_bounds_is_refused_before_anything_is_taken(
    assign: bool, name: str, bad: float
) -> None:
    model = nn.ModuleDict({"inner": Bounded()})
    state = {"inner.weight": torch.tensor([2.0, 3.0]), "inner.steps": torch.tensor(7)}
    broken = state | {f"inner.{name}": torch.full_like(state[f"inner.{name}"], bad)}
    with pytest.raises(MidasAugError, match=rf"inner\.{name} in the checkpoint.*at least"):
        model.load_state_dict(broken, assign=assign)
    assert model["inner"].state_dict()["weight"].tolist() == [1.0, 1.0]
    assert int(model["inner"].state_dict()["steps"]) == 0
    model.load_state_dict(state, assign=assign)
    assert model["inner"].state_dict()["weight"].tolist() == [2.0, 3.0]
    model.load_state_dict({}, strict=False, assign=assign)


def test_a_state_on_a_device_is_not_looked_at() -> None:
    model = Bounded()
    model.load_state_dict(model.to("meta").state_dict(), assign=True)


def test_a_state_replaced_behind_its_back_is_mended() -> None:
    counter = moved()
    counter._buffers["weight"] = torch.tensor([16.0, 1.0], dtype=torch.bfloat16)
    counter(torch.ones(2))
    assert_dtypes(counter)
    assert counter.weight.tolist() == [16.0, 1.0]


def test_a_value_that_is_assigned_is_taken() -> None:
    counter = Counter()
    counter.weight = torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert_dtypes(counter)
    assert counter.weight.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_has_the_values_and_can_be_reset(copied: Any) -> None:
    counter = copied(moved())
    assert int(counter.steps) == 7
    counter.reset_parameters()
    assert_first(counter)


def test_ready_is_part_of_one_graph() -> None:
    counter = Counter()
    compiled = torch.compile(counter, fullgraph=True, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [3.0, 3.0]
    counter.weight.fill_(5)
    assert compiled(torch.ones(2)).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained_fills_what_the_checkpoint_lacks(tmp_path: Any, dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc,name-defined]
        model_type = "stateful"

    class Pretrained(transformers.PreTrainedModel):  # type: ignore[misc,name-defined]
        config_class = Config

        def __init__(self, config: Any, count: bool = True) -> None:
            super().__init__(config)
            self.layer = nn.Linear(4, 4)
            if count:
                self.counter = Counter()
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    Pretrained(Config(), count=False).save_pretrained(tmp_path / "without")
    kept = [torch.full((2,), 7.7) for _ in range(2000)]
    del kept  # memory that is not zero
    model = Pretrained.from_pretrained(tmp_path / "without", dtype=dtype)
    assert model.layer.weight.dtype == dtype
    assert_first(model.counter)

    model.counter.steps += 7
    model.counter.weight.fill_(16)
    model.save_pretrained(tmp_path / "with")
    again = Pretrained.from_pretrained(tmp_path / "with", dtype=dtype)
    assert_dtypes(again.counter)
    assert int(again.counter.steps) == 7
    assert again.counter.weight.tolist() == [16.0, 16.0]
    again.counter.reset_parameters()
    assert_first(again.counter)


class Reads:
    """Counts how often the tensor was read."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, tensor: Tensor) -> int:
        self.count += 1
        return int(tensor)


def test_a_mirror_reads_again_only_what_has_changed() -> None:
    read = Reads()
    mirror, tensor = Mirror(read, 0), torch.tensor(4)
    assert [mirror.of(tensor), mirror.of(tensor)] == [4, 4]
    assert read.count == 1
    tensor += 1
    assert [mirror.of(tensor), mirror.of(tensor)] == [5, 5]
    assert read.count == 2
    tensor.data = torch.tensor(6)
    assert mirror.of(tensor) == 6
    assert mirror.of(torch.tensor(7)) == 7


def test_a_mirror_that_was_told_the_value_does_not_read() -> None:
    read = Reads()
    mirror, tensor = Mirror(read, 0), torch.tensor(0)
    mirror.set(tensor.fill_(9), 9)
    assert mirror.of(tensor) == 9
    assert read.count == 0


def test_a_mirror_of_nothing_keeps_its_value() -> None:
    mirror = Mirror(int, 3)
    assert mirror.of(torch.empty((), device="meta")) == 3


def test_the_copy_of_a_mirror_follows_the_tensor_of_the_copy() -> None:
    mirror, tensor = Mirror(int, 0), torch.tensor(4)
    mirror.of(tensor)
    copied = copy.deepcopy(mirror)
    assert copied.of(torch.tensor(8)) == 8
    assert mirror.of(tensor) == 4
    with torch.inference_mode():
        assert mirror.of(torch.tensor(2)) == 2
