"""The file of a table: whole or not there, whoever makes it, is killed, or has a full disk."""

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from midas_aug import MidasAugError
from midas_aug.confidence import TableConfidence
from midas_aug.confidence import table as module

ROWS = 1000
SIZE = 2 * 4 * ROWS
FIRST = torch.tensor([0])


def make(path: Path, **options: Any) -> TableConfidence:
    return TableConfidence(("a", "b"), ROWS, path=path, **options)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def run_python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_of_two_that_make_the_file_at_once_one_wins_and_both_updates_stay(tmp_path, monkeypatch):
    """The other process comes while this one fills its file, after it has found none."""
    path = tmp_path / "table.bin"
    write, others = module.write_atomically, []

    def slow(*arguments: Any, **options: Any) -> None:
        if not others:
            others.append(None)
            others[0] = make(path, initial=0.5)
            others[0].update(FIRST, torch.tensor([[0.25, 0.75]]))
        write(*arguments, **options)

    monkeypatch.setattr(module, "write_atomically", slow)
    table = make(path, initial=1.0)
    table.update(FIRST + 1, torch.tensor([[0.125, 0.5]]))
    for either in (table, others[0], make(path)):
        assert either.table[:3].tolist() == [[0.25, 0.75], [0.125, 0.5], [0.5, 0.5]]
    assert names(tmp_path) == ["table.bin"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing to be killed by")
@pytest.mark.parametrize("moment", ["numpy.full", "os.fsync", "os.link"])
def test_a_process_that_is_killed_while_it_makes_the_file_leaves_none(tmp_path, moment):
    path = tmp_path / "table.bin"
    code = """if True:
        import os, signal, sys
        import numpy
        from midas_aug.confidence import TableConfidence
        owner, name = sys.argv[2].split(".")
        setattr(sys.modules[owner], name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        TableConfidence(("a", "b"), int(sys.argv[3]), path=sys.argv[1], initial=0.5)
    """
    died = run_python(code, path, moment, ROWS)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not path.exists()
    assert make(path, initial=0.5).table.unique().tolist() == [0.5]


@pytest.mark.parametrize("size", [0, SIZE - 4, SIZE + 4, 2 * SIZE])
@pytest.mark.parametrize("way", ["path", "load"])
def test_a_file_of_another_size_is_refused_and_left_as_it_is(tmp_path, size, way):
    path = tmp_path / "table.bin"
    path.write_bytes(b"\1" * size)
    with pytest.raises(MidasAugError, match=f"{SIZE} bytes.*got {size} bytes.*delete it"):
        make(path) if way == "path" else TableConfidence(("a", "b"), ROWS).load(path)
    assert path.read_bytes() == b"\1" * size


def test_a_file_that_holds_no_confidences_is_refused_where_it_is_read(tmp_path):
    path = tmp_path / "table.bin"
    table = make(path)
    numbers = table.table.clone()
    numbers[3, 1] = float("nan")
    path.write_bytes(numbers.numpy().tobytes())
    other = TableConfidence(("a", "b"), ROWS, initial=0.5)
    with pytest.raises(MidasAugError, match="finite"):
        other.load(path)
    assert other.table.unique().tolist() == [0.5]
    with pytest.raises(MidasAugError, match="finite"):
        make(path)({"index": torch.tensor([3])}, torch.tensor([0]))


@pytest.mark.parametrize("spelled", ["same", "link", "relative"])
def test_saved_onto_its_own_file_a_table_is_what_it_was(tmp_path, monkeypatch, spelled):
    path = tmp_path / "table.bin"
    table = make(path)
    table.update(FIRST, torch.tensor([[0.25, 0.75]]))
    other = {"same": path, "link": tmp_path / "link", "relative": Path("table.bin")}[spelled]
    if spelled == "link":
        other.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        table.save(other)
        table.load(other)
    table.update(FIRST + 1, torch.tensor([[0.5, 0.5]]))
    assert make(path).table[:3].tolist() == [[0.25, 0.75], [0.5, 0.5], [1.0, 1.0]]
    assert path.stat().st_size == SIZE


def test_a_saved_file_is_replaced_and_who_has_mapped_the_old_one_keeps_it(tmp_path):
    path = tmp_path / "table.bin"
    mapped = make(path, initial=0.25)
    TableConfidence(("a", "b"), ROWS, initial=0.5).save(path)
    assert mapped.table.unique().tolist() == [0.25]
    assert make(path).table.unique().tolist() == [0.5]
    assert names(tmp_path) == ["table.bin"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no reservation on this system")
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("way", ["path", "save"])
def test_a_disk_smaller_than_the_table_is_an_error_before_anything_is_written(
    tmp_path, monkeypatch, old, way
):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "table.bin"
    if old is not None and way == "save":
        path.write_bytes(old)
    table = TableConfidence(("a", "b"), ROWS)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MidasAugError, match=f"{SIZE} bytes.*No space left.*disk with space"):
        make(path) if way == "path" else table.save(path)
    assert names(tmp_path) == (["table.bin"] if path.exists() else [])
    assert not path.exists() or path.read_bytes() == old


def test_a_limit_on_the_size_of_files_is_an_error_and_no_signal(tmp_path):
    """The kernel's own refusal, in a process of its own."""
    pytest.importorskip("resource")
    code = """if True:
        import resource, sys
        from midas_aug import MidasAugError
        from midas_aug.confidence import TableConfidence
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            TableConfidence(("a", "b"), int(sys.argv[2]), path=sys.argv[1])
        except MidasAugError as error:
            sys.stdout.write(str(error))
    """
    done = run_python(code, tmp_path / "table.bin", ROWS)
    assert done.returncode == 0, done.stderr
    assert re.search(f"expected to write a table file of {SIZE} bytes", done.stdout)
    assert names(tmp_path) == []


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MidasAugError, match="expected to write a table file"):
        make(tmp_path / "file" / "table.bin")
    with pytest.raises(MidasAugError, match=r"found a folder; name a file in it.*confidence\.bin"):
        make(tmp_path)
    with pytest.raises(MidasAugError, match="found a folder"):
        TableConfidence(("a", "b"), ROWS).load(tmp_path)
    assert names(tmp_path) == ["file"]


