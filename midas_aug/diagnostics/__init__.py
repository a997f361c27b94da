"""See the imbalance: how a multimodal classifier uses its modalities.

`diagnose` is the one call: it swaps, permutes and removes modalities and returns a
`ModalityReport` with scores, 95 % intervals, findings in plain language, and advice. The measures
behind it are pure functions of tensors; `TrainingLog` collects curves during training. The
accumulating metrics need ``torchmetrics``, the figures ``matplotlib``; both are in the extra
``diagnostics``.
Not imported by ``import midas_aug``.
"""

from typing import TYPE_CHECKING, Any

from midas_aug.diagnostics.advice import Advice, advise
from midas_aug.diagnostics.bootstrap import Score
from midas_aug.diagnostics.diagnose import diagnose, diagnose_across_ranks
from midas_aug.diagnostics.figures import draw_curves, draw_hardness, draw_report, draw_shares
from midas_aug.diagnostics.findings import Finding
from midas_aug.diagnostics.fusion import cross_fitted_fusion, late_fusion
from midas_aug.diagnostics.learning import learning_speed
from midas_aug.diagnostics.measures import (
    accuracy,
    collapsed_share_fraction,
    discrepancy_ratio,
    expected_calibration_error,
    hardness_quantiles,
    misaligned_confidence,
    permutation_importance,
    share_entropy,
)
from midas_aug.diagnostics.probes import LinearProbes, linear_probes
from midas_aug.diagnostics.removal import remove_modality
from midas_aug.diagnostics.report import Comparison, ModalityReport
from midas_aug.diagnostics.saved import report_from_logits
from midas_aug.diagnostics.shapley import accuracy_shapley, all_subsets, sample_shapley, shapley
from midas_aug.diagnostics.training_log import TrainingLog
from midas_aug.functional.metrics import misaligned_accuracy

if TYPE_CHECKING:
    from midas_aug.diagnostics.metrics import (
        DiscrepancyRatio,
        MisalignedAccuracy,
        MisalignedConfidence,
        ShareCollapse,
        ShareEntropy,
    )

__all__ = [
    "Advice",
    "Comparison",
    "DiscrepancyRatio",
    "Finding",
    "LinearProbes",
    "MisalignedAccuracy",
    "MisalignedConfidence",
    "ModalityReport",
    "Score",
    "ShareCollapse",
    "ShareEntropy",
    "TrainingLog",
    "accuracy",
    "accuracy_shapley",
    "advise",
    "all_subsets",
    "collapsed_share_fraction",
    "cross_fitted_fusion",
    "diagnose",
    "diagnose_across_ranks",
    "discrepancy_ratio",
    "draw_curves",
    "draw_hardness",
    "draw_report",
    "draw_shares",
    "expected_calibration_error",
    "hardness_quantiles",
    "late_fusion",
    "learning_speed",
    "linear_probes",
    "misaligned_accuracy",
    "misaligned_confidence",
    "permutation_importance",
    "remove_modality",
    "report_from_logits",
    "sample_shapley",
    "shapley",
    "share_entropy",
]

METRICS = (
    "DiscrepancyRatio",
    "MisalignedAccuracy",
    "MisalignedConfidence",
    "ShareCollapse",
    "ShareEntropy",
)


def __getattr__(name: str) -> Any:
    """Load the metrics, and with them torchmetrics, when one is asked for."""
    if name in METRICS:
        from midas_aug.diagnostics import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
