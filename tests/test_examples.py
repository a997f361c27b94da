"""The demo: its data, its training file, and that a stopped run goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import demo
import digits
import pytest
import torch

from tests.helpers import reference

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_the_data_file_is_the_one_that_the_script_builds():
    done = run(str(EXAMPLES / "data" / "build_digits.py"), "--check")
    assert done.returncode == 0, done.stderr
    assert (EXAMPLES / "data" / "digits.npz").stat().st_size < 1.5e6


def test_splits_are_stratified_disjoint_and_scaled_by_the_training_rows():
    splits = digits.load_splits(("pix", "fou"), torch.Generator().manual_seed(0))
    assert [len(rows.labels) for rows in splits] == [1200, 400, 400]
    for rows in splits:
        assert torch.bincount(rows.labels).tolist() == [len(rows.labels) // 10] * 10
    training = splits[0].views["pix"]
    torch.testing.assert_close(training.mean(dim=0), torch.zeros(240), atol=1e-4, rtol=0)
    other = digits.load_splits(("pix",), torch.Generator().manual_seed(1))
    assert not torch.equal(other[2].views["pix"], splits[2].views["pix"])


@pytest.mark.parametrize("views", [("fou", "mor"), ("fou", "zer", "mor")])
def test_a_seed_decides_everything(views):
    runs = [list(digits.train(digits.METHODS["MIDAS"], views, seed, 2)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][-1].test is not None
    assert runs[0][0].test is None  # the test rows are looked at once


def test_methods_differ_as_they_say():
    last = {
        name: list(digits.train(method, ("fou", "mor"), 0, 2))[-1]
        for name, method in digits.METHODS.items()
    }
    for name in ("joint", "plain swap", "unimodal"):
        assert all(alpha == [1.0, 1.0] for alpha in last[name].alpha)
    assert "misaligned" in last["joint"].validation
    assert "fou head" not in last["joint"].validation  # joint training has no unimodal heads
    assert "misaligned" not in last["unimodal"].validation
    assert last["plain swap"].validation["misaligned"] > last["joint"].validation["misaligned"]


def test_the_scores_are_the_ones_that_a_loop_would_count():
    logits, labels = torch.randn(50, 10), torch.arange(50) % 10
    predicted = logits.argmax(dim=1)
    scores = []
    for label in range(10):
        hits = int(((predicted == label) & (labels == label)).sum())
        scores.append(2 * hits / int((predicted == label).sum() + (labels == label).sum()))
    assert digits.macro_f1(logits, labels) == pytest.approx(sum(scores) / 10)
    assert digits.accuracy(logits, labels) == pytest.approx(
        sum(int(logits[row].argmax()) == int(labels[row]) for row in range(50)) / 50
    )


def test_misaligned_accuracy_of_the_demo_is_the_papers():
    generator = torch.Generator().manual_seed(0)
    training, validation, _ = digits.load_splits(("fou", "mor"), generator)
    torch.manual_seed(0)
    model = digits.LateFusion({"fou": 76, "mor": 6})
    scores = digits.evaluate(model, validation, training, fused=True, heads=False)
    plan = digits.plan_swaps(validation.labels, 2, generator=torch.Generator().manual_seed(0))
    features = model.encode(validation.views)
    rows = [
        torch.cat([features["fou"][int(first)], features["mor"][int(second)]])
        for first, second in plan.source
    ]
    logits = model.fusion(torch.stack(rows)).detach().numpy()
    expected = reference.misaligned_accuracy(
        logits, validation.labels[plan.source].numpy(), plan.valid.numpy()
    )
    assert scores["misaligned"] == pytest.approx(expected)


def test_a_stopped_demo_goes_on_where_it_was(tmp_path):
    command = [str(EXAMPLES / "demo.py"), "--views", "fou", "mor", "--seeds", "1"]
    command += ["--epochs", "2", "--out", str(tmp_path)]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert "misaligned" in first.stdout
    table = (tmp_path / "results.md").read_text()
    assert "| plain swap |" in table
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    finished = sorted((tmp_path / "runs").glob("*.json"))
    assert len(finished) == 4
    assert all(len(json.loads(file.read_text())["records"]) == 2 for file in finished)

    finished[0].unlink()
    kept = finished[1].stat().st_mtime_ns
    second = run(*command)
    assert second.returncode == 0, second.stderr
    assert "3 of 4 runs are there already" in second.stdout.replace("\n", " ")
    assert finished[1].stat().st_mtime_ns == kept
    assert (tmp_path / "results.md").read_text() == table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ("pix",)}, "two or more different views, got: pix"),
        ({"views": ("pix", "pix")}, "two or more different views"),
        ({"seeds": 0}, "start at 1"),
        ({"three": True, "views": ("pix", "mor")}, "--three is short for"),
    ],
)
def test_the_demo_says_what_makes_no_sense(options, message):
    with pytest.raises(SystemExit, match=message):
        demo.check(demo.Options(**options))
