"""Run the tests of a template for contributors, as it is or with what fails filled in."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SLOW = (
    'raise NotImplementedError("fill in: the slow reference, which shares no code with the class")'
)


def collect(path: Path, answers: Mapping[str, str] | None = None) -> list[Callable[[], Any]]:
    """The tests of a template, each place in ``answers`` replaced by its code."""
    source = path.read_text(encoding="utf-8")
    for place, code in (answers or {}).items():
        if source.count(place) != 1:
            raise ValueError(f"{path.name} should have once: {place}")
        source = source.replace(place, code)
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(source, str(path), "exec"), names)
    return [value for name, value in names.items() if name.startswith("test_")]
