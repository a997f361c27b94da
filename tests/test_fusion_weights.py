"""`FusionWeights`: parts that add up, weights that fold in, fusions that are refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from midas_aug import FactoredLinear, FusionWeights, MidasAugError
from midas_aug.functional import fit_fusion_weights

DIMS = {"a": 3, "b": 2, "c": 4}


def build(kind, bias=True):
    """A layer, its `FusionWeights`, and rows."""
    torch.manual_seed(0)
    if kind == "factored":
        fusion = FactoredLinear(DIMS, 5, bias=bias)
        fitted = FusionWeights(fusion)
    else:
        fusion = nn.Linear(9, 5, bias=bias)
        if kind == "spectral":
            parametrizations.spectral_norm(fusion)
        fitted = FusionWeights(fusion, DIMS)
    return fusion.eval(), fitted, {name: torch.randn(40, dim) for name, dim in DIMS.items()}


def joined(features):
    return torch.cat(list(features.values()), dim=1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["factored", "linear", "spectral"])
def test_parts_add_up_to_the_layer_and_the_folded_layer_weighs_them(kind, bias):
    fusion, fitted, features = build(kind, bias)
    labels = torch.arange(40) % 5
    with torch.no_grad():
        parts = fitted.parts(features)
        torch.testing.assert_close(parts.sum(dim=1), fusion(joined(features)))
        torch.testing.assert_close(fitted.folded()(joined(features)), fusion(joined(features)))
        before = {name: value.clone() for name, value in fusion.state_dict().items()}
        fitted.update(features, labels)
        weights = fitted.step()
        assert weights is fitted.weights
        torch.testing.assert_close(weights, fit_fusion_weights(parts, labels))
        expected = torch.einsum("m,nmc->nc", weights, parts)
        folded = fitted.folded()
        torch.testing.assert_close(folded(joined(features)), expected)
    assert type(folded) is (FactoredLinear if kind == "factored" else nn.Linear)
    assert (folded.bias is not None) == bias
    assert fusion.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in fusion.state_dict().items())


def test_batches_are_one_set_of_rows_and_are_forgotten_afterwards():
    _, fitted, features = build("factored")
    labels = torch.arange(40) % 5
    labels[3] = -1
    for rows in torch.arange(40).split(7):
        fitted.update({name: values[rows] for name, values in features.items()}, labels[rows])
    together = fitted.step()
    torch.testing.assert_close(together, fit_fusion_weights(fitted.parts(features), labels))
    with pytest.raises(MidasAugError, match=r"call update\(features, labels\)"):
        fitted.step()
    fitted.update(features, labels.flip(0))
    assert not torch.equal(fitted.step(), together)


def test_weights_follow_the_layer_as_it_is_trained():
    fusion, fitted, features = build("factored")
    with torch.no_grad():
        fusion.weight.mul_(3)
    torch.testing.assert_close(fitted.parts(features).sum(dim=1), fusion(features))
    torch.testing.assert_close(fitted.folded().weight, fusion.weight)


def test_features_come_by_name_in_order_or_concatenated():
    _, fitted, features = build("linear")
    expected = fitted.parts(features)
    for given in (list(features.values()), joined(features), dict(reversed(features.items()))):
        torch.testing.assert_close(fitted.parts(given), expected)
    nameless = FusionWeights(fitted.fusion, tuple(DIMS.values()))
    torch.testing.assert_close(nameless.parts(list(features.values())), expected)
    assert repr(nameless) == "FusionWeights(0: 1, 1: 1, 2: 1)"


@pytest.mark.parametrize("fusion", [nn.Sequential(nn.Linear(9, 5)), nn.Bilinear(3, 2, 5)])
def test_a_fusion_that_is_no_sum_is_refused_by_name(fusion):
    with pytest.raises(MidasAugError, match=f"sum over modalities.*got {type(fusion).__name__}"):
        FusionWeights(fusion, DIMS)


@pytest.mark.parametrize(
    ("fusion", "dims", "words"),
    [
        (nn.Linear(9, 5), None, ("expected feature_dims", "None")),
        (nn.Linear(9, 5), (3, 2), ("add up to the 9", "{0: 3, 1: 2}")),
        (nn.Linear(9, 5), (9, 0), ("positive", "{0: 9, 1: 0}")),
        (nn.Linear(9, 5), {}, ("positive", "{}")),
        (FactoredLinear(DIMS, 5), DIMS, ("knows its own", "leave them out")),
    ],
)
def test_sizes_that_do_not_fit_are_explained(fusion, dims, words):
    with pytest.raises(MidasAugError) as error:
        FusionWeights(fusion, dims)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_features_that_do_not_fit_are_explained():
    _, fitted, features = build("factored")
    labels = torch.zeros(40).long()
    for given, their_labels, words in (
        ({"a": features["a"]}, labels, ["'b'"]),
        ({**features, "b": features["a"]}, labels, ["features['b']", "(40, 3)"]),
        (joined(features)[:, 1:], labels, ["features", "(40, 8)"]),
        (features, labels[1:], ["labels", "(39,)"]),
    ):
        with pytest.raises(MidasAugError) as error:
            fitted.update(given, their_labels)
        assert all(word in str(error.value) for word in words), str(error.value)
