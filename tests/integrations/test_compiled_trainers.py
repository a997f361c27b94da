"""Every trainer of docs/trainers.md compiles the model that owns augmentation and loss."""

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from midas_aug import MisalignAugment
from midas_aug.integrations.module import AugmentModule
from tests.helpers.compiled import (
    BACKEND,
    BATCH,
    CLASSES,
    EPOCHS,
    NAMES,
    RATE,
    Model,
    Run,
    forget_graphs,
    loader,
    loop,
    run_of,
    samples,
    sgd,
)

ROOT = Path(__file__).parents[2]
WHOLE: Any = {"fullgraph": True, "backend": BACKEND}
# What trainers say while they work, and what PyTorch says while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore")


def documented(trainer: str) -> int:
    """How many graphs the table of docs/trainers.md says there are."""
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(f"| {trainer} | `")]
    (row,) = lines
    return int(row.split(" | ")[2])


# -- trainers in one process; each trains anew, compiled or not ----------------------------------


def with_a_plain_loop(compiled: bool) -> Run:
    model = Model()
    if compiled:
        model.compile(**WHOLE)
    return loop(model, model, loader())


def with_accelerate(compiled: bool) -> Run:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    plugin = accelerate.utils.TorchDynamoPlugin(backend=BACKEND, fullgraph=True)
    accelerator = accelerate.Accelerator(cpu=True, dynamo_plugin=plugin if compiled else None)
    own = Model()
    model, optimizer, batches = accelerator.prepare(own, sgd(own), loader())
    return loop(model, own, batches, optimizer, accelerator.backward)


def with_lightning(compiled: bool) -> Run:
    return fit(compiled, whole_step=False)


def with_lightning_step(compiled: bool) -> Run:
    return fit(compiled, whole_step=True)


def fit(compiled: bool, *, whole_step: bool) -> Run:
    lightning = pytest.importorskip("lightning")
    callbacks = importlib.import_module("midas_aug.integrations.lightning")
    losses: list[float] = []

    class Training(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()
            if compiled and not whole_step:
                self.model.compile(**WHOLE)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.model(**batch)["loss"]
            if not whole_step:
                self.log("loss", loss)
            return loss

        def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
            losses.append(outputs["loss"].item())

        def configure_optimizers(self) -> Any:
            return sgd(self)

    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callbacks.MidasCallback()],
    )
    module = Training()
    trainer.fit(torch.compile(module, **WHOLE) if compiled and whole_step else module, loader())
    return run_of(losses, module.model)


def with_hugging_face(compiled: bool, folder: Path) -> Run:
    integration = hugging_face()
    model, losses = Model(), list[float]()
    noting(losses, integration.Trainer)(
        model,
        arguments_of(compiled, folder),
        train_dataset=samples(),
        callbacks=[integration.MidasCallback()],
    ).train()
    return run_of(losses, model)


