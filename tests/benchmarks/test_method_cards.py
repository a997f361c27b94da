"""Every method and recipe has a card with the numbers of the runs; protocols have their page."""

import re
from pathlib import Path

import pytest

from benchmarks.common.records import RESULTS
from benchmarks.compare.report.runs import load_runs
from benchmarks.compare.report.statistics import Difference
from benchmarks.compare.suite import SUITES
from benchmarks.methods.entries import ENTRIES
from benchmarks.methods.suite_entries import RIVALS
from benchmarks.paper.protocol import PROTOCOLS, PUBLISHED
from docs import cards
from midas_aug import recipes

ROOT = Path(__file__).parents[2]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
FIELDS = ("Cost", "Source", "Reproduced", "Differs")
LICENSED = (
    "MIDAS", "Same-class re-pairing", "LeMDA", "SMV", "OPM", "AMCo", "TCMax", "LFM", "MCR",
    "OGM and OGM-GE", "AGM", "MMPareto", "DGL", "ARL",
    "Data Remixing", "AUG", "InfoReg", "CGGM", "MASAM",
)  # fmt: skip


def sections() -> dict[str, str]:
    """The cards of the page by their titles."""
    _, *parts = re.split(r"^### ", METHODS, flags=re.MULTILINE)
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_every_entry_of_the_comparison_has_a_card():
    entries = {name for suite in SUITES.values() for name in suite.entries or ENTRIES}
    assert entries == {ours for pairs in cards.CARDS.values() for ours, _ in pairs} - {
        cards.NO_HARM
    }
    assert entries == set(cards.rows_of_the_comparison())
    printed = re.findall(r"^Rows: (.*?)\.(?: |$)", METHODS, flags=re.MULTILINE)
    assert entries == set(re.findall(r"`([\w-]+)`", " ".join(printed)))


def test_every_file_of_a_method_and_every_recipe_is_on_the_page():
    files = {path.name for path in (ROOT / "benchmarks" / "methods").glob("*.py")}
    parts = {"__init__.py", "divergence.py", "draws.py", "shared.py", "training.py"}
    assert files - parts <= set(re.findall(r"\(\.\./benchmarks/methods/(\w+\.py)\)", METHODS))
    for recipe in set(recipes.__all__) - {"Choice", "Recipe"}:
        assert f"`recipes.{recipe}`" in METHODS


@pytest.mark.parametrize("title", sections())
def test_a_card_says_what_it_costs_where_it_is_from_and_what_is_reproduced(title):
    text = sections()[title]
    assert len(re.findall(r"^```math$", text, flags=re.MULTILINE)) == 1
    assert re.findall(r"^- \*\*(\w+):\*\*", text, flags=re.MULTILINE) == list(FIELDS)
    assert len(re.findall(r"^<!-- begin card .* -->$", text, flags=re.MULTILINE)) == 1
    assert re.search(r"formulas tested\s+\(\[", text)
    source = text.partition("**Source:**")[2].partition("**Reproduced:**")[0]
    assert ("licence" in source) is (title in LICENSED)
    assert f"(#{re.sub(r'[^a-z0-9 -]', '', title.lower()).replace(' ', '-')})" in METHODS


@pytest.mark.parametrize("page", ["methods.md", "protocols.md"])
def test_formulas_in_a_line_have_nothing_that_github_takes_for_markdown(page):
    r"""A backslash before punctuation, as in ``\,``, is lost before the formula is read."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / page).read_text("utf-8"), flags=re.M | re.S)
    for formula in re.findall(r"(?<!\$)\$([^$\n]+)\$", text):
        assert not re.search(r"\\[^A-Za-z]", formula), formula


def test_a_cell_of_a_card_is_a_cell_of_the_published_pages():
    """The full suite's own page has the same differences, computed by other code."""
    runs = load_runs(RESULTS / "full", SUITES["full"].tasks)
    for score in ("accuracy", "macro_f1", "misaligned_accuracy", "without"):
        found = {name: task.difference("midas", "joint", score) for name, task in runs.items()}
        better = [one.mean for one in found.values() if one.verdict > 0]
        cell = cards.cell(found)
        assert ("▲" in cell) is bool(better)
        if len(better) > cards.NAMED:
            assert f"▲ {len(better)}: {min(better):+.1f} to {max(better):+.1f}" in cell
        line = next(line for line in METHODS.splitlines() if line.startswith("| MIDAS against joi"))
        assert f"| {cell} |" in line


def test_a_row_of_another_machine_than_joint_training_has_steps_and_no_time():
    beside = SUITES["competition"].beside
    assert "arl" in beside
    for entry in beside:
        (line,) = cards._lines("competition", [(entry, "joint")])
        assert re.fullmatch(r"\d\.\d×", line[-2])
        assert line[-1] == ""
    (line,) = cards._lines("competition", [("midas", "joint")])
    assert line[-1].endswith("×")


def test_a_cell_names_two_tasks_and_counts_more():
    up, down, tie = (Difference(mean, 1.0, 0, 5) for mean in (2.0, -3.0, 0.5))
    larger = up._replace(mean=4.0)
    assert cards.cell({"a": tie}) == "tie"
    assert cards.cell({}) == ""
    assert cards.cell({"a": up, "b": tie, "c": down}) == "▲ a +2.0; ▼ c -3.0"
    assert cards.cell({"a": up, "b": larger, "c": up}) == "▲ 3: +2.0 to +4.0"


def test_the_better_of_two_runs_is_chosen_by_validation_and_costs_both():
    joint, other = (
        {"validation": {"accuracy": a}, "test": {"accuracy": 1 - a}, "steps": 3, "seconds": 1.5}
        for a in (0.4, 0.6)
    )
    assert cards.better(joint, other) == {"test": other["test"], "steps": 6, "seconds": 3.0}
    assert cards.better(joint, joint)["test"] == joint["test"]


def test_the_page_of_protocols_names_every_data_set_that_is_run_and_every_published_number():
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| P2, MIDAS | yes"))
    assert re.findall(r"`([\w-]+)`", row) == list(PROTOCOLS)
    for of_set in PUBLISHED.values():
        for one in of_set.values():
            assert f" {one.accuracy:.2f} " in page


def test_the_page_of_protocols_says_which_rows_cannot_be_run_on_them():
    """`reproduce` takes those of the full suite, and no others."""
    page = " ".join((ROOT / "docs" / "protocols.md").read_text(encoding="utf-8").split())
    sentence = page.partition("It does **not** take ")[2].partition("Where the paper")[0].lower()
    for name in RIVALS.keys() - ENTRIES.keys():
        word = name.split("-")[0].replace("pretrained", "pretraining")
        assert word in sentence, name
    assert "skill" in sentence
    assert "skill" not in ENTRIES
