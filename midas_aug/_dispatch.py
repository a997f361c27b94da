"""Accelerate's loader that reads batches in one process and hands parts of them to the others."""

import sys
from typing import Any

from midas_aug.errors import MidasAugError

__all__ = ["refuse_dispatch"]


def refuse_dispatch(collate: Any) -> None:
    """Raise if Accelerate is about to cut what ``collate`` makes into parts.

    It knows no rows but those of tensors in lists, tuples and mappings, and stops at any other
    batch with a `TypeError`, also in a single process.
    """
    if "accelerate.data_loader" not in sys.modules:
        return
    from accelerate.data_loader import DataLoaderDispatcher
    from accelerate.state import GradientState

    loader = GradientState().active_dataloader
    if isinstance(loader, DataLoaderDispatcher) and loader.base_dataloader.collate_fn is collate:
        raise MidasAugError(
            "expected each process to make its own batches, got a loader whose batches Accelerate "
            "dispatches, as it does by default with an IterableDataset: it would cut them into "
            "parts, and misaligned rows belong to aligned ones of their batch; build "
            "Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=False)), or "
            "use a plain loader and call augment(batch) in the training loop"
        )
