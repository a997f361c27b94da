"""The protocol `speakers`: folds of CREMA-D in which nobody speaks on two sides."""

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import __main__, actions
from benchmarks.command_line import parse
from benchmarks.common.errors import DataError
from benchmarks.methods.base import Method
from benchmarks.paper import training
from benchmarks.paper.datasets import PAPER_DATA, paper_data
from benchmarks.paper.datasets.base import Clip
from benchmarks.paper.datasets.cremad import speaker
from benchmarks.paper.datasets.sample import write_sample
from benchmarks.paper.datasets.splits import FOLDS, GROUPS, draw_speaker_split, saved_split
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.run import REHEARSED, rehearsal_clips, reproduce
from benchmarks.paper.settings import ProtocolName, Settings

QUIET = Console(quiet=True)
ROOT = Path(__file__).parents[3]


def clips_of(n_speakers, clips_of_each):
    """Clips of so many speakers, those of a speaker in a row as in the lists."""
    return [
        Clip(f"{1001 + one}_{number:03d}_ANG_XX", number % 6, {})
        for one in range(n_speakers)
        for number in range(clips_of_each[one % len(clips_of_each)])
    ]


def speakers_in(clips, places):
    return {clips[place].name[:4] for place in places}


def disjoint(*parts):
    return sum(map(len, parts)) == len(set().union(*parts))


SPEAKERS = st.integers(GROUPS, 95)
CLIPS_OF_EACH = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(SPEAKERS, CLIPS_OF_EACH, st.integers(-20, 10**6))
def test_nobody_speaks_on_two_sides(n_speakers, clips_of_each, seed):
    clips = clips_of(n_speakers, clips_of_each)
    split = draw_speaker_split(clips, seed, speaker)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(clips)))
    train, validation, test = (speakers_in(clips, part) for part in split)
    assert disjoint(train, validation, test)
    assert len(train | validation | test) == n_speakers
    for part, tenths in ((train, 7), (validation, 1), (test, 2)):
        assert n_speakers // 10 * tenths <= len(part) <= -(-n_speakers // 10) * tenths
    for part in split:
        assert (np.diff(part) > 0).all()


@given(SPEAKERS, CLIPS_OF_EACH, st.integers(-3, 1000))
def test_every_clip_is_tested_on_in_exactly_one_fold_of_a_deal(n_speakers, clips_of_each, deal):
    clips = clips_of(n_speakers, clips_of_each)
    seeds = range(FOLDS * deal, FOLDS * (deal + 1))
    folds = [draw_speaker_split(clips, seed, speaker) for seed in seeds]
    tested = Counter(place for fold in folds for place in fold.test.tolist())
    assert tested == dict.fromkeys(range(len(clips)), 1)
    chosen_on = Counter(place for fold in folds for place in fold.validation.tolist())
    assert max(chosen_on.values()) == 1


