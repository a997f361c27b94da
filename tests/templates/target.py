"""A kind of label. Copy the class to midas_aug/targets/NAME.py and the tests to
tests/targets/test_NAME.py, rename it, and fill in what fails.

Then: a line in midas_aug/targets/__init__.py, in the table of docs/guide.md, in CHANGELOG.md. Write
`dense`, `folded`, `statistics` and `best_constant` where the label has them; the base class says
what each is for, and refuses by name what is not there.
"""

import torch

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.targets import Target

NAMES = ("audio", "video")


class NewTarget(Target):
    """What a row's label is, in a sentence, and its loss."""

    def check(self, labels, *, force=False):
        raise NotImplementedError("fill in: labels as a tensor of N rows, or a MidasAugError")

    def label_ids(self, labels):
        raise NotImplementedError("fill in: (N,) int64, equal for rows that are never partners")

    def log_likelihoods(self, scores, labels):
        raise NotImplementedError("fill in: minus the loss of each of R predictions for K labels")


def labels_of(count):
    """Made-up labels of N rows, not all of them the same."""
    raise NotImplementedError("fill in: labels as a user has them")


def in_loops(scores, labels):
    """Minus the loss of each prediction for its own label, one row after the other: ``(N,)``."""
    raise NotImplementedError("fill in: the slow reference, which shares no code with the class")


N_OUTPUTS = 1  # the columns of a prediction


def test_its_loss_is_its_formula():
    for count in (1, 2, 7):
        target, scores = NewTarget(), torch.randn(count, N_OUTPUTS)
        labels = target.check(labels_of(count))
        found = target.log_likelihoods(scores, labels[:, None])
        torch.testing.assert_close(found[:, 0], in_loops(scores, labels))


def test_rows_of_the_same_label_are_never_partners():
    target = NewTarget()
    batch = {name: torch.randn(12, 4) for name in NAMES}
    augment = MisalignAugment(NAMES, target=target, confidence="uniform", seed=0)
    out = augment(batch, labels_of(12))
    ids = target.label_ids(target.check(labels_of(12)))[out.source[out.is_misaligned]]
    assert len(ids)
    assert (ids[:, 0] != ids[:, 1]).all()


def test_a_batch_is_trained_with_it():
    batch = {name: torch.randn(12, 4) for name in NAMES}
    unimodal = {name: torch.randn(12, N_OUTPUTS) for name in NAMES}
    augment = MisalignAugment(NAMES, target=NewTarget(), seed=0)
    out = augment(batch, labels_of(12), unimodal_logits=unimodal)
    logits = torch.randn(len(out.source), N_OUTPUTS, requires_grad=True)
    MidasLoss(2)(logits, out, unimodal_logits=unimodal).backward()
    assert logits.grad.isfinite().all()
