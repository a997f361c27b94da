"""Sound and frames out of a video, with ffmpeg as a process of its own; whole or not at all."""

import errno
import math
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.errors import DataError
from benchmarks.common.records import unwritable
from benchmarks.paper.datasets.audio import read_sound
from benchmarks.paper.datasets.base import list_frames

RATE = 16_000  # samples of sound a second: the rate of CREMA-D's own
FRAMES = 1  # pictures a second, the first of each
SLACK = 1.0  # seconds by which sound or frames may be shorter or longer than the clip
INSTALL = "install it with the system's packages, or into Python's: pip install imageio-ffmpeg"
FULL = "No space left on device"
LFS = b"version https://git-lfs"  # what a file of it begins with that was not pulled
BESIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


class BrokenVideoError(DataError):
    """A video that has not what is asked for, or cannot be read to its end."""


class Missing(NamedTuple):
    """What of a clip has to be made.

    Attributes:
        sound: Its WAV file, or None.
        folder: Of its frames, or None.
        frame: What the pictures are called, by their number from 1, as ffmpeg reads it.
    """

    sound: Path | None
    folder: Path | None
    frame: str


def find_ffmpeg() -> str:
    """The program: that of the system, or the one of the package imageio-ffmpeg.

    Raises:
        DataError: There is neither; says how to install one.
    """
    if program := shutil.which("ffmpeg"):
        return program
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ModuleNotFoundError, RuntimeError):  # a package without the program, on some systems
        raise DataError(f"there is no ffmpeg on the PATH; {INSTALL}") from None
    return str(program)


def extract(ffmpeg: str, video: Path, missing: Missing) -> None:
    """Make the missing parts of a clip beside their places, look at them, and put them there.

    The sound is one channel of 16-bit samples. Of the pictures, the first of each second is kept,
    in its size.

    Raises:
        BrokenVideoError: It has not what is asked for, or cannot be read to its end.
        DataError: The files cannot be written. Nothing is left behind in either case.
    """
    sound, folder = (None if place is None else _beside(place) for place in missing[:2])
    try:
        for place in missing[:2]:
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
        if folder is not None:
            folder.mkdir()
        told = _run(ffmpeg, video, Missing(sound, folder, missing.frame))
        _look_at(sound, folder, _seconds(told))
        if sound is not None and missing.sound is not None:
            os.replace(sound, missing.sound)
        if folder is not None and missing.folder is not None:
            _replace_folder(folder, missing.folder)
    except OSError as error:
        raise unwritable(Path(error.filename or video), error) from error
    finally:
        remove(sound, folder)


def remove_unfinished(*folders: Path) -> None:
    """Remove what processes that were killed have left in these folders."""
    for folder in folders:
        if folder.is_dir():
            remove(*(path for path in folder.iterdir() if BESIDE.fullmatch(path.name)))


def remove(*paths: Path | None) -> None:
    """Remove files and folders, as far as they are there."""
    for path in paths:
        if path is not None and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path is not None:
            path.unlink(missing_ok=True)


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")


def _replace_folder(new: Path, place: Path) -> None:
    """Put a folder in its place; a kill between the two steps leaves none there, to be made."""
    old = None
    if place.exists():
        old = _beside(place)
        os.replace(place, old)
    os.replace(new, place)
    remove(old)


def _run(ffmpeg: str, video: Path, wanted: Missing) -> str:
    """Run ffmpeg; what it said."""
    # The protocol is named, or a colon in a name would be taken for one.
    command = [ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-threads", "1"]
    command += ["-i", f"file:{video}"]
    if wanted.sound is not None:
        command += ["-map", "0:a:0", "-ac", "1", "-ar", str(RATE), "-c:a", "pcm_s16le"]
        command += ["-f", "wav", f"file:{wanted.sound}"]
    if wanted.folder is not None:
        second = f"floor(t*{FRAMES})"
        first = rf"isnan(prev_selected_t)+gt({second}\,floor(prev_selected_t*{FRAMES}))"
        # Numbered anew, or the writer would fill the time between two pictures with copies.
        filters = f"setpts=PTS-STARTPTS,select={first},setpts=N/({FRAMES}*TB)"
        pattern = f"{wanted.folder}".replace("%", "%%") + f"/{wanted.frame}"
        command += ["-map", "0:v:0", "-vf", filters, "-r", str(FRAMES), "-q:v", "2"]
        command += ["-f", "image2", f"file:{pattern}"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        raise DataError(f"{ffmpeg} cannot be run ({error.strerror}); {INSTALL}") from None
    if done.returncode == 0:
        return done.stderr
    if FULL in done.stderr:
        raise unwritable(video, OSError(errno.ENOSPC, FULL))
    if _begins_with(video, LFS):
        raise BrokenVideoError("a pointer of Git LFS in place of the video: git lfs pull")
    raise BrokenVideoError(_reason(done.stderr, wanted))


def _begins_with(file: Path, start: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(start)) == start
    except OSError:  # ffmpeg has said that it cannot be read
        return False


def _reason(told: str, wanted: Missing) -> str:
    """Why it failed: a stream that is not there, or the last thing that ffmpeg said."""
    streams = [line for line in told.splitlines() if re.match(r"\s*Stream #0:", line)]
    for kind, name, place in (
        ("Audio", "sound", wanted.sound),
        ("Video", "pictures", wanted.folder),
    ):
        if place is not None and streams and not any(f": {kind}:" in line for line in streams):
            return f"the video has no {name}"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines[-1] if lines else "ffmpeg failed and did not say why"


def _seconds(told: str) -> float | None:
    """How long the video says that it is; None if it does not."""
    found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", told)
    if found is None:
        return None
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _look_at(sound: Path | None, folder: Path | None, seconds: float | None) -> None:
    """Raise if the sound or the frames are not as long as the clip."""
    if sound is not None:
        try:
            samples, rate = read_sound(sound)
        except DataError as error:
            raise BrokenVideoError(f"its sound is {error}") from None
        length = len(samples) / rate
        if seconds is not None and abs(length - seconds) > SLACK:
            raise BrokenVideoError(f"{length:.1f} s of sound in a video of {seconds:.1f} s")
    if folder is not None:
        count = len(list_frames(folder).names)
        if count == 0:
            raise BrokenVideoError("no frame in the video can be read")
        if seconds is not None and abs(count - math.ceil(FRAMES * seconds)) > FRAMES * SLACK:
            raise BrokenVideoError(f"{count} frames of the {FRAMES} a second of {seconds:.1f} s")
