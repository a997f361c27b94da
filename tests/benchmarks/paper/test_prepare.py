"""From videos to what `check` and `reproduce` read, on videos of a second or two."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import __main__
from benchmarks.common.errors import DataError
from benchmarks.common.records import at_work_on
from benchmarks.paper import ffmpeg as ffmpeg_module
from benchmarks.paper import prepare as prepare_module
from benchmarks.paper.datasets import kinetics_sounds, paper_data
from benchmarks.paper.datasets.audio import read_sound
from benchmarks.paper.datasets.check import check
from benchmarks.paper.datasets.frames import read_picture
from benchmarks.paper.ffmpeg import BrokenVideoError, Missing, extract, find_ffmpeg
from benchmarks.paper.prepare import prepare_clips, report

ROOT = Path(__file__).parents[3]
QUIET = Console(quiet=True)
CREMAD, KINETICS = paper_data("cremad"), paper_data("kinetics-sounds")
EMOTIONS = ("NEU", "HAP", "SAD")


@pytest.fixture(scope="module")
def ffmpeg():
    try:
        return find_ffmpeg()
    except DataError:
        pytest.skip("no ffmpeg: pip install imageio-ffmpeg")


def make_video(ffmpeg, path, seconds=1.3, *, sound=True, pictures=True, size="48x32", pitch=440):
    """A video whose picture is as bright as its second is late: 40, 80, 120, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [ffmpeg, "-v", "error", "-y"]
    if pictures:
        moving = f"color=gray:s={size}:r=30,geq=lum=40+40*floor(T):cb=128:cr=128"
        command += ["-f", "lavfi", "-t", str(seconds), "-i", moving]
    if sound:
        tone = f"sine=frequency={pitch}:sample_rate=44100"
        command += ["-f", "lavfi", "-t", str(seconds), "-i", tone]
    flash = path.suffix == ".flv"
    command += ["-c:v", "flv" if flash else "mpeg4", "-c:a", "adpcm_swf" if flash else "aac"]
    subprocess.run([*command, str(path)], check=True)


@pytest.fixture(scope="module")
def raw(ffmpeg, tmp_path_factory):
    """Videos as CREMA-D has them, ten of each of three classes; read only."""
    folder = tmp_path_factory.mktemp("raw")
    made = folder / "made.flv"
    make_video(ffmpeg, made)
    for number in range(30):
        name = f"{1001 + number}_DFA_{EMOTIONS[number % 3]}_XX.flv"
        (folder / "VideoFlash").mkdir(exist_ok=True)
        shutil.copy(made, folder / "VideoFlash" / name)
    made.unlink()
    return folder


