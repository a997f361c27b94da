"""`python -m midas_aug diagnose`: a report from saved logits, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from midas_aug import MidasAugError
from midas_aug.__main__ import main
from midas_aug.diagnostics import diagnose, report_from_logits
from tests.helpers import planted

ROOT = Path(__file__).parents[2]
NAMES = ("audio", "video")


@torch.no_grad()
def saved(case: str = "dominated") -> dict[str, np.ndarray]:
    """What a program without PyTorch would have saved, of a planted model."""
    built = planted.make_case(case, rows=200, batch=200)
    (batch,) = built.loader
    features, labels = built.model.encode(batch), batch["label"]
    zeros = {m: torch.zeros_like(f) for m, f in features.items()}
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    arrays = {
        "logits": built.model.fuse(features),
        "labels": labels,
        "all_removed": built.model.fuse(zeros),
        "misaligned_logits": built.model.fuse({**features, "video": features["video"][order]}),
        "source_labels": torch.stack([labels, labels[order]], dim=1),
    }
    for m in NAMES:
        arrays[f"removed_{m}"] = built.model.fuse({**features, m: zeros[m]})
        arrays[f"head_{m}"] = built.unimodal(features)[m]
    return {key: value.numpy() for key, value in arrays.items()}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    path = folder / "logits.npz"
    np.savez(path, **arrays)
    return str(path)


def test_saved_logits_give_the_scores_of_diagnose():
    built = planted.make_case("dominated", rows=200, batch=200)
    model = (built.model.encode, built.model.fuse)
    live = diagnose(model, built.loader, NAMES, unimodal=built.unimodal, removal="zero")
    report = report_from_logits(saved())
    assert report.modalities == NAMES
    drawn = ("misaligned", "confidence", "credit", "followed", "permutation", "share_")
    for key, score in live.scores.items():
        if not key.startswith(drawn):
            assert report.scores[key] == pytest.approx(score, abs=1e-5), key
    assert {f.kind for f in report.findings} == {f.kind for f in live.findings}
    lean = report.scores["confidence.audio"].value, report.scores["confidence.video"].value
    assert lean[0] > 0.8 > 0.2 > lean[1]


def test_the_command_prints_the_table_and_the_findings(tmp_path, capsys):
    path = save(tmp_path, saved())
    assert main(["diagnose", "--logits", path, "--name", "mine"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("mine: 200 rows, 5 classes")
    assert "audio" in text
    assert "- video is ignored: removing video costs 0.0 ± 0.0 points" in text
    assert main(["diagnose", "--logits", path, "--format", "markdown"]) == 0
    assert "| ---: |" in capsys.readouterr().out
    assert main(["diagnose", "--logits", path, "--format", "json", "--resamples", "20"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["scores"]["without.audio"]["value"] < 0.4
    assert content["settings"]["resamples"] == 20


def test_whatever_is_missing_is_left_out():
    everything = saved()
    need = {key: everything[key] for key in ("logits", "labels")}
    bare = report_from_logits(need, modalities=("a", "b"))
    assert set(bare.scores) == {"accuracy", "majority"}
    assert "accuracy" in str(bare)
    pairs = {key: everything[key] for key in ("misaligned_logits", "source_labels")}
    named = report_from_logits(need | pairs)
    assert named.modalities == ("modality 1", "modality 2")
    assert "credit.modality 1" in named.scores
    listed = report_from_logits(need | pairs | {"modalities": np.array(["x", "y"])})
    assert listed.modalities == ("x", "y")


def test_rows_without_a_label_do_not_count():
    arrays = saved()
    arrays["labels"] = np.where(np.arange(200) < 150, arrays["labels"], -1)
    first = {
        k: v[:150] if len(v) == 200 and "misaligned" not in k and k != "source_labels" else v
        for k, v in saved().items()
    }
    assert report_from_logits(arrays).scores == report_from_logits(first).scores


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": None}, ["'logits'", "'labels'"]),
        ({"labels": np.zeros(3)}, ["labels", "integer"]),
        ({"labels": np.full(200, 9)}, ["below", "9"]),
        ({"labels": np.full(200, -1)}, ["label of 0 or more"]),
        ({"removed_audio": np.zeros((3, 5))}, ["'removed_audio'", "(200, 5)", "(3, 5)"]),
        ({"head_video": np.zeros((200, 4))}, ["'head_video'", "(200, 4)"]),
        ({"source_labels": None}, ["'source_labels'"]),
        ({"source_labels": np.zeros((200, 3), int)}, ["'source_labels'", "(200, 3)"]),
        ({"removed_smell": np.zeros((200, 5))}, ["'source_labels'", "'smell'"]),
        ({"extra": np.zeros(1)}, ["'extra'", "removed_"]),
        ({"logits": np.array(["a"])}, ["'logits'", "numbers"]),
    ],
)
def test_a_bad_file_is_an_error_of_one_line(tmp_path, capsys, change, words):
    arrays = saved() | change
    path = save(tmp_path, {key: value for key, value in arrays.items() if value is not None})
    assert main(["diagnose", "--logits", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: expected")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize("kind", ["missing", "text", "npy", "pickle", "folder"])
def test_what_is_no_npz_file_is_an_error_of_one_line(tmp_path, capsys, kind):
    path = tmp_path / "file.npz"
    if kind == "text":
        path.write_text("no arrays in here\n")
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    if kind == "pickle":
        np.savez(path, logits=np.array([{}], dtype=object), labels=np.zeros(1, int))
    if kind == "folder":
        path.mkdir()
    assert main(["diagnose", "--logits", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: expected")
    assert err.count("\n") == 1
    assert "file.npz" in err


def test_a_bad_option_is_an_error(tmp_path, capsys):
    path = save(tmp_path, saved())
    assert main(["diagnose", "--logits", path, "--resamples", "0"]) == 2
    assert "--resamples" in capsys.readouterr().err
    with pytest.raises(MidasAugError, match="two different modalities"):
        report_from_logits(saved(), modalities=("audio",))
    with pytest.raises(SystemExit) as caught:
        main(["diagnose"])
    assert caught.value.code == 2


def test_the_module_runs_and_its_help_names_the_arrays():
    done = subprocess.run(
        [sys.executable, "-m", "midas_aug", "diagnose", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for key in (
        "logits",
        "labels",
        "removed_<m>",
        "alone_<m>",
        "head_<m>",
        "misaligned_logits",
        "source_labels",
        "all_removed",
        "modalities",
    ):
        assert key in done.stdout
