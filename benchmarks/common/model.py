"""The model that every method trains: one encoder a modality, concatenated, and a linear head."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug import MisalignedBatch

Features = dict[str, Tensor]


class ConcatFusion(nn.Module):
    """Encoders, a linear fusion head, and a linear head a modality for the methods that want them.

    Args:
        encoders: By modality; each maps its input to ``(N, width)``.
        width: Features a modality.
        num_classes: C.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        self.width = width
        self.num_classes = num_classes
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = nn.Linear(width * len(encoders), num_classes)
        self.heads = nn.ModuleDict({name: nn.Linear(width, num_classes) for name in encoders})

    def encode(self, inputs: Mapping[str, Tensor]) -> Features:
        """Features ``(N, width)`` of each modality."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def fuse(self, features: Mapping[str, Tensor] | MisalignedBatch) -> Tensor:
        """The joint logits z ``(N, C)``."""
        logits: Tensor = self.fusion(torch.cat([features[name] for name in self.modalities], dim=1))
        return logits

    def parts(self, features: Mapping[str, Tensor], *, detach: bool = False) -> Features:
        """The additive parts u_m = W_m f_m + b/M of the joint logits; they sum to z.

        ``detach`` takes the fusion head's weights as constants.
        """
        head: tuple[Tensor, Tensor] = (self.fusion.weight, self.fusion.bias)
        weight, bias = (part.detach() for part in head) if detach else head
        blocks = torch.split(weight, self.width, dim=1)
        return {
            name: F.linear(features[name], block, bias / len(blocks))
            for name, block in zip(self.modalities, blocks, strict=True)
        }

    def classify(self, features: Mapping[str, Tensor]) -> Features:
        """Logits ``(N, C)`` of each modality's own head."""
        return {name: head(features[name]) for name, head in self.heads.items()}
