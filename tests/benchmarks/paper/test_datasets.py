"""The paper's data sets: layouts, broken copies, filter banks, frames, splits, cache."""

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets import PAPER_DATA, mosi, paper_data, store
from benchmarks.paper.datasets.audio import filter_bank, kaldi_filter_bank
from benchmarks.paper.datasets.base import Clip, Frames, Resolution, list_frames, read_text, table
from benchmarks.paper.datasets.check import check, report
from benchmarks.paper.datasets.frames import (
    Box,
    PictureFiles,
    kept,
    pick,
    random_box,
    read_picture,
    resize,
    view,
)
from benchmarks.paper.datasets.reading import Reader, collate
from benchmarks.paper.datasets.sample import Look, write_sample
from benchmarks.paper.datasets.splits import draw_split, saved_split
from benchmarks.paper.datasets.store import build_stores

SMALL = Resolution(pixels=16, sound=40, tokens=8)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A made-up copy of every data set; read only."""
    folder = tmp_path_factory.mktemp("samples")
    for name in PAPER_DATA:
        write_sample(name, folder / name)
    return folder


@pytest.fixture
def copy(samples, tmp_path):
    """A copy of one of them that may be damaged."""

    def make(name):
        return shutil.copytree(samples / name, tmp_path / name)

    return make


def problems(name, root):
    return check(paper_data(name), root, QUIET).problems


# Layouts


@pytest.mark.parametrize("name", PAPER_DATA)
def test_every_layout_is_read_whole(samples, name):
    data = paper_data(name)
    found = check(data, samples / name, QUIET)
    assert not found.problems
    assert len(found.clips) == (50 if name == "mosi" else 30)
    assert len({clip.name for clip in found.clips}) == len(found.clips)
    assert {clip.label for clip in found.clips} == set(range(min(3, data.num_classes)))
    assert all(tuple(clip.sources) == tuple(data.modalities) for clip in found.clips)
    text = report(data, found)
    assert f"(Table 5 of the paper: {data.published.train})" in text


def test_labels_go_with_their_clips(samples):
    """In the made-up copies, the class is in the name."""
    for clip in paper_data("cremad").scan(samples / "cremad").clips:
        assert ("NEU", "HAP", "SAD")[clip.label] in clip.name  # the first one follows a BOM
    for clip in paper_data("ucf101").scan(samples / "ucf101").clips:
        assert f"Action{clip.label + 1}_" in clip.name
    for clip in paper_data("food101").scan(samples / "food101").clips:
        assert ("sour", "sweet", "salty")[clip.label] in clip.name


@pytest.mark.parametrize("name", PAPER_DATA)
def test_a_wrong_folder_is_told_from_a_right_one(name, tmp_path):
    (tmp_path / "something.txt").touch()
    with pytest.raises(DataError, match=r"has no .*it has something\.txt.*docs/reproduce\.md"):
        paper_data(name).scan(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        paper_data(name).scan(tmp_path / "nowhere")


def test_an_unknown_data_set_is_refused():
    with pytest.raises(DataError, match="there is no data set imagenet; choose from cremad"):
        paper_data("imagenet")


def test_all_that_is_wrong_comes_in_one_summary(copy):
    root = copy("cremad")
    clips = [clip.name for clip in paper_data("cremad").scan(root).clips]
    for clip in clips[:12]:
        (root / "AudioWAV" / f"{clip}.wav").unlink()
    cut = root / "AudioWAV" / f"{clips[12]}.wav"
    cut.write_bytes(cut.read_bytes()[:-100])
    (root / "AudioWAV" / f"{clips[13]}.wav").write_bytes(b"")
    frame = root / "visual_frames" / clips[14] / "00002.jpg"
    frame.write_bytes(frame.read_bytes()[:-200])
    for file in (root / "visual_frames" / clips[15]).iterdir():
        file.unlink()
    shutil.rmtree(root / "visual_frames" / clips[16])
    with (root / "test.csv").open("a") as file:
        file.write(f"{clips[17]},NEU\nnew,HAPPY\n")
    data = paper_data("cremad")
    found = check(data, root, QUIET)
    assert len(found.clips) == 30 - 17
    text = report(data, found)
    assert "13 clips can be used, 19 cannot" in text
    assert "13 clips cannot be split 70/10/20 by class (fewest: 4 of class" in text
    assert "12 without audio: " + ", ".join(clips[:10]) + ", …" in text
    assert f"1 with video that cannot be read: {clips[14]} (00002.jpg: " in text
    assert f"2 without video: {clips[15]}, {clips[16]}" in text
    assert "1 label outside of 0 … 5: new (HAPPY)" in text
    assert f"1 listed more than once: {clips[17]}" in text
    assert "cut off" in text
    assert f"{clips[13]} (not a sound that can be read" in text


def test_the_outcome_is_remembered_until_a_file_changes(copy, tmp_path, monkeypatch):
    root, kept_in = copy("cremad"), tmp_path / "checked.json"
    data = paper_data("cremad")
    frame = root / "visual_frames" / data.scan(root).clips[3].name / "00001.jpg"
    frame.write_bytes(frame.read_bytes()[:-200])
    first = check(data, root, QUIET, kept_in)
    assert len(first.problems) == 1
    decoded = []
    monkeypatch.setattr("benchmarks.paper.datasets.check.broken_file", decoded.append)
    again = check(data, root, QUIET, kept_in)
    assert not decoded
    assert (again.clips, again.problems) == (first.clips, first.problems)
    os.utime(frame, (1, 1))
    check(data, root, QUIET, kept_in)
    assert len(decoded) == 30


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("kinetics-sounds", "videos/val.txt", "clip-000 0 10"),
        ("cremad", "val.csv", "alone"),
        ("ucf101", "testlist01_new.txt", "Action1/x.avi"),
        ("food101", "test.jsonl", '{"img": "a.jpg", "text": "no label"}'),
    ],
)
def test_a_line_that_lacks_something_is_named(copy, name, file, line):
    root = copy(name)
    with (root / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(DataError, match=rf"{file.split('/')[-1]}, line \d+: expected"):
        paper_data(name).scan(root)


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        ("kinetics-sounds", "videos/val.txt", "clip-x 0 10 31", "clip-x (31)"),
        ("kinetics-sounds", "videos/val.txt", "clip-y 0 10 -1", "clip-y (-1)"),
        ("ucf101", "testlist01_new.txt", "Action1/v.avi 102", "v (102 is not in classInd.txt)"),
    ],
)
def test_labels_out_of_range(copy, name, file, line, message):
    root = copy(name)
    with (root / file).open("a") as opened:
        opened.write(line + "\n")
    (problem,) = problems(name, root)
    assert problem.name == message
    assert problem.what.startswith("label outside of 0")


def test_tweets_out_of_range_and_lists_of_another_form(copy):
    root = copy("twitter2015")
    tweets = json.loads((root / "test.json").read_text())
    (root / "test.json").write_text(json.dumps([*tweets, [tweets[0][0], "text", 3]]))
    (problem,) = problems("twitter2015", root)
    assert problem.what == "label outside of 0 … 2"
    (root / "test.json").write_text(json.dumps([{"image": "a"}]))
    with pytest.raises(DataError, match=r"expected a list of \[image file, text, label\]"):
        paper_data("twitter2015").scan(root)


def test_more_dishes_than_food101_has(copy):
    root = copy("food101")
    with (root / "test.jsonl").open("a") as opened:
        for number in range(99):
            recipe = {"img": "a.jpg", "text": "", "label": f"another-{number}"}
            opened.write(json.dumps(recipe) + "\n")
    with pytest.raises(DataError, match="expected at most 101 labels, got 102"):
        paper_data("food101").scan(root)


def test_class_lists_of_a_wrong_length(copy):
    root = copy("cremad")
    (root / "stat.csv").write_text("NEU\nHAP\n")
    with pytest.raises(DataError, match="should name 6 classes"):
        paper_data("cremad").scan(root)
    root = copy("ucf101")
    (root / "classInd.txt").write_text("1 Archery\n")
    with pytest.raises(DataError, match=r"101 lines 'index name', got 1"):
        paper_data("ucf101").scan(root)


def test_flow_needs_the_same_frames_in_both_directions(copy):
    root = copy("ucf101")
    name = paper_data("ucf101").scan(root).clips[0].name
    (root / "flows_v" / name / "frame00002.jpg").unlink()
    (problem,) = problems("ucf101", root)
    assert (problem.what, problem.name) == ("without flow", name)


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("10.jpg", "9.jpg", "1.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert list_frames(tmp_path).names == ("1.JPG", "9.jpg", "10.jpg")


def test_a_text_file_that_is_no_text(tmp_path):
    (tmp_path / "stat.csv").write_bytes(b"abc\xff\n")
    with pytest.raises(DataError, match=r"stat\.csv is not UTF-8 .* at byte 3"):
        read_text(tmp_path / "stat.csv")


# MOSI's pickle


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / mosi.FILE).write_bytes(pickle.dumps({"train": Trap(), "valid": {}, "test": {}}))
    with pytest.raises(DataError, match=r"refused or damaged: it wants to load .*mkdir"):
        mosi.scan(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_arrays_of_numpy_1_and_of_every_protocol_are_read(samples, tmp_path):
    content = pickle.loads((samples / "mosi" / mosi.FILE).read_bytes())
    expected = mosi.scan(samples / "mosi").clips[0].sources["audio"]
    for protocol in (2, 3, 4, 5):
        written = pickle.dumps(content, protocol)
        old = written.replace(b"numpy._core", b"numpy.core") if protocol < 4 else written
        (tmp_path / mosi.FILE).write_bytes(old)
        np.testing.assert_array_equal(mosi.scan(tmp_path).clips[0].sources["audio"], expected)


def test_mosi_keeps_its_split_and_its_classes(samples):
    found = mosi.scan(samples / "mosi")
    content = pickle.loads((samples / "mosi" / mosi.FILE).read_bytes())
    labels = [label for part in content.values() for label in part["regression_labels"]]
    assert [clip.label for clip in found.clips] == [int(label >= 0) for label in labels]
    for seed in (0, 1):
        split = draw_split(found.clips, seed)
        assert [len(part) for part in split] == [30, 10, 10]
        assert split.test.tolist() == list(range(40, 50))


def test_mosi_with_wrong_content(samples, tmp_path):
    content = pickle.loads((samples / "mosi" / mosi.FILE).read_bytes())
    content["train"]["regression_labels"][0] = 7
    content["train"]["audio"][1, 0, 0] = -np.inf
    (tmp_path / mosi.FILE).write_bytes(pickle.dumps(content))
    found = mosi.scan(tmp_path)
    (problem,) = found.problems
    assert problem.name == "train/train$_$0 (sentiment 7.0)"
    assert found.clips[0].sources["audio"][0, 0] == 0
    for field, value, message in (
        ("id", ["one"], "10 labels and 1 ids"),
        ("audio", [[1], [2, 3]], "no array of numbers"),
        ("vision", np.zeros((9, 6, 7)), r"10 labels and features .*\(9, 6, 7\)"),
    ):
        changed = content | {"test": content["test"] | {field: value}}
        (tmp_path / mosi.FILE).write_bytes(pickle.dumps(changed))
        with pytest.raises(DataError, match=message):
            mosi.scan(tmp_path)
    del content["test"]["vision"]
    (tmp_path / mosi.FILE).write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="test has no vision"):
        mosi.scan(tmp_path)
    whole = pickle.dumps(content)
    for damaged in (b"", b"no pickle", whole[:-50], pickle.dumps([1]), pickle.dumps({"train": 1})):
        (tmp_path / mosi.FILE).write_bytes(damaged)
        with pytest.raises(DataError, match=r"refused or damaged|expected a dictionary"):
            mosi.scan(tmp_path)


# Sound


@pytest.mark.parametrize("rate", [16_000, 22_050])
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_filter_banks_equal_those_of_a_second_implementation(rate):
    """The Kaldi options of the transformers library, in NumPy."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    draw = np.random.default_rng(0)
    time = np.arange(rate) / rate
    samples = 0.3 * np.sin(2 * np.pi * 700 * time) + 0.01 * draw.normal(size=rate)
    samples = samples.astype(np.float32)
    window, hop = rate * 25 // 1000, rate // 100
    size = 1 << (window - 1).bit_length()
    mels = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=128,
        min_frequency=20.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    expected = spectrogram(
        samples,
        window_function(window, "hann", periodic=False),
        frame_length=window,
        hop_length=hop,
        fft_length=size,
        center=False,
        power=2.0,
        preemphasis=0.97,
        mel_filters=mels,
        log_mel="log",
        mel_floor=1.1920929e-07,
        remove_dc_offset=True,
    ).T
    np.testing.assert_allclose(kaldi_filter_bank(samples, rate), expected, atol=2e-3)


