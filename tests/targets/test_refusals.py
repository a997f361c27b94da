"""Labels and targets that do not fit are named, with what to do."""

import numpy as np
import pytest
import torch

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel, Target

NAMES = ("a", "b")
N = 4
BATCH = {"a": torch.rand(N, 3), "b": torch.rand(N, 2)}
SEVERAL = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
SOFT = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]])


def refused(call, *words):
    with pytest.raises(MidasAugError) as error:
        call()
    message = str(error.value)
    assert "expected" in message
    assert len(message.split()) >= 8, message
    for word in words:
        assert word in message, message


def test_exactly_one_of_a_number_of_classes_and_a_target_is_given():
    refused(lambda: MisalignAugment(NAMES), "num_classes", "target")
    refused(lambda: MisalignAugment(NAMES, 3, target=ClassIndex(3)), "num_classes", "target")
    refused(lambda: MisalignAugment(NAMES, target=3), "target", "3")
    refused(lambda: MisalignAugment(NAMES, target=ClassIndex), "target")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.rand(N), ["Continuous"]),
        (torch.rand(N, 3), ["Distribution", "MultiLabel", "Continuous"]),
        (SOFT, ["Distribution", "MultiLabel", "Continuous"]),
        (torch.rand(N).numpy(), ["Continuous"]),
    ],
)
def test_float_labels_without_a_target_are_told_of_the_targets(labels, words):
    batch = BATCH
    if isinstance(labels, np.ndarray):
        batch = {key: value.numpy() for key, value in BATCH.items()}
    refused(lambda: MisalignAugment(NAMES, 3).draw(batch, labels), "target", *words)


def test_several_labels_a_row_without_a_target_are_told_of_multi_label():
    augment = MisalignAugment(NAMES, 3)
    refused(lambda: augment.draw(BATCH, SEVERAL), "MultiLabel", "(4, 3)")


@pytest.mark.parametrize(
    ("target", "labels", "words"),
    [
        (MultiLabel(3), SEVERAL[:, :2], ["3", "(4, 2)"]),
        (MultiLabel(3), SEVERAL[:, 0], ["(4,)"]),
        (MultiLabel(3), SEVERAL * 2, ["2"]),
        (MultiLabel(3), SEVERAL.float() / 2, ["0.5"]),
        (MultiLabel(3), SEVERAL.masked_fill(torch.eye(4, 3).bool(), -1), ["-1"]),
        (MultiLabel(3), SEVERAL.float().masked_fill(torch.eye(4, 3).bool(), torch.nan), ["nan"]),
        (Distribution(3), SOFT[:, :2], ["3", "(4, 2)"]),
        (Distribution(3), SOFT[:, 0], ["(4,)"]),
        (Distribution(3), torch.tensor([0, 1, 2, 0]), ["(4,)"]),
        (Distribution(3), SOFT * 1.5, ["1.5"]),
        (Distribution(3), SOFT * 100, ["sum to 1", "100"]),
        (Distribution(3), SOFT * torch.inf, ["inf"]),
        (Continuous(), torch.rand(N, 2), ["(4, 2)"]),
        (Continuous(3), torch.rand(N, 2), ["(4, 2)", "3"]),
        (Continuous(3), torch.rand(N), ["(4,)", "3"]),
        (Continuous(), torch.rand(N, 1, 1), ["(4, 1, 1)"]),
        (Continuous(), torch.full((N,), torch.inf), ["infinity"]),
        (ClassIndex(3), SOFT, ["Distribution"]),
        (ClassIndex(3), torch.tensor([0, 1, 3, 2]), ["3"]),
    ],
)
def test_labels_that_do_not_fit_the_target_are_named(target, labels, words):
    refused(lambda: MisalignAugment(NAMES, target=target).draw(BATCH, labels), *words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassIndex(0), ["num_classes", "0"]),
        (lambda: Distribution(1.5), ["num_classes", "1.5"]),
        (lambda: MultiLabel(0), ["num_classes", "0"]),
        (lambda: Continuous(0), ["width", "0"]),
        (lambda: Continuous(scale=0.0), ["scale", "0"]),
        (lambda: Continuous(scale=float("nan")), ["scale", "nan"]),
        (lambda: Continuous(same=3), ["same", "3"]),
        (lambda: ClassIndex(3, class_weight=torch.ones(2)), ["class_weight", "3", "2"]),
        (lambda: ClassIndex(3, class_weight=[1.0, -1.0, 1.0]), ["class weight", "-1"]),
        (
            lambda: Distribution(2, class_weight=torch.tensor([1.0, torch.nan])),
            ["class weight", "nan"],
        ),
        (lambda: ClassIndex(3, label_smoothing=1.5), ["label_smoothing", "1.5"]),
        (lambda: Distribution(3, label_smoothing=-0.1), ["label_smoothing", "-0.1"]),
    ],
)
def test_bad_options_of_targets_are_named(make, words):
    refused(make, *words)


