"""Spoken words as log-mel spectrograms, short ones for a small convolutional network."""

import io

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
MELS = 40
FRAMES = 100
WINDOW = 512  # 32 ms
HOP = 480  # 30 ms, so that 100 frames last 3 s
RANGE = 80.0  # dB


def log_mel(sound: bytes) -> NDArray[np.float32]:
    """Turn the bytes of a sound file into (40, 100): the power of 40 mel bands, every 30 ms, in dB.

    The loudest entry is 0 and silence is -80, so how loud a recording is makes no difference. A
    longer one is cut, a shorter one goes on in silence.
    """
    import soundfile
    from scipy.signal import resample_poly
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    channels, rate = soundfile.read(io.BytesIO(sound), dtype="float64", always_2d=True)
    wave = channels.mean(axis=1)
    if rate != RATE:
        factor = np.gcd(RATE, rate)
        wave = resample_poly(wave, RATE // factor, rate // factor)
    wave = wave[: HOP * (FRAMES - 1)]  # frames are centred on 0, HOP, 2 HOP, …
    wave = np.pad(wave, (0, HOP * (FRAMES - 1) - len(wave)))
    bands: NDArray[np.float64] = spectrogram(
        wave,
        window_function(WINDOW, "hann"),
        frame_length=WINDOW,
        hop_length=HOP,
        power=2.0,
        pad_mode="constant",
        mel_filters=mel_filter_bank(
            num_frequency_bins=WINDOW // 2 + 1,
            num_mel_filters=MELS,
            min_frequency=0.0,
            max_frequency=RATE / 2,
            sampling_rate=RATE,
        ),
        log_mel="dB",
    )
    levels: NDArray[np.float32] = np.maximum(bands - bands.max(), -RANGE).astype(np.float32)
    return levels
