"""Same-class re-pairing: each modality of a training row from any row of its class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.methods.shared import ComparingMethod


@dataclass
class SameClass(ComparingMethod):
    """Every epoch, a random permutation within each class for each modality; labels stay.

    The data schedule of DML (Lee and Yoon, ICML 2026); no hyper-parameter. No row is lost: in an
    epoch each input of each modality is seen once, in new company.
    """

    def sources(self, epoch: int) -> Tensor:
        labels = self.setting.labels
        columns = []
        for _ in range(self.num_modalities):
            source = torch.empty_like(labels)
            for label in torch.bincount(labels).nonzero().flatten():
                rows = (labels == label).nonzero().flatten()
                source[rows] = rows[torch.randperm(len(rows), generator=self.generator)]
            columns.append(source)
        return torch.stack(columns, dim=1)
