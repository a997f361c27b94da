"""Sound files as Kaldi filter banks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import DataError

MELS = 128
SHIFT_MS = 10.0
MEAN, STD = -4.503877, 5.141276  # of the filter banks of a large collection of sound
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of a WAV that was written to a pipe


def filter_bank(path: Path, frames: int) -> NDArray[np.float32]:
    """The logarithmic Kaldi filter bank of a sound file, normalised: ``(frames, 128)``.

    128 mel bands every 10 ms, Hanning window of 25 ms, no dither, at the file's own rate; the mean
    of the samples is subtracted first. A shorter sound goes on in zeros, a longer one is cut; then
    (x + 4.503877) / (2 · 5.141276).

    Raises:
        DataError: If the file is cut off, is no sound, or has none in it.
    """
    samples, rate = read_sound(path)
    bank = kaldi_filter_bank(samples - samples.mean(), rate)[:frames]
    padded = np.pad(bank, ((0, frames - len(bank)), (0, 0)))
    normal: NDArray[np.float32] = ((padded - MEAN) / (2 * STD)).astype(np.float32)
    return normal


def read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    """The samples of a sound file in -1 … 1, channels averaged, and its rate."""
    import soundfile

    with path.open("rb") as file:
        head = file.read(8)
    promised = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and promised not in UNKNOWN_SIZES:
        # libsndfile reads what there is of a truncated file, and says nothing.
        size = path.stat().st_size
        if promised + 8 > size:
            raise DataError(f"cut off: {size} bytes of {promised + 8}")
    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"not a sound that can be read: {error.error_string}") from None
    if len(channels) < rate * 0.025:
        raise DataError(f"too short for one window: {len(channels)} samples")
    samples: NDArray[np.float32] = channels.mean(axis=1)
    return samples, rate


def kaldi_filter_bank(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Log mel energies ``(T, 128)`` as Kaldi computes them; frames that are not whole are left out.

    Kaldi's own defaults hold for what is not said in `filter_bank`: pre-emphasis 0.97, bands from
    20 Hz up to half the rate, windows padded to a power of two.
    """
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.samp_freq = rate
    options.frame_opts.frame_shift_ms = SHIFT_MS
    options.frame_opts.window_type = "hanning"
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = MELS
    options.use_energy = False
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(rate, samples.tolist())
    bank.input_finished()
    rows = [bank.get_frame(number) for number in range(bank.num_frames_ready)]
    return np.stack(rows) if rows else np.zeros((0, MELS), np.float32)
