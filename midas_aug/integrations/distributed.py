"""Partners from the rows of all ranks, for batches that are small on each of them."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from midas_aug._arrays import as_tensor, is_array
from midas_aug._present import as_present
from midas_aug._ranks import in_process_group, several_ranks
from midas_aug._rows import take_rows
from midas_aug._tree import (
    get_groups,
    in_order,
    is_container,
    is_tensordict,
    items,
    map_arrays,
    resolve_key,
)
from midas_aug._unimodal import divisors_of
from midas_aug.augment import MisalignAugment
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.integrations.module import check_augment

__all__ = ["AllRanksBatch", "augment_across_ranks"]


class AllRanksBatch:
    """This rank's N aligned rows, then its S misaligned ones, with partners from every rank.

    A view of the batch of all ranks with all that `MidasLoss` and the rules of α ask for. What is
    not asked for is not computed. ``source`` and ``anchor`` count in ``whole``. Ranks weigh as if
    all rows were one batch: the mean of their losses, which is what ``DistributedDataParallel``
    makes of the gradients, is the loss of that batch, however unevenly labels, modalities and
    heavy classes are spread over the ranks.

    Attributes:
        whole: The drawn and labelled batch of all ranks, not materialized. Ranks draw differently,
            and each keeps the samples of its own anchors.
        index: ``(N + S,)`` int64, the rows of ``whole`` that are this rank's.
        modalities: The names of the modalities, in order.
        target: What a label is.
        num_classes: C; None where the target has no classes.
        labels: ``(N, …)`` labels of this rank's rows.
        aligned: The rows of this rank's batch as it came.
        misaligned: The rows that the augmentation added.
    """

    def __init__(self, whole: MisalignedBatch, n_rows: int, rank: int) -> None:
        pool = whole.labels.shape[0]
        device = whole.labels.device
        own = torch.arange(rank * n_rows, (rank + 1) * n_rows, device=device)
        starts = torch.arange(0, whole.source.shape[0], max(pool, 1), device=device)
        self.whole = whole
        # Anchors are the pool over and over, so each block has this rank's rows at the same place.
        self.index = (starts[:, None] + own).flatten()
        self.modalities = whole.modalities
        self.target = whole.target
        self.num_classes = whole.num_classes
        self.labelled_by_logits = whole.labelled_by_logits
        # Not a cached property: its lock breaks a compiled graph.
        self.labels = torch.as_tensor(whole.labels).index_select(0, own)
        self.aligned = slice(0, n_rows)
        self.misaligned = slice(n_rows, self.index.shape[0])
        self._own = own

    @property
    def source(self) -> Tensor:
        """``(N + S, M)`` int64, rows of ``whole``."""
        return self._rows(self.whole.source)

    @property
    def anchor(self) -> Tensor:
        """``(N + S,)`` int64, rows of ``whole``."""
        return self._rows(self.whole.anchor)

    @property
    def valid(self) -> Tensor:
        """``(N + S,)`` bool."""
        return self._rows(self.whole.valid)

    @property
    def source_labels(self) -> Tensor:
        """``(N + S, M, …)``."""
        return self._rows(self.whole.source_labels)

    @property
    def absent(self) -> Tensor | None:
        """``(N + S, M)`` bool, the modalities that a row's source has not; None: has all."""
        absent = self.whole.absent
        return None if absent is None else self._rows(absent)

    @property
    def present(self) -> Tensor:
        """``(N + S, M)`` bool: the source of each modality has it."""
        return self._rows(self.whole.present)

    @property
    def is_misaligned(self) -> Tensor:
        """``(N + S,)`` bool."""
        return self._rows(self.whole.is_misaligned)

    @property
    def source_confidence(self) -> Tensor:
        """``(N + S, M)``: each modality's confidence in the label of its source."""
        return self._rows(self.whole.source_confidence)

    @property
    def shares(self) -> Tensor:
        """``(N + S, M)``."""
        return self._rows(self.whole.shares)

    @property
    def hard_weights(self) -> Tensor | None:
        """``(S,)``, or None where none are."""
        weights = self.whole.hard_weights
        if weights is None:
            return None
        misaligned = self.index[self.misaligned] - self.whole.misaligned.start
        return torch.as_tensor(weights).index_select(0, misaligned)

    @property
    def weights(self) -> Tensor:
        """``(N + S,)`` float32."""
        return self._rows(self.whole.weights)

    @property
    def unimodal_divisors(self) -> Tensor | None:
        """``(M,)`` what `MidasLoss` divides the sum of each head's losses by; None: as it would.

        This rank's part of the divisors of all rows, which its own rows do not tell.
        """
        whole = self.whole
        pool: int = whole.labels.shape[0]
        n_ranks = pool // max(len(self._own), 1)
        if n_ranks < 2:
            return None
        if whole.absent is None:
            divisors = whole.divisor.expand(len(self.modalities))
        else:
            counted = whole.valid[:pool, None] & ~whole.absent[:pool]
            divisors = divisors_of(self.target, whole.labels, counted.t())
        return divisors.float() / n_ranks

    @property
    def targets(self) -> Tensor:
        """``(N + S, C)`` soft labels of this rank's rows."""
        return self.target.dense(self.source_labels, self.shares)

    def folded_targets(self) -> Tensor:
        """``(N + S, C)`` targets · weights; see `MisalignedBatch.folded_targets`."""
        return self.target.folded(self.targets, self.weights)

    def gather(self, name: Any, features: Any) -> Any:
        """Swap ``features`` of the rows of all ranks, as `MisalignedBatch.gather` does.

        Raises:
            MidasAugError: ``name`` is no modality, or a leaf has another number of rows.
        """
        if name not in self.modalities:
            raise MidasAugError(f"expected one of the modalities {self.modalities!r}, got {name!r}")
        column = self.source[:, self.modalities.index(name)]
        pool = self.whole.labels.shape[0]
        return take_rows(features, column, pool, path=f"features of {name!r}", modality=True)

    def __getitem__(self, key: Any) -> Any:
        """What ``key`` holds, N + S rows; gradients flow to the rank that a row came from.

        Args:
            key: A batch key of a modality, or else the name of one; of several keys, a mapping.

        Raises:
            MidasAugError: It is neither.
        """
        keys, found = self.whole.modality_keys, resolve_key(self.whole.data, key)
        for name, group in keys.items():
            # A key first, as in `MisalignedBatch`: it may be the name of another modality.
            if found is not None and found in [resolve_key(self.whole.data, one) for one in group]:
                return self.gather(name, self.whole[found])
        if key not in self.modalities:
            raise MidasAugError(
                f"expected one of the modalities {self.modalities!r}, or one of their keys "
                f"{[one for group in keys.values() for one in group]!r}, got {key!r}"
            )
        return self.gather(key, *get_groups(self.whole.data, {key: keys[key]}))

    def _rows(self, of_whole: Any) -> Tensor:
        return torch.as_tensor(of_whole).index_select(0, self.index)

    def __repr__(self) -> str:
        return f"AllRanksBatch({len(self._own)} aligned rows of {self.whole!r})"


