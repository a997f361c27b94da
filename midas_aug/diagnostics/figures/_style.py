"""What all figures share: colours, a dash or a hatch beside each, labels that fit, and saving."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from midas_aug._extras import require
from midas_aug.diagnostics.outputs import check_output, write_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Style(NamedTuple):
    """A colour, and a dash, a marker and a hatch that do without it."""

    color: str
    dash: Any  # as matplotlib takes it
    marker: str
    hatch: str


GREY, BLACK, GRID, BAND = "#595959", "#222222", "#e5e5e5", "#f2f2f2"
SERIES = (
    Style("#0072b2", "-", "o", "///"),
    Style("#d55e00", "--", "s", "..."),
    Style("#009e73", "-.", "^", "\\\\\\"),
    Style("#cc79a7", (0, (8, 2)), "D", "xxx"),
    Style("#e69f00", (0, (6, 1, 1, 1, 1, 1)), "v", "---"),
    Style("#56b4e9", (0, (3, 3)), "P", "+++"),
)
BASELINE = Style(GREY, ":", "X", "")
COLUMNS = 4  # panels in a row of curves
NAME_WIDTH = 16  # characters in a line of a name
LINE_HEIGHT = 0.15  # inches, of a label


def plain_data(given: Any) -> Any:
    """What ``to_dict`` of a report or a log says; anything else as it is."""
    return given.to_dict() if hasattr(given, "to_dict") else given


def new_figure(inches: tuple[float, float], path: str | Path | None) -> "Figure":
    """An empty figure that lays its panels out.

    Raises:
        MidasAugError: matplotlib is missing, or nothing can be saved at ``path``.
    """
    require("matplotlib", "the figures", "diagnostics")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=inches, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))
    if path is not None:
        check_output(path, [f".{ending}" for ending in figure.canvas.get_supported_filetypes()])
    return figure


def finished(figure: "Figure", path: str | Path | None) -> "Figure":
    """Save the figure where a path is given."""
    if path is not None:
        ending = Path(path).suffix[1:].lower()
        write_output(Path(path), lambda file: figure.savefig(file, format=ending, dpi=150))
    return figure


def tidy(axes: "Axes", grid: Literal["x", "y"]) -> None:
    """The look that all panels share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def wrapped(name: Any, width: int = NAME_WIDTH, most: int | None = None) -> str:
    """A name in lines of about ``width`` characters, broken after blanks, hyphens, underscores."""
    lines = [""]
    for word in re.findall(r"[^ _-]*[ _-]|[^ _-]+", str(name)):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width + 2:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    if most is not None and len(lines) > most:
        lines[most - 1 :] = [lines[most - 1].rstrip() + "…"]
    return "\n".join(line.rstrip() for line in lines)
