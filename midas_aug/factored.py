"""`FactoredLinear`: a linear fusion head that multiplies before it swaps."""

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug._arrays import as_labels, check_rows, check_shape, elsewhere, is_array, is_integer
from midas_aug._checks import check_count, check_switch
from midas_aug._tree import get_groups, get_item, in_order, resolve_key, select_rows
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError

__all__ = ["FactoredLinear"]


class FactoredLinear(nn.Linear):
    r"""``nn.Linear`` on concatenated features, for N rows of features and N + S rows of logits.

    .. math:: z_s = b + \sum_m (f^m W_m^\top)_{source[s, m]}

    A linear head on a concatenation is a sum over modalities, and a swap only chooses which row's
    term is added. So every feature row meets its part of the weight once, though it is a part of
    three logit rows with two modalities, and no feature is ever copied. The parameters and their
    names are those of ``nn.Linear(sum of the sizes, out_features)``: state dicts load both ways.

    Args:
        feature_dims: Size D_m of each modality, by name or in order: the order in which the
            features were concatenated.
        out_features: C, for a classifier.
        bias: As in ``nn.Linear``.
        device: As in ``nn.Linear``.
        dtype: As in ``nn.Linear``.

    Raises:
        MidasAugError: There is no modality, or one without a feature.

    Example:
        >>> import torch
        >>> from midas_aug import FactoredLinear, MisalignAugment
        >>> features = {"audio": torch.rand(4, 8), "video": torch.rand(4, 6)}
        >>> augment = MisalignAugment(("audio", "video"), 3, confidence="uniform")
        >>> fusion = FactoredLinear({"audio": 8, "video": 6}, 3)
        >>> out = augment(features, torch.tensor([0, 1, 2, 0]), materialize=False)
        >>> logits = fusion(features, out)  # the features as they are; out says who is swapped
        >>> logits.shape
        torch.Size([12, 3])
        >>> swapped = torch.cat([out.gather(name, features[name]) for name in features], dim=1)
        >>> torch.allclose(logits, fusion(swapped), atol=1e-6)  # the ordinary way
        True
        >>> fusion(features).shape  # at evaluation
        torch.Size([4, 3])
    """

    def __init__(
        self,
        feature_dims: Mapping[Hashable, int] | Sequence[int],
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        given = feature_dims
        if not isinstance(feature_dims, Mapping):
            listed = isinstance(feature_dims, Sequence)
            feature_dims = dict(enumerate(feature_dims)) if listed else {}
        names, dims = tuple(feature_dims), tuple(feature_dims.values())
        if not dims or not all(is_integer(dim) and dim > 0 for dim in dims):
            raise MidasAugError(
                f"expected the feature size of each modality, all positive, got {given!r}; "
                "pass feature_dims={'audio': 512, 'video': 256} or (512, 256)"
            )
        check_count(out_features, "out_features")
        check_switch(bias, "bias")
        super().__init__(sum(dims), out_features, bias, device, dtype)
        self.modalities = names
        self.feature_dims = dims

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        dims = dict(zip(self.modalities, self.feature_dims, strict=True))
        return f"{dims!r}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, features: Any, out: Any = None) -> Tensor:
        """Logits of the aligned rows, or of all rows of ``out``.

        Args:
            features: ``(N, D_m)`` of each modality, by name or in order (a `MisalignedBatch` holds
                them, too). Or one ``(R, D)`` tensor, D the sum of D_m, concatenated already: then
                this is ``nn.Linear``.
            out: The `MisalignedBatch` of these rows, or any ``(R, M)`` integer source of rows.
                None: the N rows as they are.

        Returns:
            ``(N, C)``, or one row of logits for each row of ``out``.

        Raises:
            MidasAugError: Shapes or names do not fit.
        """
        if isinstance(features, Tensor):
            if out is not None:
                raise MidasAugError(
                    "expected the features of each modality apart to swap them, got one tensor of "
                    f"shape {tuple(features.shape)}; pass fusion({{modality: (N, D)}}, out)"
                )
            return super().forward(features)
        if isinstance(features, MisalignedBatch):
            if out is None and not features.materialized:
                out = features  # not materialized: still to be swapped
            features = self._held(features)
        parts = in_order(features, self._keys(features, out), "features")
        for key, part, dim in zip(self.modalities, parts, self.feature_dims, strict=True):
            if not isinstance(part, Tensor):
                raise MidasAugError(
                    f"expected features[{key!r}] to be a tensor of shape (N, {dim}), got "
                    f"{type(part).__name__}; pass what the encoder of this modality made of it"
                )
            why = "one row a row of the batch, as wide as this head was built for"
            check_shape(part, (parts[0].shape[0], dim), f"features[{key!r}]", why)
        count = parts[0].shape[0]
        source = None if out is None else self._source(out, count)
        if source is not None and source.device != parts[0].device:
            raise MidasAugError(elsewhere("features", parts[0], source.device))
        swapped: Sequence[int | None] = (None,) * len(parts)
        if type(out) is MisalignedBatch:
            swapped = out.drawn.swapped_blocks
        terms = []
        for number, weight in enumerate(torch.split(self.weight, list(self.feature_dims), dim=1)):
            term = F.linear(parts[number], weight, self.bias if number == 0 else None)
            if source is not None:
                term = select_rows(term, source[:, number], swapped[number])
            terms.append(term)
        return functools.reduce(torch.add, terms)

    def _held(self, batch: MisalignedBatch) -> Any:
        """What a batch holds of each modality, in order; its data, for a head of other names."""
        data, keys, names = batch.data, batch.modality_keys, self.modalities
        if names == tuple(range(len(keys))):  # built without names
            names = batch.modalities
        if set(names) != set(keys):
            return data
        # A key first, as in the batch: it may be the name of another modality.
        return [
            get_item(data, name)
            if resolve_key(data, name) is not None
            else get_groups(data, {name: keys[name]})[0]
            for name in names
        ]

    def _keys(self, features: Any, out: Any) -> tuple[Any, ...]:
        """The names of the features, for a head that was built without names, too."""
        by_position = self.modalities == tuple(range(len(self.modalities)))
        if not by_position or not isinstance(features, Mapping):
            return self.modalities
        if not hasattr(out, "modalities"):
            raise MidasAugError(
                f"expected the features in order, for a head that was built without names, got "
                f"{list(features)!r}; build it with FactoredLinear({{modality: size, ...}}, ...)"
            )
        return tuple(out.modalities)

    def _source(self, out: Any, count: int) -> Tensor:
        """The ``(R, M)`` rows to add up, checked."""
        if not is_array(out):  # a batch
            names = tuple(getattr(out, "modalities", self.modalities))
            if names != self.modalities and self.modalities != tuple(range(len(names))):
                raise MidasAugError(
                    f"expected a batch of the modalities {self.modalities!r}, got one of "
                    f"{names!r}; build the head and MisalignAugment with the same names in the "
                    "same order"
                )
            why = "the N rows that went into the augmentation; this head does the swapping"
            labels = out.labels
            wanted = (count, *labels.shape[1:])
            check_shape(labels, wanted, "a label for each feature row", why)
            out = out.source
        source = as_labels(out, "source", ndim=2)
        check_shape(source, (None, len(self.feature_dims)), "source", "one column a modality")
        check_rows(source, count, "source")
        return source
