"""The HTML report: whole in itself, with every number, safe with any name."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

from midas_aug.__main__ import main
from midas_aug.diagnostics import ModalityReport, diagnose
from tests.diagnostics.test_cli import save, saved
from tests.helpers import planted

VOID = {"meta"}


class Reader(HTMLParser):
    """Tags that close in order, the text of cells and of all else, and what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "xlink:href"):
                self.links.append(value)
            if key == "aria-label":
                self.labels.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def report(case: str = "dominated", name: str = "model", modalities=None) -> ModalityReport:
    built = planted.make_case(case, rows=200)
    names = {m: m for m in built.model.scales} if modalities is None else modalities
    return diagnose(
        (built.model.encode, built.model.fuse),
        built.loader,
        names,
        unimodal=lambda f: {n: built.unimodal(f)[m] for n, m in names.items()},
        training=built.training,
        resamples=30,
        draws=1,
        name=name,
    )


def test_a_page_is_whole_in_itself_and_says_what_the_text_says():
    found = report()
    page = read(found.to_html())
    text = " ".join(page.text)
    for said in (*found.advice, *found.findings):
        assert said.text in text
    assert "script" not in page.tags
    assert [link for link in page.links if not link.startswith("#")] == []
    assert page.tags.count("svg") == page.tags.count("figure") == len(page.labels) == 1
    lines = [line for line in found.to_markdown().splitlines() if line.startswith("| ")]
    cells = {cell for line in lines for cell in line.strip("| ").split(" | ")}
    assert len(cells) > 50
    assert {cell for cell in cells if set(cell) - set("-:")} <= set(page.text)


def test_the_same_report_gives_the_same_bytes():
    assert report().to_html() == report().to_html()


def test_names_are_text_and_no_markup():
    found = report(
        name='<script>"x"</script> & co', modalities={"<b>a</b>": "audio", "v&w": "video"}
    )
    page = read(found.to_html())
    assert "script" not in page.tags
    assert page.tags.count("b") == len(found.advice)  # their headings
    assert any('<script>"x"</script> & co' in text for text in page.text)
    assert "<b>a</b>" in page.labels[0]


def test_models_side_by_side_have_their_own_advice():
    first, second = report("dominated", "joint"), report("dominated", "late")
    page = read(first.compare(second).to_html())
    text = " ".join(page.text)
    assert "What to do: joint" in text
    assert "What to do: late" in text
    assert "late - joint" in page.text


@pytest.mark.parametrize("ending", ["html", "HTML"])
def test_the_command_writes_a_page(tmp_path, ending):
    place = tmp_path / f"report.{ending}"
    path = save(tmp_path, saved())
    assert main(["diagnose", "--logits", path, "--resamples", "20", "--out", str(place)]) == 0
    assert "What to do" in " ".join(read(place.read_text("utf-8")).text)


def test_the_command_ends_in_advice(tmp_path, capsys):
    path = save(tmp_path, saved())
    assert main(["diagnose", "--logits", path, "--resamples", "20"]) == 0
    last = capsys.readouterr().out.split("\n\n")[-2:]
    assert last[0] == "What to do:"
    assert last[1].startswith("1. To have the model use video")


def test_a_report_without_heads_has_a_page_too():
    inputs, labels = torch.eye(4).repeat(9, 1), torch.arange(36) % 4
    batch = {"a": inputs, "b": inputs, "label": labels}
    html = diagnose(lambda b: b["a"], [batch], ("a", "b"), resamples=20).to_html()
    assert "Diagnose again with heads" in " ".join(read(html).text)
