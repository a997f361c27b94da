"""`python -m midas_aug diagnose`: a report from saved logits, and errors of one line."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from midas_aug import MidasAugError, __version__
from midas_aug.__main__ import main
from midas_aug.diagnostics import diagnose, report_from_logits
from tests.helpers import planted

ROOT = Path(__file__).parents[2]
NAMES = ("audio", "video")
OF_VIDEO = ("removed_video", "head_video", "misaligned_logits", "source_labels")


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
    assert set(bare.scores) == {"accuracy", "majority", "ece"}
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
        ({"logits": None, "fused": np.zeros((200, 5))}, ["an array 'logits'", "'fused'"]),
        (dict.fromkeys(OF_VIDEO), ["['audio']", "'head_audio'", "head_<modality>"]),
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


def flipped(path: Path) -> None:
    """Change bytes in the compressed data of every array."""
    entries = zipfile.ZipFile(path).infolist()
    data = bytearray(path.read_bytes())
    for entry in entries:
        start = entry.header_offset + 30 + len(entry.filename) + 40
        for place in range(start, start + 30):
            data[place] ^= 0x5A
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    """Mark every array as encrypted."""
    entries = zipfile.ZipFile(path).infolist()
    data = bytearray(path.read_bytes())
    for entry in entries:
        data[entry.header_offset + 6] |= 1
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 8] |= 1
        place = data.find(b"PK\x01\x02", place + 1)
    path.write_bytes(data)


def compressed_by_another_method(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 10] = 97
        place = data.find(b"PK\x01\x02", place + 1)
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


def wrong_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4', ")


def endless_array(path: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**50, 4)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", header.getvalue() + bytes(64))


def not_an_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no arrays in here\n")


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path: Path) -> None:
    np.savez(path, logits=np.array([{}], dtype=object), labels=np.zeros(1, int))


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGED = (flipped, encrypted, compressed_by_another_method, cut_short, wrong_header, endless_array)
OTHER = (empty_archive, not_an_array, nothing, text, one_array, pickled, missing, folder)


@pytest.mark.parametrize("change", [*DAMAGED, *OTHER], ids=lambda change: change.__name__)
def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path, capsys, change):
    path = tmp_path / "file.npz"
    np.savez_compressed(path, **saved())
    change(path)
    assert main(["diagnose", "--logits", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: expected")
    assert err.count("\n") == 1
    if change is not empty_archive:
        assert "file.npz" in err
    assert ("is damaged or encrypted: delete it and save it again" in err) == (change in DAMAGED)


def test_a_damaged_file_that_numpy_has_opened_is_an_error_too(tmp_path):
    path = tmp_path / "file.npz"
    np.savez_compressed(path, **saved())
    flipped(path)
    with np.load(path) as arrays, pytest.raises(MidasAugError, match="delete it and save it again"):
        report_from_logits(arrays)
    with pytest.raises(MidasAugError, match=r"file\.npz is damaged"):
        report_from_logits(path)


@pytest.mark.parametrize("arrays", [None, [1.0], np.zeros((3, 2))])
def test_arrays_come_by_name(arrays):
    with pytest.raises(MidasAugError, match="arrays by name, a table, or the path"):
        report_from_logits(arrays)


@pytest.mark.parametrize("kind", ["numpy", "torch", "half", "lists"])
def test_arrays_of_any_library_and_precision_are_read(kind):
    convert = {
        "numpy": lambda a: a,
        "torch": torch.from_numpy,
        "half": lambda a: torch.from_numpy(a).bfloat16() if a.dtype.kind == "f" else a,
        "lists": lambda a: a.tolist(),
    }[kind]
    usual = report_from_logits(saved())
    found = report_from_logits({key: convert(array) for key, array in saved().items()})
    tolerance = 0.02 if kind == "half" else 1e-6
    for key, score in usual.scores.items():
        assert found.scores[key].value == pytest.approx(score.value, abs=tolerance), key


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("array", "words"),
    [
        ("logits", "3 of 200 of the whole model"),
        ("removed_audio", "3 of 200 with audio removed"),
        ("head_video", "3 of 200 of the head of video"),
        ("misaligned_logits", "of the misaligned rows"),
        ("all_removed", "3 of 200 with every modality removed"),
    ],
)
def test_rows_of_nan_are_counted_and_nothing_is_found(number, array, words):
    arrays = saved()
    arrays[array][5:8, 1] = number
    with pytest.raises(MidasAugError, match=words) as caught:
        report_from_logits(arrays)
    assert "NaN or infinity" in str(caught.value)


def test_a_model_that_has_diverged_is_no_model_that_ignores_a_modality(tmp_path, capsys):
    arrays = saved()
    for key in arrays:
        if arrays[key].dtype.kind == "f":
            arrays[key] = np.full_like(arrays[key], np.nan)
    assert main(["diagnose", "--logits", save(tmp_path, arrays)]) == 2
    err = capsys.readouterr().err
    assert "200 of 200 of the whole model" in err
    assert "and 1 other kinds" in err
    assert err.count("\n") == 1


def test_rows_of_nan_that_do_not_count_do_not_matter():
    arrays, clean = saved(), saved()
    for given in (arrays, clean):
        given["labels"][:20] = -1
        given["source_labels"][given["source_labels"][:, 1] == 0, 1] = -1
    for key, array in arrays.items():
        if len(array) == 200 and array.dtype.kind == "f" and key != "misaligned_logits":
            array[:20] = np.nan
    arrays["misaligned_logits"][arrays["source_labels"][:, 1] < 0] = np.nan
    found = report_from_logits(arrays).scores
    assert found == report_from_logits(clean).scores
    assert all(np.isfinite(score.value) for score in found.values())


def test_classes_that_are_ruled_out_have_a_logit_of_minus_infinity():
    arrays, low = saved(), saved()
    for key in arrays:
        if arrays[key].dtype.kind == "f":
            other = (arrays["labels"] + 1) % 5 if "mis" not in key else np.full(200, 4)
            arrays[key][np.arange(200), other] = -np.inf
            low[key][np.arange(200), other] = -1e9
    found, expected = report_from_logits(arrays).scores, report_from_logits(low).scores
    for key, score in found.items():
        assert score == pytest.approx(expected[key], nan_ok=True), key
    arrays["logits"][3] = -np.inf
    with pytest.raises(MidasAugError, match="1 of 200 of the whole model"):
        report_from_logits(arrays)


def probable(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("key", "words"), [("logits", "of the whole model"), ("head_video", "of the head of video")]
)
def test_probabilities_are_no_logits(key, words):
    """A softmax taken twice keeps the order of the classes, and nobody would see it."""
    arrays = saved()
    arrays[key] = probable(arrays[key])
    with pytest.raises(MidasAugError, match=f"expected logits, got probabilities .* {words}"):
        report_from_logits(arrays)
    logarithms = report_from_logits(arrays | {key: np.log(arrays[key])}).scores
    for name, score in report_from_logits(saved()).scores.items():
        assert logarithms[name].value == pytest.approx(score.value, abs=1e-6), name


def test_one_class_for_sure_and_odd_rows_are_taken_for_logits():
    arrays = saved()
    arrays["logits"] = np.eye(5)[arrays["labels"]]
    report_from_logits(arrays)
    arrays["logits"] = probable(arrays["logits"])
    arrays["logits"][7] *= 1.1
    report_from_logits(arrays)


def test_rows_of_one_class_are_told():
    arrays = {key: value[saved()["labels"] == 2] for key, value in saved().items()}
    with pytest.raises(MidasAugError, match="two classes, got 40 of class 2"):
        report_from_logits(arrays)


# ---------------------------------------------------------------- advice and outputs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.zeros(200)}, "labels.astype('int64')"),
        ({"labels": np.zeros((200, 1), int)}, "(N,), the index of a class for each row"),
        ({"labels": np.full(200, 2**63 + 1, np.uint64)}, "'labels' below 5"),
        ({"logits": np.zeros(200)}, "a single logit x of two classes is the pair (0, x)"),
        ({"logits": np.zeros((200, 1))}, "a single logit x of two classes is the pair (0, x)"),
        ({"logits": np.zeros((200, 5), int)}, "before it picks a class"),
        ({"source_labels": np.zeros((200, 2))}, "'source_labels' with an integer dtype"),
        ({"source_labels": np.full((200, 2), 7)}, "'source_labels' below 5"),
        ({"misaligned_logits": np.zeros((200, 4))}, "'misaligned_logits' of shape (200, 5)"),
    ],
)
def test_advice_speaks_of_the_arrays_of_the_file(tmp_path, capsys, change, words):
    assert main(["diagnose", "--logits", save(tmp_path, saved() | change)]) == 2
    err = capsys.readouterr().err
    assert words in err
    for stranger in (".long()", "num_classes", "docstring", "torch."):
        assert stranger not in err


def test_reports_are_written_in_the_format_of_the_ending(tmp_path, capsys):
    path, names = save(tmp_path, saved()), ["r.txt", "r.md", "r.json", "r.PNG", "r.svg"]
    command = ["diagnose", "--logits", path, "--resamples", "20", "--out"]
    command += [str(tmp_path / name) for name in names]
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "r.txt").read_text().startswith("model: 200 rows")
    assert "| ---: |" in (tmp_path / "r.md").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["n_rows"] == 200
    assert (tmp_path / "r.PNG").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["logits.npz", *names])
    before = (tmp_path / "r.md").read_text()
    assert main([*command[:5], "--name", "other", *command[5:]]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "r.md").read_text() == before
    assert main([*command[:5], "--overwrite", "--name", "other", *command[5:]]) == 0
    assert "other" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none/r.md", "folder that is there"),
        (".", "ends in one of .txt, .md, .html, .json"),
        ("r", "ends in one of"),
        ("r.docx", "ends in one of"),
        ("folder.md", "got the folder"),
        ("file/r.md", "folder that is there"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, capsys, name, words):
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "file").write_text("")
    logits = tmp_path / "not there.npz"  # what is read later cannot be the error
    assert main(["diagnose", "--logits", str(logits), "--out", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_that_is_read_only_is_found_before_the_work(tmp_path, capsys, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    logits = tmp_path / "not there.npz"
    assert main(["diagnose", "--logits", str(logits), "--out", str(tmp_path / "r.md")]) == 2
    assert "Read-only file system" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    report, path = report_from_logits(saved(), resamples=5), tmp_path / "r.md"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (report.save, lambda path: report.plot(path.with_suffix(".png"))):
        with pytest.raises(MidasAugError, match="No space left"):
            write(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["r.md"]


def test_a_bad_option_is_an_error(tmp_path, capsys):
    path = save(tmp_path, saved())
    assert main(["diagnose", "--logits", path, "--resamples", "0"]) == 2
    assert "--resamples" in capsys.readouterr().err
    assert main(["diagnose", "--logits", path, "--seed", "-1"]) == 2
    assert "--seed" in capsys.readouterr().err
    with pytest.raises(MidasAugError, match="two different modalities"):
        report_from_logits(saved(), modalities=("audio",))
    with pytest.raises(MidasAugError, match="a list of names, got 'av'"):
        report_from_logits(saved(), modalities="av")
    with pytest.raises(SystemExit) as caught:
        main(["diagnose"])
    assert caught.value.code == 2


HEADER = "label,logits_0,logits_1,removed_a_0,removed_a_1,removed_b_0,removed_b_1"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            ["0,1.5,2,3,1,.2,.1", "1,1,2.5,0,1,.1,.3"],
            "columns removed_a_0, …, removed_a_1, got whole",
        ),
        (
            ["0,1.5,2,x,1,.2,.1", "1,1,2.5,0,1,.1,.3"],
            "columns removed_a_0, …, removed_a_1, got someth",
        ),
        (
            ["0,1.5,2,1.5,1,.2,.1", ",1,2.5,0,1,.1,.3"],
            "every cell of label, got 1 blank of 2; write -1",
        ),
        (
            ["cat,1.5,2,.5,1,.2,.1", "dog,1,2.5,0,1,.1,.3"],
            "cell of label, got 'cat'; number the cl",
        ),
        (
            ["0.0,1.5,2,.5,1,.2,.1", "1.0,1,2.5,0,1,.1,.3"],
            "without a point, in every cell of label",
        ),
    ],
)
def test_a_table_is_told_in_words_of_its_cells(tmp_path, capsys, rows, words):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEADER, *rows]))
    assert main(["diagnose", "--logits", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "astype" not in error


def test_what_a_table_is_told_works(tmp_path, capsys):
    path = tmp_path / "t.csv"
    rows = ["0,1.5,2,3.0,1,.2,.1", "1,1,2.5,0,1,.1,.3", "-1,1,2.5,0,1,.1,.3"]
    path.write_text("\n".join([HEADER, *rows]))
    assert main(["diagnose", "--logits", str(path), "--resamples", "5"]) == 0
    assert "2 rows" in capsys.readouterr().out


def test_whole_numbers_of_several_labels_in_a_table_are_told_too(tmp_path, capsys):
    path = tmp_path / "t.csv"
    rows = ["0,1,2,3,1,.2,.1,.5", "1,0,1,-2,0,1,.1,.3"]
    path.write_text("\n".join([HEADER.replace("label", "label_0,label_1"), *rows]))
    assert main(["diagnose", "--logits", str(path), "--target", "multi-label"]) == 2
    assert "columns logits_0, …, logits_1, got whole numbers alone" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, 3])
def test_a_report_has_a_name(name):
    with pytest.raises(MidasAugError, match="name as a string"):
        report_from_logits(saved(), name=name)


EXTRAS = ("matplotlib", "rich", "scipy", "torchmetrics", "tyro", "joblib", "sklearn")
WITHOUT_EXTRAS = f"""
import runpy, sys
for package in {EXTRAS}:
    sys.modules[package] = None
