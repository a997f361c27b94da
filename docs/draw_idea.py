"""Draw the idea of the method for README.md: two samples, swapped, and the labels of the mix.

python docs/draw_idea.py            # writes docs/images/idea-light.svg and idea-dark.svg
python docs/draw_idea.py --check    # says whether the two are up to date, and changes nothing
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from midas_aug.functional import label_shares

IMAGES = Path(__file__).resolve().parent / "images"
NAMES = ("cat", "dog")
# How sure each modality's own classifier is of the label of its sample: image, text.
CONFIDENCE = torch.tensor([[0.9, 0.4], [0.8, 0.3]])
SOURCE = torch.tensor([[0, 1], [1, 0]])  # the sample that gives the image, and the text

WIDTH, HEIGHT = 880, 304
ROWS = (92, 190)  # the top of each row of samples
TILE = 66  # the side of an image
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Theme:
    """The colours of one drawing."""

    ink: str
    quiet: str
    line: str
    paper: str
    cat: str
    cat_tint: str
    dog: str
    dog_tint: str

    def of(self, name: str) -> tuple[str, str]:
        """The colour of an animal, and the tint behind it."""
        return (self.cat, self.cat_tint) if name == "cat" else (self.dog, self.dog_tint)


THEMES = {
    "light": Theme(
        ink="#1f2328", quiet="#59636e", line="#8c959f", paper="#ffffff",
        cat="#d55e00", cat_tint="#fde9da", dog="#0072b2", dog_tint="#dcedf8",
    ),
    "dark": Theme(
        ink="#f0f6fc", quiet="#9da7b3", line="#6e7681", paper="#0d1117",
        cat="#f0883e", cat_tint="#43260f", dog="#58a6ff", dog_tint="#10294a",
    ),
}  # fmt: skip


def text(x: float, y: float, words: str, fill: str, size: int = 15, more: str = "") -> str:
    """One line of text, its middle at x."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{fill}" font-size="{size}" text-anchor="middle"'
        f"{more and ' ' + more}>{words}</text>"
    )


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    """A rectangle with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.5"/>'
    )


def face(name: str, x: float, y: float, theme: Theme) -> list[str]:
    """The head of a cat or of a dog, its middle at (x, y)."""
    colour, tint = theme.of(name)
    if name == "cat":
        ears = (
            '<path d="M-17 -4 L-16.5 -24 L-3 -14 Z M17 -4 L16.5 -24 L3 -14 Z" '
            f'fill="{colour}" stroke="{colour}" stroke-width="3" stroke-linejoin="round"/>'
        )
        skull = f'<ellipse cx="0" cy="3" rx="20" ry="17.5" fill="{colour}"/>'
        nose = f'<path d="M-3 6 L3 6 L0 9.5 Z" fill="{tint}"/>'
        whiskers = (
            f'<path d="M-9 9 L-24 6 M-9 12 L-23 14 M9 9 L24 6 M9 12 L23 14" stroke="{colour}" '
            'stroke-width="1.3" stroke-linecap="round"/>'
            f'<path d="M-9 9 L-19 7.2 M-9 12 L-17 13 M9 9 L19 7.2 M9 12 L17 13" stroke="{tint}" '
            'stroke-width="1.3" stroke-linecap="round"/>'
        )
        parts = [ears, skull, nose, whiskers]
    else:
        skull = f'<ellipse cx="0" cy="0" rx="18" ry="21" fill="{colour}"/>'
        ears = (
            f'<path d="M-12 -17 C-26 -20 -28 -2 -22 9 C-18 9 -14 2 -12 -6 Z '
            f'M12 -17 C26 -20 28 -2 22 9 C18 9 14 2 12 -6 Z" fill="{colour}" stroke="{tint}" '
            'stroke-width="2" stroke-linejoin="round"/>'
        )
        muzzle = f'<ellipse cx="0" cy="11" rx="10.5" ry="8.5" fill="{tint}"/>'
        nose = (
            f'<ellipse cx="0" cy="7.5" rx="4.5" ry="3.2" fill="{colour}"/>'
            f'<path d="M0 10 V14 M-4 15.5 Q-1.5 17 0 14 Q1.5 17 4 15.5" fill="none" '
            f'stroke="{colour}" stroke-width="1.4" stroke-linecap="round"/>'
        )
        parts = [skull, ears, muzzle, nose]
    eyes = f'<g fill="{tint}"><circle cx="-7" cy="-2" r="2.6"/><circle cx="7" cy="-2" r="2.6"/></g>'
    return [f'<g transform="translate({x:g} {y:g})">', *parts, eyes, "</g>"]


def sample(x: float, y: float, image: str, words: str, theme: Theme) -> list[str]:
    """An image and a text, side by side."""
    stroke, tint = theme.of(image)
    ink, paper = theme.of(words)
    return [
        box(x, y, TILE, TILE, tint, stroke),
        *face(image, x + TILE / 2, y + TILE / 2 + 1, theme),
        box(x + TILE + 10, y, 92, TILE, paper, ink),
        text(x + TILE + 56, y + TILE / 2 + 5, f"“a {words}”", ink, 17, 'font-style="italic"'),
    ]


def soft_label(x: float, y: float, parts: list[tuple[str, float]], theme: Theme) -> list[str]:
    """A bar, divided by the shares of the animals."""
    width, height, drawn = 200, 30, []
    for name, share in parts:
        colour, _ = theme.of(name)
        drawn += [
            f'<rect x="{x:g}" y="{y:g}" width="{width * share - 1.5:.1f}" height="{height}" '
            f'rx="4" fill="{colour}"/>',
            text(
                x + width * share / 2,
                y + 20,
                f"{name} {100 * share:.0f} %" if share > 0.4 else f"{100 * share:.0f} %",
                theme.paper,
                14,
                'font-weight="600"',
            ),
        ]
        x += width * share
    return drawn


def arrow(x: float, y: float, length: float, theme: Theme) -> str:
    """An arrow to the right."""
    return (
        f'<path d="M{x:g} {y:g} h{length:g} m-7 -5 l7 5 l-7 5" fill="none" stroke="{theme.line}" '
        'stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/>'
    )


def draw(theme: Theme) -> str:
    """The whole drawing."""
    shares = label_shares(CONFIDENCE, SOURCE).tolist()
    left, middle, right, weight = 20, 300, 516, 800
    first, second = (top + TILE / 2 for top in ROWS)
    parts = [
        text(left + 84, 36, "A batch", theme.ink, 17, 'font-weight="600"'),
        text(left + 84, 58, "image and text agree", theme.quiet, 13),
        text(middle + 84, 36, "Misaligned samples", theme.ink, 17, 'font-weight="600"'),
        text(middle + 84, 58, "the texts change places", theme.quiet, 13),
        text(right + 100, 36, "Soft labels", theme.ink, 17, 'font-weight="600"'),
        text(right + 100, 58, "shared by confidence", theme.quiet, 13),
        text(weight, 36, "Weights", theme.ink, 17, 'font-weight="600"'),
        text(weight, 58, "in the loss", theme.quiet, 13),
        # The text of each row goes to the other one.
        f'<g fill="none" stroke="{theme.line}" stroke-width="2" stroke-linecap="round">',
        f'<path d="M{left + 178} {first:g} C{left + 230} {first:g} {left + 220} {second:g} '
        f'{middle - 12} {second:g}"/>',
        f'<path d="M{left + 178} {second:g} C{left + 230} {second:g} {left + 220} {first:g} '
        f'{middle - 12} {first:g}"/>',
        "</g>",
        *(
            f'<path d="M{middle - 19} {y - 5:g} l7 5 l-7 5" fill="none" stroke="{theme.line}" '
            'stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/>'
            for y in (first, second)
        ),
    ]
    for name, top in zip(NAMES, ROWS, strict=True):
        parts += sample(left, top, name, name, theme)
    for (image, words), (ours, theirs), top in zip(SOURCE.tolist(), shares, ROWS, strict=True):
        middle_of_row = top + TILE / 2
        names = NAMES[image], NAMES[words]
        sure = CONFIDENCE[image, 0].item(), CONFIDENCE[words, 1].item()
        parts += [
            *sample(middle, top, *names, theme),
            arrow(middle + 180, middle_of_row, 24, theme),
            *soft_label(
                right, middle_of_row - 19, list(zip(names, (ours, theirs), strict=True)), theme
            ),
            text(
                right + 100,
                middle_of_row + 30,
                f"image {sure[0]:.1f} : text {sure[1]:.1f}",
                theme.quiet,
                13,
            ),
            text(weight, middle_of_row + 6, "α · h", theme.ink, 19, 'font-style="italic"'),
        ]
    parts.append(
        text(
            WIDTH / 2,
            288,
            "α: more for the label of the modality that the model neglects"
            "   ·   h: more where the swapped features are alike",
            theme.quiet,
            13,
            'xml:space="preserve"',
        )
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="{FONT}" role="img">',
            "<title>MIDAS swaps the texts of a cat and a dog and shares the labels</title>",
            *parts,
            "</svg>",
            "",
        ]
    )


def main(check: bool) -> None:
    """Write both drawings, or only compare them."""
    for name, theme in THEMES.items():
        path, new = IMAGES / f"idea-{name}.svg", draw(theme)
        if not check:
            path.write_text(new, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != new:
            sys.exit(f"{path.name} is out of date; run: python docs/draw_idea.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