def write_wave(path, samples, rate=16_000):
    import soundfile

    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def test_a_filter_bank_is_centred_padded_and_normalised(tmp_path):
    wave = 0.1 * np.random.default_rng(0).normal(size=4000)
    bank = filter_bank(write_wave(tmp_path / "a.wav", wave), 50)
    assert bank.shape == (50, 128)
    assert bank.dtype == np.float32
    plain = kaldi_filter_bank((wave - wave.mean()).astype(np.float32), 16_000)
    assert len(plain) == 23  # whole windows of 400 samples, every 160
    expected = (plain + 4.503877) / (2 * 5.141276)
    np.testing.assert_allclose(bank[:23], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bank[23:], 4.503877 / (2 * 5.141276), rtol=1e-6)
    np.testing.assert_array_equal(filter_bank(tmp_path / "a.wav", 10), bank[:10])
    moved = filter_bank(write_wave(tmp_path / "b.wav", wave + 0.5), 50)
    np.testing.assert_allclose(moved, bank, atol=1e-3)
    stereo = filter_bank(write_wave(tmp_path / "c.wav", np.stack([wave, wave], 1)), 50)
    np.testing.assert_allclose(stereo, bank, atol=1e-5)


def test_sounds_that_are_none(tmp_path):
    with pytest.raises(DataError, match="too short for one window: 10 samples"):
        filter_bank(write_wave(tmp_path / "a.wav", np.zeros(10)), 50)
    path = write_wave(tmp_path / "b.wav", np.zeros(4000))
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(DataError, match="cut off: 8000 bytes of 16"):
        filter_bank(path, 50)
    piped = bytearray(path.read_bytes())
    piped[4:8] = b"\xff\xff\xff\xff"  # a program that wrote to a pipe does not know the size
    path.write_bytes(piped)
    assert filter_bank(path, 5).shape == (5, 128)


