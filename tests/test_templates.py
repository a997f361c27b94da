"""The templates for contributors fail until they are filled in, and pass when they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = sorted(FOLDER.glob("*.py"))
SLOW = (
    'raise NotImplementedError("fill in: the slow reference, which shares no code with the class")'
)
PROVIDER = {
    'raise NotImplementedError("fill in: a column for each modality, without a loop over rows")': (
        "return torch.stack([batch[m].detach().abs().mean(dim=1) for m in self.modalities], dim=1)"
    ),
    SLOW: (
        "return torch.tensor([[sum(abs(float(x)) for x in batch[m][i]) / 4 for m in NAMES]"
        " for i in range(len(labels))])"
    ),
}
METHOD = {
    'raise NotImplementedError("fill in: the loss of a batch; randomness from self.generator")': (
        "return self.strength * super().loss(features, labels)"
    ),
    SLOW: (
        "return -strength * sum(model.fuse(features).log_softmax(1)[i, y]"
        " for i, y in enumerate(labels)) / len(labels)"
    ),
}


def collect(source: str) -> dict[str, Callable[[], Any]]:
    names: dict[str, Any] = {"__name__": "template"}
    exec(compile(source, "template", "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_fails_until_it_is_filled_in(path):
    tests = collect(path.read_text(encoding="utf-8"))
    assert len(tests) >= 2
    for test in tests.values():
        with pytest.raises((NotImplementedError, AssertionError), match="fill in: "):
            test()


@pytest.mark.parametrize(("name", "answers"), [("provider", PROVIDER), ("method", METHOD)])
def test_a_template_passes_when_it_is_filled_in(name, answers):
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for place, code in answers.items():
        assert source.count(place) == 1
        source = source.replace(place, code)
    for test in collect(source).values():
        test()


def test_the_contributors_page_leads_to_every_template():
    page = (FOLDER.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"(tests/templates/{path.name})" in page for path in TEMPLATES)
