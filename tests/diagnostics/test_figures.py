"""The figures: what is drawn is what was given, and no text covers another."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.diagnostics import (
    TrainingLog,
    draw_curves,
    draw_hardness,
    draw_report,
    draw_shares,
)
from midas_aug.diagnostics.figures._style import SERIES, wrapped

TWO = ("audio", "video")
LONG = ("audio spectrogram (log-mel, 128 bands)", "video", "automatically_transcribed_text")


def make_report(name="joint", modalities=TWO, *, heads=True, intervals=True, seed=0):
    rng = np.random.default_rng(seed)
    names = ["accuracy", "misaligned_accuracy"]
    kinds = ["without", "alone", "confidence", "shapley"] + ["head_accuracy"] * heads
    names += [f"{kind}.{modality}" for kind in kinds for modality in modalities]
    scores = {}
    for key, value in zip(names, rng.uniform(0.1, 0.95, len(names)), strict=True):
        low, high = (value - 0.03, value + 0.04) if intervals else (None, None)
        scores[key] = {"value": value, "low": low, "high": high}
    scores["majority"] = {"value": 0.1, "low": 0.1, "high": 0.1}
    scores[f"shapley.{modalities[0]}"] = {"value": -0.02, "low": -0.05, "high": 0.01}
    return {"name": name, "modalities": list(modalities), "scores": scores}


def make_log(modalities=TWO, epochs=20, warmup=3, misaligned=True):
    rng = np.random.default_rng(0)
    epoch = list(range(epochs))
    bare = [None] * warmup

    def curve(low, high, count=epochs):
        return np.linspace(low, high, count) + 0.02 * rng.random(count)

    later = epochs - warmup
    scores = {
        "loss.aligned": bare + curve(2, 0.1, later).tolist(),
        "loss.unimodal": curve(4, 0.5).tolist(),
        "accuracy": bare + curve(0.2, 0.97, later).tolist(),
        "warming_up": [1.0] * warmup + [0.0] * later,
    }
    histograms = {}
    if misaligned:
        scores["loss.misaligned"] = bare + curve(3, 1, later).tolist()
        scores["misaligned_accuracy"] = bare + curve(0.1, 0.6, later).tolist()
        scores["collapsed"] = curve(0.1, 0.7).tolist()
        scores["entropy"] = curve(0.7, 0.95).tolist()
        edges = np.linspace(0, 1, 41).tolist()
        counts = rng.integers(1, 30, (epochs, 40)).tolist()
        for number, name in enumerate(modalities):
            scores[f"alpha.{name}"] = [1.0] * warmup + curve(1, 1 + number, later).tolist()
            scores[f"share.{name}"] = curve(0.6, 0.5).tolist()
            scores[f"credit.{name}"] = bare + curve(0.9, 0.5, later).tolist()
            scores[f"confidence.{name}"] = bare + curve(0.8, 0.45, later).tolist()
            histograms[f"share.{name}"] = {"edges": edges, "counts": counts}
        edges = np.linspace(-1, 1, 41).tolist()
        histograms["similarity"] = {"edges": edges, "counts": counts}
    return {
        "modalities": list(modalities),
        "epoch": epoch,
        "scores": scores,
        "histograms": histograms,
    }


def all_axes(figure):
    return [axes for axes in figure.axes if axes.axison]


def titles(figure):
    return [axes.get_title(loc="left").replace("\n", " ") for axes in all_axes(figure)]


def panel(figure, title):
    return next(
        axes
        for axes in all_axes(figure)
        if axes.get_title(loc="left").replace("\n", " ").startswith(title)
    )


def words(figure):
    return " | ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))


def overlaps(figure):
    """Pairs of texts that cover each other, and texts that leave the page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = beyond_the_limits(figure)
    texts = {id(text): text for text in figure.findobj(Text)}.values()
    texts = [text for text in texts if text.get_text().strip() and id(text) not in hidden]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    width, height = canvas.get_width_height()
    found = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1]
    found += [text for text, box in boxes if box.y1 > height + 1]
    for (first, one), (second, other) in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        up = min(one.y1, other.y1) - max(one.y0, other.y0)
        if across > 2 and up > 3:  # pixels: boxes have a margin
            found.append((first, second))
    return found