# Frames


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 10, 11, 75, 300])
def test_frames_are_picked_from_equal_segments(count):
    middle = pick(count, 3, None)
    drawn = {tuple(pick(count, 3, np.random.default_rng(seed))) for seed in range(200)}
    for frames in (middle, *drawn):
        assert list(frames) == sorted(frames)
        assert all(0 <= frame < count for frame in frames)
        if count >= 3:
            bounds = [segment * count // 3 for segment in range(4)]
            assert all(bounds[k] <= frame < bounds[k + 1] for k, frame in enumerate(frames))
    if count >= 3:
        lengths = [(k + 1) * count // 3 - k * count // 3 for k in range(3)]
        seen = [len({frames[k] for frames in drawn}) for k in range(3)]
        assert all(n == length for n, length in zip(seen, lengths, strict=True) if length < 20)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("count", range(1, 60))
def test_evaluation_sees_the_same_frames_of_the_kept_ones(count, number):
    frames = kept(count, number)
    assert len(frames) == min(count, 3 * number)
    assert [frames[place] for place in pick(len(frames), number, None)] == pick(count, number, None)


@pytest.mark.parametrize("aspect", [0.2, 0.75, 1.0, 4 / 3, 5.0])
def test_random_boxes_have_the_sizes_of_the_usual_crop(aspect):
    boxes = [random_box(aspect, np.random.default_rng(seed)) for seed in range(300)]
    areas, shapes = [], []
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1 + 1e-9
        assert 0 <= top < bottom <= 1 + 1e-9
        areas.append((right - left) * (bottom - top))
        shapes.append((right - left) * aspect / (bottom - top))
    assert min(areas) >= 0.08 - 1e-9
    assert min(shapes) >= 3 / 4 - 1e-9
    assert max(shapes) <= 4 / 3 + 1e-9
    if aspect == 1:
        assert np.mean(areas) == pytest.approx(0.51, abs=0.06)  # large ones fit less often
        assert np.mean([left / (1 - right + left) for left, _, right, _ in boxes]) == pytest.approx(
            0.5, abs=0.06
        )


def test_resizing_a_box_keeps_what_is_in_it():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[5:15, 10:30] = (200, 100, 50)
    inside = resize(picture, 8, Box(0.25, 0.25, 0.75, 0.75))
    np.testing.assert_array_equal(inside, np.broadcast_to([200, 100, 50], (8, 8, 3)))
    assert resize(picture, 8)[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(resize(picture[:20, :20], 20), picture[:20, :20])


def test_two_channels_are_resized_one_by_one():
    """Not as colour and opacity, which would mix them."""
    flow = np.random.default_rng(0).integers(0, 255, size=(9, 12, 2)).astype(np.uint8)
    for channel in range(2):
        alone = Image.fromarray(np.ascontiguousarray(flow[..., channel]))
        expected = np.asarray(alone.resize((5, 5), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(resize(flow, 5)[..., channel], expected)


class Drawn:
    """Pictures in memory: the number of each in all its pixels, but for a gradient to the right."""

    def __init__(self, count, channels):
        ramp = np.arange(16, dtype=np.uint8)[None, :, None]
        self.pictures = [
            np.broadcast_to(ramp + 20 * number, (16, 16, channels)) for number in range(count)
        ]

    def __len__(self):
        return len(self.pictures)

    def picture(self, index):
        return self.pictures[index]

    def aspect(self):
        return 1.0


def test_a_view_in_evaluation_is_the_middle_frames_whole():
    seen = view(Drawn(9, 3), 16, 3, None)
    assert seen.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(seen[:, 0, 0, 0], [20, 80, 140])
    np.testing.assert_array_equal(seen[0, 0, 0], np.arange(16) + 20)


def test_in_training_frames_share_their_box_and_their_flip():
    flipped = 0
    for seed in range(20):
        seen = view(Drawn(3, 3), 16, 3, np.random.default_rng(seed)).astype(int)
        steps = np.diff(seen[:, 0, 0], axis=1)
        assert (steps >= 0).all() or (steps <= 0).all()
        np.testing.assert_array_equal(seen[1] - seen[0], 20)
        flipped += bool((steps < 0).any())
    assert 5 < flipped < 15


def test_a_mirrored_flow_goes_the_other_way():
    for seed in range(10):
        seen = view(Drawn(3, 2), 16, 3, np.random.default_rng(seed), flow=True).astype(int)
        right, down = seen[0, 0], seen[0, 1]
        mirrored = np.diff(down[0]).min() < 0
        np.testing.assert_array_equal(right, 255 - down if mirrored else down)


def test_pictures_that_are_none(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.jpg is not a picture"):
        read_picture(tmp_path / "a.jpg", "RGB")
    Image.new("L", (4, 4)).save(tmp_path / "u.png")
    Image.new("L", (4, 5)).save(tmp_path / "v.png")
    for folder, source in (("u", "u.png"), ("v", "v.png")):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / source, tmp_path / folder / "1.png")
    pair = PictureFiles(Frames((tmp_path / "u", tmp_path / "v"), ("1.png",)))
    with pytest.raises(DataError, match="u and v differ in size"):
        pair.picture(0)


# Splits


def named(labels):
    return [Clip(f"clip-{number}", label, {}) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(7442, (5209, 744, 1489)), (90688, (63481, 9069, 18138)), (5338, (3736, 534, 1068))],
)
def test_splits_have_the_counts_of_table_5(count, expected):
    clips = named([number % 3 for number in range(count)])
    split = draw_split(clips, 0)
    assert tuple(map(len, split)) == expected
    together = np.concatenate(split)
    assert sorted(together.tolist()) == list(range(count))
    for part in split:
        shares = np.bincount([clips[place].label for place in part]) / len(part)
        np.testing.assert_allclose(shares, 1 / 3, atol=0.01)


def test_a_split_depends_on_its_seed_alone():
    clips = named([number % 3 for number in range(60)])
    assert all(map(np.array_equal, draw_split(clips, 1), draw_split(clips, 1)))
    assert not np.array_equal(draw_split(clips, 1).test, draw_split(clips, 2).test)


def test_a_saved_split_is_used_again_whatever_the_order(tmp_path):
    clips = named([number % 3 for number in range(60)])
    first = saved_split(clips, 0, tmp_path / "split.json")
    again = saved_split(clips[::-1], 1, tmp_path / "split.json")
    for before, after in zip(first, again, strict=True):
        assert {clips[p].name for p in before} == {clips[::-1][p].name for p in after}
    with pytest.raises(DataError, match=r"1 of them are not usable now \(clip-5\), 0 are new"):
        saved_split([*clips[:5], *clips[6:]], 0, tmp_path / "split.json")


def test_a_class_with_too_few_clips_is_named():
    with pytest.raises(DataError, match="fewest: 1 of class 9"):
        draw_split(named([0] * 20 + [9]), 0)


# Lists as they come


LISTED = {
    "cremad": ("train_split.csv", "val.csv", "test.csv"),
    "kinetics-sounds": ("videos/train.txt", "videos/val.txt"),
    "ucf101": ("trainlist01_new.txt", "testlist01_new.txt"),
}


def quoted(line, separator):
    return (separator or " ").join(f'"{cell}"' for cell in line.split(separator))


@pytest.mark.parametrize("change", ["bare", "quoted", "bare and quoted", "other ends", "wide"])
@pytest.mark.parametrize("name", LISTED)
def test_a_list_is_read_alike_in_every_spelling(copy, name, change):
    root = copy(name)
    before = paper_data(name).scan(root)
    separator = "," if name == "cremad" else None
    for file in LISTED[name]:
        lines = (root / file).read_text().splitlines()
        if "bare" in change:
            del lines[0]
        if "quoted" in change:
            lines = [quoted(line, separator) for line in lines]
        if change == "wide":
            lines = [(separator or "\t").join(f"  {c} " for c in x.split(separator)) for x in lines]
        end = "\r\n" if change == "other ends" else "\n"
        (root / file).write_bytes((end.join(lines) + end + end).encode("utf-8-sig"))
    after = paper_data(name).scan(root)
    assert not after.problems
    assert after.clips == before.clips


@pytest.mark.parametrize("name", LISTED)
def test_a_first_line_that_names_a_clip_is_no_header_whatever_its_label(copy, name):
    root = copy(name)
    file = root / LISTED[name][0]
    lines = file.read_text().splitlines()[1:]
    label = lines[0].replace(",", " ").split()[-1]
    lines[0] = lines[0].removesuffix(label) + "HAPPY"
    file.write_text("\n".join(lines))
    found = paper_data(name).scan(root)
    assert len(found.clips) == 29
    assert "HAPPY" in found.problems[0].name


def test_names_of_classes_may_be_in_quotes(copy):
    root = copy("cremad")
    before = paper_data("cremad").scan(root).clips
    lines = (root / "stat.csv").read_text(encoding="utf-8-sig").splitlines()
    (root / "stat.csv").write_text("\n".join(quoted(line, ",") for line in lines))
    assert paper_data("cremad").scan(root).clips == before


def test_a_cell_in_quotes_may_hold_the_separator_and_quotes(tmp_path):
    file = tmp_path / "list"
    file.write_text('"a, ""b""", c\n"",d\n')
    assert list(table(file, ",", 2)) == [['a, "b"', "c"], ["", "d"]]
    file.write_text('"a b"\tc\n')
    assert list(table(file, None, 2)) == [["a b", "c"]]


def test_the_names_of_classes_may_have_a_header(copy):
    root = copy("cremad")
    before = paper_data("cremad").scan(root)
    lines = (root / "stat.csv").read_text(encoding="utf-8-sig").splitlines()
    (root / "stat.csv").write_text("\n".join(["emotion,count", *lines]))
    assert paper_data("cremad").scan(root) == before


def test_a_quote_that_does_not_end_is_named_with_its_line(copy):
    root = copy("cremad")
    file = root / "val.csv"
    lines = file.read_text().splitlines()
    lines[2] = f'"{lines[2]}'
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"val\.csv, line 3: expected 2 columns"):
        paper_data("cremad").scan(root)


def test_a_text_may_hold_what_ends_a_line_elsewhere(copy):
    root = copy("food101")
    file = root / "train.jsonl"
    recipe = json.loads(file.read_text().splitlines()[0])
    recipe["text"] = "a sour\u2028dish\x85"
    lines = [json.dumps(recipe, ensure_ascii=False), *file.read_text().splitlines()[1:]]
    file.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    found = paper_data("food101").scan(root)
    assert len(found.clips) == 30
    assert found.clips[0].sources["text"] == recipe["text"]


def test_hidden_files_and_folders_are_no_frames(copy):
    root = copy("ucf101")
    before = paper_data("ucf101").scan(root).clips
    name = before[0].name
    for folder in ("frames_rgb", "flows_u"):
        (root / folder / name / "._00001.jpg").write_bytes(b"attributes")
        (root / folder / name / "more.jpg").mkdir()
    assert paper_data("ucf101").scan(root).clips == before
    assert problems("ucf101", root) == []


# Reading and the cache


def readers(samples, name, tmp_path, monkeypatch):
    """Clips, and a reader from the files and one from the cache."""
    monkeypatch.setattr("benchmarks.paper.datasets.store.BLOCK", 8)
    data = paper_data(name)
    clips = data.scan(samples / name).clips[:20]
    stores = build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)
    return (
        clips,
        Reader(data.modalities, SMALL, words),
        Reader(data.modalities, SMALL, words, stores),
    )


def words(text, truncation, max_length):
    assert truncation
    return {"input_ids": [2, *map(len, text.split()), 3][:max_length]}


@pytest.mark.parametrize("name", ["cremad", "ucf101", "food101"])
def test_the_cache_gives_what_the_files_give(samples, name, tmp_path, monkeypatch):
    clips, files, cache = readers(samples, name, tmp_path, monkeypatch)
    again = pickle.loads(pickle.dumps(cache))  # as a worker process gets it
    for place in (0, 7, 8, 19):
        expected = files.read(clips[place], place)
        for reader in (cache, again):
            seen = reader.read(clips[place], place)
            assert all(bool((seen[m] == expected[m]).all()) for m in expected)
    for modality in ("video", "rgb", "flow", "image"):
        if modality in clips[0].sources:
            draws = [np.random.default_rng(seed) for seed in (1, 1)]
            one = files.read(clips[0], 0, draws[0])[modality].float()
            other = cache.read(clips[0], 0, draws[1])[modality].float()
            assert (one - other).abs().mean() < 40  # the same crop, softer


def test_a_stopped_cache_goes_on_and_a_changed_file_makes_a_new_one(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.paper.datasets.store.BLOCK", 8)
    data, root = paper_data("food101"), shutil.copytree(samples / "food101", tmp_path / "data")
    clips = data.scan(root).clips[:20]
    build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)
    (folder,) = (tmp_path / "cache" / "food101").iterdir()
    (folder / "00001.json").unlink()
    filled = []
    monkeypatch.setattr(
        "benchmarks.paper.datasets.store.joblib.delayed",
        lambda _: lambda *given: (filled.append, (given[4],), {}),
    )
    with pytest.raises(FileNotFoundError):  # nothing was written
        build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)
    assert filled == [8]
    monkeypatch.undo()
    os.utime(clips[0].sources["image"], (1, 1))
    build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)
    assert len(list((tmp_path / "cache" / "food101").iterdir())) == 2


