"""What to write when a part of the method is to be one's own.

- `Pairing`: who may be whose partner; ``MisalignAugment(pairing=...)``.
- `Hardness`: how samples are weighed; ``MisalignAugment(hardness=...)``.
- `ConfidenceProvider`: how sure a modality is; ``MisalignAugment(confidence=...)``.
- `Target`: what a label is; ``MisalignAugment(target=...)``.
- `LabelledRows`: what `MidasLoss` reads of a batch, for a batch that another augmentation made.
"""

from midas_aug._hardness import Hardness
from midas_aug.confidence.base import ConfidenceProvider
from midas_aug.functional.pairing import Pairing
from midas_aug.targets import Target
from midas_aug.weak_modality import LabelledRows

__all__ = ["ConfidenceProvider", "Hardness", "LabelledRows", "Pairing", "Target"]
