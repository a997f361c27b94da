"""`FusionWeights`: parts that add up, weights that fold in, fusions that are refused."""

import numpy as np
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
        (nn.Linear(9, 5), (3, 2), ("add up to the 9", "(3, 2)")),
        (nn.Linear(9, 5), (9, 0), ("positive", "(9, 0)")),
        (nn.Linear(9, 5), {}, ("positive", "{}")),
        (nn.Linear(9, 5), 9, ("positive integers", "got 9;", "{'audio': 512")),
        (nn.Linear(9, 5), {"a": "4", "b": 5}, ("positive integers", "'4'")),
        (nn.Linear(9, 5), {"a": 4.0, "b": 5.0}, ("positive integers", "4.0")),
        (nn.Linear(9, 5), {"a": True, "b": 8}, ("positive integers", "True")),
        (FactoredLinear(DIMS, 5), DIMS, ("knows its own", "leave them out")),
    ],
)
def test_sizes_that_do_not_fit_are_explained(fusion, dims, words):
    with pytest.raises(MidasAugError) as error:
        FusionWeights(fusion, dims)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, "numpy"])
def test_features_of_any_float_dtype_and_library_have_the_parts_of_the_layer(dtype, together):
    _, fitted, features = build("linear")
    given = {
        name: rows.double().numpy() if dtype == "numpy" else rows.to(dtype)
        for name, rows in features.items()
    }
    seen = {name: torch.as_tensor(rows).float() for name, rows in given.items()}
    if together:
        join = np.concatenate if dtype == "numpy" else torch.cat
        given = join(list(given.values()), 1)
    parts = fitted.parts(given)
    assert parts.dtype == torch.float32
    torch.testing.assert_close(parts, fitted.parts(seen))
    with pytest.raises(MidasAugError, match=r"features\['a'\] to have a float dtype.*int64"):
        fitted.parts({**features, "a": features["a"].long()})


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


def with_heads(kind, bias=True, heads_bias=True):
    """As `build`, with a head a modality."""
    fusion, _, features = build(kind, bias)
    heads = {name: nn.Linear(dim, 5, bias=heads_bias) for name, dim in DIMS.items()}
    dims = None if kind == "factored" else DIMS
    return fusion, FusionWeights(fusion, dims, heads=heads), features, heads


@pytest.mark.parametrize(("bias", "heads_bias"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("kind", ["factored", "linear", "spectral"])
def test_heads_have_a_weight_each_and_fold_into_the_same_layer(kind, bias, heads_bias):
    fusion, fitted, features, heads = with_heads(kind, bias, heads_bias)
    labels = torch.arange(40) % 5
    with torch.no_grad():
        untouched = fitted.folded()(joined(features))
        torch.testing.assert_close(untouched, fusion(joined(features)))  # v = 0
        fitted.update(features, labels)
        weights = fitted.step()
        h = [heads[name](features[name]) for name in DIMS]
        u = list(fitted.parts(features).unbind(dim=1)[: len(DIMS)])
        torch.testing.assert_close(sum(u), fusion(joined(features)))
        torch.testing.assert_close(weights, fit_fusion_weights([*u, *h], labels))
        expected = sum(w * part for w, part in zip(weights, [*u, *h], strict=True))
        folded = fitted.folded()
        torch.testing.assert_close(folded(joined(features)), expected)
    assert weights.shape == (6,)
    assert (folded.bias is not None) == (bias or heads_bias)


def test_log_probabilities_of_heads_have_the_weights_of_their_logits():
    """What the logarithm subtracts is the same for all classes."""
    _, fitted, features, _ = with_heads("factored")
    labels = torch.arange(40) % 5
    parts = fitted.parts(features)
    normalised = torch.cat([parts[:, :3], parts[:, 3:].log_softmax(dim=2)], dim=1)
    weights = [fit_fusion_weights(given, labels) for given in (parts, normalised)]
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)


def test_a_head_that_knows_mends_a_fusion_that_does_not():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = {"a": nn.functional.one_hot(labels).float(), "b": torch.randn(300, 3)}
    fusion, head = FactoredLinear({"a": 3, "b": 3}, 3), nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
    fitted = FusionWeights(fusion, heads={"a": head, "b": nn.Linear(3, 3)})
    fitted.update(features, labels)
    fitted.step()
    assert (fitted.folded()(features).argmax(dim=1) == labels).all()
    assert not (fusion(features).argmax(dim=1) == labels).all()


@pytest.mark.parametrize("wrap", [dict, nn.ModuleDict, lambda heads: nn.ModuleList(heads.values())])
def test_heads_come_by_name_or_in_order(wrap):
    fusion, fitted, features, heads = with_heads("factored")
    other = FusionWeights(fusion, heads=wrap(heads))
    torch.testing.assert_close(other.parts(features), fitted.parts(features))
    assert "head of a: 0" in repr(other)


def test_heads_that_cannot_be_folded_are_explained():
    fusion, _, _, heads = with_heads("factored")
    deep = nn.Sequential(nn.Linear(2, 5), nn.ReLU())
    with pytest.raises(MidasAugError, match=r"heads\['b'\] to be an nn.Linear .* got Sequential"):
        FusionWeights(fusion, heads={**heads, "b": deep})
    with pytest.raises(MidasAugError, match=r"to have 2 inputs and 5 outputs.* got 2 and 4"):
        FusionWeights(fusion, heads={**heads, "b": nn.Linear(2, 4)})
    with pytest.raises(MidasAugError, match="heads"):
        FusionWeights(fusion, heads={"a": heads["a"]})
