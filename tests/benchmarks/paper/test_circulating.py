"""What `check` says of the classes of a copy, and which copies in circulation it looks like."""

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.paper.datasets import PAPER_DATA, paper_data
from benchmarks.paper.datasets.base import Found
from benchmarks.paper.datasets.check import check, report
from benchmarks.paper.datasets.circulating import compare_copies, copies
from benchmarks.paper.datasets.sample import write_sample

ROOT = Path(__file__).parents[3]
NOT_PRINTED = "compare methods on it with one another, not with printed numbers"


def copy_of(name, n_clips, n_classes):
    """A copy of so many clips, dealt to the classes."""
    found = Found(paper_data(name).num_classes)
    for number in range(n_clips):
        found.add(str(number), str(number % n_classes), {})
    return found


@pytest.mark.parametrize("name", PAPER_DATA)
def test_the_paper_copy_is_recognised(name):
    data = paper_data(name)
    n_clips = sum(data.published)
    lines = compare_copies(data, copy_of(name, n_clips, data.num_classes))
    assert f"{n_clips} of {data.num_classes} classes, as the MIDAS paper, " in lines[-1]
    assert len(lines) == len(copies(data)) + 2


@pytest.mark.parametrize(
    ("n_clips", "n_classes", "words"),
    [
        (24129, 31, "as the MIDAS paper, 16890 + 2461 + 4778 (P2)"),
        (24053, 31, "as AdaMML, 22521 + 1532"),
        (19000, 31, "other clips than any of these"),
        (19000, 32, "as CrissCross"),
        (19000, 33, "as DMRNet and ARL"),
        (19000, 34, "as the paper that introduced it"),
        (19000, 35, "a number of classes that none of these has"),
    ],
)
def test_each_kinetics_sounds_is_told_from_the_others(n_clips, n_classes, words):
    data = paper_data("kinetics-sounds")
    text = "\n".join(compare_copies(data, copy_of(data.name, n_clips, n_classes)))
    assert f"the lists of this one: {n_clips} of {n_classes} classes, {words}" in text
    assert (NOT_PRINTED in text) == ("the MIDAS paper" not in words)


def test_all_of_cremad_fits_two_protocols():
    line = compare_copies(paper_data("cremad"), copy_of("cremad", 7442, 6))[-1]
    assert "5209 + 744 + 1489 (P2); and the lists of OGM-GE, 6698 + 744 (P1)" in line


def test_a_clip_counts_once_and_whether_it_can_be_used_or_not():
    found = Found(2)
    found.add("a", "0", {"audio": Path("nowhere")})
    found.add("a", "1", {})
    found.add("b", "7", {})
    found.add("c", "HAPPY", {})
    assert found.listed == {0: 1, 7: 1}


def test_classes_have_their_names_and_counts(tmp_path):
    def printed(name):
        write_sample(name, tmp_path / name)
        return report(
            paper_data(name), check(paper_data(name), tmp_path / name, Console(quiet=True))
        )

    assert "\n  NEU: 10, HAP: 10, SAD: 10, FEA: 0, DIS: 0, ANG: 0\n" in printed("cremad")
    assert "\n  0: 10, 1: 10, 2: 10, 3: 0, " in printed("kinetics-sounds")
    assert ": 0 to Action1: 10\n" in printed("ucf101")
    text = printed("food101")
    assert "classes: 3 of 101\n  from 100: 0 to dish-0: 10\n" in text
    assert max(map(len, text.splitlines())) <= 82


def test_the_page_of_questions_names_the_same_numbers_of_classes():
    page = (ROOT / "docs" / "faq.md").read_text()
    section = page.partition("## Which Kinetics-Sounds?")[2].partition("\n## ")[0]
    for copy in copies(paper_data("kinetics-sounds")):
        assert str(copy.n_classes) in section
