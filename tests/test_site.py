"""The site says what GitHub says: links, lists, formulas, outputs, and no public name left out."""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import midas_aug
from midas_aug import confidence, diagnostics, functional, protocols, recipes, targets

pytest.importorskip("mkdocs", reason="needs the extra docs, which `make docs` installs")
ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load("site_hooks")


def test_the_names_that_the_build_asks_for_are_all_that_can_be_imported(hooks):
    for module in (confidence, diagnostics, functional, protocols, recipes, targets):
        names = {f"{module.__name__}.{name}" for name in module.__all__}
        assert names <= set(hooks.public_names())
    own = {f"midas_aug.{name}" for name in midas_aug.__all__ if name[0].isupper()}
    assert own <= set(hooks.public_names())
    assert "midas_aug.integrations.module.AugmentModule" in hooks.public_names()


def test_a_name_that_the_api_pages_leave_out_stops_a_strict_build(hooks, tmp_path, caplog):
    config = SimpleNamespace(site_dir=tmp_path, nav=[], site_name="", site_description="")
    page = tmp_path / "api" / "index.html"
    page.parent.mkdir()
    shown = [name for name in hooks.public_names() if name != "midas_aug.MidasLoss"]
    page.write_text("".join(f'<h2 id="{name}">' for name in shown))
    with caplog.at_level(logging.WARNING):
        hooks.on_post_build(config)
    assert caplog.messages == ["The API pages leave out midas_aug.MidasLoss; add it to docs/api"]


def test_what_belongs_to_an_item_of_a_list_is_indented_by_four(hooks):
    text = "- a\n  b\n\n  | c |\n  - d\n    e\n\n1. f\n   g\n\nh\n  i\n\n```\n- j\n  k\n```"
    wanted = (
        "- a\n    b\n\n    | c |\n    - d\n        e\n\n1. f\n    g\n\nh\n  i\n\n```\n- j\n  k\n```"
    )
    assert "\n".join(line for line, _ in hooks._indent(text)) == wanted


def test_a_formula_becomes_mathml(hooks):
    html = hooks.on_page_content(r'<span class="arithmatex">\(a &lt; b\)</span>')
    assert html.startswith("<math")
    assert "<mo>&#x0003C;</mo>" in html
    assert 'display="block"' in hooks.on_page_content(r'<div class="arithmatex">\[x\]</div>')


def test_what_only_the_tests_read_is_not_on_the_site(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="docs/guide.md"))
    files = SimpleNamespace(get_file_from_path=lambda path: None)
    text = "a\n<!--- invisible-code-block: python\nsecret\n-->\n[b](../examples/base.py#c)\n"
    shown = hooks.on_page_markdown(text, page=page, files=files)
    assert shown == "a\n[b](../examples/base.py.md#c)"


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("# A\n\n[Download as a notebook](a.ipynb), too.\n\nSay it. More.\n", "Say it."),
        ("# A\n\nλ, `weight`, is one. Start at 1.\n\n```python\nx\n```\n", "λ, `weight`, is one."),
        ("# A\n\n```python\nx\n```\n\n`run` [it](b.md) now\n", "`run` it now"),
        ("# A\n\n[](){#a.b}\n\n::: a.b\n", ""),
        ("# A\n\n| a |\n| --- |\n\n- b\n\n**C** is.\n", "C is."),
    ],
)
def test_a_page_is_summed_up_by_its_first_sentence(hooks, text, described):
    page = SimpleNamespace(markdown=text, file=SimpleNamespace(src_uri="docs/a.md"))
    hooks.on_page_context({}, page=page)
    assert hooks._described["docs/a.md"] == described


def test_docstrings_have_their_examples_and_formulas_as_markdown():
    docstring = "Do.\n\n.. math:: a +\n    b\n\nNo more.\n\nExample:\n    >>> 1\n    1\n"
    wanted = "Do.\n\n```math\na +\n    b\n```\n\nNo more.\n\nExamples:\n    >>> 1\n    1\n"
    assert load("griffe_docstrings").translate(docstring) == wanted
