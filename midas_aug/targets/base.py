"""What a target is: the loss of a prediction for a label, and which labels are the same."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import as_scores, check_shape
from midas_aug._draws import STEP, natural_numbers, stirred
from midas_aug.errors import MidasAugError
from midas_aug.functional.skill import TEMPERATURES

__all__ = ["ID_MASK", "Target", "hash_rows", "share_rows"]

# Label ids are below 2^62: pairing has larger numbers for rows that stay out.
ID_MASK = (1 << 62) - 1


class Target(ABC):
    """Says what a label is. The whole method follows from the loss ℓ of a prediction for a label.

    Confidence is exp(−ℓ) of a modality's own prediction (Eq. 2), shares are a softmax over
    modalities of −ℓ (Eq. 3), the credit of Eq. 6 is one of the multimodal predictions, and the loss
    of a misaligned row is the sum over modalities of share · ℓ for the label of the source (Eq. 7).

    Derive from it and write three methods: `check`, `label_ids`, `log_likelihoods`. The others have
    defaults that will do, or that refuse by name what this target has not.

    Attributes:
        num_classes: C, or None where there are no classes.
        n_outputs: Columns of a prediction; None: any number.
        num_ids: What `label_ids` are below; None: nobody knows.
        takes_temperature: Whether predictions can be divided by a temperature, as logits can.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.targets import Target
        >>> class Absolute(Target):  # (N,) floats under an absolute error
        ...     def check(self, labels, *, force=False):
        ...         return torch.as_tensor(labels).float()
        ...     def label_ids(self, labels):  # alike to a tenth
        ...         return (10 * labels).round().long()
        ...     def log_likelihoods(self, scores, labels):
        ...         return -(scores - labels).abs()
        >>> augment = MisalignAugment(("a", "b"), target=Absolute(), confidence="uniform")
        >>> batch = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
        >>> out = augment(batch, torch.tensor([0.5, 2.0]))
        >>> MidasLoss(2, weak_modality=None)(torch.zeros(6, 1), out)  # 1.25, twice; no hard samples
        tensor(3.1250)
    """

    num_classes: int | None = None
    n_outputs: int | None = None
    num_ids: int | None = None
    takes_temperature: bool = False

    @property
    def temperatures(self) -> tuple[float, ...]:
        """What predictions are divided by to find out which of it suits them best."""
        return TEMPERATURES if self.takes_temperature else (1.0,)

    @abstractmethod
    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        """View ``labels`` as a tensor of N rows that the other methods can read.

        Args:
            labels: What the caller has, an array of N rows.
            force: Also look at values on an accelerator, which waits for it.

        Raises:
            MidasAugError: They are no such labels.
        """

    @abstractmethod
    def label_ids(self, labels: Tensor) -> Tensor:
        """``(N,)`` int64: equal for rows of the same label, which are never partners.

        A negative one is an ignored row. Without a look at values on an accelerator.
        """

    @abstractmethod
    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Minus the loss of each prediction for each of K labels, ``(R, K)``.

        Args:
            scores: ``(R, n_outputs)`` float predictions; gradients flow through.
            labels: ``(R, K, …)``, as `filled` gives them.
        """

    def predictions(self, given: Any, name: str) -> Tensor:
        """View predictions as ``(R, n_outputs)`` of at least float32 precision.

        ``(R,)`` will do for one output.

        Raises:
            MidasAugError: They have another dtype or number of axes.
        """
        if isinstance(given, Tensor | np.ndarray) and given.ndim == 1:
            if self.n_outputs == 1:
                given = given[:, None]
            elif self.n_outputs:
                raise MidasAugError(
                    f"expected {name} of shape (N, {self.n_outputs}), got {tuple(given.shape)}, "
                    f"one number a row; build that head with {self.n_outputs} outputs, and leave "
                    "its output as it is, without squeeze()"
                )
        return as_scores(given, name)

    def check_width(self, scores: Tensor, labels: Tensor, name: str) -> None:
        """Raise unless predictions have the columns that labels ask for."""
        if self.n_outputs is not None and scores.shape[1] != self.n_outputs:
            why = f"one column for each number that {self!r} predicts: build that head with as many"
            check_shape(scores, (None, self.n_outputs), name, why)

    def filled(self, labels: Tensor) -> Tensor:
        """The labels, with something readable in ignored rows."""
        return labels

    def loss_terms(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the loss that is trained with, and `log_likelihoods`, both ``(R, K)``.

        They differ where classes are weighed or labels smoothed: what modalities know is measured
        without. Gradients flow through the first.
        """
        found = self.log_likelihoods(scores, labels)
        return found, found

    def row_weights(self, labels: Tensor) -> Tensor | None:
        """``(N,)`` what each aligned row counts in the divisor of a mean; None: 1 each."""
        return None

    def losses(self, scores: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        """The loss of K predictions of each row, ``(K, N)``; 0 where it does not count.

        Args:
            scores: ``(K, N, n_outputs)``, finite where ignored, too.
            labels: ``(N, …)``, as `filled` gives them.
            ignored: ``(N,)`` or ``(K, N)`` bool.
        """
        terms = self.loss_terms(scores.flatten(0, 1), _tiled(labels, scores.shape[0]))[0]
        return terms.view(scores.shape[:2]).masked_fill(ignored, 0.0).neg()

    def loss_sum(self, scores: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        """The sum of `losses`."""
        return self.losses(scores, labels, ignored).sum()

    def head_log_likelihoods(self, scores: Sequence[Tensor], labels: Tensor) -> Tensor:
        """`log_likelihoods` of M predictions of each row for its own label, without gradient.

        Args:
            scores: M predictions ``(N, n_outputs)``.
            labels: ``(N, …)``, as `filled` gives them.

        Returns:
            ``(M, N)``.
        """
        own = labels[:, None]
        # Not of all in one tensor: `n_outputs` of None allows heads of different widths.
        found = [self.log_likelihoods(predicted.detach(), own)[:, 0] for predicted in scores]
        return torch.stack(found)

    def dense(self, source_labels: Tensor, shares: Tensor) -> Tensor:
        """Soft targets ``(R, C)`` for a loss that is linear in them.

        Args:
            source_labels: ``(R, M, …)``.
            shares: ``(R, M)``, each row sums to 1.

        Raises:
            MidasAugError: This target has none.
        """
        raise MidasAugError(
            f"expected a target whose loss is linear in soft labels, got {self!r}; train with "
            "MidasLoss, which needs none"
        )

    def folded(self, targets: Tensor, weights: Tensor) -> Tensor:
        """``targets`` ``(R, C)`` times ``weights`` ``(R,)``, for a loss that takes no weights.

        Raises:
            MidasAugError: The loss of this target cannot be scaled through its targets.
        """
        raise MidasAugError(
            f"expected a target with a softmax cross-entropy, got {self!r}, whose loss does not "
            "scale with its targets; multiply the loss of each row by out.weights, or use MidasLoss"
        )

    def unlabelled(self, n_rows: int, device: Any) -> Tensor:
        """Labels of rows that have none: ignored rows.

        Raises:
            MidasAugError: This target knows no such label.
        """
        raise MidasAugError(
            f"expected labels in the batch, got none; {self!r} has no mark for rows without a "
            "label: write its method unlabelled(n_rows, device)"
        )

    def statistics(self, labels: Tensor, counted: Tensor) -> Tensor:
        """What `best_constant` needs of labels, ``(K,)``; sums, so that batches can be added up.

        Args:
            labels: ``(N, …)``.
            counted: ``(N,)`` bool, the rows to sum over.

        Raises:
            MidasAugError: No best constant is known.
        """
        raise MidasAugError(_no_constant(self))

    def best_constant(self, statistics: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of the best constant prediction, and of the labels themselves.

        Args:
            statistics: ``(..., K)``, sums of `statistics`.
            n_rows: ``(...)``, the number of rows they are of.

        Raises:
            MidasAugError: No best constant is known.
        """
        raise MidasAugError(_no_constant(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _tiled(labels: Tensor, times: int) -> Tensor:
    """Labels ``(N, …)`` as ``(times · N, 1, …)``."""
    return labels.repeat(times, *[1] * (labels.ndim - 1))[:, None]


def _no_constant(target: Target) -> str:
    return (
        f"expected a target whose best constant prediction is known, got {target!r}; write its "
        "methods statistics and best_constant, or choose another provider than SkillConfidence"
    )


def share_rows(labels: Tensor, shares: Tensor) -> Tensor:
    """Labels ``(R, M, C)`` mixed by shares ``(R, M)``: ``(R, C)``."""
    return (labels.to(shares.dtype) * shares[:, :, None]).sum(dim=1)


def hash_rows(rows: Tensor) -> Tensor:
    """``(N, K)`` int64 as ``(N,)`` int64 in 0 … 2^62 − 1: equal rows alike, others not.

    Two different rows meet with a probability of 2^-62; they would then not be partners.
    """
    columns = (natural_numbers(rows.shape[1], rows, torch.compiler.is_compiling()) + 1) * STEP
    # Each number by itself first: sums of floats' bits, most of them zeros, would meet often.
    return stirred(stirred(rows + columns).sum(dim=1)).bitwise_and_(ID_MASK)
