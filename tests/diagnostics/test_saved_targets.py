"""Saved predictions of labels that are no classes, in arrays and in tables."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from midas_aug import MidasAugError
from midas_aug.__main__ import main
from midas_aug.diagnostics import diagnose, report_from_logits, saved_targets
from midas_aug.diagnostics.tables import arrays_of_table
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel

NAMES = ("audio", "video")
ROWS = 120
TARGETS = {
    "class": ClassIndex(4),
    "distribution": Distribution(4),
    "multi-label": MultiLabel(4),
    "continuous": Continuous(),
}


def planted(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """A batch whose label the audio tells better than the video, and what a program saves of it."""
    draw = np.random.default_rng(0)
    width = 1 if kind == "continuous" else 4
    features = {m: draw.normal(size=(ROWS, width)).astype("f4") for m in NAMES}
    mixed = features["audio"] + 0.5 * features["video"]
    noise = 0.3 * draw.normal(size=mixed.shape).astype("f4")
    if kind == "class":
        labels = (mixed + noise).argmax(axis=1)
    elif kind == "distribution":
        powers = np.exp(mixed + noise)
        labels = powers / powers.sum(axis=1, keepdims=True)
    elif kind == "multi-label":
        labels = (mixed + noise > 0).astype("i8")
    else:
        labels = (mixed + noise)[:, 0]
    heads = {m: 0.8 * feature for m, feature in features.items()}
    saved = {"logits": mixed, "labels": labels}
    zeros = dict.fromkeys(NAMES, np.zeros_like(mixed))
    for m in NAMES:
        other = NAMES[1 - NAMES.index(m)]
        alone = {**zeros, m: features[m]}
        saved[f"alone_{m}"] = alone["audio"] + 0.5 * alone["video"]
        saved[f"removed_{other}"] = saved[f"alone_{m}"]
        saved[f"head_{m}"] = heads[m]
    batch = {m: torch.from_numpy(feature) for m, feature in features.items()}
    return batch | {"label": torch.from_numpy(labels)}, saved


def as_table(saved: dict[str, np.ndarray]) -> pd.DataFrame:
    """A column a class."""
    columns = {}
    for key, array in saved.items():
        group = "label" if key == "labels" else key
        if array.ndim == 1:
            columns[group] = array
        else:
            columns |= {f"{group}_{place}": array[:, place] for place in range(array.shape[1])}
    return pd.DataFrame(columns)


@pytest.mark.parametrize("kind", TARGETS)
def test_saved_predictions_give_the_scores_of_diagnose(kind):
    batch, saved = planted(kind)
    live = diagnose(
        lambda given: given["audio"] + 0.5 * given["video"],
        [batch],
        NAMES,
        target=TARGETS[kind],
        unimodal=lambda given: {m: 0.8 * given[m] for m in NAMES},
        removal="zero",
        resamples=50,
    )
    found = report_from_logits(saved, target=TARGETS[kind], resamples=50)
    drawn = ("misaligned", "confidence", "credit", "followed", "permutation", "share_", "shapley")
    compared = [key for key in live.scores if not key.startswith((*drawn, "smv"))]
    assert len(compared) > 8
    for key in compared:
        assert found.scores[key] == pytest.approx(live.scores[key], abs=1e-5), key
    assert {f.kind for f in found.findings} <= {f.kind for f in live.findings}
    assert found.settings.get("score") == live.settings.get("score")


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("ending", [".npz", ".csv", ".parquet", "frame"])
def test_every_kind_of_file_holds_the_same(tmp_path, capsys, kind, ending):
    saved = planted(kind)[1]
    expected = report_from_logits(saved, target=TARGETS[kind], resamples=20)
    if ending == "frame":
        found = report_from_logits(as_table(saved), target=TARGETS[kind], resamples=20)
        assert found.scores == expected.scores
        return
    path = tmp_path / f"joint{ending}"
    if ending == ".npz":
        np.savez(path, **saved)
    elif ending == ".csv":
        as_table(saved).to_csv(path, index=False)
    else:
        as_table(saved).to_parquet(path)
    arguments = ["diagnose", "--logits", str(path), "--resamples", "20"]
    assert main([*arguments, "--target", kind, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["scores"].keys() == expected.scores.keys()
    for key, score in expected.scores.items():
        assert content["scores"][key]["value"] == pytest.approx(score.value, abs=1e-6), key
    assert main([*arguments, "--target", kind]) == 0
    printed = capsys.readouterr().out
    assert {"multi-label": "macro F1", "continuous": "R²"}.get(kind, "accuracy") in printed


@pytest.mark.parametrize("kind", ["multi-label", "continuous"])
def test_whatever_is_missing_is_left_out(kind):
    saved = planted(kind)[1]
    bare = {key: saved[key] for key in ("logits", "labels")}
    found = report_from_logits(bare, modalities=NAMES, target=TARGETS[kind], resamples=20)
    assert list(found.scores) == ["score"]
    assert str(found)
    one = bare | {"head_audio": saved["head_audio"], "removed_audio": saved["removed_audio"]}
    found = report_from_logits(one, modalities=NAMES, target=TARGETS[kind], resamples=20)
    assert {"head_score.audio", "head_gain.audio", "cost.audio"} <= found.scores.keys()
    assert not {"late_score", "alone.audio", "headroom.audio"} & found.scores.keys()
    training = one | {"training_labels": saved["labels"], "training_head_audio": saved["logits"]}
    found = report_from_logits(training, modalities=NAMES, target=TARGETS[kind], resamples=20)
    assert found.scores["memorised.audio"].value > 0


@pytest.mark.parametrize("kind", ["distribution", "multi-label", "continuous"])
def test_rows_without_a_label_do_not_count(kind):
    saved = planted(kind)[1]
    marked = {key: array.astype("f8") for key, array in saved.items()}
    marked["labels"][100:] = np.nan if kind == "continuous" else -1
    marked["logits"][100:] = np.nan
    first = {key: array[:100] for key, array in saved.items()}
    target = TARGETS[kind]
    found = report_from_logits(marked, target=target, resamples=20).scores
    expected = report_from_logits(first, target=target, resamples=20).scores
    for key, score in expected.items():
        assert found[key] == pytest.approx(score, abs=1e-6), key
    marked["labels"][:] = np.nan if kind == "continuous" else -1
    with pytest.raises(MidasAugError, match="expected at least one"):
        report_from_logits(marked, target=target)


def test_the_command_knows_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["diagnose", "--logits", "none.npz", "--target", "none"])
    err = capsys.readouterr().err
    assert all(name in err for name in saved_targets.TARGETS)
    assert saved_targets.TARGETS.keys() == TARGETS.keys()


def test_whole_numbers_are_numbers():
    saved = planted("continuous")[1]
    saved["labels"] = (10 * saved["labels"]).round().astype(int)
    found = report_from_logits(saved, target=Continuous(), resamples=20)
    assert np.isfinite(found.scores["score"].value)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("multi-label", {"labels": np.zeros(ROWS, int)}, "shape .N, C. for the target multi-label"),
        ("multi-label", {"labels": np.full((ROWS, 4), 2)}, "zeros"),
        ("multi-label", {"logits": np.zeros((ROWS, 3))}, "'logits' of shape .120, 4."),
        ("multi-label", {"head_audio": np.zeros((7, 4))}, "'head_audio' of shape .120, 4."),
        ("multi-label", {"logits": np.zeros((ROWS, 4), int)}, "'logits' to have a float dtype"),
        ("multi-label", {"logits": np.full((ROWS, 4), np.nan)}, "120 of 120 of the whole model"),
        (
            "multi-label",
            {"source_labels": np.zeros((3, 2), int)},
            "no 'source_labels' with the target multi-label",
        ),
        ("multi-label", {"training_head_audio": np.zeros((3, 4))}, "an array 'training_labels'"),
        ("multi-label", {"labels": np.zeros((ROWS, 4), int)}, "at least two different labels"),
        ("distribution", {"labels": np.ones((ROWS, 4))}, "rows that sum to 1"),
        ("distribution", {"logits": np.zeros((ROWS, 5))}, "'logits' of shape"),
        ("continuous", {"labels": np.full(ROWS, np.inf)}, "finite numbers"),
        ("continuous", {"labels": np.zeros((ROWS, 2, 2))}, "shape .N, C. for the target cont"),
        ("continuous", {"logits": np.zeros((ROWS, 2))}, "'logits' of shape .120, 1."),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(tmp_path, capsys, kind, change, words):
    saved = planted(kind)[1] | change
    if "logits" in change and kind == "distribution":
        saved = {key: saved[key] for key in ("logits", "labels")}
        saved["modalities"] = np.array(NAMES)
    np.savez(tmp_path / "saved.npz", **saved)
    assert main(["diagnose", "--logits", str(tmp_path / "saved.npz"), "--target", kind]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(words, err), err


# ---------------------------------------------------------------- tables


def test_the_columns_of_a_table_may_come_in_any_order():
    saved = planted("class")[1]
    table = as_table(saved)
    found = arrays_of_table(table[table.columns[::-1]])
    assert found.keys() == saved.keys()
    for key, array in saved.items():
        np.testing.assert_array_equal(found[key], array)
    renamed = {c: c.replace("audio", "view_1").replace("video", "view_2") for c in table.columns}
    views = report_from_logits(table.rename(columns=renamed), resamples=20)
    assert views.modalities == ("view_1", "view_2")


def test_a_table_of_another_library_will_do():
    class Table:
        def __init__(self, columns):
            self._columns = columns
            self.columns = list(columns)

        def __getitem__(self, name):
            return self._columns[name].to_numpy()

    table = as_table(planted("class")[1])
    found = report_from_logits(Table(dict(table.items())), resamples=20)
    assert found.scores == report_from_logits(table, resamples=20).scores


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(fold=1), r"got 'fold'; leave other columns out"),
        (lambda t: t.reset_index(), r"got 'index'; leave other columns out"),
        (lambda t: t.drop(columns="logits_1"), r"from logits_0 on, got none called logits_1"),
        (lambda t: t.rename(columns={"logits_3": "logits_4"}), "none called logits_3"),
        (lambda t: t.assign(label_0=1), "got both"),
        (lambda t: t.drop(columns="label"), "expected an array 'labels'"),
        (lambda t: t.assign(label=t.label.where(t.label > 0)), r"of label, got \d+ blank of"),
        (lambda t: t.assign(label="cat"), "every cell of label, got 'cat'"),
        (lambda t: t.assign(logits_0="much"), "logits_0, …, logits_3, got something else"),
        (lambda t: t.assign(smell_0=1.0), "got ..smell.."),
    ],
)
def test_a_table_that_does_not_fit_is_told(change, words):
    with pytest.raises(MidasAugError, match=words):
        report_from_logits(change(as_table(planted("class")[1])))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_files_that_are_no_tables_are_errors_of_one_line(tmp_path, capsys, ending):
    path = tmp_path / f"logits{ending}"
    for content in (None, b"", b"\xff\x00\x01 no table \xfe" * 20, b"PAR1 cut short"):
        if content is not None:
            path.write_bytes(content)
        assert main(["diagnose", "--logits", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: expected")
        assert str(path) in err or "leave other columns out" in err


@pytest.mark.parametrize(("package", "ending"), [("pandas", ".csv"), ("pyarrow", ".parquet")])
def test_a_table_needs_an_extra_and_arrays_do_not(tmp_path, monkeypatch, package, ending):
    path = tmp_path / f"logits{ending}"
    path.write_bytes(b"PAR1")
    if package == "pyarrow":

        def refuse(*arguments):
            raise ImportError("no engine")

        monkeypatch.setattr(pd, "read_parquet", refuse)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MidasAugError, match=rf"expected {package} for the table .*\[tables\]"):
        report_from_logits(path)
    assert report_from_logits(planted("class")[1], resamples=20).scores


# ---------------------------------------------------------------- probabilities, and half a pair


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("key", "words"), [("logits", "of the whole model"), ("head_video", "of the head of video")]
)
@pytest.mark.parametrize(("kind", "squash"), [("multi-label", sigmoid), ("distribution", softmax)])
def test_probabilities_are_no_logits_of_these_targets_either(kind, squash, key, words):
    saved = planted(kind)[1]
    saved[key] = squash(saved[key])
    with pytest.raises(MidasAugError, match=f"expected logits, got probabilities .* {words}"):
        report_from_logits(saved, target=TARGETS[kind])
    back = np.log(saved[key]) - (np.log(1 - saved[key]) if kind == "multi-label" else 0)
    found = report_from_logits(saved | {key: back}, target=TARGETS[kind]).scores
    for name, score in report_from_logits(planted(kind)[1], target=TARGETS[kind]).scores.items():
        assert found[name].value == pytest.approx(score.value, abs=1e-4), name


def test_a_model_that_gives_probabilities_of_several_classes_is_refused():
    batch, _ = planted("multi-label")
    halves = [
        {key: value[rows] for key, value in batch.items()} for rows in (slice(60), slice(60, 120))
    ]
    mixed = lambda batch: (batch["audio"] + 0.5 * batch["video"]).sigmoid()  # noqa: E731
    options = {"target": MultiLabel(4), "removal": "zero", "resamples": 10, "draws": 1}
    with pytest.raises(MidasAugError, match="before the sigmoid"):
        diagnose(mixed, halves, NAMES, **options)


def test_logits_between_0_and_1_are_no_alarm():
    """Heads that know nothing, of classes that more than half of the rows have."""
    saved, draw = planted("multi-label")[1], np.random.default_rng(1)
    saved["labels"] = (draw.random((ROWS, 4)) < 0.6).astype("i8")
    saved["head_audio"] = np.full((ROWS, 4), np.log(0.6 / 0.4))
    saved["head_video"] = np.zeros((ROWS, 4))
    report_from_logits(saved, target=MultiLabel(4), resamples=10)
    saved["head_video"] = saved["labels"].astype(float)  # decisions
    with pytest.raises(MidasAugError, match="before the sigmoid"):
        report_from_logits(saved, target=MultiLabel(4), resamples=10)


@pytest.mark.parametrize("kind", ["class", "distribution", "multi-label", "continuous"])
def test_labels_and_heads_of_training_rows_come_together(kind):
    saved = planted(kind)[1]
    for more in ({"training_labels": saved["labels"]}, {"training_head_audio": saved["logits"]}):
        with pytest.raises(MidasAugError, match="expected an array 'training_labels' and"):
            report_from_logits(saved | more, target=TARGETS[kind], resamples=10)


# ---------------------------------------------------------------- words of a file

PYTHON = (
    "torch",
    "midas_aug",
    "num_classes",
    "target=Mul",
    "target=Dis",
    ".float",
    ".exp",
    ".soft",
)
PYTHON += (
    "MultiLabel(",
    "Distribution(",
    "Continuous(",
    "squeeze",
    "docstring",
    "width=",
    "the labels",
)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("continuous", {"labels": np.ones(ROWS, bool)}, "numbers in 'labels' .*--target class"),
        ("continuous", {"labels": np.full(ROWS, "x")}, "numbers in 'labels' for the target cont"),
        ("continuous", {"labels": np.zeros((ROWS, 0))}, "'labels' of shape .* got .120, 0."),
        ("continuous", {"labels": np.zeros((ROWS, 2, 2))}, "one column for each number of a label"),
        ("continuous", {"logits": np.zeros((ROWS, 2))}, "'logits' of shape .120, 1., got .120, 2."),
        (
            "continuous",
            {"logits": np.zeros(ROWS, int)},
            "'logits' to have a float dtype, got int64",
        ),
        ("continuous", {"labels": np.full(ROWS, -np.inf)}, "infinity in 120 of 120 rows; clip"),
        ("multi-label", {"labels": np.full((ROWS, 4), 2)}, "in 'labels' .*--target distribution"),
        ("multi-label", {"labels": np.full((ROWS, 4), 0.5)}, "got 0.5 in row 0"),
        ("multi-label", {"labels": np.zeros((ROWS, 0))}, "one column for each class"),
        ("multi-label", {"labels": np.full((ROWS, 4), "x")}, "numbers in 'labels' for the target"),
        ("multi-label", {"logits": np.zeros(ROWS)}, "'logits' of shape .120, 4., got .120,."),
        ("multi-label", {"logits": np.zeros((ROWS, 4, 1))}, "'logits' of shape .120, 4., got"),
        ("multi-label", {"training_labels": np.zeros((ROWS, 3), int)}, "as many as 'labels' has"),
        ("multi-label", {"training_labels": np.full((ROWS, 4), 3)}, "ones in 'training_labels'"),
        (
            "distribution",
            {"labels": np.ones((ROWS, 4))},
            "in 'labels' .* 4 in row 0; .*multi-label",
        ),
        ("distribution", {"labels": np.full((ROWS, 4), -2.0)}, "got -2 in row 0; save neither log"),
        ("distribution", {"labels": np.zeros((ROWS, 4)) - 2**-20}, "probabilities in 'labels'"),
        (
            "distribution",
            {"logits": np.zeros((ROWS, 3))},
            "'logits' of shape .120, 4., got .120, 3",
        ),
        ("distribution", {"training_labels": np.ones((ROWS, 3)) / 3}, "as many as 'labels' has"),
        ("distribution", {"training_labels": np.ones((ROWS, 4))}, "to 1 in 'training_labels'"),
        (
            "distribution",
            {"labels": np.full((ROWS, 4), 2**64 - 1, np.uint64)},
            "rows that sum to 1",
        ),
        ("multi-label", {"labels": np.full((ROWS, 4), 2**64 - 1, np.uint64)}, "zeros and ones in"),
    ],
)
def test_the_command_speaks_of_the_file_and_not_of_python(tmp_path, capsys, kind, change, words):
    saved = planted(kind)[1] | change
    if "training_labels" in change:
        saved["training_head_audio"] = saved["logits"]
    np.savez(tmp_path / "saved.npz", **saved)
    assert main(["diagnose", "--logits", str(tmp_path / "saved.npz"), "--target", kind]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: expected ")
    assert err.count("\n") == 1
    assert re.search(words, err), err
    assert not [word for word in PYTHON if word in err], err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.assign(label_1=7),
            "ones in the columns label_0, …, label_3 .*, got 7 in row 0",
        ),
        (lambda t: t.assign(label_1=t.label_1.where(t.index != 5)), "got nan in row 5; write -1"),
        (
            lambda t: t.drop(columns=[f"label_{place}" for place in range(4)]).assign(label=1),
            "expected the column label of shape .N, C.",
        ),
    ],
)
def test_labels_of_a_table_are_told_by_their_columns(tmp_path, capsys, change, words):
    path = tmp_path / "tags.csv"
    change(as_table(planted("multi-label")[1])).to_csv(path, index=False)
    assert main(["diagnose", "--logits", str(path), "--target", "multi-label"]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_target_of_ones_own_says_itself_what_is_wrong():
    class Tags(MultiLabel):
        def check(self, labels, *, force=False):
            raise MidasAugError("expected tags, got something else")

    with pytest.raises(MidasAugError, match="expected tags, got something else"):
        report_from_logits(planted("multi-label")[1], target=Tags(4))


def test_columns_that_the_target_does_not_have_are_told():
    with pytest.raises(MidasAugError, match=r"3 columns in 'labels' .* MultiLabel\(3\) has"):
        report_from_logits(planted("multi-label")[1], target=MultiLabel(3))
    flat = {"logits": np.zeros((ROWS, 1)), "labels": np.zeros(ROWS, int)}
    with pytest.raises(MidasAugError, match=r"1 column in 'labels' .* got shape \(120,\)"):
        report_from_logits(flat, modalities=NAMES, target=MultiLabel(1))
