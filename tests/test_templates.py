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
TARGET = {
    'raise NotImplementedError("fill in: labels as a tensor of N rows, or a MidasAugError")': (
        "return torch.as_tensor(labels).float()"
    ),
    'raise NotImplementedError("fill in: (N,) int64, equal for rows that are never partners")': (
        "return (10 * labels).round().long()"
    ),
    'raise NotImplementedError("fill in: minus the loss of each of R predictions for K labels")': (
        "return -(scores - labels).abs()"
    ),
    'raise NotImplementedError("fill in: labels as a user has them")': (
        "return torch.arange(count) / 3"
    ),
    SLOW: "return torch.tensor([-abs(float(s) - float(y)) for s, y in zip(scores, labels)])",
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_template_fails_until_it_is_filled_in(path):
    tests = collect(path)
    assert len(tests) >= 3
    for test in tests:
        with pytest.raises(NotImplementedError, match="fill in: "):
            test()


@pytest.mark.parametrize(("name", "answers"), [("provider", PROVIDER), ("target", TARGET)])
def test_a_template_passes_when_it_is_filled_in(name, answers):
    for test in collect(FOLDER / f"{name}.py", answers):
        test()


def test_the_contributors_page_leads_to_every_template():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    templates = [path.relative_to(ROOT) for path in ROOT.glob("tests/**/templates/*.py")]
    assert len(templates) == 4
    assert all(f"({path.as_posix()})" in page for path in templates)
