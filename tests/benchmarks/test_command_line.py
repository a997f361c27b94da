"""The command line: help without extras, and outputs that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import midas_aug
from benchmarks import __main__, actions
from benchmarks.command_line import (
    Command,
    Diagnose,
    Fetch,
    Freeze,
    Report,
    Run,
    Sample,
    Speed,
    parse,
)
from benchmarks.common.records import RESULTS, RUNS

ROOT = Path(__file__).parents[2]
# What the extra `bench` brings.
EXTRAS = ("joblib", "matplotlib", "PIL", "rich", "scipy", "sklearn", "soundfile", "transformers")


def run_without(missing, *arguments):
    """The command in a process that lacks some packages."""
    program = f"import runpy, sys; sys.modules.update(dict.fromkeys({[*missing]!r})); "
    program += "runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_no_extra():
    done = run_without([*EXTRAS, "tyro"], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m benchmarks run --suite quick" in done.stdout
    assert "need tyro: pip install '.[bench]' in the checkout" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_has_an_example_a_line_and_fits_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("python -m benchmarks ") for line in lines) == 12
    assert max(len(line) for line in lines if not line.startswith("usage: ")) <= 80


def test_the_version_needs_no_extra():
    done = run_without([*EXTRAS, "tyro"], "--version")
    assert done.stdout == f"midas_aug {midas_aug.__version__}\n"


def test_a_command_that_lacks_an_extra_says_how_to_install_it():
    for missing in (["tyro"], ["joblib"]):
        done = run_without(missing, "check", "cremad", "--root", "nowhere")
        assert done.returncode == 1
        assert done.stderr == (
            f"the benchmarks need {missing[0]}: pip install '.[bench]' in the checkout\n"
        )


def test_options_are_explained_where_only_tyro_is_there():
    without = [name for name in EXTRAS if name != "rich"]  # which tyro itself needs
    done = run_without(without, "reproduce", "--help")
    assert done.returncode == 0
    assert "--leave-out-broken" in done.stdout


def test_a_module_of_our_own_that_is_missing_is_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.actions", None)
    monkeypatch.delattr("benchmarks.actions", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"benchmarks\.actions"):
        __main__.main(["check", "cremad", "--root", "nowhere"])


@pytest.mark.parametrize("kind", [Run, Report, Freeze, Speed, Diagnose, Sample, Fetch])
def test_an_output_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch, kind):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "out"
    monkeypatch.setenv("MIDAS_AUG_DATA", str(inside))
    commands: dict[type, Command] = {
        Run: Run("quick", out=inside),
        Report: Report("quick", inside),
        Freeze: Freeze("quick", into=inside),
        Speed: Speed(out=inside),
        Diagnose: Diagnose("digits-2", inside),
        Sample: Sample("cremad", inside),
        Fetch: Fetch(("digits",)),
    }
    for work in ("stages", "finished_stages", "freeze", "run_speed", "diagnose_task"):
        monkeypatch.setattr(actions, work, lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(SystemExit, match=r"out/\S* cannot be written \(not a directory\)"):
        actions.perform(commands[kind])


@pytest.mark.parametrize(
    "line",
    ["run", "report", "diagnose openmoji", "speed", "reproduce cremad --root here", "freeze full"],
)
def test_only_freeze_writes_into_the_published_results_unless_told_to(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = parse(line.split())
    out = getattr(command, "settings", command).out
    assert out.absolute().is_relative_to(RUNS)
    assert getattr(command, "into", None) == (RESULTS if line == "freeze full" else None)


def test_what_commands_write_is_ignored_by_git():
    assert f"{RUNS.name}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert RUNS.parent == RESULTS.parents[1] == ROOT


def test_a_command_line_is_read():
    assert parse(["run", "--suite", "full", "--jobs", "3"]) == Run("full", jobs=3)


def test_an_extra_that_is_missed_in_the_middle_of_the_work_is_one_line_too(tmp_path):
    done = run_without(["soundfile"], "sample", "cremad", str(tmp_path / "copy"))
    assert done.returncode == 1
    assert done.stderr == "the benchmarks need soundfile: pip install '.[bench]' in the checkout\n"


# What a DataLoader makes of the error of a worker: of its type, with the text and no name.
OF_WORKER = (
    "Caught ModuleNotFoundError in DataLoader worker process 0.\nNo module named 'soundfile'\n"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError(OF_WORKER), "need soundfile: pip install"),
        (ModuleNotFoundError("No module named 'resvg_py'", name="resvg_py"), "need resvg_py: pip"),
    ],
)
def test_an_extra_that_a_worker_lacks_is_told_by_its_name(monkeypatch, error, expected):
    def perform(command):
        raise error

    monkeypatch.setattr(actions, "perform", perform)
    with pytest.raises(SystemExit, match=expected):
        __main__.main(["check", "cremad", "--root", "nowhere"])


@pytest.mark.parametrize("text", ["no name at all", "No module named 'benchmarks.none'"])
def test_a_fault_of_ours_in_the_work_is_no_extra(monkeypatch, text):
    def perform(command):
        raise ModuleNotFoundError(text)

    monkeypatch.setattr(actions, "perform", perform)
    with pytest.raises(ModuleNotFoundError, match=text):
        __main__.main(["check", "cremad", "--root", "nowhere"])
