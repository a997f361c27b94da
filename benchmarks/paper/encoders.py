"""The paper's encoders: ResNet-18, ELECTRA-small and Transformers, from the transformers library.

Pooling is a mean: unlike adaptive pooling, its gradient on a GPU is the same every time.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.errors import DataError
from benchmarks.common.model import ConcatFusion
from benchmarks.paper.datasets.base import Kind, PaperData, Resolution

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOW = (0.1307, 0.1307), (0.3081, 0.3081)

PAPER = Resolution()


@dataclass(frozen=True)
class Sizes:
    """How large the networks are that are not loaded from files.

    Attributes:
        resolution: Of their inputs.
        stages: Channels of a residual network's stages.
        depth: Residual blocks a stage.
        series: Width of a Transformer.
    """

    resolution: Resolution = PAPER
    stages: tuple[int, ...] = (64, 128, 256, 512)
    depth: int = 2
    series: int = 1024


# For a run that is only to show that everything works.
TINY = Sizes(Resolution(pixels=32, sound=64, tokens=32), stages=(8, 16), depth=1, series=16)


class PictureEncoder(nn.Module):
    """A residual network over frames, folded into the batch: ``(N, T, C, H, W)`` bytes to features.

    Args:
        network: Takes C channels.
        mean: Of each channel, of values in 0 … 1.
        std: Likewise.
        width: Of the features; another one than the network's takes a linear layer.
    """

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], width: int
    ) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.last = _last(_config(network).hidden_sizes[-1], width)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map bytes to ``(N, width)``."""
        count, frames = pictures.shape[:2]
        values = (pictures.flatten(0, 1) / 255 - self.mean) / self.std
        maps = self.network(values).last_hidden_state
        pooled = maps.mean(dim=(2, 3)).unflatten(0, (count, frames)).mean(dim=1)
        features: Tensor = self.last(pooled)
        return features


class SoundEncoder(nn.Module):
    """A residual network over a filter bank: ``(N, 1, T, 128)`` to ``(N, width)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, banks: Tensor) -> Tensor:
        """Map filter banks to features."""
        pooled: Tensor = self.network(banks).last_hidden_state.mean(dim=(2, 3))
        return pooled


class TextEncoder(nn.Module):
    """A pretrained text network: ``(N, L)`` token numbers, 0 for none, to the first one's state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens to features."""
        output = self.network(input_ids=tokens, attention_mask=(tokens != 0).long())
        state: Tensor = output.last_hidden_state[:, 0]
        return state


class SeriesEncoder(nn.Module):
    """A Transformer of two layers over features in time: ``(N, T, D)`` to ``(N, width)``.

    Width 1024 and four heads are BalanceBenchmark's for such features; positions are learned.
    """

    def __init__(self, steps: int, inputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.position = nn.Parameter(0.02 * torch.randn(steps, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, series: Tensor) -> Tensor:
        """Map series to features."""
        features: Tensor = self.layers(self.first(series) + self.position).mean(dim=1)
        return features


def residual_network(channels: int, sizes: Sizes) -> nn.Module:
    """A ResNet-18 from scratch."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        num_channels=channels,
        embedding_size=sizes.stages[0],
        hidden_sizes=list(sizes.stages),
        depths=[sizes.depth] * len(sizes.stages),
        layer_type="basic",
    )
    network: nn.Module = ResNetModel(config)
    return network


def pretrained(name: str, option: str) -> nn.Module:
    """A network of the transformers library, from a folder or its hub.

    Raises:
        DataError: If it is not there, or damaged.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # the one over the weights
    try:
        network: nn.Module = AutoModel.from_pretrained(name)
    except Exception as error:  # also what safetensors, json or torch raise of a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"no network in {name} ({reason}); give a folder with its config and weights: "
            f"{option} DIR"
        ) from None
    return network


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a text encoder.

    Raises:
        DataError: If it is not there, or fills up with another number than 0.
    """
    from transformers import AutoTokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns of worker processes
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # also what json or tokenizers raise of a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"no tokenizer in {name} ({reason}); give a folder with it: --text-encoder DIR"
        ) from None
    if tokenizer.pad_token_id != 0:
        raise DataError(f"{name}: expected 0 to fill up texts, got {tokenizer.pad_token_id}")
    return tokenizer


def build_model(
    data: PaperData,
    modalities: Mapping[str, Kind],
    series: Mapping[str, tuple[int, int]],
    sizes: Sizes,
    seed: int,
    *,
    text_encoder: str,
    image_encoder: str | None,
) -> ConcatFusion:
    """An encoder a modality, concatenation and one linear layer.

    Args:
        data: For its classes.
        modalities: What each holds.
        series: Steps and numbers of the features that come as a series.
        sizes: Of the networks from scratch.
        seed: Of the initial weights.
        text_encoder: Folder or name of the text network; looked at if there is text.
        image_encoder: Likewise of the image network; None: a residual network from scratch.
    """
    torch.manual_seed(seed)
    text = pretrained(text_encoder, "--text-encoder") if "text" in modalities.values() else None
    if text is not None:
        width = _config(text).hidden_size
    else:
        width = sizes.series if "series" in modalities.values() else sizes.stages[-1]
    encoders: dict[str, nn.Module] = {}
    for modality, kind in modalities.items():
        if kind == "text":
            assert text is not None
            encoders[modality] = TextEncoder(text)
        elif kind == "series":
            encoders[modality] = SeriesEncoder(*series[modality], width)
        elif kind == "sound":
            encoders[modality] = SoundEncoder(residual_network(1, sizes))
        elif kind == "image" and image_encoder is not None:
            network = pretrained(image_encoder, "--image-encoder")
            encoders[modality] = PictureEncoder(network, *IMAGENET, width)
        else:
            mean, std = FLOW if kind == "flow" else IMAGENET
            network = residual_network(len(mean), sizes)
            encoders[modality] = PictureEncoder(network, mean, std, width)
    return ConcatFusion(encoders, width, data.num_classes)


def _config(network: nn.Module) -> Any:
    """How a network of the transformers library was made."""
    return network.config


def _last(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)