def cached(samples, tmp_path):
    """A cache in blocks of 8 clips, its folder, and how to open it again."""
    data = paper_data("cremad")
    clips = data.scan(samples / "cremad").clips[:20]

    def build():
        return build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)

    build()
    (folder,) = (tmp_path / "cache" / "cremad").glob("video-*")
    return folder, build


@pytest.mark.parametrize("text", ["", "[1.0", "[]", "{}", '{"aspects": [1.0]}', '{"aspects": 3}'])
def test_a_damaged_mark_of_the_cache_is_named(samples, tmp_path, monkeypatch, text):
    monkeypatch.setattr("benchmarks.paper.datasets.store.BLOCK", 8)
    folder, build = cached(samples, tmp_path)
    (folder / "00001.json").write_text(text)
    with pytest.raises(DataError, match=r"00001\.json is damaged, delete it"):
        build()
    (folder / "00001.json").unlink()
    build()


@pytest.mark.parametrize("damage", ["empty", "short", "other", "no array", "gone", "half gone"])
def test_damaged_values_of_the_cache_are_named(samples, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("benchmarks.paper.datasets.store.BLOCK", 8)
    folder, build = cached(samples, tmp_path)
    file = folder / "values.npy"
    content = file.read_bytes()
    if "gone" in damage:
        file.unlink()
        if damage == "half gone":  # zeros in place of the blocks that are marked as built
            (folder / "00001.json").unlink()
    elif damage == "other":
        np.save(file, np.zeros((3, 4)))
    else:
        file.write_bytes({"empty": b"", "short": content[:-100], "no array": b"x" * 500}[damage])
    with pytest.raises(DataError, match=r"values\.npy is damaged .*, delete its folder"):
        build()
    shutil.rmtree(folder)
    build()
    assert file.read_bytes() == content


def test_a_cache_that_another_process_begins_first_keeps_its_values(samples, tmp_path, monkeypatch):
    folder, build = cached(samples, tmp_path)
    content = (folder / "values.npy").read_bytes()
    shutil.rmtree(folder)
    write_whole = store.write_whole

    def too_late(file, write, **options):
        file.parent.mkdir()
        file.write_bytes(content)  # the other one has begun, and filled it
        write_whole(file, write, **options)

    monkeypatch.setattr(store, "write_whole", too_late)
    monkeypatch.setattr(store.joblib, "delayed", lambda _: 1 / 0)  # nothing is filled here
    with pytest.raises(ZeroDivisionError):
        build()
    assert (folder / "values.npy").read_bytes() == content


def test_the_room_of_a_cache_is_taken_before_it_is_filled(samples, tmp_path, monkeypatch):
    """A hole in a mapped file would kill the process that fills it."""
    reserved = []

    def reserve(file, size):
        reserved.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("midas_aug._files._reserve", reserve)
    data = paper_data("cremad")
    clips = data.scan(samples / "cremad").clips
    with pytest.raises(DataError, match=r"values\.npy cannot be written \(no space left"):
        build_stores(data, clips, SMALL, tmp_path / "cache", 1, QUIET)
    assert reserved == [128 + len(clips) * SMALL.sound * 128 * 4]
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": KEY}', '{"files": KEY, "broken": {"99": ["a", "b"]}}']
)
def test_a_damaged_outcome_of_the_check_is_named(copy, tmp_path, text):
    root, kept_in, data = copy("cremad"), tmp_path / "checked.json", paper_data("cremad")
    check(data, root, QUIET, kept_in)
    key = json.dumps(json.loads(kept_in.read_text())["files"])
    kept_in.write_text(text.replace("KEY", key))
    with pytest.raises(DataError, match=r"checked\.json is damaged, delete it"):
        check(data, root, QUIET, kept_in)


