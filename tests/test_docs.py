"""Every Python block of README and the docs runs, every link leads somewhere, numbers are right."""

import contextlib
import importlib.util
import io
import json
import re
import sys
from inspect import ismodule
from pathlib import Path
from types import ModuleType

import kanji
import pytest
import torch
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import midas_aug

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FROZEN = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))


def load_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def renderer(monkeypatch) -> ModuleType:
    return load_script("render", monkeypatch)


@pytest.fixture
def drawing(monkeypatch) -> ModuleType:
    return load_script("draw_idea", monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_this_page_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    document = Document.parse(str(page), PythonCodeBlockParser())
    examples = list(document.examples())
    assert len(examples) >= page.read_text().count("```python")
    for example in examples:
        example.evaluate()


def test_a_broken_block_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nassert 1 + 1 == 3\n```\n")
    (example,) = Document.parse(str(page), PythonCodeBlockParser()).examples()
    with pytest.raises(AssertionError):
        example.evaluate()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/cite.md",
        "docs/methods.md",
        "docs/protocols.md",
        "docs/trainers.md",
        "docs/upgrading.md",
    ],
)
def test_the_computed_parts_of_this_page_are_up_to_date(page, renderer):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert renderer.render(page, text) == text, "run: python docs/render.py"


def test_a_number_that_is_out_of_date_would_be_noticed(renderer):
    before, demo = README.split("<!-- begin demo -->")
    stale = f"{before}<!-- begin demo -->{demo.replace('| joint | ', '| joint | 1', 1)}"
    assert stale != README
    assert renderer.render("README.md", stale) == README
    with pytest.raises(ValueError, match=r"README\.md needs <!-- begin demo -->"):
        renderer.render("README.md", README.replace("<!-- begin demo -->", ""))


def test_a_difference_shows_what_an_example_changes_and_nothing_else(
    renderer, tmp_path, monkeypatch
):
    monkeypatch.setattr(renderer, "EXAMPLES", tmp_path)
    (tmp_path / "base.py").write_text('"""Base."""\n\na = 1\nb = 2\nc = 3\nd = 4\ne = 5\n')
    (tmp_path / "with_x.py").write_text('"""X."""\n\na = 1\nb = 2\nc = 33\nd = 4\nf = 6\ne = 5\n')
    lines = renderer.difference("with_x").splitlines()
    start = lines.index("```diff") + 1
    assert lines[start : lines.index("```", start)] == [
        " b = 2", "-c = 3", "+c = 33", " d = 4", "+f = 6", " e = 5",
    ]  # fmt: skip


def test_a_rerun_of_one_seed_gives_the_row_in_the_readme():
    """On another processor training takes another way, to a result that is nearly the same."""
    *_, last = kanji.train(kanji.SKILL, ("image", "meanings"), seed=0, epochs=FROZEN["epochs"])
    for row in (kanji.SKILL, kanji.FITTED):
        assert last.test[row] == pytest.approx(FROZEN["test"][row][0], abs=0.04)


def quoted_in_readme(pattern: str) -> tuple[str, ...]:
    """What the groups of the pattern stand for in README, where it is once."""
    (match,) = re.finditer(pattern, " ".join(README.split()))
    return match.groups()


def mean_of(row: str) -> int:
    """Accuracy in the demo's table, in whole percent."""
    values = [seed["accuracy"] for seed in FROZEN["test"][row]]
    return round(100 * sum(values) / len(values))


def test_the_sentences_about_the_demo_quote_its_table():
    quoted = quoted_in_readme(
        r"The picture alone has (\d+) %. With the meanings beside it, joint training has (\d+) %"
    )
    rows = ("image alone", "joint")
    assert [int(number) for number in quoted] == [mean_of(row) for row in rows]
    quoted = quoted_in_readme(
        r"MIDAS has (\d+) %, labels by skill with heads × 3 have (\d+) %, and (\d+) % with fitted "
        r"weights.* one fitted number each, have (\d+) %"
    )
    rows = ("MIDAS", kanji.SKILL, kanji.FITTED, "fitted late fusion")
    assert [int(number) for number in quoted] == [mean_of(row) for row in rows]
    (quoted,) = quoted_in_readme(r"readings as a third modality, it has (\d+) %")
    assert quoted == f"{float(cells('heads', 'joint', 'kanji3').strip('▲▼△▽')):.0f}"


def cells(suite: str, first: str, column: str) -> str:
    """The cell of the first row of that name, in the published page of a suite."""
    page = (ROOT / "benchmarks" / "results" / suite / "README.md").read_text(encoding="utf-8")
    header: list[str] = []
    for line in page.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not row or not header:
            header = row
        elif row[0] == first:
            return row[header.index(column)]
    raise AssertionError(f"{suite} has no row {first}")


def counts(suite: str, pair: str, score: str) -> tuple[str, str, str, str]:
    """On how many tasks the first is better, tied and worse, and how many there are."""
    better, tied, worse = cells(suite, pair, score).split(" / ")
    return better, tied, worse, str(int(better) + int(tied) + int(worse))


def as_word(count: str) -> str:
    return "none" if count == "0" else count


def test_readme_counts_what_midas_gains_over_joint_training():
    quoted = quoted_in_readme(
        r"better than joint training on (\d) of (\d) tasks with misaligned samples, "
        r"and on (\d) of (\d) with one modality removed"
    )
    better, _, _, tasks = counts("full", "MIDAS against joint", "misaligned")
    better_removed, *_ = counts("full", "MIDAS against joint", "one removed")
    assert quoted == (better, tasks, better_removed, tasks)
    swap = [counts("full", "plain swap against joint", s)[0] for s in ("misaligned", "one removed")]
    assert list(quoted_in_readme(r"So is the plain swap: (\d) and (\d)")) == swap


def test_readme_counts_where_midas_ties_with_joint_training():
    _, tied, _, tasks = counts("full", "MIDAS against joint", "accuracy")
    assert quoted_in_readme(r"MIDAS ties with joint training on (\d) of (\d)") == (tied, tasks)


def test_readme_says_what_midas_costs_where_a_modality_has_no_signal():
    (cost,) = quoted_in_readme(r"On brca, .* loses (\S+ ± \S+) points of accuracy")
    assert cells("skill", "MIDAS − joint", "brca").startswith(f"-{cost} ▼")
    assert not set("▼▲") & set(cells("full", "MIDAS − joint", "brca"))  # "it is a tie"


def test_readme_counts_how_midas_fares_against_late_fusion():
    quoted = quoted_in_readme(
        r"ties with MIDAS in accuracy on (\d) of (\d) tasks, and is better with misaligned samples "
        r"on (\d) and worse on (\w+)"
    )
    _, tied, _, tasks = counts("full", "MIDAS against late fusion", "accuracy")
    better, _, worse, _ = counts("full", "MIDAS against late fusion", "misaligned")
    assert quoted == (tied, tasks, worse, as_word(better))


def test_readme_counts_where_the_plain_swap_ties_with_midas():
    quoted = quoted_in_readme(
        r"ties with MIDAS in accuracy on (\d) of (\d) tasks, with one modality removed on (\d), "
        r"and with misaligned samples on (\d); MIDAS is better on (\d)"
    )
    _, tied, _, tasks = counts("full", "MIDAS against plain swap", "accuracy")
    _, tied_removed, _, _ = counts("full", "MIDAS against plain swap", "one removed")
    better, tied_misaligned, _, _ = counts("full", "MIDAS against plain swap", "misaligned")
    assert quoted == (tied, tasks, tied_removed, tied_misaligned, better)


def test_readme_quotes_the_tasks_on_which_modalities_compete():
    page = (ROOT / "benchmarks/results/heads/README.md").read_text(encoding="utf-8")
    table = README.split("(-still):")[1].split("▲ is better")[0]
    rows = [line.strip() for line in table.splitlines() if "|" in line and "---" not in line]
    assert len(rows) == 8
    header = rows[0].strip("|").split("|")
    published = page.split("## The score that decides\n")[1].split("\n## ")[0].splitlines()
    shown = ["|".join(line.split("|")[: len(header) + 1]) + "|" for line in published]
    assert [row for row in rows if row not in shown] == []
    tasks = ("kanji", "kanji3", "kanji-words", "kanji3-words", "kanji-still")
    verdicts = ["▲" in cells("heads", "MIDAS − joint", task) for task in tasks]
    assert verdicts == [True, True, True, True, False]  # "on four"
    assert all("▲" in cells("heads", "skill", task) for task in tasks)
    pair = "skill, heads × 3, fitted heads − late fusion, fitted weights"
    assert not any(set("▼▲") & set(cells("heads", pair, task)) for task in tasks)


def test_readme_counts_what_labels_by_skill_cost():
    quoted = quoted_in_readme(
        r"worse than joint training in accuracy on (\w+) of (\d) tasks. "
        r"With misaligned samples it is worse than MIDAS on (\d)"
    )
    *_, worse, tasks = counts("skill", "skill against joint", "accuracy")
    *_, behind, _ = counts("skill", "skill against MIDAS", "misaligned")
    assert quoted == (as_word(worse), tasks, behind)


def test_readme_quotes_the_page_about_speed():
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    with_resnets, with_mlps = quoted_in_readme(
        r"takes (\S+) times as long with small ResNets and (\S+) times with small MLPs"
    )
    assert f"| with small ResNets, batch 64 | {with_resnets} [" in page
    assert f"| with MLPs, batch 64 | {with_mlps} [" in page


def test_readme_quotes_what_the_paper_reports():
    quoted = quoted_in_readme(r"reports (\S+) % against (\S+) % for joint training on CREMA-D")
    source = (ROOT / "benchmarks" / "paper" / "protocol.py").read_text(encoding="utf-8")
    (published,) = re.findall(r'"cremad": \{(.*?)\}', source, flags=re.DOTALL)
    accuracy = dict(re.findall(r'"(\w+)": Published\((\d+\.\d+)', published))
    assert quoted == (accuracy["midas"], accuracy["joint"])


def test_readme_is_short_and_its_example_is_complete():
    assert len(README.splitlines()) <= 200
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 30
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "example"})
    (accuracy,) = re.findall(r"accuracy (\S+)%", printed.getvalue())
    assert float(accuracy) > 85


