"""Every cell of the table of trainers names a test that exists, and links to what exists."""

import itertools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    lines = PAGE.splitlines()
    rows = itertools.takewhile(lambda line: line, lines[lines.index(header) + 2 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_row_is_held_by_a_test_that_exists():
    names = []
    for _, feature, how, tested in table("| trainer | feature | how | tested by |"):
        assert feature
        assert how
        names.append(names[-1] if tested == "the same" else tested.split("`")[1])
    assert len(names) > 40
    for name in set(names):
        file, test = name.split("::")
        path = ROOT / file if "/" in file else ROOT / "tests" / "integrations" / file
        assert f"def {test}(" in path.read_text(encoding="utf-8"), name


def test_every_way_to_compile_is_held_by_a_test():
    """Which asks the page how many graphs there are."""
    test = ROOT / "tests" / "integrations" / "test_compiled_trainers.py"
    asked = set(re.findall(r'(?:documented|pytest\.param)\("([^"]*)"', test.read_text("utf-8")))
    rows = table("| trainer | what compiles it | graphs | remarks |")
    assert {row[0] for row in rows} == asked | {"DDP", "FSDP2"}
    assert all(int(row[2]) > 0 for row in rows)


def test_every_trainer_has_a_row():
    linked = set(re.findall(r"examples/(\w+)\.py", PAGE))
    scripts = {script.stem for script in (ROOT / "examples").glob("with_*.py")}
    assert scripts <= linked
    assert {name for name in linked if name.startswith("with_")} == scripts


def test_every_recipe_has_a_row():
    linked = set(re.findall(r"(cookbook[\w/]*\.md)#([\w-]+)", PAGE))
    assert len(linked) > 8
    for page in ("cookbook.md", "cookbook/workers.md", "cookbook/confidences.md"):
        cookbook = (ROOT / "docs" / page).read_text(encoding="utf-8")
        titles = re.findall(r"^## (.*)$", cookbook, flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        contents = set(re.findall(r"^- \[.*\]\(#(.*)\)$", cookbook, flags=re.MULTILINE))
        assert contents == anchors
        assert any(linked_page == page for linked_page, _ in linked)
