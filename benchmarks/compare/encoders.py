"""An encoder for each kind of input, the same for all methods and small enough for one CPU core."""

from collections.abc import Sequence

from torch import nn

WIDTH = 64  # features a modality, as many as the paper's 512 are for its ResNets
HIDDEN = 128


def build_encoder(shape: Sequence[int]) -> nn.Module:
    """An encoder ``(N, *shape) -> (N, WIDTH)`` that ends in a ReLU.

    A vector (numbers, or the features of a frozen text encoder) takes an MLP, channels over time
    (a log-mel spectrogram, a motion sensor) a 1-d CNN, an image a 2-d CNN.

    Raises:
        ValueError: The shape is of none of these kinds.
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], HIDDEN), nn.ReLU(), *_last(HIDDEN))
    if len(shape) == 2:
        return nn.Sequential(
            *_conv1d(shape[0], 32, kernel=7),
            *_conv1d(32, 64, kernel=5),
            *_conv1d(64, 64, kernel=3),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            *_last(64),
        )
    if len(shape) == 3:
        return nn.Sequential(
            nn.Conv2d(shape[0], 16, kernel_size=4, stride=4, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *_conv2d(16, 32),
            *_conv2d(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *_last(64),
        )
    raise ValueError(
        f"expected a vector (D,), a series (channels, T) or an image (channels, H, W), got rows of "
        f"shape {tuple(shape)}"
    )


def _last(width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, WIDTH), nn.ReLU()


def _conv1d(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm1d(after), nn.ReLU()


def _conv2d(before: int, after: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()
