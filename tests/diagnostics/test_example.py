"""`examples/diagnose.py`: one short run as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "diagnose.py"


def run(*words):
    command = [sys.executable, str(EXAMPLE), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("views", [("fou", "mor"), ("fou", "zer", "mor")])
def test_the_example_compares_three_methods_and_draws(views, tmp_path):
    done = run("--views", *views, "--epochs", "4", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in ("joint", "plain swap", "MIDAS"):
        assert f"\n{name}:\n- " in done.stdout
    assert done.stdout.count("\n1. ") == 3  # what to do, of each model
    assert "What to do: MIDAS" in (tmp_path / "report.html").read_text("utf-8")
    content = json.loads((tmp_path / "report.json").read_text())
    assert [report["name"] for report in content["reports"]] == ["joint", "plain swap", "MIDAS"]
    joint, swap, _ = (report["scores"] for report in content["reports"])
    assert swap["misaligned_accuracy"]["value"] > joint["misaligned_accuracy"]["value"]
    midas = content["reports"][2]["scores"]
    assert "learned_at.fou" in midas
    for view in views:  # the heads beside joint training have learned
        assert joint[f"head_accuracy.{view}"]["low"] > 0.15
    assert "| accuracy |" in (tmp_path / "report.md").read_text()
    figures = {file.name for file in tmp_path.glob("*.png") if file.stat().st_size > 10_000}
    assert figures == {
        "curves-MIDAS.png",
        "curves-joint.png",
        "curves-plain-swap.png",
        "hardness.png",
        "report.png",
        "shares.png",
    }


def test_options_that_make_no_sense_are_told():
    done = run("--views", "fou", "fou")
    assert done.returncode != 0
    assert "two or more different views" in done.stderr
