"""The templates for contributors fail until they are filled in, and pass when they are."""

from pathlib import Path

import pytest

from tests.helpers.templates import SLOW, collect

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "templates"
PROVIDER = {
    'raise NotImplementedError("fill in: a column for each modality, without a loop over rows")': (
        "return torch.stack([batch[m].detach().abs().mean(dim=1) for m in self.modalities], dim=1)"
    ),
    SLOW: (
        "return torch.tensor([[sum(abs(float(x)) for x in batch[m][i]) / 4 for m in NAMES]"
        " for i in range(len(labels))])"
    ),
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_template_fails_until_it_is_filled_in(path):
    tests = collect(path)
    assert len(tests) >= 3
    for test in tests:
        with pytest.raises(NotImplementedError, match="fill in: "):
            test()


def test_the_template_of_a_confidence_passes_when_it_is_filled_in():
    for test in collect(FOLDER / "provider.py", PROVIDER):
        test()


def test_the_contributors_page_leads_to_every_template():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    templates = [path.relative_to(ROOT) for path in ROOT.glob("tests/**/templates/*.py")]
    assert len(templates) == 4
    assert all(f"({path.as_posix()})" in page for path in templates)
