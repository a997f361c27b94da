"""What MkDocs calls while it builds the site, so that the pages are those that GitHub shows.

- The site is laid out as the repository is: README, the changelog and the protocol are pages, and a
  source file or a folder that a page links to becomes one. So a relative link works in both places.
- Formulas become MathML here, once: no script and no network when a page is read.
- A page that begins with ``<!-- notebook`` is run as a notebook, and shown with its outputs.
- A public name that the API pages leave out is a warning, which ``mkdocs build --strict`` refuses.
"""

import ast
import html
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[1]
LOG = logging.getLogger("mkdocs.hooks.midas_aug")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
IMAGES = (".png", ".svg")
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".json": "json", ".cff": "yaml"}
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^( *)(`{3,})")


# Files: the repository's layout


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the pages, and what they link to, where they are in the repository."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
            if file.src_uri.endswith((".md", ".css", *IMAGES)):
                _add(files, config, f"docs/{file.src_uri}")
    for path in PAGES:
        _add(files, config, path)
    return files


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    """Add a file or folder of the repository, then what it links to."""
    source = ROOT / path
    uri = _uri(path)
    if not source.exists() or files.get_file_from_path(uri):
        return  # a link that leads nowhere is reported by MkDocs itself
    if uri == path and path.endswith(".md"):
        text = _run(files, config, path, source.read_text(encoding="utf-8"))
        _put(files, config, path, text, _inclusion(path))
    elif uri == path:
        _put(files, config, path, source.read_bytes())
        return
    else:
        text = _folder_page(source) if source.is_dir() else _source_page(source)
        _put(files, config, uri, text, InclusionLevel.NOT_IN_NAV)
    for line, is_code in _lines(text):
        for match in () if is_code else LINK.finditer(line):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(uri), match[2]))
            if not target.startswith("../"):
                _add(files, config, target)


def _inclusion(path: str) -> InclusionLevel:
    """Pages of docs/ have a place in the navigation, or MkDocs warns; others may have one."""
    inside = path.startswith("docs/")
    return InclusionLevel.INCLUDED if inside else InclusionLevel.NOT_IN_NAV


def _put(
    files: Files,
    config: MkDocsConfig,
    uri: str,
    content: str | bytes,
    inclusion: InclusionLevel = InclusionLevel.INCLUDED,
) -> None:
    file = File.generated(config, uri, content=content, inclusion=inclusion)
    file.dest_uri = file.dest_uri.removeprefix("docs/")
    files.append(file)


def _uri(path: str) -> str:
    """Where the site keeps a file or folder of the repository."""
    if (ROOT / path).is_dir():
        readme = posixpath.join(path, "README.md")
        return readme if (ROOT / readme).exists() else posixpath.join(path, "index.md")
    return path if path.endswith((".md", ".css", *IMAGES)) else f"{path}.md"


def _head(title: str) -> str:
    return f"---\ntitle: {title}\nhide: [navigation, toc]\nsearch: {{exclude: true}}\n---\n\n"


def _source_page(source: Path) -> str:
    text = source.read_text(encoding="utf-8").rstrip()
    path = source.relative_to(ROOT).as_posix()
    language = LANGUAGES.get(source.suffix, "text")
    return f"{_head(path)}# `{path}`\n\n`````{language}\n{text}\n`````\n"


def _folder_page(folder: Path) -> str:
    """The files of a folder, each with the first line of its docstring."""
    path = folder.relative_to(ROOT).as_posix()
    rows = []
    for source in sorted(folder.glob("*.py")):
        doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        rows.append(f"| [`{source.name}`]({source.name}) | {doc.partition(chr(10))[0]} |\n")
    for inner in sorted(p.parent for p in folder.glob("*/__init__.py")):
        rows.append(f"| [`{inner.name}/`]({inner.name}) | |\n")
    return f"{_head(path)}# `{path}/`\n\n| file | |\n| --- | --- |\n{''.join(rows)}"


# Notebooks

INLINE = "%matplotlib inline"  # shows a figure that a cell returns
DOWNLOAD = "[Download as a notebook]"


def _run(files: Files, config: MkDocsConfig, path: str, text: str) -> str:
    """The page with its outputs, if it is a notebook; figures and the notebook become files."""
    if not text.startswith("<!-- notebook"):
        return text
    notebook = jupytext.reads(HIDDEN.sub("", text), fmt="md")
    notebook.cells.insert(0, new_code_cell(INLINE))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    saved = path.replace(".md", ".ipynb")
    _put(files, config, saved, jupytext.writes(notebook, fmt="ipynb"))
    del notebook.cells[0]  # INLINE
    body, resources = MarkdownExporter().from_notebook_node(notebook)
    for name, data in resources["outputs"].items():
        _put(files, config, f"{posixpath.dirname(path)}/{name}", data)
    title, _, rest = body.strip().partition("\n\n")
    link = f"{DOWNLOAD}({posixpath.basename(saved)})"
    return f"{title}\n\n{link}, with the outputs that are on this page.\n\n{rest}\n"


# Markdown: what GitHub reads and Python-Markdown does not

HIDDEN = re.compile(r"^<!--.*?-->\n?", flags=re.MULTILINE | re.DOTALL)
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)">\s*</picture>'
)


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Translate a page of the repository for Python-Markdown."""
    markdown = HIDDEN.sub("", markdown)
    markdown = PICTURE.sub(
        r"![\g<alt>](\g<light>#only-light)\n![\g<alt>](\g<dark>#only-dark)", markdown
    )
    markdown = markdown.replace("<details>", "<details markdown>")
    folder = posixpath.dirname(page.file.src_uri)

    def relink(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if files.get_file_from_path(path) or not (ROOT / path).exists():
            return match[0]
        return f"{match[1]}{posixpath.relpath(_uri(path), folder or '.')}{match[3]}"

    return "\n".join(
        line if is_code else LINK.sub(relink, line) for line, is_code in _indent(markdown)
    )


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to a block of code."""
    fence = ""
    for line in text.splitlines():
        match = FENCE.match(line)
        is_code = bool(fence or match)
        if not fence and match:
            fence = match[2]
        elif fence and line.strip() == fence:
            fence = ""
        yield line, is_code


def _indent(text: str) -> Iterator[tuple[str, bool]]:
    """Indent what belongs to an item of a list by four, which is what Python-Markdown asks for."""
    in_list = was_blank = False
    for line, is_code in _lines(text):
        depth = len(line) - len(line.lstrip())
        is_item = bool(re.match(r"(?:[-*]|\d+\.) ", line.lstrip())) and not is_code
        if line and not depth and not is_item and (was_blank or line.startswith("#") or is_code):
            in_list = False
        in_list = in_list or (is_item and depth == 0)
        if in_list and depth and not is_code:
            line = 4 * ((depth + 2) // 3) * " " + line.lstrip()
        was_blank = not line.strip()
        yield line, is_code


# Formulas


def on_page_content(content: str, **_: Any) -> str:
    """Turn LaTeX into MathML."""
    return re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        lambda match: convert(
            html.unescape(match[3]).strip(), display="block" if match[2] == "[" else "inline"
        ),
        content,
        flags=re.DOTALL,
    )


# After the build


def on_post_build(config: MkDocsConfig) -> None:
    """Check that the API is whole, and write llms.txt."""
    site = Path(config.site_dir)
    shown = "".join(page.read_text(encoding="utf-8") for page in site.glob("api/**/*.html"))
    for name in public_names():
        if f'id="{name}"' not in shown:
            LOG.warning("The API pages leave out %s; add it to docs/api", name)
    (site / "llms.txt").write_text(_summary(config), encoding="utf-8")


MODULES = ("confidence", "functional", "protocols", "recipes", "targets")  # each has a page


def public_names() -> list[str]:
    """Every name of an ``__all__`` below midas_aug that a user can import by that path."""
    modules = [
        *(ROOT / "midas_aug").glob("[!_]*/__init__.py"),
        *(ROOT / "midas_aug" / "integrations").glob("[!_]*.py"),
        *(ROOT / "midas_aug" / name for name in ("__init__.py", "recipes.py", "protocols.py")),
    ]
    return sorted(name for module in modules for name in _names(module))


def _names(module: Path) -> Iterator[str]:
    path = module.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for name in ast.literal_eval(node.value):
                is_module = path == "midas_aug" and name in MODULES
                if not is_module and name != "__version__":
                    yield f"{path.replace('/', '.')}.{name}"


_described: dict[str, str] = {}
PROSE = re.compile(r"[^\W\d_]|\*\*|`[^`]|\[[^\]]")  # how prose begins; not code, not a table


def on_page_context(context: Any, *, page: Page, **_: Any) -> Any:
    """Keep the first sentence of each page for llms.txt."""
    paragraphs = re.split(r"\n\s*\n", page.markdown or "")
    prose = (p for p in paragraphs if PROSE.match(p) and not p.startswith(DOWNLOAD))
    first = next(prose, "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(first.split())).replace("**", "")
    _described[page.file.src_uri] = re.split(r"(?<=[.?!:]) (?=[A-Z`])", plain)[0]
    return context


def _summary(config: MkDocsConfig) -> str:
    """The pages of the navigation, for language models: https://llmstxt.org."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for entry in config.nav or []:
        for title, value in entry.items():
            if isinstance(value, list):
                lines += ["", f"## {title}", ""]
            lines += [_line(config, name, uri) for name, uri in _leaves(title, value)]
    return "\n".join(lines) + "\n"


def _leaves(title: str, value: Any) -> Iterator[tuple[str, str]]:
    """The pages of an entry of the navigation, with their titles there."""
    if isinstance(value, str):
        yield title, value
        return
    for inner in value:
        for name, deeper in inner.items() if isinstance(inner, dict) else [(title, inner)]:
            yield from _leaves(name, deeper)


def _line(config: MkDocsConfig, title: str, uri: str) -> str:
    file = File(uri, None, config.site_dir, config.use_directory_urls)
    address = f"{config.site_url or ''}{file.url.removeprefix('docs/')}"
    return f"- [{title}]({address}): {_described.get(uri, '')}".rstrip(": ")
