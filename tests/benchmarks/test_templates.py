"""The templates of a method and of a data set fail until they are filled in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.templates import SLOW, collect

FOLDER = Path(__file__).parent / "templates"
METHOD = {
    'raise NotImplementedError("fill in: the loss of a batch; randomness from self.generator")': (
        "return self.strength * super().loss(features, labels)"
    ),
    SLOW: (
        "return -strength * sum(model.fuse(features).log_softmax(1)[i, y]"
        " for i, y in enumerate(labels)) / len(labels)"
    ),
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_template_fails_until_it_is_filled_in(path: Path) -> None:
    tests = collect(path)
    assert len(tests) >= 2
    for test in tests:
        with pytest.raises((NotImplementedError, AssertionError), match="fill in: "):
            test()


def test_the_template_of_a_method_passes_when_it_is_filled_in() -> None:
    for test in collect(FOLDER / "method.py", METHOD):
        test()
