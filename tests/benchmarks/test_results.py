"""The committed results: complete, tuned as the protocol says, and what the pages print."""

import pytest

from benchmarks import suite
from benchmarks.entries import ENTRIES
from benchmarks.report import tables
from benchmarks.report.runs import load_runs

FOLDER = suite.RESULTS / "full"
SUITE = suite.SUITES["full"]
README = suite.RESULTS.parents[1] / "README.md"


@pytest.fixture(scope="module")
def runs():
    return load_runs(FOLDER, SUITE.tasks)


def test_all_methods_on_all_tasks_with_all_seeds(runs):
    for task in runs.values():
        for key, row in task.rows.items():
            expected = SUITE.headline_seeds if key in suite.HEADLINE else SUITE.seeds
            assert sorted(row.records) == list(range(expected)), (task.name, key)


def test_every_run_of_the_plan_is_there_and_no_other():
    """The test runs have the configurations that the tuning runs choose."""
    planned = {job.file for _, jobs in suite.stages("full") for job in jobs}
    assert planned == set(FOLDER.rglob("*.json"))


def test_controls_and_ablations_have_the_lambda_of_midas(runs):
    followers = [key for key, entry in ENTRIES.items() if entry.follows == "midas"]
    assert {"plain-swap", "plain-swap-warmup", "midas-000"} <= set(followers)
    for task in runs.values():
        chosen = task.rows["midas"].records[0]["config"]["misaligned_weight"]
        for key in followers:
            config = task.rows[key].records[0]["config"]
            assert config["misaligned_weight"] == chosen, (task.name, key)


def test_the_page_is_what_the_runs_say(runs):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    reading = (FOLDER / "reading.md").read_text(encoding="utf-8")
    assert page == tables.page("full", runs, reading)


def test_the_tables_of_the_readme_are_rows_of_that_page():
    page = set((FOLDER / "README.md").read_text(encoding="utf-8").splitlines())
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## Compared") :]
    section = section[: section.index("\n## ", 1)]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in page and "---" not in row] == []