@given(SPEAKERS, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_a_fold_depends_on_its_seed_and_the_speakers_alone(n_speakers, seed, random):
    clips = clips_of(n_speakers, [4])
    fewer = random.sample(clips, len(clips) - 1)  # in another order, without one clip
    for before, after in zip(
        draw_speaker_split(clips, seed, speaker),
        draw_speaker_split(fewer, seed, speaker),
        strict=True,
    ):
        assert speakers_in(clips, before) == speakers_in(fewer, after)


def test_folds_are_the_same_ever_after():
    """Written down once: another version of a library must not deal in another way."""
    clips = clips_of(91, [1])
    assert [
        sorted(speakers_in(clips, draw_speaker_split(clips, seed, speaker).test))[:4]
        for seed in (0, 1, 5)
    ] == [
        ["1002", "1003", "1010", "1017"],
        ["1001", "1008", "1012", "1016"],
        ["1005", "1014", "1018", "1023"],
    ]


def test_cremad_has_eighteen_or_nineteen_speakers_to_a_test_fold():
    clips = clips_of(91, [82, 81])
    sizes = [
        tuple(len(speakers_in(clips, part)) for part in draw_speaker_split(clips, seed, speaker))
        for seed in range(FOLDS)
    ]
    assert sizes == [(63, 9, 19), *[(64, 9, 18)] * 3, (63, 10, 18)]
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    for seeds, fold in (("0", sizes[0]), ("1, 2, 3", sizes[1]), ("4", sizes[4])):
        assert f"| {seeds} | {fold[0]} | {fold[1]} | {fold[2]} |\n" in page


def test_deals_differ():
    clips = clips_of(91, [1])
    tests = {tuple(draw_speaker_split(clips, 5 * deal, speaker).test) for deal in range(20)}
    assert len(tests) == 20


def test_too_few_speakers_and_names_without_one_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected clips of at least 10 speakers.*got 9; add"):
        draw_speaker_split(clips_of(9, [3]), 0, speaker)
    for name in ("clip-3", "10011_DFA_ANG_XX", "a/1001_DFA_ANG_XX", "١٠٠١_DFA_ANG_XX"):
        with pytest.raises(DataError, match=r"CREMA-D: expected names .*1001_DFA_ANG_XX, got .*XX"):
            draw_speaker_split([Clip(f"{name}_XX", 0, {})], 0, speaker)
    assert speaker("1091_WSI_SAD_XX") == "1091"


def test_a_kept_split_is_used_again(tmp_path):
    clips = clips_of(20, [3])
    first = saved_split(clips, 0, tmp_path / "split.json", speaker)
    again = saved_split(clips[::-1], 3, tmp_path / "split.json", speaker)
    for before, after in zip(first, again, strict=True):
        assert speakers_in(clips, before) == speakers_in(clips[::-1], after)


def test_a_rehearsal_has_as_many_speakers_as_can_be():
    chosen = rehearsal_clips(clips_of(91, [82]), speaker)
    assert Counter(clip.label for clip in chosen) == dict.fromkeys(range(6), REHEARSED)
    assert len({clip.name[:4] for clip in chosen}) == REHEARSED
    assert len({clip.name[:4] for clip in rehearsal_clips(clips_of(91, [82]))}) < GROUPS


@pytest.mark.parametrize("page", ["reproduce.md", "protocols.md"])
def test_the_pages_name_every_protocol_but_the_default(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert set(re.findall(r"--protocol (\w+)", text)) == set(get_args(ProtocolName)) - {"paper"}


# The command


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A made-up copy, of ten speakers; read only."""
    folder = tmp_path_factory.mktemp("samples") / "cremad"
    write_sample("cremad", folder)
    return folder


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(training, "BATCH_SIZE", 6)
    yield
    torch.use_deterministic_algorithms(False)


def asked(sample, out, **options):
    return Settings(sample, out=out, workers=0, rehearse=True, **options)


def test_the_command_line_chooses_folds_by_speaker(sample, tmp_path, monkeypatch, capsys):
    line = f"reproduce cremad --root {sample} --protocol speakers --method joint midas --workers 0"
    arguments = ["benchmarks", *line.split(), "--rehearse", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    __main__.main()
    printed = capsys.readouterr().out
    assert "protocol speakers" in " ".join(printed.split())
    folder = tmp_path / "cremad-speakers-rehearsal"
    names = {file.stem for file in (folder / "runs").iterdir()}
    assert names == {f"{method},seed={seed}" for method in ("joint", "midas") for seed in range(5)}
    page = (folder / "table.md").read_text()
    assert "Protocol `speakers`: every speaker is in training, validation or test alone." in page
    assert "74.99" not in page
    header = next(line for line in page.splitlines() if line.startswith("| method"))
    assert "paper" not in header
    tested = Counter()
    for file in (folder / "splits").iterdir():
        names = json.loads(file.read_text())
        assert disjoint(*({name[:4] for name in part} for part in names.values()))
        tested.update(names["test"])
    assert set(tested.values()) == {1}
    assert len(tested) == 30
    told = json.loads((folder / "report.json").read_text())
    assert told["protocol"] == "speakers"
    assert {run["protocol"]["name"] for run in told["runs"]} == {"speakers"}
    assert len(set(told["splits"].values())) == 5
    __main__.main()
    assert capsys.readouterr().out.count("there already") == 10


def test_the_seeds_are_those_of_the_protocol_unless_they_are_given(monkeypatch):
    seeds = []
    monkeypatch.setattr(actions, "reproduce", lambda name, methods, given, *_: seeds.append(given))
    line = ["reproduce", "cremad", "--root", "nowhere"]
    for more in ([], ["--protocol", "speakers"], ["--protocol", "speakers", "--seeds", "7"]):
        actions.perform(parse([*line, *more]))
    assert seeds == [(0, 1, 2), (0, 1, 2, 3, 4), (7,)]


def test_runs_of_two_protocols_are_kept_apart(sample, tmp_path):
    by_class, by_speaker = (
        asked(sample, tmp_path, protocol=protocol) for protocol in ("paper", "speakers")
    )
    reproduce("cremad", ["joint"], [0], by_class, Ranks(), QUIET)
    reproduce("cremad", ["joint"], [0], by_speaker, Ranks(), QUIET)
    folders = tmp_path / "cremad-rehearsal", tmp_path / "cremad-speakers-rehearsal"
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    assert [report["protocol"] for report in reports] == ["paper", "speakers"]
    assert reports[0]["splits"] != reports[1]["splits"]
    assert "60.28" in (folders[0] / "table.md").read_text()
    # Put among the others by hand: neither taken for the run that is asked for nor shown.
    shutil.copy(folders[0] / "runs" / "joint,seed=0.json", folders[1] / "runs")
    with pytest.raises(DataError, match=r"seed=0\.json is a run with .*'name': 'paper'.*move it"):
        reproduce("cremad", ["joint"], [0], by_speaker, Ranks(), QUIET)
    with pytest.raises(DataError, match=r"expected a run by the protocol speakers, got one by pap"):
        reproduce("cremad", ["midas"], [0], by_speaker, Ranks(), QUIET)


def test_a_checkpoint_of_another_protocol_is_refused(sample, tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    steps = []

    def stop(self):
        steps.append(self)
        if len(steps) == 3:
            raise StoppedError

    by_class, by_speaker = (
        asked(sample, tmp_path, protocol=protocol, save_every=1)
        for protocol in ("paper", "speakers")
    )
    with monkeypatch.context() as patch:
        patch.setattr(Method, "after_backward", stop)
        with pytest.raises(StoppedError):
            reproduce("cremad", ["joint"], [0], by_class, Ranks(), QUIET)
    (checkpoint,) = (tmp_path / "cremad-rehearsal" / "runs").iterdir()
    (tmp_path / "cremad-speakers-rehearsal" / "runs").mkdir(parents=True)
    checkpoint.rename(tmp_path / "cremad-speakers-rehearsal" / "runs" / checkpoint.name)
    with pytest.raises(DataError, match=r"is of a run with .*protocol paper, .*not .*l speakers, "):
        reproduce("cremad", ["joint"], [0], by_speaker, Ranks(), QUIET)


@pytest.mark.parametrize("name", sorted(PAPER_DATA.keys() - {"cremad"}))
def test_where_nobody_is_known_to_speak_it_is_refused_by_name(name, tmp_path):
    settings = Settings(tmp_path / "nowhere", protocol="speakers", out=tmp_path / "out")
    title = re.escape(paper_data(name).title)
    with pytest.raises(
        DataError, match=rf"{title}: expected the protocol paper, got speakers.*leave --protocol"
    ):
        reproduce(name, ["joint"], [0], settings, Ranks(), QUIET)
    assert not (tmp_path / "out").exists()