@pytest.fixture
def three(raw, tmp_path):
    """Three of them, which may be damaged."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for video in sorted((raw / "VideoFlash").iterdir())[:3]:
        shutil.copy(video, folder)
    return folder


def state(root):
    """All files with their contents and times."""
    return {
        path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def unfinished(root):
    return list(root.rglob(".*.tmp"))


# All the way


def test_from_raw_videos_to_a_row_of_the_table(raw, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        __main__.main()
        return capsys.readouterr().out

    root = str(tmp_path / "cremad")
    printed = call("prepare", "cremad", "--root", root, "--videos", str(raw))
    assert "CREMA-D: 30 clips are whole (30 made now), 0 are not" in printed
    assert f"next: python -m benchmarks check cremad --root {root}" in printed
    assert "30 clips can be used, 0 cannot" in call("check", "cremad", "--root", root)
    for clip in CREMAD.scan(Path(root)).clips:
        assert EMOTIONS[clip.label] in clip.name
    out = str(tmp_path / "out")
    options = ["--out", out, "--rehearse", "--workers", "0", "--seeds", "0", "--method", "joint"]
    printed = call("reproduce", "cremad", "--root", root, *options)
    torch.use_deterministic_algorithms(False)
    assert "joint" in printed
    assert "60.28" in printed


def test_frames_are_the_first_of_each_second_and_sound_is_mono_at_16_khz(ffmpeg, tmp_path):
    make_video(ffmpeg, tmp_path / "a.mp4", 3.4, size="50x30")
    missing = Missing(tmp_path / "out" / "a.wav", tmp_path / "frames" / "a", "frame_%05d.jpg")
    extract(ffmpeg, tmp_path / "a.mp4", missing)
    frames = sorted(missing.folder.iterdir())
    assert [frame.name for frame in frames] == [f"frame_0000{place}.jpg" for place in (1, 2, 3, 4)]
    brightness = [read_picture(frame, "L").mean() for frame in frames]
    np.testing.assert_allclose(np.diff(brightness), 40 * 255 / 219, atol=4)
    assert read_picture(frames[0], "RGB").shape == (30, 50, 3)
    samples, rate = read_sound(missing.sound)
    assert rate == 16_000
    assert len(samples) / rate == pytest.approx(3.4, abs=0.1)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) / len(samples) * rate == pytest.approx(440, abs=2)
    assert missing.sound.read_bytes()[22:24] == b"\x01\x00"  # one channel


def test_kinetics_sounds_goes_where_its_lists_say(ffmpeg, tmp_path):
    root, videos = tmp_path / "ks", tmp_path / "raw videos"
    names = ["-a b:c_000010_000020", "50%d of it", "third.part.mp4"]
    if sys.platform == "win32":  # where no name has a colon
        names[0] = names[0].replace(":", " ")
    for name in names:
        make_video(ffmpeg, videos / "some class" / f"{name.removesuffix('.mp4')}.mp4")
    (root / "videos").mkdir(parents=True)
    train = [f'"{name}" 10 20 {label}' for label, name in enumerate(names[:2])]
    (root / "videos" / "train.txt").write_text("\n".join(["filename start end label", *train]))
    (root / "videos" / "val.txt").write_text(f"{names[2]} 0 10 2\n")
    prepared = prepare_clips(KINETICS, root, videos, 2, QUIET)
    assert (prepared.made, prepared.problems, prepared.unlisted) == (3, [], [])
    found = check(KINETICS, root, QUIET)
    assert not found.problems
    assert [(clip.name, clip.label) for clip in found.clips] == list(
        zip(names, range(3), strict=True)
    )


HEADER = "label,youtube_id,time_start,time_end,split,is_cc"


def test_lists_of_kinetics_sounds_are_made_of_the_annotations_of_kinetics(ffmpeg, tmp_path):
    root, videos = tmp_path / "ks", tmp_path / "k400"
    make_video(ffmpeg, videos / "train" / "AbC-1_x_000005_000015.mp4")
    for name in ("val/-d_000100_000110", "train/E_000000_000010", "train/other_000001_000011"):
        (videos / name).parent.mkdir(exist_ok=True)
        shutil.copy(videos / "train" / "AbC-1_x_000005_000015.mp4", videos / f"{name}.mp4")
    root.mkdir()
    train = ["tap dancing,AbC-1_x,5,15,train,0", '"playing drums",E,0,10,train,0']
    train += ["tickling,vanished,7,17,train,0", "yoga,other,1,11,train,0"]
    (root / "train.csv").write_text("\n".join([HEADER, *train]))
    (root / "val.csv").write_text("\n".join([HEADER, "tickling,-d,100,110,val,0"]))
    prepared = prepare_clips(KINETICS, root, videos, 1, QUIET)
    assert (prepared.made, prepared.problems) == (3, [])
    assert prepared.unlisted == ["other_000001_000011"]
    clips = check(KINETICS, root, QUIET).clips
    assert [(clip.name, kinetics_sounds.ACTIONS[clip.label]) for clip in clips] == [
        ("AbC-1_x_000005_000015", "tap dancing"),
        ("E_000000_000010", "playing drums"),
        ("-d_000100_000110", "tickling"),
    ]
    assert (root / "videos" / "val.txt").read_text().splitlines() == [
        "filename start end label",
        "-d_000100_000110 100 110 30",
    ]


def test_annotations_that_do_not_fit_are_told(three, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "val.csv").write_text(f"{HEADER}\ntickling,a,1,11,val,0\n")
    (root / "train.csv").write_text(f"{HEADER}\ntickling,a,1,x,train,0\n")
    with pytest.raises(DataError, match=r"train\.csv: expected times in seconds, got '1', 'x'"):
        prepare_clips(KINETICS, root, three, 1, QUIET)
    (root / "train.csv").write_text(f"{HEADER}\n")
    with pytest.raises(DataError, match=r"none of 3 videos is a clip of train\.csv or val\.csv"):
        prepare_clips(KINETICS, root, three, 1, QUIET)
    assert not (root / "videos").exists()


def test_the_actions_are_as_many_as_the_classes_and_in_order():
    assert len(kinetics_sounds.ACTIONS) == len(set(kinetics_sounds.ACTIONS)) == KINETICS.num_classes
    assert list(kinetics_sounds.ACTIONS) == sorted(kinetics_sounds.ACTIONS)


def test_sounds_that_a_data_set_comes_with_are_kept(three, tmp_path):
    root = tmp_path / "root"
    (root / "AudioWAV").mkdir(parents=True)
    name = min(three.iterdir()).stem
    ffmpeg_module.extract(
        find_ffmpeg(), three / f"{name}.flv", Missing(root / "AudioWAV" / f"{name}.wav", None, "")
    )
    before = state(root)
    assert prepare_clips(CREMAD, root, three, 1, QUIET).made == 3
    assert before.items() <= state(root).items()


# Going on


def test_a_second_run_makes_what_is_missing_or_broken_and_nothing_else(three, tmp_path):
    root = tmp_path / "root"
    first, second, third = sorted(video.stem for video in three.iterdir())
    assert prepare_clips(CREMAD, root, three, 2, QUIET).made == 3
    whole = state(root)
    again = prepare_clips(CREMAD, root, three, 2, QUIET)
    assert (again.made, again.found_whole) == (0, 3)
    assert state(root) == whole

    sound = root / "AudioWAV" / f"{first}.wav"
    sound.write_bytes(sound.read_bytes()[:-100])
    frame = root / "visual_frames" / second / "00001.jpg"
    frame.write_bytes(frame.read_bytes()[:-20])
    shutil.rmtree(root / "visual_frames" / third)
    (root / "visual_frames" / third).mkdir()
    again = prepare_clips(CREMAD, root, three, 2, QUIET)
    assert (again.made, again.found_whole) == (3, 0)
    assert {path: held for path, (held, _) in state(root).items()} == {
        path: held for path, (held, _) in whole.items()
    }
    unchanged = Path("visual_frames", first, "00001.jpg"), Path("AudioWAV", f"{second}.wav")
    assert all(state(root)[path] == whole[path] for path in unchanged)


KILLED = """
import os, signal
from pathlib import Path
from rich.console import Console
from benchmarks.paper.datasets import paper_data
from benchmarks.paper import ffmpeg, prepare
number, stage, steps = {number}, {stage!r}, []
replace, run = os.replace, ffmpeg.subprocess.run

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def replaced(source, target):
    of_a_clip = Path(target).parent.name in ("AudioWAV", "visual_frames")
    steps.extend([target] * of_a_clip)
    if of_a_clip and len(steps) == number and stage == "whole":
        die()
    replace(source, target)
    if of_a_clip and len(steps) == number and stage == "placed":
        die()

