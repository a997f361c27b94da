"""Linear probes: what a linear classifier can read off each encoder, where a model has no heads."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midas_aug._arrays import is_integer
from midas_aug._tree import in_order
from midas_aug.diagnostics.blocks import as_modalities
from midas_aug.diagnostics.reading import Predict, Reader, evaluating, progress_bar
from midas_aug.errors import MidasAugError

__all__ = ["LinearProbes", "linear_probes"]

WEIGHT_DECAY = 1e-3
STEPS = 200  # of L-BFGS, at most


class LinearProbes(nn.Module):
    """A linear classifier of each modality's feature: ``features -> {modality: logits (N, C)}``.

    Attributes:
        modalities: Keys of the features, in order.
        classifiers: One for each.
    """

    def __init__(self, modalities: Sequence[Hashable], classifiers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, features: Any) -> dict[Hashable, Tensor]:
        """Logits of each modality."""
        given = in_order(features, self.modalities, "the features")
        return {
            name: classifier(feature.to(classifier.weight.dtype))
            for name, classifier, feature in zip(
                self.modalities, self.classifiers, given, strict=True
            )
        }


def linear_probes(
    encode: Predict,
    training: Iterable[Any],
    modalities: Sequence[Hashable],
    *,
    label: Hashable | Callable[[Any], Any] = "label",
    num_classes: int | None = None,
    weight_decay: float = WEIGHT_DECAY,
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> LinearProbes:
    """Fit a linear classifier to the features of each modality, for ``unimodal=`` of `diagnose`.

    A logistic regression of standardised features, by L-BFGS on all training rows at once. The
    encoders stay as they are. It tells what a linear head makes of what they have learned: less
    than a head that was trained with them, or than a model of the modality alone.

    Args:
        encode: ``callable(batch) -> features by modality``, ``(N, D)`` floats each.
        training: Batches of training rows, with labels. Their features are kept in memory.
        modalities: Two or more keys of the features.
        label: Key of the labels in the batch, or ``callable(batch) -> labels``; rows with a
            negative one are left out.
        num_classes: Number of classes C; None takes the highest label and one.
        weight_decay: Half the factor of the squared weights beside the mean cross-entropy.
        device: Where to move the batches; None leaves them where they are.
        progress: Show a progress bar (with ``rich``); None shows it on a terminal.

    Raises:
        MidasAugError: There are no labelled rows, features are no finite vectors, or an argument
            does not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import linear_probes
        >>> labels = torch.arange(60) % 3
        >>> batch = {"a": torch.eye(3)[labels], "b": torch.zeros(60, 3), "label": labels}
        >>> probes = linear_probes(lambda batch: batch, [batch], ("a", "b"))
        >>> (probes(batch)["a"].argmax(dim=1) == labels).all()
        tensor(True)
    """
    named = as_modalities(modalities)
    if isinstance(modalities, Mapping):
        raise MidasAugError(
            "expected the keys of the features, got a mapping; probes take one feature a modality"
        )
    if not weight_decay >= 0:
        raise MidasAugError(f"expected weight_decay of at least 0, got {weight_decay!r}")
    parts: dict[str, list[Tensor]] = {modality.name: [] for modality in named}
    labels = []
    with torch.no_grad(), evaluating([encode]), progress_bar(progress) as watch:
        reader = Reader(named, label, device, watch)
        for given in watch(training, "features of training rows"):
            batch, found = reader.read(given)
            counted = found.ids >= 0
            features = encode(batch)
            for modality in named:
                rows = _vectors(modality.of(features), len(counted), modality.name)
                parts[modality.name].append(rows[counted.to(rows.device)])
            labels.append(found.ids[counted])
    classes = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64)
    if len(classes) == 0:
        raise MidasAugError("expected training rows with a label of 0 or more, got none")
    highest = int(classes.max()) + 1
    if num_classes is not None and (not is_integer(num_classes) or num_classes < highest):
        raise MidasAugError(
            f"expected num_classes as an integer of at least {highest}, as the labels say, got "
            f"{num_classes!r}"
        )
    count = max(2, highest) if num_classes is None else int(num_classes)
    return LinearProbes(
        [modality.key for modality in named],
        [_fitted(torch.cat(parts[m.name]), classes, count, weight_decay, m.name) for m in named],
    )


def _vectors(value: Any, n_rows: int, name: str) -> Tensor:
    fits = isinstance(value, Tensor) and value.ndim == 2 and len(value) == n_rows
    if not fits or not value.is_floating_point():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise MidasAugError(
            f"expected the feature {name!r} as floats of shape ({n_rows}, D), got {got}; pool it "
            "in encode, as in feature.mean(dim=1)"
        )
    vectors: Tensor = value.detach().float()
    return vectors


@torch.enable_grad()
def _fitted(
    rows: Tensor, labels: Tensor, num_classes: int, weight_decay: float, name: str
) -> nn.Linear:
    """A logistic regression, with the standardisation folded into its weights."""
    if not bool(rows.isfinite().all()):
        raise MidasAugError(f"expected a finite feature {name!r}, got NaN or infinity")
    classes = labels.to(rows.device)
    spread, mean = torch.std_mean(rows, dim=0, correction=0)
    scale = torch.where(spread > 0, spread, 1.0)
    standard = (rows - mean) / scale
    weight = rows.new_zeros(num_classes, rows.shape[1], requires_grad=True)
    bias = rows.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), classes)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    classifier = nn.Linear(rows.shape[1], num_classes, device=rows.device, dtype=rows.dtype)
    with torch.no_grad():
        classifier.weight.copy_(weight / scale)
        classifier.bias.copy_(bias - (weight / scale) @ mean)
    return classifier.requires_grad_(False)