def test_missing_folders_are_made_for_a_file_and_for_a_copy(tmp_path):
    table = make(tmp_path / "deep" / "table.bin")
    table.save(tmp_path / "deeper" / "still" / "copy.bin")
    assert (tmp_path / "deeper" / "still" / "copy.bin").stat().st_size == SIZE


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"table": torch.full((ROWS, 2), float("inf"))}, "finite"),
        ({"table": torch.full((ROWS, 2), -1.0)}, "at least 0"),
        ({"table": torch.ones(ROWS, 2), "more": 1}, "more"),
        ({}, "key 'table'"),
        (None, "NoneType"),
        ({"table": "half"}, "table"),
    ],
)
def test_a_state_that_is_no_table_is_refused_and_nothing_is_taken(state, words):
    table = TableConfidence(("a", "b"), ROWS, initial=0.5)
    with pytest.raises(MidasAugError, match=words):
        table.load_state_dict(state)
    assert table.table.unique().tolist() == [0.5]


def test_a_table_larger_than_memory_is_told_of_a_file(tmp_path):
    for count in (10**15, 10**18):
        with pytest.raises(MidasAugError, match=rf"{8 * count} bytes.*path=\.\.\."):
            TableConfidence(("a", "b"), count)


def test_a_table_finds_its_own_file_after_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = make(Path("table.bin"))
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")  # as Hydra does
    table.save(tmp_path / "table.bin")  # not replaced: it is this table's own
    table.update(FIRST, torch.tensor([[0.25, 0.75]]))
    worker = pickle.loads(pickle.dumps(table))
    worker.update(FIRST + 1, torch.tensor([[0.5, 0.5]]))
    for either in (table, worker, make(tmp_path / "table.bin")):
        assert either.table[:3].tolist() == [[0.25, 0.75], [0.5, 0.5], [1.0, 1.0]]
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize("other", ["replaced", "deleted"])
def test_saved_where_its_file_was_replaced_a_table_writes_its_numbers(tmp_path, other):
    path = tmp_path / "table.bin"
    table = make(path, initial=0.25)
    if other == "replaced":
        TableConfidence(("a", "b"), ROWS, initial=0.5).save(path)
    else:
        path.unlink()
    for number in (0.75, 0.125):  # the second time the file is one that it has written
        table.update(FIRST, torch.tensor([[number, number]]))
        table.save(path)
        assert make(path).table[:2].tolist() == [[number, number], [0.25, 0.25]]
    assert names(tmp_path) == ["table.bin"]


def test_a_file_that_has_replaced_its_own_can_be_loaded(tmp_path):
    path = tmp_path / "table.bin"
    table = make(path, initial=0.25)
    TableConfidence(("a", "b"), ROWS, initial=0.5).save(path)
    table.load(path)
    assert table.table.unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (3, r"3 \(.*; pass a string or a pathlib"),
        (b"table.bin", r"b'table\.bin' \("),
        ("a\0b", "null"),
        ("a" * 300, r"a' \(File name too long\); pass a string"),
    ],
)
@pytest.mark.parametrize("way", ["path", "save", "load"])
def test_a_path_that_no_file_can_have_is_named(tmp_path, monkeypatch, path, words, way):
    monkeypatch.chdir(tmp_path)
    table = make(tmp_path / "own.bin")
    with pytest.raises(MidasAugError, match=f"expected path to name a file, got .*{words}"):
        make(path) if way == "path" else getattr(table, way)(path)
    assert names(tmp_path) == ["own.bin"]
