"""Confidence providers: how sure each modality's own classifier is of each row's label.

A provider is any callable ``(batch, labels) -> (N, M)`` of non-negative numbers, modalities in the
order that `MisalignAugment` was given. Only ratios between the modalities of a misaligned sample
count (Eq. 2-3), unless the provider has a method ``shares`` and states the shares itself.

| provider | knows | runs in a loader worker |
| --- | --- | --- |
| `UniformConfidence` | nothing: every modality the same | yes |
| `LogitConfidence` | unimodal logits that the batch brings | yes |
| `HeadConfidence` | linear heads that it trains on features | no |
| `FrozenConfidence` | pretrained unimodal classifiers | no |
| `TableConfidence` | a number for every data set index | yes |
| `PrototypeConfidence` | class centroids of features | no |
| `SkillConfidence` | one number a modality, measured on held-out data | yes |
| `CalibratedConfidence` | temperatures for another provider's logits | as the other one |
"""

from midas_aug.confidence.base import ConfidenceProvider, LogitProvider
from midas_aug.confidence.calibration import CalibratedConfidence
from midas_aug.confidence.models import FrozenConfidence, HeadConfidence
from midas_aug.confidence.prototypes import PrototypeConfidence
from midas_aug.confidence.simple import LogitConfidence, UniformConfidence
from midas_aug.confidence.skill import SkillConfidence
from midas_aug.confidence.table import TableConfidence

__all__ = [
    "CalibratedConfidence",
    "ConfidenceProvider",
    "FrozenConfidence",
    "HeadConfidence",
    "LogitConfidence",
    "LogitProvider",
    "PrototypeConfidence",
    "SkillConfidence",
    "TableConfidence",
    "UniformConfidence",
]
