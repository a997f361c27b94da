"""MIDAS (NeurIPS 2025, arXiv 2509.25831): misalignment augmentation for multimodal classifiers.

Swap a modality between samples of different classes, label the mix by how confident each unimodal
classifier is, weigh up the weak modality and the hard samples, and train on both. `MisalignAugment`
makes such a batch, `MidasLoss` is the objective, `midas_aug.functional` the method in pure
functions, `midas_aug.confidence` the ways to be confident, and `midas_aug.recipes` whole settings
in one line.
"""

from midas_aug import confidence, functional, protocols, recipes, targets
from midas_aug.augment import MisalignAugment
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.factored import FactoredLinear
from midas_aug.functional import SwapPlan
from midas_aug.fusion_weights import FusionWeights
from midas_aug.loss import LossTerms, MidasLoss
from midas_aug.weak_modality import RatioWeakModalityWeight, WeakModalityWeight

__version__ = "0.2.0"

__all__ = [
    "FactoredLinear",
    "FusionWeights",
    "LossTerms",
    "MidasAugError",
    "MidasLoss",
    "MisalignAugment",
    "MisalignedBatch",
    "RatioWeakModalityWeight",
    "SwapPlan",
    "WeakModalityWeight",
    "__version__",
    "confidence",
    "functional",
    "protocols",
    "recipes",
    "targets",
]
