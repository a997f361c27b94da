"""Write the computed parts of README.md and the docs between their markers.

    python docs/render.py            # after demo.py --freeze or a freeze of runs, or after a change
                                     # of an example
    python docs/render.py --check    # says which page is out of date, and changes nothing

A part lies between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

import ast
import difflib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
import demo_report  # noqa: E402

from docs import cards  # noqa: E402

EXAMPLES = ROOT / "examples"
TRAINERS = sorted(script.stem for script in EXAMPLES.glob("with_*.py"))


def demo_table() -> str:
    """The table of the demo, from the scores that `examples/demo.py --freeze` has kept."""
    frozen = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    report = demo_report.summarise(frozen["test"], ("image", "meanings"))
    return "\n".join(demo_report.markdown_table(report))


def difference(name: str) -> str:
    """What a trainer's script changes in examples/base.py, as a diff."""
    base, script = (body(EXAMPLES / f"{stem}.py") for stem in ("base", name))
    lines = list(difflib.unified_diff(base, script, lineterm="", n=1))[3:]
    hunks = [" ⋮" if line.startswith("@@") else line for line in lines]
    added = sum(line.startswith("+") for line in hunks)
    removed = sum(line.startswith("-") for line in hunks)
    return "\n".join(
        [
            f"<details><summary>{name}.py adds {added} lines and drops {removed}</summary>",
            "",
            "```diff",
            *hunks,
            "```",
            "",
            "</details>",
        ]
    )


def body(script: Path) -> list[str]:
    """The lines after the docstring."""
    source = script.read_text(encoding="utf-8")
    return source.splitlines()[ast.parse(source).body[0].end_lineno :]


def between(page: str, first: str, last: str) -> str:
    """What a page has from a line to another, both included."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = lines.index(first)
    return "\n".join(lines[start : lines.index(last, start) + 1])


def renamed() -> str:
    """The table of renamed names, as the changelog has it, linked from docs/."""
    table = between("CHANGELOG.md", "| 0.1.0 | 0.2.0 |", "").rstrip()
    return table.replace("](docs/", "](")


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"demo": demo_table},
    "docs/cite.md": {"bibtex": partial(between, "README.md", "```bibtex", "```")},
    "docs/methods.md": {f"card {name}": partial(cards.measured, name) for name in cards.CARDS},
    "docs/protocols.md": {"published": cards.published},
    "docs/trainers.md": {f"difference {name}": partial(difference, name) for name in TRAINERS},
    "docs/upgrading.md": {"renamed": renamed},
}


def render(page: str, text: str) -> str:
    """The text of a page with all its parts as they are computed now.

    Raises:
        ValueError: A part has no place in the text, or more than one.
    """
    for name, compute in PARTS[page].items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{page} needs {begin.strip()} and {end}, once, in this order")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{compute()}\n{end}{rest.partition(end)[2]}"
    return text


def main(check: bool) -> None:
    """Rewrite the pages, or only compare them."""
    stale = []
    for page in PARTS:
        old = (ROOT / page).read_text(encoding="utf-8")
        new = render(page, old)
        if new != old:
            stale.append(page)
            if not check:
                (ROOT / page).write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run: python docs/render.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
