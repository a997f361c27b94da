"""`FusionWeights`: one fitted number a modality, folded into a linear fusion layer."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug._arrays import Array, as_labels, as_scores, check_shape, is_array, is_integer
from midas_aug._tree import in_order
from midas_aug.errors import MidasAugError
from midas_aug.factored import FactoredLinear
from midas_aug.functional.fusion_weights import fit_fusion_weights

__all__ = ["FusionWeights"]

Heads = Mapping[Any, nn.Module] | Sequence[nn.Module] | nn.ModuleDict | nn.ModuleList


class FusionWeights:
    r"""One weight a modality for a linear fusion layer, fitted on validation rows.

    .. math:: z = \sum_m w_m u_m + \sum_m v_m h_m, \quad u_m = W_m f^m + b / M

    A fusion layer on concatenated features is a sum over modalities. Trained on rows that one
    modality knows by heart, it trusts that modality too much on others;
    `midas_aug.functional.fit_fusion_weights` mends this on rows that nothing was trained on.
    Training never sees the weights. They fold into a copy of the layer, which costs what the layer
    costs. Not in the paper.

    Linear unimodal heads h_m, which MIDAS trains anyway, can have a weight v_m each: they are sums
    over the same features, so they fold into the same layer.

    After an epoch, ``update`` it with the batches of the validation set, ``step``, and evaluate
    with the ``folded`` layer. Rows that choose the epoch and the weights are no test rows.

    Args:
        fusion: A `FactoredLinear`, or an ``nn.Linear`` on concatenated features. It is read anew in
            every ``update``.
        feature_dims: Of an ``nn.Linear``: size D_m of each modality, by name or in order, in the
            order in which the features are concatenated.
        heads: A linear head of each modality, by name or in order, on the features that the fusion
            sees, with as many outputs. Read anew like the fusion. None: no v.

    Attributes:
        weights: w, ``(M,)``; with heads w and v, ``(2M,)``. Before the first ``step`` w is 1 and v
            is 0, the layer as it is.

    Raises:
        MidasAugError: The fusion is not a sum over modalities, a head is not linear, or the sizes
            do not fit.

    Example:
        >>> import torch
        >>> from midas_aug import FactoredLinear, FusionWeights
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(60) % 3
        >>> audio = torch.nn.functional.one_hot(labels).float() + torch.randn(60, 3)
        >>> features = {"audio": audio, "video": torch.randn(60, 4)}  # the video tells nothing
        >>> fusion = FactoredLinear({"audio": 3, "video": 4}, 3)
        >>> fitted = FusionWeights(fusion)
        >>> fitted.update(features, labels)
        >>> weights = fitted.step()
        >>> z = fitted.folded()(features)
        >>> torch.allclose(z, (weights[:, None] * fitted.parts(features)).sum(dim=1), atol=1e-5)
        True
    """

    def __init__(
        self,
        fusion: nn.Linear,
        feature_dims: Mapping[Hashable, int] | Sequence[int] | None = None,
        heads: Heads | None = None,
    ) -> None:
        if not isinstance(fusion, nn.Linear):
            raise MidasAugError(
                "expected a fusion that is a sum over modalities, a FactoredLinear or an nn.Linear "
                f"on concatenated features, got {type(fusion).__name__}; its logits have no part "
                "that belongs to one modality, so there is nothing to weigh"
            )
        if isinstance(fusion, FactoredLinear):
            if feature_dims is not None:
                raise MidasAugError(
                    "expected no feature_dims for a FactoredLinear, which knows its own, got "
                    f"{feature_dims!r}; leave them out"
                )
            feature_dims = dict(zip(fusion.modalities, fusion.feature_dims, strict=True))
        if feature_dims is None:
            raise MidasAugError(
                "expected feature_dims, the size of each modality, for an nn.Linear, got None; "
                "pass feature_dims={'audio': 512, 'video': 256}, or use a FactoredLinear"
            )
        given = feature_dims
        if not isinstance(feature_dims, Mapping):
            listed = isinstance(feature_dims, Sequence)
            feature_dims = dict(enumerate(feature_dims)) if listed else {}
        if not all(is_integer(dim) and dim > 0 for dim in feature_dims.values()) or (
            sum(feature_dims.values()) != fusion.in_features
        ):
            raise MidasAugError(
                "expected feature_dims as positive integers that add up to the "
                f"{fusion.in_features} inputs of the layer, got {given!r}; pass the size of each "
                "modality's features, such as {'audio': 512, 'video': 256}, in the order in which "
                "they are concatenated"
            )
        self.fusion = fusion
        self.modalities = tuple(feature_dims)
        self.feature_dims = tuple(feature_dims.values())
        self.heads = () if heads is None else self._checked(heads)
        first = [1.0] * len(self.modalities) + [0.0] * len(self.heads)
        self.weights = torch.tensor(first, dtype=torch.float32)
        self._parts: list[Tensor] = []
        self._labels: list[Tensor] = []

    def __repr__(self) -> str:
        names = [*map(str, self.modalities)]
        if self.heads:
            names += [f"head of {name}" for name in self.modalities]
        weighed = zip(names, self.weights.tolist(), strict=True)
        return f"FusionWeights({', '.join(f'{name}: {w:.3g}' for name, w in weighed)})"

    @torch.no_grad()
    def parts(self, features: Any) -> Tensor:
        """The additive parts u of the layer's logits, the bias divided equally; then the heads' h.

        Args:
            features: ``(N, D_m)`` of each modality, by name or in order. Or one ``(N, sum of D_m)``
                array, concatenated already. Of any float dtype; the layer's is computed in.

        Returns:
            ``(N, M, C)``; the sum over M is the layer's output. With heads ``(N, 2M, C)``, their
            logits last. Without gradient.

        Raises:
            MidasAugError: Shapes or names do not fit.
        """
        weight = self.fusion.weight
        if is_array(features):
            rows = as_scores(features, "features")
            check_shape(rows, (None, self.fusion.in_features), "features", "as the layer takes")
            features = self._split(rows)
        given: list[Tensor] = []
        in_turn = in_order(features, self.modalities, "features")
        for name, feature, dim in zip(self.modalities, in_turn, self.feature_dims, strict=True):
            rows = as_scores(feature, f"features[{name!r}]").to(weight.dtype)
            why = "one row a sample, as wide as feature_dims says"
            check_shape(rows, (len(given[0] if given else rows), dim), f"features[{name!r}]", why)
            given.append(rows)
        bias: Tensor | None = self.fusion.bias
        share = None if bias is None else bias / len(given)
        blocks = self._split(weight)
        parts = [F.linear(f, w, share) for f, w in zip(given, blocks, strict=True)]
        if self.heads:
            parts += [head(feature) for head, feature in zip(self.heads, given, strict=True)]
        return torch.stack(parts, dim=1)

    def update(self, features: Any, labels: Array) -> None:
        """Take a batch of validation rows, with the layer as it is now.

        Args:
            features: As in `parts`, from encoders in eval mode.
            labels: ``(N,)`` integers; rows with a negative one are left out.

        Raises:
            MidasAugError: Shapes or names do not fit.
        """
        parts = self.parts(features)
        classes = as_labels(labels, "labels")
        check_shape(classes, (len(parts),), "labels", "one a row of the features")
        self._parts.append(parts)
        self._labels.append(classes.to(parts.device))

    def step(self) -> Tensor:
        """Fit the weights to the rows since the last ``step``, and forget the rows.

        Returns:
            ``(M,)`` or ``(2M,)``, which is ``weights`` from now on.

        Raises:
            MidasAugError: There was no ``update``, or a part is not finite.
        """
        if not self._parts:
            raise MidasAugError(
                "expected validation rows to fit the weights to, got none since the last step; "
                "call update(features, labels) with each batch first"
            )
        self.weights = fit_fusion_weights(torch.cat(self._parts), torch.cat(self._labels))
        self._parts, self._labels = [], []
        return self.weights

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A copy of the layer, as it is now, with the weights in its parameters.

        It is a plain layer of the same kind, whose bias has the mean weight; heads are added to it,
        each with its v.
        """
        layer, (weight, bias) = self.fusion, self._weighed()
        inputs: Any = layer.in_features
        kind: Callable[..., nn.Linear] = nn.Linear
        if isinstance(layer, FactoredLinear):
            inputs, kind = (
                dict(zip(self.modalities, self.feature_dims, strict=True)),
                FactoredLinear,
            )
        copy = kind(inputs, layer.out_features, bias is not None, weight.device, weight.dtype)
        copy.weight.copy_(weight)
        if bias is not None:
            copy.bias.copy_(bias)
        copy.train(layer.training)
        return copy

    def _weighed(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the folded layer."""
        weight, bias = self.fusion.weight, self._bias_of(self.fusion)
        count = len(self.modalities)
        weights = self.weights.to(weight)
        w, v = weights[:count], weights[count:]
        blocks = [scale * block for scale, block in zip(w, self._split(weight), strict=True)]
        biases = [] if bias is None else [w.mean() * bias]
        for place, (scale, head) in enumerate(zip(v, self.heads, strict=True)):
            blocks[place] = blocks[place] + scale * head.weight
            own = self._bias_of(head)
            biases += [] if own is None else [scale * own]
        return torch.cat(blocks, dim=1), torch.stack(biases).sum(dim=0) if biases else None

    @staticmethod
    def _bias_of(layer: nn.Linear) -> Tensor | None:
        return layer.bias  # which its annotation calls a tensor, and which may be None

    def _checked(self, heads: Heads) -> tuple[nn.Linear, ...]:
        """The heads in the order of the modalities, each linear and of the right size."""
        given: Any = heads
        if isinstance(heads, nn.ModuleDict | nn.ModuleList):
            given = dict(heads.items()) if isinstance(heads, nn.ModuleDict) else list(heads)
        ordered = in_order(given, self.modalities, "heads")
        for name, dim, head in zip(self.modalities, self.feature_dims, ordered, strict=True):
            if not isinstance(head, nn.Linear):
                raise MidasAugError(
                    f"expected heads[{name!r}] to be an nn.Linear on the features of the fusion, "
                    f"got {type(head).__name__}; what is not linear in them can't be folded. Leave "
                    "heads out, or pass log-probabilities to functional.fit_fusion_weights"
                )
            sizes = (head.in_features, head.out_features)
            if sizes != (dim, self.fusion.out_features):
                raise MidasAugError(
                    f"expected heads[{name!r}] to have {dim} inputs and "
                    f"{self.fusion.out_features} outputs, as the fusion has for this modality, "
                    f"got {sizes[0]} and {sizes[1]}; pass the heads of the features that are fused"
                )
        return tuple(ordered)

    def _split(self, columns: Tensor) -> tuple[Tensor, ...]:
        return torch.split(columns, list(self.feature_dims), dim=1)