def test_the_drawing_is_up_to_date(drawing, capsys):
    drawing.main(check=True)
    assert {f"docs/images/idea-{name}.svg" for name in drawing.THEMES} == set(
        re.findall(r"docs/images/idea-\w+\.svg", README)
    )


def test_a_drawing_that_is_out_of_date_would_be_noticed(drawing, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "IMAGES", tmp_path)
    drawing.main(check=False)
    drawing.main(check=True)
    monkeypatch.setattr(drawing, "CONFIDENCE", drawing.CONFIDENCE / 2 + 0.1)
    with pytest.raises(SystemExit, match=r"idea-light\.svg is out of date"):
        drawing.main(check=True)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that do not exist."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    broken = []
    for link in links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_leads_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](#one-two) [b](#three) [c](other.md) [d](page.md#one-two)\n")
    assert broken_links(page) == ["#three", "other.md"]


def test_readme_leads_to_every_page():
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")}
    assert pages <= {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}


def test_a_page_about_a_topic_of_its_own_is_linked_from_the_page_above_it():
    for above, folder in (("docs/cookbook.md", "cookbook"), ("docs/api/README.md", "api")):
        text = (ROOT / above).read_text(encoding="utf-8")
        linked = {
            link.partition("#")[0].rpartition("/")[2] for link in re.findall(r"\]\(([^)]+)\)", text)
        }
        assert {page.name for page in ROOT.glob(f"docs/{folder}/*.md")} - {"README.md"} <= linked


def documented() -> set[str]:
    """What the API pages have filled in when the site is built."""
    pages = ROOT.glob("docs/api/*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return set(re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE))


def test_the_api_pages_have_every_public_module_and_every_name_of_the_package():
    """That no name of a module is left out is checked where the site is built."""
    integrations = {path.stem for path in ROOT.glob("midas_aug/integrations/[!_]*.py")}
    modules = {name for name in midas_aug.__all__ if ismodule(getattr(midas_aug, name))}
    assert {f"midas_aug.{name}" for name in modules | {"diagnostics"}} <= documented()
    assert {f"midas_aug.integrations.{name}" for name in integrations} <= documented()
    names = {f"midas_aug.{name}" for name in set(midas_aug.__all__) - modules - {"__version__"}}
    assert names <= documented()
