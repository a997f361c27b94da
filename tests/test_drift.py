"""Every example is the base script with marked lines in it, and nothing else differs."""

import ast
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
BASE = EXAMPLES / "base.py"
SCRIPTS = sorted(EXAMPLES.glob("with_*.py"))
MARK, OPEN, CLOSE = "# New", "# New from here", "# New to here"
# These put another framework's training loop in place of the base's.
SHARE_KEPT = {"with_jax": 0.6, "with_keras": 0.6, "with_huggingface": 0.4, "with_lightning": 0.6}


def body(source: str) -> list[str]:
    """The lines after the module's docstring; blank ones are the formatter's, not the reader's."""
    end = ast.parse(source).body[0].end_lineno
    return [line for line in source.splitlines()[end:] if line.strip()]


def unmarked_runs(lines: list[str]) -> list[list[str]]:
    """The stretches between marks, the first and the last of them at the ends of the script."""
    runs: list[list[str]] = [[]]
    inside = False
    for line in lines:
        if line.strip() == OPEN:
            assert not inside, "a block is opened twice"
            inside = True
        if inside or MARK in line:
            if runs[-1] or len(runs) == 1:
                runs.append([])
        else:
            runs[-1].append(line)
        if line.strip() == CLOSE:
            assert inside, "a block is closed that was not opened"
            inside = False
    assert not inside, "a block is not closed"
    return runs


def drift(base: list[str], example: list[str]) -> str | None:
    """What differs outside of the marks, or None."""
    runs = unmarked_runs(example)
    position = 0
    for number, run in enumerate(runs):
        if not run:
            continue
        starts = range(position, len(base) - len(run) + 1)
        if number == 0:
            starts = range(0, 1)
        elif number == len(runs) - 1:
            starts = range(len(base) - len(run), len(base) - len(run) + 1)
        found = next((start for start in starts if base[start : start + len(run)] == run), None)
        if found is None:
            return "\n".join(run)
        position = found + len(run)
    if runs[-1] and position != len(base):
        return "the end of the base is missing"
    return None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_is_the_base_and_marked_lines(script):
    base, example = body(BASE.read_text()), body(script.read_text())
    assert drift(base, example) is None
    kept = sum(map(len, unmarked_runs(example)))
    assert kept >= SHARE_KEPT.get(script.stem, 0.75) * len(base)
    assert kept < len(example)  # it adds something


def test_there_is_an_example_for_each_thing_that_the_docs_promise():
    assert len(SCRIPTS) == len({script.stem for script in SCRIPTS}) >= 17


@pytest.mark.parametrize(
    ("example", "drifts"),
    [
        (["a", "b", "c", "d"], False),
        (["a", "b", "x  # New", "c", "d"], False),  # added
        (["a", "x  # New", "d"], False),  # replaced
        (["a", "# New from here", "x", "y", "# New to here", "c", "d"], False),
        (["a", "b", "x", "c", "d"], True),  # added without a mark
        (["a", "c", "d"], True),  # dropped without a mark
        (["a", "b", "c"], True),  # the end is missing
        (["b", "c", "d"], True),
        (["a", "x  # New", "c", "b", "d"], True),  # another order
        (["a", "b", "c", "dd"], True),  # changed without a mark
    ],
)
def test_the_drift_test_can_fail(example, drifts):
    assert (drift(["a", "b", "c", "d"], example) is not None) == drifts