def half(command, **options):
    done = run(command, **options)
    steps.append(command)
    if len(steps) == number:
        for file in Path({root!r}).rglob(".*.tmp"):
            if file.is_file():
                os.truncate(file, file.stat().st_size // 2)
        die()
    return done

if stage == "half":
    ffmpeg.subprocess.run = half
else:
    os.replace = replaced
prepare.prepare_clips(
    paper_data("cremad"), Path({root!r}), Path({videos!r}), 1, Console(quiet=True)
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize(
    ("number", "stage"), [(2, "half"), (3, "whole"), (3, "placed"), (4, "whole"), (4, "placed")]
)
def test_a_killed_command_goes_on(three, tmp_path, number, stage):
    """A clip is two steps: its sound is put in its place, then its frames."""
    root = tmp_path / "root"
    program = KILLED.format(number=number, stage=stage, root=str(root), videos=str(three))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert unfinished(root) or (number, stage) == (4, "placed")
    for file in root.rglob("[!.]*.wav"):
        read_sound(file)  # what is in its place is whole
    again = prepare_clips(CREMAD, root, three, 1, QUIET)
    assert not again.problems
    assert again.found_whole >= 1
    assert again.made + again.found_whole == 3
    assert not unfinished(root)
    assert not check(CREMAD, root, QUIET).problems


def test_an_interrupted_command_leaves_the_rest_alone(three, tmp_path, monkeypatch):
    begun = []

    def interrupted(work, name):
        begun.append(name)
        if len(begun) == 1:
            raise KeyboardInterrupt
        threading.Event().wait(0.05)
        return "made"

    monkeypatch.setattr(prepare_module, "_prepare_clip", interrupted)
    for number in range(50):
        (three / f"{2000 + number}_DFA_NEU_XX.flv").touch()
    with pytest.raises(KeyboardInterrupt):
        prepare_clips(CREMAD, tmp_path / "root", three, 1, QUIET)
    assert len(begun) < 10


# What goes wrong


def test_videos_that_cannot_be_made_are_listed_and_leave_nothing_behind(
    ffmpeg, three, tmp_path, capsys
):
    broken, silent, dark, cut, twice = (f"{number}_DFA_ANG_XX" for number in range(2001, 2006))
    (three / f"{broken}.mp4").write_bytes(b"no video at all" * 100)
    make_video(ffmpeg, three / f"{silent}.mp4", sound=False)
    make_video(ffmpeg, three / f"{dark}.mp4", pictures=False)
    make_video(ffmpeg, three / f"{cut}.flv", 4)
    whole = (three / f"{cut}.flv").read_bytes()
    (three / f"{cut}.flv").write_bytes(whole[: len(whole) // 3])
    (three / "more").mkdir()
    for folder in (three, three / "more"):
        make_video(ffmpeg, folder / f"{twice}.mp4")
    root = tmp_path / "root"
    arguments = ["prepare", "cremad", "--root", str(root), "--videos", str(three)]
    with pytest.raises(SystemExit) as stopped:
        __main__.main(arguments)
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "3 clips are whole (3 made now), 5 are not" in printed
    assert "4 that could not be made: " in printed
    failed = (root / prepare_module.FAILED).read_text().splitlines()
    assert str(root / prepare_module.FAILED) in printed
    assert len(failed) == 5
    by_name = {
        name: line for line in failed for name in (broken, silent, dark, cut, twice) if name in line
    }
    assert "Invalid data found when processing input" in by_name[broken]
    assert f"{silent} (the video has no sound)" in by_name[silent]
    assert f"{dark} (the video has no pictures)" in by_name[dark]
    assert " of 4.0 s)" in by_name[cut]
    assert by_name[twice] == f"with more than one video: {twice}"
    assert not unfinished(root)
    assert not any((root / "visual_frames" / name).exists() for name in by_name)
    assert not any((root / "AudioWAV" / f"{name}.wav").exists() for name in by_name)
    for name in by_name:
        for file in three.rglob(f"{name}.*"):
            file.unlink()
    for name in by_name:
        make_video(ffmpeg, three / f"{name}.mp4")
    __main__.main(arguments)
    assert not (root / prepare_module.FAILED).exists()


def test_a_video_that_git_lfs_has_not_fetched_is_called_that(ffmpeg, tmp_path):
    video = tmp_path / "a.flv"
    video.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BrokenVideoError, match=r"a pointer of Git LFS .*: git lfs pull"):
        extract(ffmpeg, video, Missing(None, tmp_path / "frames", "%d.jpg"))


def test_a_program_or_a_video_that_cannot_be_read_is_told(ffmpeg, tmp_path):
    missing = Missing(None, tmp_path / "frames", "%d.jpg")
    (tmp_path / "ffmpeg").touch()
    with pytest.raises(DataError, match=r"ffmpeg cannot be run .*; install it with"):
        extract(str(tmp_path / "ffmpeg"), tmp_path / "a.flv", missing)
    with pytest.raises(BrokenVideoError, match="No such file"):
        extract(ffmpeg, tmp_path / "a.flv", missing)


def test_clips_without_a_video_and_videos_without_a_clip_are_told(three, tmp_path):
    root = tmp_path / "root"
    prepare_clips(CREMAD, root, three, 1, QUIET)
    more = [f"{3000 + number}_DFA_SAD_XX" for number in range(12)]
    for name in more:
        shutil.copy(min(three.iterdir()), three / f"{name}.flv")
    with (root / "val.csv").open("a") as file:
        file.write("9999_DFA_SAD_XX,SAD\n../up,SAD\n")
    prepared = prepare_clips(CREMAD, root, three, 1, QUIET)
    text = report(CREMAD, root, prepared)
    assert f"videos that no list names: 12 ({', '.join(more[:10])}, …)" in text
    assert "1 without a video: 9999_DFA_SAD_XX" in text
    assert "1 with a name that is no file name: ../up" in text


def test_what_stops_it_before_it_begins(three, tmp_path, monkeypatch):
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"UCF-101 cannot be prepared.*cremad, kinetics-sounds"):
        prepare_clips(paper_data("ucf101"), root, three, 1, QUIET)
    with pytest.raises(DataError, match="at least one worker, got 0"):
        prepare_clips(CREMAD, root, three, 0, QUIET)
    with pytest.raises(DataError, match=r"no folder .*nowhere.*--videos"):
        prepare_clips(CREMAD, root, tmp_path / "nowhere", 1, QUIET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no lists in .*root and no videos in .*empty"):
        prepare_clips(CREMAD, root, tmp_path / "empty", 1, QUIET)
    with pytest.raises(
        DataError, match=r"neither videos/train\.txt .* nor train\.csv and val\.csv"
    ):
        prepare_clips(KINETICS, tmp_path / "empty", three, 1, QUIET)
    (three / "holiday.mp4").touch()
    with pytest.raises(DataError, match=r"names such as 1001_DFA_ANG_XX, got holiday and 0 more"):
        prepare_clips(CREMAD, root, three, 1, QUIET)
    (three / "holiday.mp4").unlink()
    if sys.platform != "win32":  # which has no locks
        busy = pytest.raises(DataError, match=r"another process .*; wait for it$")
        with at_work_on(root, root / ".prepare.lock"), busy:
            prepare_clips(CREMAD, root, three, 1, QUIET)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(DataError, match=r"no ffmpeg on the PATH.*pip install imageio-ffmpeg"):
        prepare_clips(CREMAD, root, three, 1, QUIET)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_an_ffmpeg_of_the_system_comes_first_and_a_full_disk_stops_everything(
    three, tmp_path, monkeypatch
):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'av_interleaved_write_frame: No space left on device' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_ffmpeg() == str(program)
    with pytest.raises(DataError, match="no space left on device"):
        prepare_clips(CREMAD, tmp_path / "root", three, 1, QUIET)
    assert not unfinished(tmp_path / "root")
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(BrokenVideoError, match="did not say why"):
        extract(str(program), min(three.iterdir()), Missing(None, tmp_path / "frames", "%d.jpg"))
    program.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(BrokenVideoError, match="no frame"):
        extract(str(program), min(three.iterdir()), Missing(None, tmp_path / "frames", "%d.jpg"))


def test_a_pipe_gets_plain_lines_alone(three, tmp_path):
    console = Console(file=io.StringIO())
    prepared = prepare_clips(CREMAD, tmp_path / "root", three, 1, console)
    assert console.file.getvalue().strip() == ""
    assert "3 clips are whole" in report(CREMAD, tmp_path / "root", prepared)