@pytest.mark.parametrize(
    ("target", "labels", "width"),
    [
        (MultiLabel(3), SEVERAL, 2),
        (MultiLabel(3), SEVERAL, 4),
        (Distribution(3), SOFT, 2),
        (Distribution(3), SOFT, 4),
        (Continuous(), torch.rand(N), 2),
        (Continuous(2), torch.rand(N, 2), 1),
        (Continuous(2), torch.rand(N, 2), 3),
        (ClassIndex(3), torch.tensor([0, 1, 2, 0]), 2),
    ],
)
def test_predictions_of_another_width_are_named(target, labels, width):
    augment = MisalignAugment(NAMES, target=target)
    drawn = augment.draw(BATCH, labels)
    fits = getattr(target, "num_classes", None) or labels.reshape(N, -1).shape[1]
    wrong = {key: torch.randn(N, width) for key in BATCH}
    right = {key: torch.randn(N, fits) for key in BATCH}
    refused(lambda: drawn.label(unimodal_logits=wrong), "unimodal_logits", str(width), str(fits))
    out = drawn.label(unimodal_logits=right)
    criterion = MidasLoss(2)
    rows = len(out.source)
    refused(
        lambda: criterion(torch.randn(rows, width), out, right), "logits", str(width), str(fits)
    )
    refused(
        lambda: criterion(torch.randn(rows, fits), out, wrong),
        "unimodal_logits",
        str(width),
        str(fits),
    )


def test_what_has_no_dense_form_names_the_loss_that_needs_none():
    unimodal = {key: torch.randn(N, 1) for key in BATCH}
    out = MisalignAugment(NAMES, target=Continuous())(
        BATCH, torch.rand(N), unimodal_logits=unimodal
    )
    refused(lambda: out.targets, "MidasLoss", "Continuous")
    refused(out.folded_targets, "MidasLoss", "Continuous")
    refused(lambda: WeakModalityWeight(2).fold(out), "MidasLoss", "Continuous")


def test_folded_targets_are_for_a_softmax_alone():
    unimodal = {key: torch.randn(N, 3) for key in BATCH}
    out = MisalignAugment(NAMES, target=MultiLabel(3))(BATCH, SEVERAL, unimodal_logits=unimodal)
    assert out.targets.shape == (12, 3)
    refused(out.folded_targets, "MultiLabel", "MidasLoss")


class Rank(Target):
    """A target of one's own that gives nothing but what has to be given."""

    def check(self, labels, *, force=False):
        return torch.as_tensor(labels)

    def label_ids(self, labels):
        return labels

    def log_likelihoods(self, scores, labels):
        return -(scores - labels).abs()


def test_a_target_of_ones_own_needs_no_dense_form():
    labels = torch.tensor([0, 2, 1, -1])
    unimodal = {key: torch.randn(N, 1) for key in BATCH}
    out = MisalignAugment(NAMES, target=Rank())(BATCH, labels, unimodal_logits=unimodal)
    scores = torch.randn(12, 1, requires_grad=True)
    terms = MidasLoss(2).compute(scores, out, unimodal)
    terms.total.backward()
    want = (scores[:3, 0] - labels[:3]).abs().mean()
    torch.testing.assert_close(terms.aligned, want)
    heads = sum((value[:3, 0] - labels[:3]).abs().mean() for value in unimodal.values())
    torch.testing.assert_close(terms.unimodal, torch.as_tensor(heads))
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[3].any()
    assert isinstance(out.target, Rank)
    refused(lambda: out.targets, "Rank")


class Soft(Rank):
    """One that has a dense form as well: the mean of the labels of the sources."""

    def dense(self, source_labels, shares):
        return (source_labels * shares).sum(dim=1, keepdim=True)


def test_a_target_of_ones_own_may_have_a_dense_form():
    labels = torch.tensor([0, 2, 1, 4])
    out = MisalignAugment(NAMES, target=Soft(), confidence="uniform")(BATCH, labels)
    assert out.targets[:, 0].tolist() == out.source_labels.float().mean(dim=1).tolist()


@pytest.mark.parametrize("labels", [SOFT.log(), torch.randn(4, 3).abs().neg(), SOFT * 2 - 0.5])
def test_numbers_that_are_no_probabilities_are_not_taken_for_ignored_rows(labels):
    augment = MisalignAugment(NAMES, target=Distribution(3))
    refused(lambda: augment.draw(BATCH, labels), "probabilities", "labels.exp()", "softmax", "-1")


@pytest.mark.parametrize("mark", [-1.0, float("nan")])
def test_a_row_of_a_distribution_is_marked_as_ignored(mark):
    labels = SOFT.clone()
    labels[1], labels[2, 0] = mark, mark
    out = MisalignAugment(NAMES, target=Distribution(3)).draw(BATCH, labels)
    assert out.valid[:4].tolist() == [True, False, False, True]


@pytest.mark.parametrize("scale", [1e-50, 1e-25, 0, -1.0, True, torch.tensor(2.0)])
def test_a_scale_whose_square_is_no_float32_is_refused(scale):
    refused(lambda: Continuous(scale=scale), "scale", "float(labels.std())")


def test_class_weights_of_several_lengths_are_refused():
    refused(lambda: ClassIndex(3, class_weight=[[1], [2, 3], [1]]), "class_weight", "numbers")
