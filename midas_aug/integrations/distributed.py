"""Partners from the rows of all ranks, for batches that are small on each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from midas_aug._ranks import in_process_group, several_ranks
from midas_aug.augment import MisalignAugment
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.tree import in_order, map_arrays, take_rows

__all__ = ["AllRanksBatch", "augment_across_ranks"]


class AllRanksBatch:
    """This rank's N aligned rows, then its S misaligned ones, with partners from every rank.

    What `MidasLoss` reads of a `MisalignedBatch`, for this rank's rows. ``source`` and ``anchor``
    count in ``whole``, the batch of all ranks, which is not materialized. Ranks weigh as if all
    rows were one batch: the mean of their losses, which is what ``DistributedDataParallel`` makes
    of the gradients, is the loss of that batch.

    Attributes:
        whole: The drawn and labelled batch of all ranks. Ranks draw differently, and each keeps
            the samples of its own anchors.
        rows: ``(N + S,)`` int64, the rows of ``whole`` that are this rank's.
    """

    def __init__(self, whole: MisalignedBatch, count: int, rank: int) -> None:
        pool = len(whole.labels)
        device = whole.labels.device
        own = torch.arange(rank * count, (rank + 1) * count, device=device)
        starts = torch.arange(0, len(whole.source), max(pool, 1), device=device)
        self.whole = whole
        # Anchors are the pool over and over, so each block has this rank's rows at the same place.
        self.rows = (starts[:, None] + own).flatten()
        self._own = own
        self.labels: Tensor = whole.labels.index_select(0, own)
        self.modalities = whole.modalities
        self.num_classes = whole.num_classes
        self.aligned = slice(0, count)
        self.misaligned = slice(count, len(self.rows))
        self.source: Tensor = whole.source[self.rows]
        self.anchor: Tensor = whole.anchor[self.rows]
        self.valid: Tensor = whole.valid[self.rows]
        self.source_labels: Tensor = whole.source_labels[self.rows]
        self.shares: Tensor = whole.shares[self.rows]
        self.weights: Tensor = whole.weights[self.rows]
        self.targets: Tensor = whole.targets[self.rows]

    def __getitem__(self, name: Any) -> Any:
        """The modality ``name``, N + S rows; gradients flow to the rank that a row came from."""
        if name not in self.modalities:
            raise MidasAugError(f"expected one of the modalities {self.modalities!r}, got {name!r}")
        column = self.source[:, self.modalities.index(name)]
        count = len(self.whole.labels)
        return take_rows(self.whole[name], column, count, path=repr(name), strict=True)

    def __repr__(self) -> str:
        return f"AllRanksBatch({len(self._own)} aligned rows of {self.whole!r})"


def augment_across_ranks(
    augment: MisalignAugment,
    features: Mapping[Any, Any],
    labels: Tensor,
    *,
    unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None = None,
) -> AllRanksBatch:
    """Augment this rank's rows, with partners from the rows of every rank.

    The features are gathered with their gradients: the backward pass adds up, at the rank that
    made a feature, what all ranks made of it. Memory and traffic grow by a factor of the number of
    ranks for the features alone; the fusion sees this rank's N + S rows. Without a process group
    there is one rank.

    Args:
        augment: The augmentation. Not for a confidence that looks at batches of its own making,
            such as `midas_aug.confidence.TableConfidence` with an index that is left out of
            ``features``.
        features: This rank's N rows of each modality, on every rank the same number and shapes
            (``drop_last=True``).
        labels: ``(N,)`` integers.
        unimodal_logits: ``(N, C)`` of each modality's own classifier, by modality or in order.

    Raises:
        MidasAugError: The labels are not a tensor, or see `MisalignAugment`.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.integrations.distributed import augment_across_ranks
        >>> augment = MisalignAugment(("a", "b"), 3, confidence="uniform")
        >>> features = {"a": torch.rand(2, 4), "b": torch.rand(2, 4)}
        >>> out = augment_across_ranks(augment, features, torch.tensor([0, 2]))
        >>> out["a"].shape, MidasLoss(2)(torch.rand(6, 3), out).shape
        (torch.Size([6, 4]), torch.Size([]))
    """
    if not isinstance(labels, Tensor):
        raise MidasAugError(f"expected labels as a torch tensor, got {type(labels).__name__}")
    pool, every = features, labels
    if several_ranks():
        pool = map_arrays(_gather, features)
        every = _gather(labels)
        if unimodal_logits is not None:
            in_turn = in_order(unimodal_logits, augment.modalities, "unimodal_logits")
            unimodal_logits = [_gather(torch.as_tensor(logits).detach()) for logits in in_turn]
    whole = augment._augment(pool, every, unimodal_logits=unimodal_logits, materialize=False)
    return AllRanksBatch(whole, len(labels), distributed.get_rank() if in_process_group() else 0)


class _AllGather(torch.autograd.Function):
    """Rows of all ranks, in the order of ranks; backward sums what the ranks say of one's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def _gather(tensor: Any) -> Any:
    gathered: Any = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered
