"""digits.py and base.py: data, training, and that a stopped run goes on where it was."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import base
import common
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


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "another byte"])
def test_data_that_are_missing_or_damaged_are_built_again(damage, tmp_path, monkeypatch):
    whole, data = digits.DATA.read_bytes(), tmp_path / "digits.npz"
    if damage != "missing":
        content = {"empty": b"", "half": whole[: len(whole) // 2], "another byte": flipped(whole)}
        data.write_bytes(content[damage])
    monkeypatch.setattr(digits, "DATA", data)
    state = "missing" if damage == "missing" else r"damaged \(.*\)"
    with pytest.raises(SystemExit, match=f"digits.npz is {state}; run: python .*build_digits.py"):
        digits.load_splits(("pix", "fou", "zer", "mor"), torch.Generator())


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2  # in the numbers of an array, where no parser would stumble
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


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
    model = digits.ConcatFusion({"fou": 76, "mor": 6})
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


# ---------------------------------------------------------------- checkpoints of base.py


def train(path: Path | None, epochs: int = 1) -> dict[str, float]:
    return base.main(argparse.Namespace(epochs=epochs, checkpoint=path))


# Runs a script up to a moment of its second save, and kills it there.
KILLED = """
import os, runpy, signal, sys
import torch
moment, script, *sys.argv[1:] = sys.argv[1:]
whole_save, whole_replace, saves = torch.save, os.replace, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def save(state, file):
    global saves
    saves += 1
    whole_save(state, file)
    if saves == 2 and moment == "half of the file is written":
        os.truncate(file, os.path.getsize(file) // 2)
        die()
    if saves == 2 and moment == "the file is not on the disk yet":
        die()

def replace(*paths):
    if saves == 2 and moment == "it has not been moved yet":
        die()
    whole_replace(*paths)
    if saves == 2 and moment == "it has just been moved":
        die()

torch.save, os.replace = save, replace
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("moment", "epochs_kept"),
    [
        ("half of the file is written", 1),
        ("the file is not on the disk yet", 1),
        ("it has not been moved yet", 1),
        ("it has just been moved", 2),
    ],
)
def test_a_run_that_is_killed_while_it_saves_goes_on_from_its_last_checkpoint(
    moment, epochs_kept, tmp_path, capsys
):
    script, checkpoint = str(EXAMPLES / "base.py"), ["--checkpoint", str(tmp_path / "base.pt")]
    train(None, epochs=3)
    straight = capsys.readouterr().out.splitlines()
    killed = run("-c", KILLED, moment, script, "--epochs", "2", *checkpoint)
    assert killed.returncode == -9, killed.stderr
    again = run(script, "--epochs", "3", *checkpoint)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == straight[epochs_kept:]
    assert list(tmp_path.iterdir()) == [tmp_path / "base.pt"]  # nothing is left behind


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "base.pt")
        return (Path(folder) / "base.pt").read_bytes()


def saved(state: object) -> bytes:
    with tempfile.TemporaryFile() as file:
        torch.save(state, file)
        file.seek(0)
        return file.read()


PARTS = ("model", "optimizer", "augment", "criterion", "order")
DAMAGED = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "the last byte is missing": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "one byte is another": flipped,
    "text": lambda content: b"not a checkpoint",
    "a list": lambda content: saved([1, 2]),
    "parts are missing": lambda content: saved({"model": {}, "epoch": 1}),
    "parts are empty": lambda content: saved({part: {} for part in PARTS} | {"epoch": 1}),
    "an archive": lambda content: (EXAMPLES / "data" / "digits.npz").read_bytes(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_or_foreign_checkpoint_ends_in_one_line(damage, checkpoint, tmp_path, capsys):
    path = tmp_path / "base.pt"
    path.write_bytes(DAMAGED[damage](checkpoint))
    before = path.read_bytes()
    with pytest.raises(SystemExit) as error:
        train(path)
    message = str(error.value)
    assert message.startswith(f"{path} is damaged, or of another script or version (")
    assert message.endswith("): delete it and start again")
    assert "\n" not in message
    assert path.read_bytes() == before
    assert capsys.readouterr().out == ""  # nothing was trained


def test_a_whole_checkpoint_goes_on(checkpoint, tmp_path, capsys):
    path = tmp_path / "base.pt"
    path.write_bytes(checkpoint)
    train(path, epochs=2)
    assert capsys.readouterr().out.startswith("epoch 1: ")


def test_a_place_that_cannot_be_written_is_found_out_before_the_first_epoch(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "base.pt", tmp_path):
        with pytest.raises(SystemExit, match=r"; choose another (place|--checkpoint)$"):
            train(path)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "state"
    path.write_text("old")

    def fail() -> None:
        with common.replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("file write failed")

    with pytest.raises(SystemExit, match="state cannot be written, what it held before is kept: "):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert path.read_text() == "old"


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for number in range(2):
        with common.replacing(tmp_path / "state") as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / f"{number}").write_text("")
    assert os.listdir(tmp_path) == ["state"]
    assert os.listdir(tmp_path / "state" / "deep") == ["1"]


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "four", ""])
def test_a_number_of_epochs_that_makes_no_sense_is_refused(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["base.py", "--epochs", word])
    with pytest.raises(SystemExit):
        common.parse("What it does.")
    error = capsys.readouterr().err
    assert f"expected a whole number of at least 1, got {word!r}" in error
