"""Numbers that workers see, and files that are whole or not there."""

import copy
import gc
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import multiprocessing

from midas_aug._files import write_atomically
from midas_aug._shared import SharedNumbers


def follow(numbers: SharedNumbers, asked: Any, answers: Any) -> None:
    while asked.get(timeout=60):
        answers.put(numbers.tensor.tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_running_workers_see_what_is_written(method: str) -> None:
    context = multiprocessing.get_context(method)
    numbers = SharedNumbers(torch.tensor([1.0, 2.0]))
    asked, answers = context.Queue(), context.Queue()
    worker = context.Process(target=follow, args=(numbers, asked, answers), daemon=True)
    worker.start()
    seen = []
    for value in (3.0, 4.0):
        numbers.write(torch.tensor([value, 0.5], dtype=torch.float64))
        asked.put(True)
        seen.append(answers.get(timeout=60))
    asked.put(False)
    worker.join(60)
    assert seen == [[3.0, 0.5], [4.0, 0.5]]
    assert numbers.tensor.tolist() == [4.0, 0.5]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files as Linux shows them")
def test_they_cost_no_open_file() -> None:
    gc.collect()  # what other tests have left open is closed at any time
    before = open_files()
    kept = [SharedNumbers(torch.ones(2)) for _ in range(100)]
    pickle.dumps(kept)
    assert open_files() == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_has_memory_of_its_own(copied: Any) -> None:
    numbers = SharedNumbers(torch.tensor([1, 2]))
    other = copied(numbers)
    numbers.write(torch.tensor([5, 6]))
    assert other.tensor.tolist() == [1, 2]
    assert other.tensor.dtype == torch.int64


def test_the_default_device_and_shapes_of_all_sizes() -> None:
    with torch.device("meta"):
        numbers = SharedNumbers(torch.zeros((), dtype=torch.bool, device="cpu"))
    assert numbers.tensor.device.type == "cpu"
    assert numbers.tensor.shape == ()
    assert SharedNumbers(torch.zeros(0, 2)).tensor.shape == (0, 2)


def write(content: bytes) -> Any:
    return lambda file: file.write(content)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, write(b"old"))
    write_atomically(path, write(b"new"), size=3)
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_the_file_that_came_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "file"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))

    def slow(file: BinaryIO) -> None:
        path.write_bytes(b"first")  # by another process
        file.write(b"second")

    write_atomically(path, slow, replace=False)
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    path.unlink()
    write_atomically(path, write(b"third"), replace=False)
    assert path.read_bytes() == b"third"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no reservation on this system")
def test_a_full_disk_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", lambda file: pytest.fail("was written"), size=10)
    assert list(tmp_path.iterdir()) == []
