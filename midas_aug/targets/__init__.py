"""What a label is: ``MisalignAugment(target=...)``.

- `ClassIndex`: one class a row, which ``num_classes=`` is short for.
- `Distribution`: a probability for every class: smoothed, distilled or mixed labels.
- `MultiLabel`: several classes a row, yes or no for each.
- `Continuous`: real numbers, as in regression.
- `Target`: what to derive a target of one's own from.
"""

from midas_aug.targets.base import Target
from midas_aug.targets.class_index import ClassIndex
from midas_aug.targets.continuous import Continuous
from midas_aug.targets.distribution import Distribution
from midas_aug.targets.multi_label import MultiLabel
from midas_aug.targets.resolve import resolve_target

__all__ = ["ClassIndex", "Continuous", "Distribution", "MultiLabel", "Target", "resolve_target"]