@pytest.mark.parametrize("text", ["", "{}", '{"train": [{}], "validation": [], "test": []}'])
def test_a_damaged_split_is_named(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=r"split\.json is damaged, delete it"):
        saved_split(named([0, 1, 2] * 20), 0, tmp_path / "split.json")


def test_what_a_batch_looks_like(samples):
    shapes = {
        "cremad": {"audio": (2, 1, 40, 128), "video": (2, 3, 3, 16, 16)},
        "ucf101": {"flow": (2, 3, 2, 16, 16), "rgb": (2, 3, 3, 16, 16)},
        "food101": {"text": (2, 5), "image": (2, 1, 3, 16, 16)},
        "mosi": {"text": (2, 6, 12), "audio": (2, 6, 5), "video": (2, 6, 7)},
    }
    for name, expected in shapes.items():
        data = paper_data(name)
        clips = data.scan(samples / name).clips
        reader = Reader(data.modalities, SMALL, words)
        batch = collate([reader.read(clips[place], place) for place in range(2)])
        assert {m: tuple(values.shape) for m, values in batch.items()} == expected
    reader = Reader({"text": "text"}, SMALL, words)
    texts = [Clip("a", 0, {"text": "a b c"}), Clip("b", 0, {"text": "d"})]
    batch = collate([reader.read(text, 0) for text in texts])
    assert batch["text"].tolist() == [[2, 1, 1, 1, 3], [2, 1, 3, 0, 0]]


def test_a_sample_may_be_larger(tmp_path):
    write_sample("cremad", tmp_path, Look(clips=3, width=20, height=10, frames=2, seconds=0.1))
    found = check(paper_data("cremad"), tmp_path, QUIET)
    assert len(found.clips) == 3
    assert PictureFiles(found.clips[0].sources["video"]).picture(1).shape == (10, 20, 3)
