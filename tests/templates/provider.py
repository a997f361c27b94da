"""A confidence provider. Copy the class to midas_aug/confidence/NAME.py and the tests to
tests/test_confidence_NAME.py, rename it, and fill in what fails.

Then: a line in midas_aug/confidence/__init__.py (import, __all__, table) and in CHANGELOG.md.
"""

import torch

from midas_aug import MisalignAugment
from midas_aug.confidence import ConfidenceProvider

NAMES = ("audio", "video")


class NewConfidence(ConfidenceProvider):
    """How sure, in a sentence, and where it is from.

    Args:
        modalities: Batch keys, in the order of the columns.
    """

    def __init__(self, modalities):
        self.modalities = tuple(modalities)

    def __call__(self, batch, labels):
        """Confidences ``(N, M)``, finite and non-negative, without a gradient."""
        raise NotImplementedError("fill in: a column for each modality, without a loop over rows")


def in_loops(batch, labels):
    """The same from its formula, one row and one modality after the other."""
    raise NotImplementedError("fill in: the slow reference, which shares no code with the class")


def rows(count):
    labels = torch.arange(count) % 3
    return {name: torch.randn(count, 4) for name in NAMES} | {"label": labels}, labels


def test_it_is_its_formula():
    for count in (1, 2, 7):
        batch, labels = rows(count)
        torch.testing.assert_close(NewConfidence(NAMES)(batch, labels), in_loops(batch, labels))


def test_it_is_finite_and_not_negative_and_passes_no_gradient_on():
    batch, labels = rows(6)
    features = {**batch, "audio": batch["audio"].requires_grad_()}
    confidence = NewConfidence(NAMES)(features, labels)
    assert confidence.shape == (6, 2)
    assert confidence.isfinite().all()
    assert (confidence >= 0).all()
    assert not confidence.requires_grad


def test_it_labels_a_batch_in_which_a_row_is_ignored():
    batch, labels = rows(6)
    labels[0] = -1
    out = MisalignAugment(NAMES, 3, confidence=NewConfidence(NAMES), seed=0)(batch, labels)
    assert out.shares.isfinite().all()
    torch.testing.assert_close(out.shares.sum(dim=1), torch.ones(len(out.shares)))
