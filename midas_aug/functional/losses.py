"""Cross-entropy of misaligned samples against the labels of their sources (Eq. 7, 10)."""

from torch import Tensor

from midas_aug._arrays import Array, ArrayT, as_labels, as_scores, check_shape, like
from midas_aug.functional.shares import check_logit_width

__all__ = ["misaligned_cross_entropy"]


def misaligned_cross_entropy(
    logits: ArrayT, source_labels: Array, shares: Array, alpha: Array | None = None
) -> ArrayT:
    r"""Soft-label cross-entropy of each row, without building the soft labels (Eq. 7).

    .. math:: -\sum_m \alpha_m \tilde c_s^m \log \tilde p_s[\text{label of } m\text{'s source}]

    One log-softmax and one gather: no dense ``(S, C)`` target exists at any time.

    Args:
        logits: ``(S, C)`` float, of the multimodal head; the gradient flows here.
        source_labels: ``(S, M)`` integers. A negative one adds nothing.
        shares: ``(S, M)``, as from `label_shares`.
        alpha: ``(M,)`` weak-modality weights; None means 1.

    Returns:
        ``(S,)`` float32, float64 for float64 logits.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import misaligned_cross_entropy
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> shares = torch.tensor([[0.75, 0.25]])
        >>> misaligned_cross_entropy(logits, torch.tensor([[0, 1]]), shares)
        tensor([0.6576])
    """
    scores = as_scores(logits, "logits")
    classes = as_labels(source_labels, "source_labels", ndim=2)
    weights = as_scores(shares, "shares").detach().to(scores.dtype)
    check_shape(classes, (len(scores), None), "source_labels", "one row a row of logits")
    check_shape(weights, tuple(classes.shape), "shares", "one share a source label")
    check_logit_width(classes, scores.shape[1], "logits")
    if alpha is not None:
        factors = as_scores(alpha, "alpha", ndim=1).detach()
        why = "one weak-modality weight a modality"
        check_shape(factors, (weights.shape[1],), "alpha", why)
        weights = weights * factors
    log_p = log_probability_at(scores, classes)
    # A class that is masked out (−∞) costs nothing where it has no share.
    return like(-(weights * log_p.masked_fill(weights == 0, 0.0)).sum(dim=1), logits)


def log_probability_at(scores: Tensor, labels: Tensor) -> Tensor:
    """Log-softmax ``(R, C)`` at the labels ``(R, M)``; 0 where a label is negative."""
    read = scores.masked_fill((labels < 0).all(dim=1, keepdim=True), 0.0)  # others may hold NaN
    log_p = read.log_softmax(dim=1).gather(1, labels.clamp(min=0))
    # Not a weight of 0: a class that is masked out (−∞) would make it NaN.
    return log_p.masked_fill(labels < 0, 0.0)
