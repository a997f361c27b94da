"""Class centroids as classifiers: confidence with nothing to train."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from midas_aug._arrays import as_labels, as_scores, as_tensor, check_shape, full_precision, like
from midas_aug._checks import check_count, check_number, check_switch
from midas_aug._present import as_present
from midas_aug._ranks import add_up
from midas_aug._replay import recomputing
from midas_aug._state import StatefulModule
from midas_aug._tree import get_item
from midas_aug.confidence.base import (
    ConfidenceProvider,
    check_held,
    check_modalities,
    refuse_in_worker,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_label_range
from midas_aug.targets import ClassIndex

__all__ = ["PrototypeConfidence"]


class PrototypeConfidence(StatefulModule, ConfidenceProvider):
    """Softmax over the cosines of a feature with the class centroids of its modality.

    For models without unimodal heads. Not in the paper; centroids as classifiers are those of
    prototypical networks (Snell et al., NeurIPS 2017, arXiv 1703.05175), here as a moving average.

    Args:
        modalities: Feature size D_m of each modality, in modality order.
        num_classes: C.
        temperature: Divides the cosines; smaller is more decided.
        momentum: How much of a centroid an `update` keeps. The first batch of a class sets it.
        sync: In a distributed run, take the means over the rows of all ranks, so that every rank
            has the same centroids: one all-reduce in each `update`, which every rank has to call.
        process_group: The ranks to agree with; None for all.

    Attributes:
        seen_by_modality: ``(M, C)`` bool buffer, classes that have a centroid in a modality. Others
            get confidence 0 there.

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

    modalities: tuple[Any, ...]
    needs_model = True
    by_name = True
    seen_by_modality: Tensor

    def __init__(
        self,
        modalities: Mapping[Any, int],
        num_classes: int,
        *,
        temperature: float = 0.1,
        momentum: float = 0.9,
        sync: bool = True,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(check_held(modalities, "feature sizes"))
        classes = check_count(num_classes, "num_classes")
        self.target = ClassIndex(classes)
        self.temperature = check_number(
            temperature, "temperature", 0, "0.1 is the default", exclusive=True
        )
        self.momentum = check_number(momentum, "momentum", 0, "0.9 is the default")
        if self.momentum >= 1:
            raise MidasAugError(
                f"expected a momentum in [0, 1), got {momentum!r}; with 1 no centroid would move"
            )
        self.sync = check_switch(sync, "sync")
        self.process_group = process_group
        shape = len(self.modalities), classes
        # Not bool, which AveragedModel cannot average.
        self.register_state("seen_by_modality", partial(torch.zeros, shape, dtype=torch.int64))
        for number, key in enumerate(self.modalities):
            dim = check_count(modalities[key], f"the feature size of {key!r}")
            self.register_state(
                f"centroids_{number}",
                partial(torch.zeros, classes, dim, dtype=torch.float32),
                lowest=torch.finfo(torch.float32).min,
            )

    @property
    def seen(self) -> Tensor:
        """``(C,)`` bool, classes that have a centroid in every modality."""
        return self.seen_by_modality.all(dim=0).bool()

    @torch.no_grad()
    def update(self, features: Any, labels: Any, *, present: Any = None) -> None:
        """Move the centroids of the classes in this batch.

        Rows with a negative label are left out, and so are rows with a feature that is not finite:
        a moving average would never forget them.

        Args:
            features: ``(N, D_m)`` of each modality, by modality.
            labels: ``(N,)`` integers below C.
            present: Which modalities a row has, as in `MisalignAugment.draw`; a centroid is that of
                the rows that have its modality, whatever the features of the others hold. None:
                all.
        """
        if recomputing():
            return  # a forward pass that is repeated has updated in the first
        self.ready()
        classes, n_classes = as_labels(labels, "labels"), self.seen_by_modality.shape[1]
        check_label_range(classes, n_classes)
        vectors = self._vectors(features, classes.shape[0])
        counted = self._counted(vectors, classes, present)
        # Rows that do not count are added to class 0 as zeros: no data-dependent shape.
        slot = classes.clamp(min=0)
        count = torch.zeros_like(self.seen_by_modality, dtype=torch.float32)
        count.scatter_add_(1, slot.expand(counted.shape), counted.to(torch.float32))
        totals = [
            torch.zeros_like(self._centroids(number)).index_add_(
                0, slot, torch.where(counted[number][:, None], rows, 0.0)
            )
            for number, rows in enumerate(vectors)
        ]
        if self.sync:
            count, *totals = add_up([count, *totals], self.process_group)
        means = [
            total / rows.clamp(min=1)[:, None] for total, rows in zip(totals, count, strict=True)
        ]
        moves = count > 0
        for mean in means:
            moves = moves & mean.isfinite().all(dim=1)  # a sum may overflow
        keep = self.seen_by_modality.to(torch.float32) * self.momentum
        for number, mean in enumerate(means):
            centroids, kept = self._centroids(number), keep[number][:, None]
            moved = kept * centroids + (1 - kept) * mean
            centroids.copy_(torch.where(moves[number][:, None], moved, centroids))
        self.seen_by_modality.add_(moves).clamp_(max=1)

    def _counted(self, vectors: list[Tensor], classes: Tensor, present: Any) -> Tensor:
        """``(M, N)`` bool: the rows that the centroids of a modality are made of."""
        finite = torch.stack([rows.isfinite().all(dim=1) for rows in vectors])
        has = torch.ones_like(finite)
        if present is not None:
            has = as_present(present, self.modalities, classes.shape[0]).t()
        return has & ((classes >= 0) & (finite | ~has).all(dim=0))

    @torch.no_grad()
    def forward(self, batch: Any, labels: Any) -> Any:
        """Confidences ``(N, M)`` of the features in ``batch``; no gradient."""
        refuse_in_worker(self)
        self.ready()
        classes = as_labels(labels, "labels")
        check_label_range(classes, self.seen_by_modality.shape[1])
        slot = classes.clamp(min=0)
        columns = []
        for number, rows in enumerate(self._vectors(batch, classes.shape[0])):
            with full_precision(rows):
                cosine = normalize(rows, dim=1) @ normalize(self._centroids(number), dim=1).T
            # A finite stand-in for −∞ keeps a table without any centroid free of NaN.
            lowest, seen = torch.finfo(torch.float32).min, self.seen_by_modality[number] > 0
            scores = torch.where(seen, cosine / self.temperature, lowest)
            chosen = scores.softmax(dim=1).gather(1, slot[:, None])[:, 0]
            columns.append(torch.where((classes >= 0) & seen[slot], chosen, 0.0))
        return like(torch.stack(columns, dim=1), labels)

    def _centroids(self, number: int) -> Tensor:
        return self.get_buffer(f"centroids_{number}")

    def _vectors(self, features: Any, n_rows: int) -> list[Tensor]:
        """The feature vectors of each modality, in float32."""
        found = []
        for number, key in enumerate(self.modalities):
            name = f"features[{key!r}]"
            rows = as_scores(as_tensor(get_item(features, key, "feature"), name), name)
            why = "one feature vector a label, of the size given at construction"
            check_shape(rows, (n_rows, self._centroids(number).shape[1]), name, why)
            found.append(rows.to(torch.float32))
        return found
