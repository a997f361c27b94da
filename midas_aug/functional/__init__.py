"""The whole of MIDAS as pure functions of arrays.

Draw first (`sample_partners`, `plan_swaps`), then apply: everything after a `SwapPlan` is
deterministic, static in shape and free of host-device syncs. Torch tensors give torch tensors,
NumPy arrays give NumPy arrays. Equation and section numbers are those of arXiv 2509.25831.
"""

from midas_aug.functional.fusion_weights import fit_fusion_weights
from midas_aug.functional.hard_samples import hard_sample_weights
from midas_aug.functional.losses import misaligned_cross_entropy
from midas_aug.functional.metrics import misaligned_accuracy
from midas_aug.functional.pairing import (
    permutation_partners,
    same_class_partners,
    sample_partners,
)
from midas_aug.functional.plan import SwapPlan, plan_swaps
from midas_aug.functional.ratio_rule import ratio_weak_modality_step
from midas_aug.functional.shares import (
    gather_rows,
    label_shares,
    soft_targets,
    true_class_confidence,
)
from midas_aug.functional.skill import shares_by_source, skill_score
from midas_aug.functional.weak_modality import weak_modality_step

__all__ = [
    "SwapPlan",
    "fit_fusion_weights",
    "gather_rows",
    "hard_sample_weights",
    "label_shares",
    "misaligned_accuracy",
    "misaligned_cross_entropy",
    "permutation_partners",
    "plan_swaps",
    "ratio_weak_modality_step",
    "same_class_partners",
    "sample_partners",
    "shares_by_source",
    "skill_score",
    "soft_targets",
    "true_class_confidence",
    "weak_modality_step",
]