def augment_across_ranks(
    augment: MisalignAugment,
    features: Mapping[Any, Any],
    labels: Tensor,
    *,
    unimodal_logits: Mapping[Any, Tensor] | Sequence[Tensor] | None = None,
    present: Mapping[Any, Tensor] | Tensor | None = None,
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
        features: This rank's N rows of each modality, as tensors; on every rank the same number
            of rows (``drop_last=True``), keys, shapes and dtypes.
        labels: ``(N, …)``, as the target of ``augment`` has them.
        unimodal_logits: ``(N, C)`` of each modality's own classifier, by modality or in order.
        present: Which modalities each of this rank's rows has, as in `MisalignAugment.draw`.

    Raises:
        MidasAugError: Labels or features are not tensors, or see `MisalignAugment`. With labels on
            the CPU, where a look is free, every rank raises: what differs between the ranks, or
            what another one refused.

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
    check_augment(augment)
    if not isinstance(labels, Tensor):
        raise MidasAugError(f"expected labels as a torch tensor, got {type(labels).__name__}")
    given: dict[str, Any] = {"labels": labels, "features": features, "present": present}
    given["unimodal_logits"] = unimodal_logits
    if several_ranks():
        check = functools.partial(_checked, augment, given)
        own = _agreed(check) if labels.device.type == "cpu" else _alone(check)
        given = {name: map_arrays(_gather, value) for name, value in own.items()}
    whole = augment(given.pop("features"), **given, materialize=False)
    return AllRanksBatch(whole, len(labels), distributed.get_rank() if in_process_group() else 0)


def _checked(augment: MisalignAugment, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as they are gathered."""
    own, names = {**given, "labels": augment.target.check(given["labels"])}, augment.modalities
    if own["present"] is not None:
        own["present"] = as_present(own["present"], names, len(own["labels"]))
    if own["unimodal_logits"] is not None:
        in_turn = in_order(own["unimodal_logits"], names, "unimodal_logits")
        own["unimodal_logits"] = {
            name: as_tensor(logits, f"unimodal_logits of {name!r}").detach()
            for name, logits in zip(names, in_turn, strict=True)
        }
    return own


class _Kind(NamedTuple):
    """What has to be alike on all ranks: else a gather aborts, or its backward pass waits."""

    dtype: str
    shape: tuple[int, ...]
    has_gradient: bool

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}" + (" with a gradient" if self.has_gradient else "")


def _kinds(own: Mapping[str, Any]) -> dict[str, _Kind]:
    """The kind of each array that is gathered, in order; raise for one that cannot be."""
    arrays = (found for name, value in own.items() for found in _arrays(value, name))
    return {path: _kind(array, path) for path, array in arrays}


def _arrays(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What `map_arrays` would call its function with, and what an error message calls it."""
    if is_array(tree) or is_tensordict(tree):
        yield path, tree
    elif type(tree) is list or is_container(tree):
        for key, value in enumerate(tree) if type(tree) is list else items(tree):
            name = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(key))  # differs from rank to rank
            yield from _arrays(value, f"{path}[{name}]")


def _kind(array: Any, path: str) -> _Kind:
    if not isinstance(array, Tensor) or as_tensor(array, path).ndim == 0:
        got = "a single number" if isinstance(array, Tensor) else type(array).__name__
        raise MidasAugError(
            f"expected {path} as a torch tensor with one row per label, got {got}; convert it with "
            "torch.as_tensor, or leave it out if it is no modality"
        )
    dtype, has_gradient = str(array.dtype), array.requires_grad and torch.is_grad_enabled()
    return _Kind(dtype.removeprefix("torch."), tuple(array.shape), has_gradient)


def _alone(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``check`` gives, where asking the other ranks would wait for the device."""
    own = check()
    if not torch.compiler.is_compiling():
        _kinds(own)
    return own


def _agreed(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``check`` gives; raise on every rank if it fails on one, or what it gives differs."""
    try:
        own = check()
        kinds = _kinds(own)
        if kinds["labels"].shape[0] == 0:
            why = "build the loaders with drop_last=True"
            raise MidasAugError(f"expected at least one row on every rank, got none; {why}")
    except Exception as error:  # raised when the other ranks, which would wait, know of it
        _reports({}, str(error))
        raise
    if reports := _reports(kinds):
        raise MidasAugError(_difference(reports))
    return own


def _reports(kinds: Mapping[str, _Kind], failure: str | None = None) -> list[Any]:
    """What each rank has, or why it failed; none where one gathered number says: all the same."""
    text = repr([(path, *kind) for path, kind in kinds.items()])
    # Not hash(), which is salted in each process.
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    own = torch.tensor([int.from_bytes(digest, "big", signed=True)], device="cpu")
    every = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    if failure is None and len({int(number) for number in every}) == 1:
        return []
    # Every rank comes here or none does: the number of one that failed is no other's.
    reports: list[Any] = [None] * len(every)
    distributed.all_gather_object(reports, (kinds, failure))
    return reports


def _difference(reports: Sequence[tuple[Mapping[str, _Kind], str | None]]) -> str:
    """What an error says where a rank has failed or, if none has, where two ranks differ."""
    for rank, (_, failure) in enumerate(reports):
        if failure is not None:
            return f"expected every rank to take its batch, got an error on rank {rank}: {failure}"
    first = reports[0][0]
    rank = [[*kinds.items()] != [*first.items()] for kinds, _ in reports].index(True)
    other = reports[rank][0]
    if [*first] != [*other]:
        return (
            f"expected the same arrays in the same order on every rank, got {[*first]} on rank 0 "
            f"and {[*other]} on rank {rank}; pass the same arguments and keys on all ranks"
        )
    path = next(path for path, kind in first.items() if kind != other[path])
    return (
        f"expected {path} alike on every rank, got {first[path]} on rank 0 and {other[path]} on "
        f"rank {rank}; {_cure(first[path], other[path])}"
    )


def _cure(ours: _Kind, theirs: _Kind) -> str:
    if ours.shape[:1] != theirs.shape[:1]:
        return "pass one row per label, from loaders with drop_last=True"
    if ours.shape != theirs.shape:
        return "pad to one length on all ranks"
    if ours.dtype != theirs.dtype:
        return "convert to one dtype on all ranks"
    return "train the same encoders on all ranks"


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
    if tensor.dtype is torch.bool:  # not every backend knows it
        return _gather(tensor.byte()).bool()
    gathered: Any = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered
