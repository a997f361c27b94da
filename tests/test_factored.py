"""`FactoredLinear` is nn.Linear on the swapped and concatenated features, to rounding."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from midas_aug import FactoredLinear, MidasAugError, MidasLoss, MisalignAugment
from midas_aug import functional as F

NAMES = ("a", "b", "c", "d")


def setting(rows, dims, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = {
        name: torch.randn(rows, dim, generator=generator, dtype=torch.float64)
        for name, dim in zip(NAMES, dims, strict=False)
    }
    labels = torch.randint(-1, classes, (rows,), generator=generator)
    fusion = FactoredLinear(dict(zip(features, dims, strict=True)), classes, dtype=torch.float64)
    return features, labels, fusion


@given(
    st.integers(0, 9),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.sampled_from(["each", "one", "permute"]),
)
def test_logits_and_gradients_are_those_of_a_linear_on_the_swapped_features(rows, dims, swap):
    features, labels, fusion = setting(rows, dims)
    source = F.plan_swaps(labels, len(dims), swap=swap).source
    plain = nn.Linear(sum(dims), 5, dtype=torch.float64)
    plain.load_state_dict(fusion.state_dict())
    results = []
    for head in (fusion, plain):
        leaves = {name: feature.clone().requires_grad_() for name, feature in features.items()}
        if head is fusion:
            logits = head(leaves, source)
        else:
            swapped = [leaf[source[:, m]] for m, leaf in enumerate(leaves.values())]
            logits = head(torch.cat(swapped, dim=1))
        parameters = [*leaves.values(), head.weight, head.bias]
        results.append((logits, *torch.autograd.grad(logits.square().sum(), parameters)))
    for have, want in zip(*results, strict=True):
        torch.testing.assert_close(have, want)


def test_it_is_a_linear_for_one_tensor_and_for_the_rows_as_they_are():
    features, _, fusion = setting(6, (3, 2))
    concatenated = torch.cat(list(features.values()), dim=1)
    want = nn.functional.linear(concatenated, fusion.weight, fusion.bias)
    torch.testing.assert_close(fusion(concatenated), want)
    torch.testing.assert_close(fusion(features), want)
    torch.testing.assert_close(fusion(list(features.values())), want)


def test_a_head_without_names_takes_the_names_of_the_batch_and_a_batch_that_is_not_swapped_yet():
    features, labels, fusion = setting(4, (3, 2))
    augment = MisalignAugment(("a", "b"), 5, confidence="uniform")
    out = augment(features, labels, materialize=False)
    nameless = FactoredLinear((3, 2), 5, dtype=torch.float64)
    nameless.load_state_dict(fusion.state_dict())
    want = fusion(features, out)
    assert len(want) == 12
    torch.testing.assert_close(nameless(features, out), want)
    torch.testing.assert_close(fusion(out), want)
    with pytest.raises(MidasAugError, match="built without names"):
        nameless(features)


KEYS = {"img": "a", "txt": "b"}


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize(
    ("dims", "swapped"),
    [
        ({"img": 3, "txt": 2}, False),  # by the names of the modalities
        ({"a": 3, "b": 2}, False),  # by the keys of the batch
        ((3, 2), False),
        ({"txt": 2, "img": 3}, True),
    ],
)
def test_a_batch_gives_its_modalities_by_their_names(dims, swapped, materialize):
    features, labels, _ = setting(6, (3, 2))
    augment = MisalignAugment(KEYS, 5, confidence="uniform", seed=0)
    out = augment({"label": labels, **features}, materialize=materialize)
    fusion = FactoredLinear(dims, 5, dtype=torch.float64)
    rows = [out.gather(name, features[key]) for name, key in KEYS.items()]
    want = nn.functional.linear(torch.cat(rows[::-1] if swapped else rows, 1), *fusion.parameters())
    if not materialize and (swapped or (isinstance(dims, dict) and "a" in dims)):
        with pytest.raises(MidasAugError, match="same names in the same order"):
            fusion(out)
    else:
        torch.testing.assert_close(fusion(out), want)


def test_a_batch_gives_what_was_put_under_the_names_and_the_columns_of_a_tuple():
    features, labels, fusion = setting(6, (3, 2))
    names = {"a": "pixels", "b": ["ids", "mask"]}
    raw = {"pixels": torch.rand(6, 4), "ids": torch.rand(6, 7), "mask": torch.ones(6, 7)}
    augment = MisalignAugment(names, 5, confidence="uniform", seed=0, hardness=None)
    out = augment(raw, labels, materialize=False)
    torch.testing.assert_close(fusion(out.with_data(features)), fusion(features, out))
    with pytest.raises(MidasAugError, match=r"features\['b'\] to be a tensor.*got dict.*encoder"):
        FactoredLinear({"a": 4, "b": 14}, 5)(out)
    batch = features["a"], labels, features["b"]
    out = MisalignAugment((0, 2), 5, label=1, confidence="uniform", seed=0)(batch)
    swapped = torch.cat([out[0], out[2]], dim=1)
    for dims in ((3, 2), {0: 3, 2: 2}):
        head = FactoredLinear(dims, 5, dtype=torch.float64)
        torch.testing.assert_close(head(out), head(swapped))


def test_torch_func_differentiates_it():
    features, labels, fusion = setting(4, (3, 2))
    source = F.plan_swaps(labels, 2).source

    def total(parameters):
        return torch.func.functional_call(fusion, parameters, (features, source)).square().sum()

    parameters = dict(fusion.named_parameters())
    have = torch.func.grad(total)({name: value.detach() for name, value in parameters.items()})
    want = torch.autograd.grad(total(parameters), list(parameters.values()))
    for mine, theirs in zip(have.values(), want, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_state_dicts_load_both_ways_and_a_bias_can_be_left_out():
    fusion = FactoredLinear((3, 2), 4, bias=False)
    plain = nn.Linear(5, 4, bias=False)
    plain.load_state_dict(fusion.state_dict())
    fusion.load_state_dict(plain.state_dict())
    features = [torch.randn(2, 3), torch.randn(2, 2)]
    torch.testing.assert_close(fusion(features), plain(torch.cat(features, dim=1)))
    assert repr(fusion) == "FactoredLinear({0: 3, 1: 2}, out_features=4, bias=False)"


def test_a_head_of_one_modality_has_its_bias():
    fusion = FactoredLinear((3,), 4)
    features = torch.randn(2, 3)
    torch.testing.assert_close(
        fusion([features]), nn.functional.linear(features, fusion.weight, fusion.bias)
    )


def test_a_training_step_is_the_same_with_and_without_it():
    features, labels, fusion = setting(8, (3, 2))
    unimodal = {name: torch.randn(8, 5, dtype=torch.float64) for name in features}
    augment = MisalignAugment(("a", "b"), 5)
    copied = augment(features, labels, unimodal_logits=unimodal)
    plan = copied.plan
    lazy = augment(features, labels, unimodal_logits=unimodal, plan=plan, materialize=False)
    assert lazy["a"] is features["a"]
    assert torch.equal(lazy.weights, copied.weights)
    losses = []
    for out, arguments in ((copied, (copied,)), (lazy, (features, lazy))):
        head = copy.deepcopy(fusion)
        loss = MidasLoss(2)(head(*arguments), out, unimodal)
        loss.backward()
        losses.append((loss.detach(), head.weight.grad, head.bias.grad))
    for have, want in zip(*losses, strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_it_compiles_into_one_graph():
    torch._dynamo.reset()
    features, labels, fusion = setting(8, (3, 2))
    source = F.plan_swaps(labels, 2).source
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, source), fusion(features, source))


def test_mistakes_are_explained():
    features, labels, fusion = setting(4, (3, 2))
    augment = MisalignAugment(("a", "b"), 5, confidence="uniform")
    out = augment(features, labels)
    for arguments, words in (
        ((features["a"], out), ["each modality apart", "(4, 3)"]),
        (({"a": features["a"]}, out), ["'b'"]),
        (({**features, "b": features["a"]},), ["features['b']", "(4, 2)", "(4, 3)"]),
        ((out, out), ["rows that went into the augmentation", "(12)", "(4,)"]),
        ((features, torch.zeros(3, 3, dtype=torch.int64)), ["one column a modality"]),
        ((features, torch.full((3, 2), 4)), ["0 … 3", "4"]),
    ):
        with pytest.raises(MidasAugError) as error:
            fusion(*arguments)
        assert all(word in str(error.value) for word in words), str(error.value)
    other = MisalignAugment(("b", "a"), 5, confidence="uniform")(features, labels)
    with pytest.raises(MidasAugError, match="same names in the same order"):
        fusion(features, other)
    for dims in ((), (3, 0), {}, 5, "ab", (2.5, 3), {"a": "4", "b": 2}):
        with pytest.raises(MidasAugError, match="feature size of each modality"):
            FactoredLinear(dims, 4)
    for options, words in (
        ({"out_features": 0}, "out_features"),
        ({"bias": "no"}, "bias to be True"),
    ):
        with pytest.raises(MidasAugError, match=words):
            FactoredLinear(**{"feature_dims": (3, 2), "out_features": 4, **options})
    away = {name: rows.to("meta") for name, rows in features.items()}
    with pytest.raises(MidasAugError, match=r"features on the device of the batch, cpu, got meta"):
        fusion(away, out)
