"""A command that is killed inside a save goes on to the same outcome.

All twenty kills of each command: ``MIDAS_AUG_ALL_KILLS=1 pytest tests/benchmarks/test_kills.py``.
"""

import json
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from joblib import parallel_config
from rich.console import Console

from benchmarks import actions
from benchmarks.command_line import Run
from benchmarks.compare import suite
from benchmarks.methods.entries import ENTRIES
from benchmarks.paper import training
from benchmarks.paper.datasets.sample import write_sample
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.run import reproduce
from benchmarks.paper.settings import Settings
from tests.helpers.kills import run_until_killed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of open files, by /proc")

QUIET = Console(quiet=True)
STAGES = ("half", "whole", "placed")
TWENTY = [(1 + place // 3, STAGES[place % 3]) for place in range(20)]
KILLS = TWENTY if os.environ.get("MIDAS_AUG_ALL_KILLS") else [TWENTY[3], TWENTY[7], TWENTY[14]]


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    yield
    torch.use_deterministic_algorithms(False)


# The paper's protocol: a checkpoint after every step

REPRODUCE = """
from pathlib import Path
from rich.console import Console
from benchmarks.paper import training
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.run import reproduce
from benchmarks.paper.settings import Settings
training.BATCH_SIZE = 6
asked = Settings(Path({root!r}), Path({out!r}), workers=0, rehearse=True, save_every=1)
reproduce("cremad", ["midas"], [0], asked, Ranks(), Console(quiet=True))
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample") / "cremad"
    write_sample("cremad", root)
    return root


@pytest.fixture(scope="module")
def never_killed(sample, tmp_path_factory):
    return reproduced(sample, tmp_path_factory.mktemp("whole"))


def reproduced(root, out):
    """The finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH_SIZE", 6)
        asked = Settings(root, out, workers=0, rehearse=True, save_every=1)
        reproduce("cremad", ["midas"], [0], asked, Ranks(), QUIET)
    file = out / "cremad-rehearsal" / "runs" / "midas,seed=0.json"
    return json.loads(file.read_text()) | {"versions": {}}  # the checkout may change meanwhile


@pytest.mark.parametrize(("number", "stage"), KILLS)
def test_reproduce_goes_on_after_a_kill_in_a_save(sample, never_killed, tmp_path, number, stage):
    """Of a checkpoint; the last number is that of the run's own file."""
    ending = ".checkpoint." if number < 7 else "midas,seed=0.json."
    program = REPRODUCE.format(root=str(sample), out=str(tmp_path))
    status = run_until_killed(program, number if number < 7 else 1, stage, ending)
    assert status == -signal.SIGKILL
    folder = tmp_path / "cremad-rehearsal"
    left = list(folder.rglob("*.tmp"))
    assert len(left) == (stage != "placed")
    assert reproduced(sample, tmp_path) == never_killed
    assert not list(folder.rglob("*.tmp"))
    assert [file.name for file in (folder / "runs").iterdir()] == ["midas,seed=0.json"]


# The comparison: one file a run

RUN = """
import joblib
from pathlib import Path
from rich.console import Console
from benchmarks import actions
from benchmarks.command_line import Run
from tests.benchmarks.test_kills import small_suite
small_suite()
joblib.parallel_config = lambda *_, of=joblib.parallel_config, **__: of("sequential")
actions.run(Run(suite="quick", jobs=1, out=Path({out!r})), Console(quiet=True))
"""


def small_suite():
    """Four rows of the quick suite on one task, and no report."""
    suite.ENTRIES = {name: ENTRIES[name] for name in ("unimodal", "joint", "midas")}
    quick = replace(suite.SUITES["quick"], tasks=("digits-2",), seeds=2, headline_seeds=2)
    suite.SUITES["quick"] = quick
    suite.TASKS["digits-2"] = replace(suite.TASKS["digits-2"], epochs=1)
    actions.report = lambda command, console: None


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "ENTRIES", suite.ENTRIES)  # put back afterwards
        patch.setattr(actions, "report", actions.report)
        patch.setitem(suite.SUITES, "quick", suite.SUITES["quick"])
        patch.setitem(suite.TASKS, "digits-2", suite.TASKS["digits-2"])
        patch.setattr(
            actions.joblib, "parallel_config", lambda *_, **__: parallel_config("sequential")
        )
        small_suite()
        yield


@pytest.fixture(scope="module")
def never_killed_suite(small, tmp_path_factory):
    return finished(tmp_path_factory.mktemp("suite"))


def finished(out):
    """Every run of the suite, without the time that it took and the state of the checkout."""
    actions.run(Run(suite="quick", jobs=1, out=out), QUIET)
    [(_, jobs)] = suite.stages("quick", out)
    return [{**job.load(), "seconds": 0, "versions": {}} for job in jobs]


@pytest.mark.parametrize(("number", "stage"), KILLS)
def test_a_suite_goes_on_after_a_kill_in_a_save(small, never_killed_suite, tmp_path, number, stage):
    status = run_until_killed(RUN.format(out=str(tmp_path)), number, stage, ".json.")
    assert status == -signal.SIGKILL
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    assert len(kept) == number - (stage != "placed")
    assert finished(tmp_path) == never_killed_suite
    assert all(file.read_bytes() == content for file, content in kept.items())
