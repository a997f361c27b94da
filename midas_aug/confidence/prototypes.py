"""Class centroids as classifiers: confidence with nothing to train."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from midas_aug._arrays import as_labels, as_scores, as_tensor, check_shape, full_precision, like
from midas_aug.confidence.base import refuse_in_worker
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import check_label_range
from midas_aug.tree import get_item

__all__ = ["PrototypeConfidence"]


class PrototypeConfidence(nn.Module):
    """Softmax over the cosines of a feature with the class centroids of its modality.

    For models without unimodal heads. Not in the paper; centroids as classifiers are those of
    prototypical networks (Snell et al., NeurIPS 2017, arXiv 1703.05175), here as a moving average.

    Args:
        feature_dims: Feature size D_m of each modality, in modality order.
        num_classes: C.
        temperature: Divides the cosines; smaller is more decided.
        momentum: How much of a centroid an `update` keeps. The first batch of a class sets it.

    Attributes:
        seen: ``(C,)`` bool buffer, classes that have a centroid. Others get confidence 0.

    Raises:
        MidasAugError: An argument is out of range; a call's features do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import PrototypeConfidence
        >>> prototypes = PrototypeConfidence({"x": 2, "z": 2}, num_classes=2)
        >>> features = {"x": torch.eye(2), "z": torch.ones(2, 2)}  # z tells nothing
        >>> prototypes.update(features, torch.tensor([0, 1]))
        >>> prototypes(features, torch.tensor([0, 1]))
        tensor([[1.0000, 0.5000],
                [1.0000, 0.5000]])
    """

    needs_model = True
    seen: Tensor

    def __init__(
        self,
        feature_dims: Mapping[Hashable, int],
        num_classes: int,
        *,
        temperature: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if temperature <= 0 or not 0 <= momentum < 1:
            raise MidasAugError(
                "expected temperature above 0 and momentum in [0, 1), got "
                f"{temperature} and {momentum}"
            )
        self.modalities = tuple(feature_dims)
        self.temperature = temperature
        self.momentum = momentum
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        for number, dim in enumerate(feature_dims.values()):
            self.register_buffer(f"centroids_{number}", torch.zeros(num_classes, dim))

    @torch.no_grad()
    def update(self, features: Any, labels: Any) -> None:
        """Move the centroids of the classes in this batch; rows with a negative label are left out.

        Args:
            features: ``(N, D_m)`` of each modality, by modality.
            labels: ``(N,)`` integers below C.
        """
        classes = as_labels(labels, "labels")
        check_label_range(classes, len(self.seen))
        # Ignored rows are added to class 0 with weight 0: no data-dependent shape.
        counted = (classes >= 0).to(torch.float32)
        slot = classes.clamp(min=0)
        count = torch.zeros(len(self.seen), device=self.seen.device).scatter_add_(0, slot, counted)
        here = count > 0
        for number in range(len(self.modalities)):
            rows = self._rows(features, number, len(classes)).to(torch.float32)
            centroids = self._centroids(number)
            total = torch.zeros_like(centroids).index_add_(0, slot, rows * counted[:, None])
            mean = total / count.clamp(min=1)[:, None]
            keep = torch.where(self.seen, self.momentum, 0.0)[:, None]
            moved = keep * centroids + (1 - keep) * mean
            centroids.copy_(torch.where(here[:, None], moved, centroids))
        self.seen |= here

    @torch.no_grad()
    def forward(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)`` of the features in ``batch``; no gradient."""
        refuse_in_worker(self)
        classes = as_labels(labels, "labels")
        check_label_range(classes, len(self.seen))
        slot = classes.clamp(min=0)
        usable = (classes >= 0) & self.seen[slot]
        columns = []
        for number in range(len(self.modalities)):
            rows = self._rows(batch, number, len(classes)).to(torch.float32)
            with full_precision(rows):
                cosine = normalize(rows, dim=1) @ normalize(self._centroids(number), dim=1).T
            # A finite stand-in for −∞ keeps a table without any centroid free of NaN.
            scores = torch.where(self.seen, cosine / self.temperature, -1e30)
            chosen = scores.softmax(dim=1).gather(1, slot[:, None])[:, 0]
            columns.append(torch.where(usable, chosen, 0.0))
        return like(torch.stack(columns, dim=1), labels)

    def _centroids(self, number: int) -> Tensor:
        return self.get_buffer(f"centroids_{number}")

    def _rows(self, features: Any, number: int, count: int) -> Tensor:
        name = f"features[{self.modalities[number]!r}]"
        array = as_tensor(get_item(features, self.modalities[number], "feature"), name)
        rows = as_scores(array, name)
        why = "one feature vector a label, of the size given at construction"
        check_shape(rows, (count, self._centroids(number).shape[1]), name, why)
        return rows