class AtInput(nn.Module):
    """A classifier that knows nothing of misaligned rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fusion = nn.Linear(8, CLASSES)

    def forward(self, a: Any, b: Any, labels: Any = None) -> dict[str, Any]:
        logits = self.fusion(torch.cat([a, b], dim=1))
        return {"logits": logits} | (
            {} if labels is None else {"loss": cross_entropy(logits, labels)}
        )


def with_midas_trainer(compiled: bool, folder: Path) -> Run:
    losses: list[float] = []
    trainer = noting(losses, hugging_face().MidasTrainer)(
        AtInput(),
        arguments_of(compiled, folder),
        train_dataset=samples(),
        augment=uniform(),
    )
    if compiled:
        trainer.criterion.compile(**WHOLE)
    trainer.train()
    parts = nn.Module()
    parts.criterion, parts.augment = trainer.criterion, AugmentModule(trainer.augment)
    return run_of(losses, parts)


def uniform() -> MisalignAugment:
    return MisalignAugment(
        NAMES, CLASSES, label="labels", confidence="uniform", hardness=None, seed=0
    )


def hugging_face() -> Any:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return importlib.import_module("midas_aug.integrations.huggingface")


def noting(losses: list[float], trainer: Any) -> Any:
    """The class of trainers ``trainer``, which writes down the loss of each batch."""

    class Noting(trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(*args, **kwargs)
            losses.append((found[0] if isinstance(found, tuple) else found).item())
            return found

    return Noting


def arguments_of(compiled: bool, folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    compilation = {"torch_compile": True, "torch_compile_backend": BACKEND} if compiled else {}
    return transformers.TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **compilation,
    )


EXTRA = pytest.mark.extra
TRAINERS = [
    pytest.param("plain PyTorch", with_a_plain_loop),
    pytest.param("Accelerate", with_accelerate, marks=EXTRA),
    pytest.param("Lightning, the model", with_lightning, marks=EXTRA),
    pytest.param("Lightning, the step", with_lightning_step, marks=EXTRA),
    pytest.param("Hugging Face `Trainer`", with_hugging_face, marks=EXTRA),
    pytest.param("Hugging Face, `MidasTrainer`", with_midas_trainer, marks=EXTRA),
]


@pytest.mark.parametrize(("trainer", "train"), TRAINERS)
def test_a_compiled_training_is_the_eager_one_in_as_many_graphs_as_the_page_says(
    trainer: str, train: Callable[..., Run], tmp_path: Path
) -> None:
    options = {"folder": tmp_path} if train in (with_hugging_face, with_midas_trainer) else {}
    forget_graphs()
    eager = train(False, **options)
    assert eager.graphs == 0
    compiled = train(True, **options)
    same(compiled, eager)
    assert len(eager.losses) == eager.draws == 3 * EPOCHS
    assert compiled.graphs == documented(trainer)
    assert compiled.breaks == []


def same(compiled: Run, eager: Run) -> None:
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-5)
    assert compiled.alpha == eager.alpha
    assert compiled.draws == eager.draws
    assert eager.alpha != [2.0, 2.0]  # it has moved


def test_the_default_compiler_trains_the_same() -> None:
    forget_graphs()
    eager = with_a_plain_loop(compiled=False)
    model = Model()
    model.compile(fullgraph=True)
    same(loop(model, model, loader()), eager)


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_validation_after_each_epoch_is_one_graph_more(warmup: int) -> None:
    """And one for the warm-up, in which a validation is like any other."""
    forget_graphs()
    model = Model(warmup_epochs=warmup)
    model.compile(**WHOLE)
    plain = Model(warmup_epochs=warmup)
    for epoch in range(3):
        for one in (model, plain):
            one.criterion.set_epoch(epoch)
        for is_training in (True, False):
            for batch in loader():
                found = model.train(is_training)(**batch)["loss"]
                torch.testing.assert_close(found, plain.train(is_training)(**batch)["loss"])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 3 + warmup


# -- several processes ---------------------------------------------------------------------------


def run_rank(rank: int, n_ranks: int, kind: str, folder: str) -> None:
    """One rank trains, eagerly and compiled; what it saw goes into a file."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=n_ranks)
    try:
        runs = [tuple(train_rank(kind, compiled)) for compiled in (False, True)]
        torch.save(runs, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def train_rank(kind: str, compiled: bool) -> Run:
    own = Model()
    if compiled:
        own.compile(**WHOLE)
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    if kind == "FSDP2":
        from torch.distributed.fsdp import fully_shard

        model: Any = fully_shard(own, mesh=init_device_mesh("cpu", (n_ranks,)))
    else:  # in the warm-up the fusion head has no gradient
        model = DistributedDataParallel(own, find_unused_parameters=True)
    return loop(model, own, loader(rank, n_ranks))


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_ranks_compile_the_model_with_the_sum_over_ranks(kind: str, tmp_path: Path) -> None:
    if kind == "FSDP2" and not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("this PyTorch has fully_shard under another name")
    mp.spawn(run_rank, (2, kind, str(tmp_path)), nprocs=2)
    for rank in range(2):
        eager, compiled = (Run(*run) for run in torch.load(tmp_path / f"{rank}.pt"))
        same(compiled, eager)
        assert (eager.graphs, compiled.graphs) == (0, documented(kind))
        assert compiled.breaks == []


RAY = """
import json, pathlib, sys
import ray.train, ray.train.torch

def train(path):
    from tests.helpers.compiled import BACKEND, Model, loader, loop
    rank, runs = ray.train.get_context().get_world_rank(), []
    for compiled in (False, True):
        own = Model()
        if compiled:
            own.compile(fullgraph=True, backend=BACKEND)
        unused = {"find_unused_parameters": True}
        model = ray.train.torch.prepare_model(own, parallel_strategy_kwargs=unused)
        runs.append(loop(model, own, loader(rank, 2)))
    if rank == 0:
        pathlib.Path(path).write_text(json.dumps(runs))

if __name__ == "__main__":
    root, folder = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config=folder + "/told.json",
        run_config=ray.train.RunConfig(storage_path=folder),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    ).fit()
"""


def run_script(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
    )


@pytest.mark.extra
def test_the_workers_of_ray_compile_the_model(tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    script = tmp_path / "compiled_ray.py"
    script.write_text(RAY)
    run_script(str(script), str(ROOT), str(tmp_path))
    eager, compiled = (Run(*run) for run in json.loads((tmp_path / "told.json").read_text()))
    same(compiled, eager)
    assert compiled.graphs == documented("Ray Train")
    assert compiled.breaks == []


# -- trainers that compile steps of their own ----------------------------------------------------


@pytest.mark.extra
def test_keras_compiles_its_own_step_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    collate = importlib.import_module("midas_aug.integrations.keras").KerasCollate
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=BACKEND))
    forget_graphs()
    losses = {}
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        inputs = [keras.Input((3,), name="a"), keras.Input((5,), name="b")]
        fusion = keras.layers.Dense(CLASSES)(keras.layers.Concatenate()(inputs))
        model = keras.Model(dict(zip(NAMES, inputs, strict=True)), fusion)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE), loss, jit_compile=compiled)
        batches = DataLoader(samples(), BATCH, collate_fn=collate(uniform()))
        losses[compiled] = [
            model.fit(batches, epochs=1, shuffle=False, verbose=0).history["loss"][0]
            for _ in range(EPOCHS)
        ]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == documented("Keras 3")
    assert any("Tensor.backward()" in reason for reason in counters["graph_break"])


@pytest.mark.extra
def test_jax_compiles_a_step_once() -> None:
    pytest.importorskip("flax")
    pytest.importorskip("optax")
    script = str(ROOT / "examples" / "with_jax.py")
    told = run_script(script, "--epochs", "2", JAX_LOG_COMPILES="1").stderr
    steps = [line for line in told.splitlines() if "Finished XLA compilation of jit(step)" in line]
    assert len(steps) == documented("JAX, Flax")