def beyond_the_limits(figure):
    """Labels of ticks that an axis keeps but does not show."""
    hidden = set()
    for axes in figure.findobj(lambda artist: hasattr(artist, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high or not axes.axison:
                    hidden |= {id(tick.label1), id(tick.label2)}
                hidden |= {id(t) for t in (tick.label1, tick.label2) if not t.get_visible()}
    return hidden


# -- the report ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_there_is_a_bar_of_the_right_length_for_every_score(count):
    reports = [make_report(f"run {number}", seed=number) for number in range(count)]
    figure = draw_report(reports)
    assert titles(figure) == [
        "Accuracy, %",
        "Accuracy without it, %",
        "Accuracy with all others removed, %",
        "Accuracy of its own head, %",
        "Probability of its label, misaligned, %",
        "Shapley value of the accuracy, points",
    ]
    names = ("without", "alone", "head_accuracy", "confidence", "shapley")
    wanted = [["accuracy", "misaligned_accuracy"]]
    wanted += [[f"{name}.{modality}" for modality in TWO] for name in names]
    for axes, scores in zip(all_axes(figure), wanted, strict=True):
        lengths = [bar.get_width() for bar in axes.patches]
        expected = [100 * report["scores"][key]["value"] for report in reports for key in scores]
        assert lengths == pytest.approx(expected)
        printed = {text.get_text() for text in axes.texts}
        assert printed == {f"{length:.1f}".replace("-", "−") for length in expected}


def test_the_panels_of_percentages_have_one_scale():
    figure = draw_report([make_report(), make_report("other", seed=1)])
    ends = {axes.get_xlim() for axes in all_axes(figure)[1:-1]}
    assert len(ends) == 1


def test_intervals_are_lines_and_are_left_out_where_there_are_none():
    def lines(intervals):
        axes = panel(draw_report(make_report(intervals=intervals)), "Accuracy, %")
        return [line.get_xdata().tolist() for line in axes.lines]

    score = make_report()["scores"]["accuracy"]
    assert [pytest.approx(100 * score["low"]), pytest.approx(100 * score["high"])] in lines(True)
    assert lines(False) == []


@pytest.mark.parametrize("missing", [None, float("nan"), "gone"])
def test_a_missing_score_has_no_bar(missing):
    report, other = make_report(), make_report("other")
    if missing == "gone":
        del report["scores"]["alone.video"]
    else:
        report["scores"]["alone.video"]["value"] = missing
    axes = panel(draw_report([report, other]), "Accuracy with all others")
    assert len(axes.patches) == 3


def test_a_row_that_no_report_has_is_left_out():
    saved = make_report()
    del saved["scores"]["misaligned_accuracy"]
    labels = [text.get_text() for text in draw_report(saved).axes[0].get_yticklabels()]
    assert labels == ["aligned"]
    both = draw_report([saved, make_report("other")]).axes[0].get_yticklabels()
    assert [text.get_text() for text in both] == ["aligned", "misaligned"]


def test_a_report_without_scores_of_modalities_has_one_panel():
    report = make_report()
    report["scores"] = {"accuracy": {"value": 0.5}}
    assert titles(draw_report(report)) == ["Accuracy, %"]


def test_objects_with_to_dict_are_drawn_and_saved(tmp_path):
    class Report:
        def to_dict(self):
            return make_report()

    path = tmp_path / "report.png"
    figure = draw_report([Report(), Report()], path)
    assert isinstance(figure, Figure)
    assert path.stat().st_size > 10_000
    draw_report(Report(), tmp_path / "report.svg")
    assert (tmp_path / "report.svg").read_text().startswith("<?xml")


def test_reports_of_other_modalities_and_none_are_refused():
    with pytest.raises(MidasAugError, match="one report or more"):
        draw_report([])
    with pytest.raises(MidasAugError, match="the same modalities"):
        draw_report([make_report(), make_report(modalities=LONG)])


def test_a_real_report_can_be_drawn():
    from midas_aug.diagnostics import diagnose

    labels = torch.arange(60) % 4
    inputs = torch.nn.functional.one_hot(labels).float() + 0.3 * torch.randn(60, 4)
    batch = {"audio": inputs, "video": torch.randn(60, 4), "label": labels}
    report = diagnose(lambda b: b["audio"] + b["video"], [batch], TWO, resamples=20)
    figure = draw_report([report.to_dict(), report])
    lengths = [bar.get_width() for bar in panel(figure, "Accuracy without").patches]
    wanted = [100 * report.scores[f"without.{name}"].value for name in TWO for _ in range(2)]
    assert sorted(lengths) == pytest.approx(sorted(wanted))


# -- the curves ------------------------------------------------------------------------------------


def test_the_curves_are_those_of_the_log():
    log = make_log()
    figure = draw_curves(log)
    drawn = [line.get_ydata() for line in panel(figure, "Weight").lines]
    np.testing.assert_allclose(drawn, [log["scores"][f"alpha.{name}"] for name in TWO])
    drawn = panel(figure, "Accuracy").lines[1].get_ydata()
    assert np.isnan(drawn[:3]).all()
    np.testing.assert_allclose(
        drawn[3:], 100 * np.array(log["scores"]["misaligned_accuracy"][3:], dtype=float)
    )
    assert [title for title in titles(figure) if title.startswith("Share")] == [
        "Share in the label: audio",
        "Share in the label: video",
    ]


def test_joint_training_has_the_panels_that_it_has_data_for():
    log = make_log(misaligned=False)
    log["scores"] |= {"loss.misaligned": [0.0] * 20, "alpha.audio": [1.0] * 20}
    figure = draw_curves(log)
    assert titles(figure) == ["Losses", "Accuracy, %"]
    assert "misaligned" not in words(figure)


def test_the_warm_up_is_told_where_there_is_one():
    assert "warm-up" in words(draw_curves(make_log()))
    assert "warm-up" not in words(draw_curves(make_log(warmup=0)))
    everything = draw_curves(make_log(epochs=3, warmup=3))  # the log of a run that has just begun
    assert "warm-up" in words(everything)


def test_one_epoch_and_many_modalities_are_drawn():
    assert draw_curves(make_log(epochs=1, warmup=0)).axes
    names = [f"sensor {number}" for number in range(7)]
    assert len(all_axes(draw_curves(make_log(names)))) == 4 + 1 + 7


def test_an_empty_log_is_told():
    with pytest.raises(MidasAugError, match="call update in every step"):
        draw_curves(TrainingLog(TWO))


def test_a_log_with_nothing_to_draw_yet_is_told():
    log = TrainingLog(TWO)
    batch = {name: torch.ones(2, 3) for name in TWO}
    augment = MisalignAugment(TWO, 2, confidence="uniform", seed=0)
    log.update(augment(batch, torch.tensor([-1, -1])))
    log.end_epoch(0)
    with pytest.raises(MidasAugError, match="got one with warming_up alone; there is nothing to"):
        draw_curves(log)
    still = {"loss.aligned": [0.0, 0.0], "alpha.audio": [None, 1.0]}
    with pytest.raises(MidasAugError, match="there is nothing to draw yet"):
        draw_curves({"modalities": TWO, "epoch": [0, 1], "scores": still})


def test_what_is_no_log_has_no_curves():
    with pytest.raises(MidasAugError, match="expected a TrainingLog"):
        draw_curves([1, 2])


def test_a_loss_that_is_no_likelihood_of_a_class_is_not_called_a_probability():
    log = make_log()
    assert "Probability of its label, misaligned, %" in titles(draw_curves(log))
    del log["scores"]["misaligned_accuracy"]
    assert "exp(−loss) of its label, misaligned, %" in titles(draw_curves(log))


# -- distributions ---------------------------------------------------------------------------------


def outlines(axes):
    """The heights of the outlines; each has its own patch, the last one a second, filled."""
    return [patch.get_data().values for patch in axes.patches if hasattr(patch, "get_data")]


def test_a_distribution_of_similarities_is_numpys_histogram():
    values = np.random.default_rng(0).uniform(-1, 1, 300)
    edges = np.linspace(-1, 1, 41)
    wanted = 100 * np.histogram(values, edges)[0] / 300
    for given in (values, values.tolist(), torch.from_numpy(values), {"run": values}):
        figure = draw_hardness(given)
        np.testing.assert_allclose(outlines(figure.axes[0])[-1], wanted)
        assert f"mean {values.mean():.2f}" in words(figure)


def test_shares_have_a_panel_for_each_modality_and_tell_the_collapse():
    shares = np.array([[0.5, 0.5], [0.53, 0.47], [0.9, 0.1], [0.56, 0.44]])
    figure = draw_shares(shares, modalities=TWO)
    assert titles(figure) == list(TWO)
    assert "50 % in the band" in words(figure)
    counts = np.histogram(shares[:, 1], np.linspace(0, 1, 41))[0]
    np.testing.assert_allclose(outlines(all_axes(figure)[1])[-1], 25 * counts)
    assert "modality 2" in titles(draw_shares(torch.from_numpy(shares)))


def test_many_modalities_go_on_in_a_second_row():
    figure = draw_shares(np.full((5, 6), 1 / 6))
    assert len(all_axes(figure)) == 6
    assert "100 % in the band" in words(figure)


def test_a_log_shows_its_first_and_its_last_epoch():
    log = make_log()
    for name in ("similarity", "share.audio", "share.video"):
        log["histograms"][name]["counts"][0] = [0] * 40  # nothing was swapped in epoch 0
    for figure in (draw_hardness(log), draw_shares(log)):
        text = words(figure)
        assert "epoch 1:" in text
        assert "epoch 19:" in text
        assert "epoch 0:" not in text
    assert f"{100 * log['scores']['collapsed'][19]:.0f} % in the band" in words(draw_shares(log))


@pytest.mark.parametrize(
    ("name", "lines", "two"),
    [
        ("video", "video", "video"),
        ("log-mel audio of the clip", "log-mel|audio of|the clip", "log-mel|audio of…"),
        ("text_of_the_clip", "text_of_|the_clip", "text_of_|the_clip"),
        ("abcdefghijklmnopqrst", "abcdefgh|ijklmnop|qrst", "abcdefgh|ijklmnop…"),
    ],
)
def test_long_names_are_broken_where_it_hurts_least(name, lines, two):
    assert wrapped(name, 8) == lines.replace("|", "\n")
    assert wrapped(name, 8, 2) == two.replace("|", "\n")


def test_series_differ_without_colour():
    assert len({style.dash for style in SERIES}) == len(SERIES)
    assert len({style.marker for style in SERIES}) == len(SERIES)
    assert len({style.hatch for style in SERIES}) == len(SERIES)
    figure = draw_hardness({f"run {number}": [0.1 * number] for number in range(6)})
    handles = figure.legends[0].get_lines()
    assert len({handle.get_marker() for handle in handles}) == 6


def test_nothing_to_draw_is_told():
    with pytest.raises(MidasAugError, match="got none"):
        draw_hardness([])
    with pytest.raises(MidasAugError, match="got none"):
        draw_shares(TrainingLog(TWO))
    with pytest.raises(MidasAugError, match="one column each"):
        draw_shares(np.ones((3, 2)) / 2, modalities=LONG)
    with pytest.raises(MidasAugError, match="1 or 2 axes"):
        draw_hardness(np.zeros((2, 2, 2)))


# -- all of them -----------------------------------------------------------------------------------

EVERY = {
    "one report": lambda: draw_report(make_report()),
    "two reports": lambda: draw_report([make_report(), make_report("MIDAS", seed=1)]),
    "three reports, long names": lambda: draw_report(
        [make_report(f"a run with a rather long name {n}", LONG, seed=n) for n in range(3)]
    ),
    "reports without heads": lambda: draw_report([make_report(heads=False)] * 2),
    "curves": lambda: draw_curves(make_log()),
    "curves, long names": lambda: draw_curves(make_log(LONG, epochs=8)),
    "curves of joint training": lambda: draw_curves(make_log(misaligned=False)),
    "hardness": lambda: draw_hardness(make_log()),
    "hardness, long names": lambda: draw_hardness({f"{LONG[0]} {n}": [0.2 * n] for n in range(3)}),
    "shares": lambda: draw_shares(make_log()),
    "shares, long names": lambda: draw_shares(make_log(LONG)),
}


@pytest.mark.parametrize("name", EVERY)
def test_no_text_covers_another_or_leaves_the_page(name):
    assert overlaps(EVERY[name]()) == []


def test_the_overlap_test_can_fail():
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.51, 0.5, "another")
    figure.text(0.99, 0.2, "leaves")
    assert overlaps(figure) == ["leaves", ("one", "another")]


SCRIPT = """
import sys
import midas_aug.diagnostics.figures as figures
assert "matplotlib" not in sys.modules, "imported before it is needed"
figures.draw_hardness([0.1, 0.2])
assert "matplotlib.pyplot" not in sys.modules, "pyplot is global state"
sys.modules["matplotlib"] = None
try:
    figures.draw_hardness([0.1, 0.2])
except ValueError as error:
    print(error)
"""


def test_matplotlib_is_loaded_when_needed_and_its_extra_is_named_when_missing():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install matplotlib" in done.stdout
    assert "pip install '.[diagnostics]'" in done.stdout
