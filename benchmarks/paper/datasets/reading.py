"""From a clip to the tensors that the encoders take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.paper.datasets.audio import filter_bank
from benchmarks.paper.datasets.base import Clip, Kind, Resolution, Source
from benchmarks.paper.datasets.frames import pictures_of, pictures_seen, view
from benchmarks.paper.datasets.store import Store


@dataclass(frozen=True)
class Reader:
    """Reads clips, from their files or from the cache.

    Attributes:
        kinds: By modality.
        resolution: How large.
        tokenizer: Of the text encoder, where there is text.
        stores: The cache, by modality; a modality without one is read from its files.
    """

    kinds: Mapping[str, Kind]
    resolution: Resolution
    tokenizer: Any = None
    stores: Mapping[str, Store] = field(default_factory=dict)

    def read(
        self, clip: Clip, place: int, draw: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """The tensors of a clip by modality, with the draws of training or without any.

        Sound ``(1, T, 128)`` float; frames and flow ``(3, C, size, size)`` and a picture
        ``(1, 3, size, size)``, bytes; text ``(L,)`` token numbers; features as they are.

        Args:
            clip: Which.
            place: Its place in the list that the cache was made of.
            draw: Where the draws of training come from; None for evaluation.
        """
        return {
            modality: torch.from_numpy(self._read(modality, clip.sources[modality], place, draw))
            for modality in self.kinds
        }

    def _read(
        self, modality: str, source: Source, place: int, draw: np.random.Generator | None
    ) -> np.typing.NDArray[Any]:
        kind, store = self.kinds[modality], self.stores.get(modality)
        if kind == "text":
            limit = self.resolution.tokens
            tokens = self.tokenizer(source, truncation=True, max_length=limit)["input_ids"]
            return np.asarray(tokens, dtype=np.int64)
        if kind == "series":
            return np.asarray(source, dtype=np.float32)
        if kind == "sound":
            if store is not None:
                return store.sound(place)[None]
            assert isinstance(source, Path)
            return filter_bank(source, self.resolution.sound)[None]
        pictures = pictures_of(source) if store is None else store.pictures(place)
        number = pictures_seen(kind)
        return view(pictures, self.resolution.pixels, number, draw, flow=kind == "flow")


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the modalities of a batch; texts go on in zeros up to the longest one."""
    return {
        modality: torch.nn.utils.rnn.pad_sequence(
            [sample[modality] for sample in samples], batch_first=True
        )
        if first.dtype == torch.int64
        else default_collate([sample[modality] for sample in samples])
        for modality, first in samples[0].items()
    }
