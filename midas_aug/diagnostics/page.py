"""One self-contained HTML page: what to do, what was found, figures and tables; no script."""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from midas_aug.diagnostics.advice import Advice
from midas_aug.diagnostics.findings import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "Said", "Table", "page"]


class Said(NamedTuple):
    """What a report says in words."""

    name: str
    advice: Sequence[Advice]
    findings: Sequence[Finding]


class Table(NamedTuple):
    """A header and lines; the first column is words, the others are numbers."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


class Drawing(NamedTuple):
    """A figure, and what it shows in a sentence for those who cannot see it."""

    figure: "Figure"
    caption: str


HEADINGS = {
    "drop": "Drop a modality",
    "fit_weights": "Fit fusion weights",
    "late_fusion": "Use late fusion",
    "skill": "Train with recipes.skill",
    "augment": "More data or stronger augmentation",
    "paper": "Train with recipes.paper",
    "ask_heads": "Diagnose again with heads",
    "nothing": "Nothing is wrong",
}

STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #595959; --line: #ddd; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --dim: #a8a8a8; --line: #444; --card: #24272b; }
  body { background: #17191c; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.how, figcaption, footer { color: var(--dim); font-size: .9rem; }
ol { padding: 0; list-style: none; }
ol li { background: var(--card); border-left: 4px solid #0072b2; border-radius: 4px;
  margin: .6rem 0; padding: .6rem 1rem; }
ol b { display: block; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
@media print { ol li, figure, tr { break-inside: avoid; } }
"""

READING = """Accuracies are percentages, differences are points; in brackets and behind ± are 95 %
bootstrap intervals over rows, of this one model. A row is misaligned when a modality comes from a
row of another class. A modality's own head is a classifier that sees it alone. Skill is what such
a head knows beyond the class frequencies: 0 is nothing, 100 is all. Late fusion is the mean
probability of the heads; with fitted weights, each part of the rows is predicted with weights
from all other parts."""


def page(
    title: str, how: str, said: Sequence[Said], drawings: Sequence[Drawing], tables: Sequence[Table]
) -> str:
    """The whole page.

    Args:
        title: Of the page.
        how: How the numbers were made, in a line.
        said: Advice and findings of each report.
        drawings: Put into the page as SVG.
        tables: Below them.
    """
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="how">{escape(how)}</p>']
    for one in said:
        behind = f": {escape(one.name)}" if len(said) > 1 else ""
        if one.advice:
            parts += [f"<h2>What to do{behind}</h2>", _steps(one.advice)]
        if one.findings:
            parts += [f"<h2>What was found{behind}</h2>", _bullets(one.findings)]
    if drawings:
        parts += ["<h2>In figures</h2>", *map(_figure, drawings)]
    parts += ["<h2>In numbers</h2>", *map(_table, tables)]
    parts.append(f"<footer><p>{escape(READING)}</p></footer>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _steps(advice: Sequence[Advice]) -> str:
    steps = []
    for one in advice:
        behind = "" if one.modality is None else f": {escape(one.modality)}"
        steps.append(f"<li><b>{HEADINGS[one.action]}{behind}</b>{escape(one.text)}</li>")
    return "<ol>\n" + "\n".join(steps) + "\n</ol>"


def _bullets(findings: Sequence[Finding]) -> str:
    lines = [f"<li>{escape(finding.text)}</li>" for finding in findings]
    return "<ul>\n" + "\n".join(lines) + "\n</ul>"


def _figure(drawing: Drawing) -> str:
    import matplotlib as mpl

    written = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "midas_aug"}):  # the same figure gives the same bytes
        drawing.figure.savefig(written, format="svg", metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", written.getvalue().decode("utf-8"), flags=re.DOTALL)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    named = f'<svg role="img" aria-label="{escape(drawing.caption)}"'
    return (
        f"<figure>{svg.replace('<svg', named, 1)}"
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    lines = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
        for line in table.lines
    ]
    return (
        f'<div class="wide"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody>\n</table></div>"
    )
