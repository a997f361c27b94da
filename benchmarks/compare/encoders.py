"""An encoder for each kind of input, the same for all methods and small enough for one CPU core."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTH = 64  # features a modality, as many as the paper's 512 are for its ResNets
HIDDEN = 128


SMALL = 32  # pixels a side of an image that is not cut into patches first
SYMBOL = 32  # numbers a letter


def build_encoder(shape: Sequence[int], symbols: int | None = None) -> nn.Module:
    """An encoder ``(N, *shape) -> (N, WIDTH)`` that ends in a ReLU.

    A vector (numbers, or the features of a frozen text encoder) takes an MLP, channels over time
    (a log-mel spectrogram, a motion sensor) a 1-d CNN, an image a 2-d CNN. Integers are symbols, of
    which 0 is none: those of a vector are the words of a bag, whose order makes no difference,
    those of a series (1, T) the letters of a word, for a 1-d CNN.

    Args:
        shape: Of one row.
        symbols: How many there are, 0 among them; None for numbers.

    Raises:
        ValueError: The shape is of none of these kinds.
    """
    if symbols is not None:
        return _build_symbol_encoder(shape, symbols)
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
    if len(shape) == 3 and max(shape[1:]) <= SMALL:
        small = nn.Sequential(
            *_conv2d(shape[0], 24),
            *_conv2d(24, 48),
            *_conv2d(48, 96),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *_last(96),
        )
        for layer in small:  # a third faster on a CPU
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return small
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


class BagOfWords(nn.Module):
    """The mean of the vectors of a row's words: ``(N, L)`` to ``(N, WIDTH)``.

    A row without a word has the mean 0.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(symbols, WIDTH, padding_idx=0)

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        count = (words > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean: Tensor = self.vectors(words).sum(dim=1) / count
        return mean


class Letters(nn.Module):
    """The vectors of a row's letters as channels over time: ``(N, 1, T)`` to ``(N, SYMBOL, T)``."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(symbols, SYMBOL, padding_idx=0)

    def forward(self, letters: Tensor) -> Tensor:
        """See the class."""
        vectors: Tensor = self.vectors(letters.flatten(1))
        return vectors.transpose(1, 2)


def _build_symbol_encoder(shape: Sequence[int], symbols: int) -> nn.Module:
    if len(shape) == 1:
        return nn.Sequential(BagOfWords(symbols), *_last(WIDTH))
    if len(shape) == 2 and shape[0] == 1:
        return nn.Sequential(
            Letters(symbols),
            *_conv1d(SYMBOL, 64, kernel=3),
            *_conv1d(64, 64, kernel=3),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            *_last(64),
        )
    raise ValueError(
        f"expected a bag of words (L,) or a series of letters (1, T), got rows of shape "
        f"{tuple(shape)}"
    )


def _last(width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, WIDTH), nn.ReLU()


def _conv1d(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm1d(after), nn.ReLU()


def _conv2d(before: int, after: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()
