"""Every Python block of the README and the docs runs, from the root of the repository."""

from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "benchmarks" / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)


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
