"""Every score of a report and of a training log: what it is called, and how it is shown.

A score has a key: the name of its kind, and behind a dot what it belongs to (``accuracy``,
``cost.video``, ``shared_errors.audio+video``). Keys are put together here and nowhere else.
"""

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["OF_A_MODALITY", "OF_A_PAIR", "OF_THE_MODEL", "Kind"]

Unit: TypeAlias = Literal["percent", "points", "number"]


class Kind(NamedTuple):
    """A kind of score.

    Attributes:
        name: The first part of the key.
        label: What tables call it.
        unit: ``"percent"`` and ``"points"`` (a difference of percentages) are kept as fractions
            and shown times 100; ``"number"`` is shown as it is.
        is_shown: Whether tables have a line for it.
    """

    name: str
    label: str
    unit: Unit = "percent"
    is_shown: bool = True

    def key(self, *owners: str) -> str:
        """The key of the score: of the model (no owner), of a modality, or of a pair of them.

        Example:
            >>> from midas_aug.diagnostics.scores import ACCURACY, COST, SHARED_ERRORS
            >>> ACCURACY.key(), COST.key("video"), SHARED_ERRORS.key("audio", "video")
            ('accuracy', 'cost.video', 'shared_errors.audio+video')
        """
        return f"{self.name}.{'+'.join(owners)}" if owners else self.name


# ---------------------------------------------------------------- of a report

ACCURACY = Kind("accuracy", "accuracy")
SCORE = Kind("score", "score")  # of labels that are no classes
LATE_SCORE = Kind("late_score", "late fusion of the heads")
CROSS_ENTROPY = Kind("cross_entropy", "cross-entropy", "number")
MISALIGNED_ACCURACY = Kind("misaligned_accuracy", "misaligned accuracy")
MISALIGNED_ACCURACY_ALL = Kind(
    "misaligned_accuracy_all", "misaligned accuracy, same-label pairs counted as wrong"
)
MAJORITY = Kind("majority", "always the most frequent class")
ECE = Kind("ece", "calibration error")
LATE_FUSION = Kind("late_fusion", "late fusion of the heads")
LATE_FUSION_GAIN = Kind(
    "late_fusion_gain", "late fusion of the heads minus the model (points)", "points"
)
FITTED_FUSION = Kind("fitted_fusion", "late fusion of the heads, fitted weights")
FITTED_FUSION_GAIN = Kind(
    "fitted_fusion_gain", "late fusion, fitted weights, minus the model (points)", "points"
)
FITTING_GAIN = Kind("fitting_gain", "what fitted weights add to it (points)", "points", False)
SHARE_ENTROPY = Kind("share_entropy", "share entropy (100: all shares 1/M)")
SHARE_COLLAPSED = Kind("share_collapsed", "shares within 0.05 of 1/M")
OF_THE_MODEL = (
    ACCURACY,
    SCORE,
    CROSS_ENTROPY,
    MISALIGNED_ACCURACY,
    MISALIGNED_ACCURACY_ALL,
    MAJORITY,
    ECE,
    LATE_FUSION,
    LATE_SCORE,
    LATE_FUSION_GAIN,
    FITTED_FUSION,
    FITTED_FUSION_GAIN,
    FITTING_GAIN,
    SHARE_ENTROPY,
    SHARE_COLLAPSED,
)

SHARED_ERRORS = Kind("shared_errors", "errors shared by the heads of {}+{}")
OF_A_PAIR = (SHARED_ERRORS,)

WITHOUT = Kind("without", "accuracy without it")
COST = Kind("cost", "cost of removing it (points)", "points")
ALONE = Kind("alone", "accuracy with all others removed")
ALONE_SIGNAL = Kind(
    "alone_signal", "all others removed minus most frequent class (points)", "points", False
)
HEAD_ACCURACY = Kind("head_accuracy", "accuracy of its own head")
HEAD_SCORE = Kind("head_score", "score of its own head")
SIGNAL = Kind("signal", "own head minus most frequent class (points)", "points", False)
HEADROOM = Kind("headroom", "own head minus all others removed (points)", "points")
HEAD_GAIN = Kind("head_gain", "own head minus the model (points)", "points")
HEAD_ECE = Kind("head_ece", "calibration error of its own head")
HEAD_SKILL = Kind("head_skill", "skill of its own head")
TRAINING_SKILL = Kind("training_skill", "skill of its own head, training rows")
MEMORISED = Kind("memorised", "training minus held-out skill (points)", "points")
LEARNED_AT = Kind("learned_at", "epoch by which its head was half as sure as ever", "number")
FUSION_WEIGHT = Kind("fusion_weight", "fitted weight in late fusion", "number")
CONFIDENCE = Kind("confidence", "probability of its label, misaligned rows")
FOLLOWED = Kind("followed", "sided with where it disagrees with all others")
CREDIT = Kind("credit", "credit it gets where it disagrees with all others")
SHAPLEY = Kind("shapley", "Shapley value of the accuracy (points)", "points")
SHAPLEY_SHARE = Kind("shapley_share", "share of the Shapley values")
SMV = Kind("smv", "SMV value", "number")
SMV_SHARE = Kind("smv_share", "share of the SMV values")
DISCREPANCY = Kind("discrepancy", "OGM discrepancy ratio", "number")
PERMUTATION_IMPORTANCE = Kind(
    "permutation_importance", "accuracy when permuted / accuracy", "number"
)
OF_A_MODALITY = (
    WITHOUT,
    COST,
    ALONE,
    ALONE_SIGNAL,
    HEAD_ACCURACY,
    HEAD_SCORE,
    SIGNAL,
    HEADROOM,
    HEAD_GAIN,
    HEAD_ECE,
    HEAD_SKILL,
    TRAINING_SKILL,
    MEMORISED,
    LEARNED_AT,
    FUSION_WEIGHT,
    CONFIDENCE,
    FOLLOWED,
    CREDIT,
    SHAPLEY,
    SHAPLEY_SHARE,
    SMV,
    SMV_SHARE,
    DISCREPANCY,
    PERMUTATION_IMPORTANCE,
)

# ---------------------------------------------------------------- of a training log
# CONFIDENCE, CREDIT, ACCURACY and MISALIGNED_ACCURACY are in it, too: of training rows.

SHARE = Kind("share", "share in the label", "number")
UNIMODAL = Kind("unimodal", "confidence of the unimodal head", "number")
ALPHA = Kind("alpha", "weight of the modality", "number")
LOSS = Kind("loss", "loss", "number")
COLLAPSED = Kind("collapsed", "shares within 0.05 of 1/M")
ENTROPY = Kind("entropy", "entropy of the shares over log M")
HARDNESS = Kind("hardness", "hard-sample weight", "number")
WARMING_UP = Kind("warming_up", "in the warm-up", "number")
SIMILARITY = Kind("similarity", "similarity of a feature and its replacement", "number")
