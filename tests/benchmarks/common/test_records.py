"""Files of the benchmarks: whole or not at all, and read with care."""

import pytest

from benchmarks.common import records
from benchmarks.common.errors import DataError


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    file = tmp_path / "new" / "a.json"
    records.write_json(file, {"é": [1, 2.5, None]})
    assert file.read_text(encoding="utf-8") == '{\n "é": [\n  1,\n  2.5,\n  null\n ]\n}\n'
    assert records.read_json(file) == {"é": [1, 2.5, None]}
    assert [one.name for one in file.parent.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "a"
    records.write_text(file, "before")

    def half(opened):
        opened.write(b"aft")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"a cannot be written \(no space left on device\)"):
        records.write_whole(file, half)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    records.need_writable(tmp_path / "a" / "b", tmp_path)
    assert [one.name for one in tmp_path.rglob("*")] == ["a", "b"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written \(not a directory\)"):
        records.need_writable(tmp_path / "a", tmp_path / "file" / "b")


def test_the_work_on_a_file_is_for_one_at_a_time(tmp_path):
    file, lock = tmp_path / "a", tmp_path / "locks" / "a"
    with records.at_work_on(file, lock):
        with (
            pytest.raises(DataError, match="another process is at work on"),
            records.at_work_on(file, lock),
        ):
            pass
        with records.at_work_on(tmp_path / "b", tmp_path / "locks" / "b"):
            pass
    with records.at_work_on(file, lock):
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    names = (".a,b=[1].json.0123abcd.tmp", ".a,b=[1].json", "a,b=[1].json", ".other.json.01.tmp")
    for name in names:
        (tmp_path / name).touch()
    records.remove_leftovers(tmp_path / "a,b=[1].json")
    assert {one.name for one in tmp_path.iterdir()} == set(names[1:])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_no_object_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match=r"a\.json is damaged, delete it"):
        records.read_json(tmp_path / "a.json")
