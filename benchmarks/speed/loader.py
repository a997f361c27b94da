"""Outside the training step: NumPy batches, and DataLoader workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.speed.measure import Call, Case
from midas_aug import MisalignAugment

NAMES = ("image", "text")
LOADER = "DataLoader with workers"


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """CPU only: both stay on the host."""
    if device.type != "cpu":
        return
    for rows in (8,) if small else (64, 1024):
        arrays = {name: np.ones((rows, 512), np.float32) for name in NAMES}
        labels = np.arange(rows) % 10
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        variants = {
            "torch": _augment(tensors, torch.from_numpy(labels)),
            "NumPy": _augment(arrays, labels),
        }
        yield Case("NumPy path", {"N": rows, "D": 512}, variants, reference="torch")

    batches, rows = (2, 8) if small else (24, 64)
    data = Samples(batches * rows, side=8 if small else 64)
    uniform = MisalignAugment(NAMES, 10, confidence="uniform", hardness=None, seed=0)
    for workers in (1,) if small else (1, 2):
        yield Case(
            LOADER,
            {"rows an epoch": len(data), "batch": rows, "workers": workers},
            {
                "default_collate": _epoch(data, rows, workers, default_collate),
                "ours, materialize=False": _epoch(
                    data, rows, workers, uniform.collate(materialize=False)
                ),
                "ours": _epoch(data, rows, workers, uniform.collate()),
            },
            reference="default_collate",
        )


def _augment(batch: Any, labels: Any) -> Call:
    augment = MisalignAugment(NAMES, 10, confidence="uniform", hardness=None)
    return lambda: augment(batch, labels).targets


class Samples(Dataset[dict[str, Any]]):
    """A picture and a text of random numbers, with some work to make a picture."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, Any]:
        picture: Tensor = torch.rand(3, self.side, self.side).sub_(0.5).div_(0.2)
        return {"image": picture, "text": torch.randint(30_000, (64,)), "label": row % 10}


def _epoch(data: Samples, rows: int, workers: int, collate: Any) -> Call:
    loader = DataLoader(
        data,
        rows,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
        prefetch_factor=4,
    )

    def run() -> None:
        for _ in loader:
            pass

    return run