runpy.run_module("midas_aug", run_name="__main__")
"""


def run(*words: str, code: str | None = None, **options) -> subprocess.CompletedProcess[str]:
    command = ["-m", "midas_aug"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *command, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        **options,
    )


def test_without_the_extras_everything_but_a_figure_works(tmp_path):
    path, figure = save(tmp_path, saved()), str(tmp_path / "r.png")
    assert "diagnose" in run("--help", code=WITHOUT_EXTRAS).stdout
    assert run("--version", code=WITHOUT_EXTRAS).stdout == f"midas_aug {__version__}\n"
    done = run("diagnose", "--logits", path, code=WITHOUT_EXTRAS)
    assert "video is ignored" in done.stdout
    assert done.returncode == 0
    done = run("diagnose", "--logits", path, "--out", figure, code=WITHOUT_EXTRAS)
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_a_report(tmp_path):
    path = save(tmp_path, saved())
    done = run("diagnose", "--logits", path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "video is ignored: removing video costs 0.0 ? 0.0" in done.stdout


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    command = [sys.executable, "-m", "midas_aug", "diagnose", "--logits", save(tmp_path, saved())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_the_module_runs_and_its_help_names_the_arrays():
    done = run("diagnose", "--help")
    assert max(map(len, done.stdout.splitlines())) <= 80
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
