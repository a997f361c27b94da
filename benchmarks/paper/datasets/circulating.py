"""Copies of the data sets that papers count, and which of them a user's copy looks like.

The counts are as their authors print them; docs/protocols.md has the protocols, P1 to P6.
"""

from typing import NamedTuple

from benchmarks.paper.datasets.base import Found, PaperData


class Copy(NamedTuple):
    """A copy in circulation.

    Attributes:
        whose: Who counts it.
        n_classes: How many classes.
        n_clips: How many clips; None where nobody says.
    """

    whose: str
    n_classes: int
    n_clips: int | None = None


OTHERS: dict[str, tuple[Copy, ...]] = {
    "cremad": (Copy("the lists of OGM-GE, 6698 + 744 (P1)", 6, 7442),),
    "kinetics-sounds": (
        Copy("AdaMML, 22521 + 1532", 31, 24053),
        Copy("CrissCross", 32),
        Copy("DMRNet and ARL", 33),
        Copy("the paper that introduced it", 34),
    ),
    "ucf101": (Copy("its own first split, 9537 + 3783", 101, 13320),),
}


def copies(data: PaperData) -> list[Copy]:
    """The copies of a data set that papers count, the MIDAS paper's first."""
    parts = " + ".join(map(str, data.published))
    published = Copy(f"the MIDAS paper, {parts} (P2)", data.num_classes, sum(data.published))
    return [published, *OTHERS.get(data.name, ())]


def compare_copies(data: PaperData, found: Found) -> list[str]:
    """Lines that say which copies there are and which of them this one looks like."""
    n_classes, n_clips = len(found.listed), sum(found.listed.values())
    known = copies(data)
    lines = ["copies in circulation:"]
    for whose, classes, clips in known:
        counted = f"{classes} classes" if clips is None else f"{clips} of {classes} classes"
        lines.append(f"  {counted}: {whose}")
    alike = [copy for copy in known if copy.n_classes == n_classes]
    same = [copy for copy in alike if copy.n_clips in (None, n_clips)]
    mine = f"the lists of this one: {n_clips} of {n_classes} classes, "
    if same:
        mine += "as " + "; and ".join(copy.whose for copy in same)
    elif alike:
        mine += "other clips than any of these"
    else:
        mine += "a number of classes that none of these has"
    lines.append(mine)
    if known[0] not in same:
        lines.append("  compare methods on it with one another, not with printed numbers")
    return lines
