"""OGM, AGM, SMV, OPM, AMCo and the plain controls, against worked numbers and slow NumPy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import LateFusion
from benchmarks.methods import agm, amco, late_fusion, modality_dropout, ogm, opm, shared, smv
from benchmarks.methods.agm import AGM
from benchmarks.methods.amco import AMCo
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.modality_dropout import ModalityDropout
from benchmarks.methods.ogm import OGM
from benchmarks.methods.opm import OPM
from benchmarks.methods.smv import SMV
from benchmarks.methods.unimodal_losses import UnimodalLosses
from midas_aug.diagnostics import shapley
from tests.benchmarks.methods.helpers import set_up, tiny_model, tiny_rows

# Each method as it acts from the first epoch on.
METHODS: dict[str, Callable[[], Method]] = {
    "joint": Method,
    "ogm": lambda: OGM(noise=False),
    "ogm-ge": lambda: OGM(noise=True),
    "agm": AGM,
    "smv": lambda: SMV(warmup=0),
    "opm": lambda: OPM(p_exe=1, warmup=0),
    "amco": AMCo,
    "amco-feature": lambda: AMCo(mask_space="feature"),
    "modality-dropout": ModalityDropout,
    "unimodal-losses": UnimodalLosses,
    "late-fusion": LateFusionOfUnimodal,
}
every_method = pytest.mark.parametrize("build", METHODS.values(), ids=METHODS)

counts = st.tuples(st.integers(2, 4), st.integers(1, 6), st.integers(2, 4))  # M, B, C


def assert_close(actual: Any, expected: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), rtol=0, atol=atol
    )


def lopsided_model(num_modalities: int = 2) -> LateFusion:
    """A model whose first modality is ahead of the others on `tiny_rows` and holds most mass."""
    model = tiny_model(num_modalities)
    inputs, labels = tiny_rows(model, 12)
    with torch.no_grad():
        first = model.encode(inputs)["m0"]
        targets = F.one_hot(labels, model.num_classes) * 2.0 - 0.5
        model.fusion.weight[:, : model.width] = torch.linalg.lstsq(first, targets).solution.T * 3
        model.fusion.weight[:, model.width :] *= 0.1
    return model


def gradients(
    method: Method, model: LateFusion, labels: Tensor | None = None, num_rows: int = 12
) -> dict[str, Tensor]:
    """Gradients of one step on `tiny_rows`; 0 where there is none."""
    inputs, true_labels = tiny_rows(model, num_rows)
    model.zero_grad()
    method.loss(model.encode(inputs), true_labels if labels is None else labels).backward()
    method.after_backward()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


def assert_same_gradients(
    actual: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6
) -> None:
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name in expected:
        assert_close(actual[name], expected[name], atol)


def run(method: Method, model: LateFusion, epochs: int = 3, num_rows: int = 20) -> list[float]:
    """The hooks of a run in their order; the losses."""
    set_up(method, model, num_rows, epochs)
    inputs, labels = tiny_rows(model, num_rows)
    parameters = [*model.parameters()]
    for module in method.extra_modules():
        parameters += module.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for epoch in range(epochs):
        method.on_epoch_start(epoch)
        rows, keep = method.epoch_rows(epoch)
        for places in torch.arange(len(rows)).split(8):
            features = model.encode({name: values[rows[places]] for name, values in inputs.items()})
            if keep is not None:
                features = {
                    name: feature * keep[places, number, None]
                    for number, (name, feature) in enumerate(features.items())
                }
            loss = method.loss(features, labels[rows[places]])
            optimizer.zero_grad()
            loss.backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
            losses.append(loss.item())
        method.on_epoch_end(epoch)
    return losses


# ---------------------------------------------------------------- slow references


def slow_softmax(row: Any) -> list[float]:
    powers = [math.exp(value) for value in torch.as_tensor(row).tolist()]
    return [power / math.fsum(powers) for power in powers]


def slow_ratios(scores: Any) -> list[float]:
    count = len(scores)
    return [
        sum(scores[m] / scores[j] for j in range(count) if j != m) / (count - 1)
        for m in range(count)
    ]


def slow_shapley(values: dict[frozenset[str], float], names: list[str]) -> dict[str, float]:
    """The mean gain over all orders in which the modalities can join."""
    gains = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            gains[name] += (values[before | {name}] - values[before]) / len(orders)
    return gains


def draw_parts(count: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Parts (M, B, C) and labels."""
    m, b, c = count
    rng = np.random.default_rng(seed)
    parts = torch.from_numpy(rng.normal(scale=3, size=(m, b, c)))
    return parts, torch.from_numpy(rng.integers(c, size=b))


seeds = st.integers(0, 2**16)

# ---------------------------------------------------------------- shared


def test_parts_sum_to_the_joint_logits() -> None:
    model = tiny_model(3)
    features = model.encode(tiny_rows(model, 6)[0])
    for detach in (False, True):
        parts = model.parts(features, detach=detach)
        assert_close(shared.stack(parts).sum(dim=0), model.fuse(features))


@given(counts, seeds)
def test_scores_and_ratios_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    parts, labels = draw_parts(count, seed)
    scores = shared.label_scores(parts, labels)
    wanted = [
        sum(slow_softmax(row)[int(label)] for row, label in zip(part, labels, strict=True))
        for part in parts
    ]
    assert_close(scores, wanted)
    np.testing.assert_allclose(shared.mean_ratios(scores), slow_ratios(wanted), rtol=1e-6)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6))
def test_the_weakest_modality_is_never_ahead(scores: list[float]) -> None:
    ratios = shared.mean_ratios(torch.tensor(scores))
    assert ratios[int(torch.tensor(scores).argmin())] <= 1


def test_ratios_of_scores_that_underflowed_are_finite() -> None:
    assert shared.mean_ratios(torch.tensor([0.0, 0.0])).tolist() == [1, 1]
    assert shared.mean_ratios(torch.tensor([3.0, 0.0])).isfinite().all()


def test_windows_include_both_ends() -> None:
    official = [epoch for epoch in range(100) if shared.in_window(epoch, 100, 0, 0.5)]
    assert official == list(range(51))
    assert [e for e in range(10) if shared.in_window(e, 10, 0.29, 0.7)] == [3, 4, 5, 6, 7]
    assert all(shared.in_window(epoch, 7, 0, 1) for epoch in range(7))


def test_summed_cross_entropy_is_a_sum_over_modalities_of_means_over_rows() -> None:
    parts, labels = draw_parts((3, 5, 4), 0)
    wanted = sum(F.cross_entropy(part, labels) for part in parts)
    assert_close(shared.summed_cross_entropy(parts, labels), wanted)


# ---------------------------------------------------------------- OGM


def test_ogm_worked_example() -> None:
    parts = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, -0.5]]])
    scores = shared.label_scores(parts, torch.tensor([0, 1]))
    assert_close(scores, [1.611856, 1.0])
    assert_close(shared.mean_ratios(scores), [1.611856, 0.620403])
    for alpha, damped in ((0.1, 0.840196), (0.3, 0.550912), (0.8, 0.141009)):
        assert_close(ogm.damping(scores, alpha), [damped, 1.0])


def test_ogm_worked_example_of_three_modalities() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0])
    assert_close(shared.mean_ratios(scores), [2.25, 1.333333, 0.416667])
    wanted = [1 - math.tanh(0.3 * 2.25), 1 - math.tanh(0.3 * 4 / 3), 1]
    assert_close(ogm.damping(scores, 0.3), wanted)


def test_ogm_damps_nothing_at_a_ratio_of_exactly_one() -> None:
    assert ogm.damping(torch.tensor([2.0, 2.0]), 0.8).tolist() == [1, 1]


def test_ge_noise_scale_worked_example() -> None:
    assert_close(ogm.noise_scale(torch.tensor([[0.1, -0.2], [0.3, 0.0]])), 0.208167)
    assert_close(ogm.noise_scale(torch.tensor([[5.0]])), 1e-8, atol=1e-12)


def test_ge_noise_has_the_std_of_the_unscaled_gradient() -> None:
    gradient = torch.randn(100, 100, generator=torch.Generator().manual_seed(1)) * 3 + 1
    edited = ogm.modulated(gradient, 0.25, torch.Generator().manual_seed(2))
    noise = edited - 0.25 * gradient
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std() / gradient.std()) - 1) < 0.03
    assert_close(ogm.modulated(gradient, 0.25), 0.25 * gradient)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_ogm_scales_weights_of_encoders_that_are_ahead_and_nothing_else(
    num_modalities: int,
) -> None:
    model = lopsided_model(num_modalities)
    plain = gradients(set_up(Method(), model), model)
    method = set_up(OGM(alpha=0.3, noise=False), model)
    method.on_epoch_start(0)
    edited = gradients(method, model)
    inputs, labels = tiny_rows(model, 12)
    parts = model.parts(model.encode(inputs))
    scores = [
        sum(slow_softmax(row)[int(label)] for row, label in zip(part, labels, strict=True))
        for part in parts.values()
    ]
    ratios = slow_ratios(scores)
    assert ratios[0] > 1 > min(ratios)
    for name, gradient in plain.items():
        kind = name.split(".")
        ratio = ratios[int(kind[1][1:])] if kind[0] == "encoders" else 0
        damped = ratio > 1 and kind[-1] == "weight"
        assert_close(edited[name], gradient * (1 - math.tanh(0.3 * ratio) if damped else 1))


def test_ogm_ge_adds_noise_to_every_encoder_and_nothing_else() -> None:
    model = lopsided_model()
    without, with_noise = (
        gradients(_started(OGM(noise=noise), model), model) for noise in (False, True)
    )
    for name, gradient in without.items():
        noisy = name.startswith("encoders") and name.endswith("weight")
        assert torch.equal(with_noise[name], gradient) != noisy, name


def test_ogm_with_alpha_zero_is_joint_training() -> None:
    model = lopsided_model()
    edited = gradients(_started(OGM(alpha=0, noise=False), model), model)
    assert_same_gradients(edited, gradients(set_up(Method(), model), model))


def test_ogm_outside_its_window_is_joint_training() -> None:
    model = lopsided_model()
    method = set_up(OGM(alpha=0.8, start=0.2, end=0.5), model, epochs=10)
    plain = gradients(set_up(Method(), model), model)
    for epoch in range(10):
        method.on_epoch_start(epoch)
        edited = gradients(method, model)
        same = all(torch.equal(edited[name], plain[name]) for name in plain)
        assert same == (epoch not in (2, 3, 4, 5)), epoch


def _started(method: Method, model: LateFusion) -> Method:
    """The method in its first epoch."""
    set_up(method, model)
    method.on_epoch_start(0)
    return method


# ---------------------------------------------------------------- AGM


def _agm_example() -> tuple[LateFusion, dict[str, Tensor], Tensor]:
    """Model, inputs and labels of the worked example."""
    encoders = {name: nn.Linear(2, 2, bias=False) for name in ("a", "v")}
    model = LateFusion(encoders, width=2, num_classes=2)
    with torch.no_grad():
        for encoder in encoders.values():
            encoder.weight.copy_(torch.eye(2))
        model.fusion.weight.copy_(torch.tensor([[1, -1, 0.5, 0], [-1, 1, 0, 0.5]]))
        model.fusion.bias.copy_(torch.tensor([0.2, -0.2]))
    inputs = {"a": torch.tensor([[1.0, 0.5]]), "v": torch.tensor([[0.5, -0.5]])}
    return model, inputs, torch.tensor([0])


def test_joint_training_worked_example() -> None:
    model, inputs, labels = _agm_example()
    assert_close(model.fuse(inputs), [[0.95, -0.95]])
    assert_close(_started_on(Method(), model).loss(inputs, labels), 0.139387)


def test_agm_worked_example() -> None:
    model, inputs, labels = _agm_example()
    parts = shared.stack(model.parts(inputs))
    assert_close(parts[:, 0], [[0.60, -0.60], [0.35, -0.35]])
    scores = agm.cross_entropies(parts, labels)
    assert_close(scores, [0.263282, 0.403186])
    assert_close(agm.discrepancies(scores), [1.150163, 0.869442])
    assert_close(agm.coefficients(scores, torch.zeros(2), 1.0), [0.860568, 1.139464])
    assert_close(agm.coefficients(scores, scores, 1.0), [1, 1])
    assert_close(agm.discrepancies(torch.tensor([0.5, 1, 1.5])), [2.117, 1, 0.472367])


def test_agm_gradients_of_the_worked_example() -> None:
    model, inputs, labels = _agm_example()

    def step(method: Method) -> dict[str, Tensor]:
        model.zero_grad()
        loss = method.loss(model.encode(inputs), labels)
        assert_close(loss, 0.139387)
        loss.backward()
        method.after_backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = step(_started_on(Method(), model))
    method = _started_on(AGM(alpha=1.0), model)
    first, second = step(method), step(method)
    factors = torch.tensor([0.860568, 0.860568, 1.139464, 1.139464])
    assert_close(first["encoders.a.weight"], 0.860568 * plain["encoders.a.weight"])
    assert_close(first["encoders.v.weight"], 1.139464 * plain["encoders.v.weight"])
    assert_close(first["fusion.weight"], factors * plain["fusion.weight"])
    assert_close(first["fusion.bias"], 1.000016 * plain["fusion.bias"])
    assert_same_gradients(second, plain, atol=1e-5)  # τ is r, of the same batch again


def _started_on(method: Method, model: LateFusion) -> Method:
    """Like `_started`, for a model that `tiny_rows` do not fit."""
    setting = Setting(torch.zeros(1, dtype=torch.int64), 4, lambda: EncodedRows({}, torch.empty(0)))
    method.setup(model, setting, torch.Generator())
    method.on_epoch_start(0)
    return method


@given(counts, seeds, st.sampled_from([0.0, 0.5, 2.5]))
def test_agm_coefficients_match_slow_loops(
    count: tuple[int, int, int], seed: int, alpha: float
) -> None:
    modalities = count[0]
    means = np.zeros(modalities)
    state = torch.zeros(modalities, dtype=torch.float64)
    for iteration in (1, 2, 3):
        parts, labels = draw_parts(count, seed + iteration)
        parts[0] *= 30  # some probabilities below 1e-8, some differences above the cap
        wanted_scores = [
            np.mean(
                [
                    -math.log(max(slow_softmax(row)[int(label)], 1e-8))
                    for row, label in zip(part, labels, strict=True)
                ]
            )
            for part in parts
        ]
        factor = modalities / (modalities - 1)
        wanted = [
            math.exp(
                alpha
                * min(
                    math.exp(factor * (means.mean() - means[m]))
                    - math.exp(factor * (np.mean(wanted_scores) - wanted_scores[m])),
                    10.0,
                )
            )
            for m in range(modalities)
        ]
        scores = agm.cross_entropies(parts, labels)
        assert_close(scores, wanted_scores)
        np.testing.assert_allclose(agm.coefficients(scores, state, alpha), wanted, rtol=1e-5)
        state = agm.running_mean(state, scores, iteration)
        means = means * (iteration - 1) / iteration + np.array(wanted_scores) / iteration
        assert_close(state, means)


def test_agm_caps_the_exponent() -> None:
    scores, means = torch.tensor([9.0, 1.0]), torch.tensor([1.0, 9.0])
    assert_close(agm.coefficients(scores, means, 0.1, cap=4.0)[0], math.exp(0.4))
    assert_close(agm.coefficients(scores, means, 0.1)[0], math.exp(1.0))
    model = lopsided_model()
    plain = gradients(set_up(Method(), model), model)
    edited = gradients(_started(AGM(alpha=0.1, cap=-20, clip=math.inf), model), model)
    assert_same_gradients(edited, {name: math.exp(-2) * g for name, g in plain.items()})


def test_agm_with_alpha_zero_is_joint_training() -> None:
    model = lopsided_model(3)
    plain = gradients(set_up(Method(), model), model)
    assert_same_gradients(gradients(_started(AGM(alpha=0, clip=math.inf), model), model), plain)


def test_agm_scales_each_modality_of_three() -> None:
    model = lopsided_model(3)
    inputs, labels = tiny_rows(model, 12)
    parts = shared.stack(model.parts(model.encode(inputs)))
    factors = agm.coefficients(agm.cross_entropies(parts, labels), torch.zeros(3), 1.0)
    plain = gradients(set_up(Method(), model), model)
    edited = gradients(_started(AGM(alpha=1.0, clip=math.inf), model), model)
    for number, factor in enumerate(factors.tolist()):
        assert abs(factor - 1) > 1e-3
        for suffix in ("weight", "bias"):
            name = f"encoders.m{number}.0.{suffix}"
            assert_close(edited[name], factor * plain[name])
    assert_close(edited["fusion.bias"], factors.mean() * plain["fusion.bias"])


def test_agm_outside_its_window_is_joint_training_but_keeps_its_means_going() -> None:
    model = lopsided_model()
    plain = gradients(set_up(Method(), model), model)
    method = set_up(AGM(start=0.25, end=0.5, clip=math.inf), model, epochs=8)
    labels = tiny_rows(model, 12)[1].flip(0)
    same = []
    for epoch in range(8):
        method.on_epoch_start(epoch)
        method.loss(model.encode(tiny_rows(model, 12)[0]), labels)  # so that τ is not r
        edited = gradients(method, model)
        same.append(all(torch.allclose(edited[n], plain[n], atol=1e-6) for n in plain))
    assert same == [True, True, False, False, False, True, True, True]
    assert method._count == 16
    parts = shared.stack(model.parts(model.encode(tiny_rows(model, 12)[0])))
    both = [agm.cross_entropies(parts, y) for y in (labels, tiny_rows(model, 12)[1])]
    assert_close(method._means, (both[0] + both[1]) / 2)


def test_agm_clips_all_gradients_once_the_head_has_a_large_one() -> None:
    model = lopsided_model()
    plain = gradients(_started(AGM(alpha=0, clip=math.inf), model), model)
    largest = float(plain["fusion.weight"].abs().max())
    norm = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
    limit = 0.9 * largest
    clipped = gradients(_started(AGM(alpha=0, clip=limit), model), model)
    assert norm > limit
    for name, gradient in plain.items():
        assert_close(clipped[name], gradient * limit / norm)
    untouched = gradients(_started(AGM(alpha=0, clip=1.1 * largest), model), model)
    assert norm > 1.1 * largest
    assert_same_gradients(untouched, plain)


# ---------------------------------------------------------------- SMV


def _values(names: list[str], right: list[set[str]]) -> dict[frozenset[str], Tensor]:
    """v of all subsets, of one row, where the head is right for the given ones."""
    return {
        frozenset(subset): torch.tensor([float(size * (set(subset) in right))]).double()
        for size in range(len(names) + 1)
        for subset in itertools.combinations(names, size)
    }


@pytest.mark.parametrize(
    ("a", "v", "both", "phi", "copies"),
    [
        (0, 0, 0, (0, 0), (2, 2)),
        (0, 0, 1, (1, 1), (0, 0)),
        (0, 1, 0, (-0.5, 0.5), (3, 1)),
        (0, 1, 1, (0.5, 1.5), (1, 0)),
        (1, 0, 0, (0.5, -0.5), (1, 3)),
        (1, 0, 1, (1.5, 0.5), (0, 1)),
        (1, 1, 0, (0, 0), (2, 2)),
        (1, 1, 1, (1, 1), (0, 0)),
    ],
)
def test_smv_worked_table(a: int, v: int, both: int, phi: Any, copies: Any) -> None:
    right = [s for s, ok in (({"a"}, a), ({"v"}, v), ({"a", "v"}, both)) if ok]
    valued = shapley(_values(["a", "v"], right))
    assert (float(valued["a"]), float(valued["v"])) == phi
    numbers = smv.num_copies(torch.stack([valued["a"], valued["v"]]))
    assert numbers.flatten().tolist() == list(copies)


def test_smv_worked_example_of_three_modalities() -> None:
    right = [{"a"}, {"a", "b"}, {"a", "c"}, {"a", "b", "c"}]
    valued = shapley(_values(["a", "b", "c"], right))
    assert_close([float(valued[name]) for name in "abc"], [2, 0.5, 0.5])


def test_a_shapley_value_of_one_means_no_copy_whatever_the_rounding() -> None:
    exactly_one = 0
    for right in itertools.product([False, True], repeat=7):
        subsets = [set(s) for r in (1, 2, 3) for s in itertools.combinations("abc", r)]
        values = _values(["a", "b", "c"], [s for s, ok in zip(subsets, right, strict=True) if ok])
        wanted = slow_shapley({s: float(v) for s, v in values.items()}, ["a", "b", "c"])
        for name, phi in shapley(values).items():
            assert_close(phi, [wanted[name]])
            if abs(wanted[name] - 1) < 1e-9:
                exactly_one += 1
                assert smv.num_copies(phi + 1e-12).item() == 0
                assert smv.num_copies(phi - 1e-12).item() == 0
    assert exactly_one > 0


@given(st.integers(2, 4), st.integers(1, 8), seeds)
def test_smv_values_match_a_head_that_is_fed_zeros(m: int, n: int, seed: int) -> None:
    model = tiny_model(m)
    with torch.no_grad():
        model.fusion.bias.copy_(torch.tensor([0.5, -0.5, 0.1]))
    inputs, labels = tiny_rows(model, n, seed)
    features = model.encode(inputs)
    values = smv.subset_values(model.parts(features), model.fusion.bias, labels)
    assert len(values) == 2**m
    for subset, value in values.items():
        zeroed = {name: f * (name in subset) for name, f in features.items()}
        predicted = model.fuse(zeroed).argmax(dim=1).tolist()
        wanted = [len(subset) * (p == y) for p, y in zip(predicted, labels.tolist(), strict=True)]
        assert value.tolist() == wanted
    phi = shapley(values)
    assert_close(sum(phi.values()), values[frozenset(model.modalities)])
    for row in range(n):
        wanted = slow_shapley({s: float(v[row]) for s, v in values.items()}, list(phi))
        assert_close([float(v[row]) for v in phi.values()], list(wanted.values()))


@given(st.integers(2, 4), st.integers(1, 8), seeds)
def test_smv_enlarged_set_matches_a_slow_loop(m: int, n: int, seed: int) -> None:
    copies = np.random.default_rng(seed).integers(0, 4, size=(m, n))
    rows, keep = smv.enlarged(torch.from_numpy(copies))
    assert keep is not None
    wanted = Counter({(row, (True,) * m): 1 for row in range(n)})
    for modality in range(m):
        for row in range(n):
            kept = tuple(other == modality for other in range(m))
            wanted[(row, kept)] += int(copies[modality, row])
    actual = zip(rows.tolist(), map(tuple, keep.tolist()), strict=True)
    assert Counter(actual) == +wanted


def test_smv_leaves_the_set_alone_where_all_rows_contribute_one() -> None:
    rows, keep = smv.enlarged(smv.num_copies(torch.ones(2, 7)))
    assert rows.tolist() == list(range(7))
    assert keep is not None
    assert keep.shape == (7, 2)
    assert keep.all()


def test_smv_trains_on_the_original_rows_within_the_warmup() -> None:
    method = set_up(SMV(warmup=0.5), lopsided_model(), num_rows=12, epochs=6)
    sizes = []
    for epoch in range(6):
        rows, keep = method.epoch_rows(epoch)
        sizes.append(len(rows))
        assert (keep is None) == (epoch < 3)
        method.on_epoch_end(epoch)
    assert sizes[:3] == [12] * 3
    assert min(sizes[3:]) > 12
    assert len(set(sizes[3:])) == 1  # always from the original rows, which the model values equally


def test_smv_values_neither_within_the_warmup_nor_after_the_last_epoch() -> None:
    method = set_up(SMV(warmup=0.5), lopsided_model(), epochs=6)
    valued = []
    encode = method.setting.encode_training
    for epoch in range(6):
        method.setting = method.setting._replace(
            encode_training=lambda epoch=epoch: valued.append(epoch) or encode()
        )
        method.on_epoch_end(epoch)
    assert valued == [2, 3, 4]


def test_smv_copies_rows_by_what_the_model_gets_right() -> None:
    model = lopsided_model(3)
    method = set_up(SMV(warmup=0), model, num_rows=12)
    assert method.epoch_rows(0).keep is None
    method.on_epoch_end(0)
    rows, keep = method.epoch_rows(1)
    assert keep is not None
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    wanted = Counter({(row, (True, True, True)): 1 for row in range(12)})
    for row in range(12):
        values = {}
        for size in range(4):
            for subset in itertools.combinations(model.modalities, size):
                zeroed = {name: f[row : row + 1] * (name in subset) for name, f in features.items()}
                right = int(model.fuse(zeroed).argmax()) == int(labels[row])
                values[frozenset(subset)] = float(size * right)
        for number, phi in enumerate(slow_shapley(values, list(model.modalities)).values()):
            copies = 0 if phi > 1 - 1e-9 else 1 if phi > 0.4 else 2 if phi > -0.1 else 3
            if copies:
                wanted[(row, tuple(other == number for other in range(3)))] += copies
    assert Counter(zip(rows.tolist(), map(tuple, keep.tolist()), strict=True)) == wanted
    assert len({kept for _, kept in wanted}) == 4


# ---------------------------------------------------------------- OPM


def test_opm_worked_example() -> None:
    rates = opm.drop_rates(torch.tensor([6.0, 4.0]), 0.5, 0.5)
    assert_close(rates, [0.615529, 0])
    assert_close(opm.drop_rates(torch.tensor([6.0, 4.0]), 0.4, 0.5), [0.492423, 0])
    assert_close(opm.drop_rates(torch.tensor([1.0, 4.0]), 0.5, 0.5), [0, 0.748764], atol=2e-5)
    factors = opm.feature_factors(rates, 1000, torch.Generator().manual_seed(0))
    assert_close(factors[1], torch.full((1000,), 1.444595))
    assert_close(factors[0].unique(), [0, 1.444595])
    assert_close(factors[1] * 2, torch.full((1000,), 2.889191))
    assert_close(factors[0].mean(), 0.555405, atol=0.06)


def test_opm_ratios_of_three_modalities() -> None:
    scores = torch.tensor([5.0, 3.0, 2.0])
    assert_close(shared.mean_ratios(scores), [2.083333, 1.05, 0.533333])
    rates = opm.drop_rates(scores, 0.5, 0.5)
    wanted = [0.5 * (1 + 0.5 * math.tanh(lead)) for lead in (1.083333, 0.05)]
    assert_close(rates, [*wanted, 0])
    theta = sum(wanted) / 3
    factors = opm.feature_factors(rates, 4000, torch.Generator().manual_seed(0))
    assert_close(factors.amax(dim=1), [1 / (1 - theta)] * 3)
    assert_close((factors == 0).double().mean(dim=1), rates, atol=0.03)
    together = ((factors[0] == 0) & (factors[1] == 0)).double().mean()
    assert_close(together, wanted[0] * wanted[1], atol=0.03)  # drawn apart, row by row


def test_opm_rates_end_at_one() -> None:
    rates = opm.drop_rates(torch.tensor([9.0, 1.0]), 0.9, 2.0)
    assert rates.tolist() == [1, 0]
    factors = opm.feature_factors(rates, 50, torch.Generator().manual_seed(0))
    assert (factors[0] == 0).all()
    assert_close(factors[1], torch.full((50,), 2.0))


@given(counts, seeds)
def test_opm_rates_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    scores = np.random.default_rng(seed).uniform(0.01, 5, size=count[0])
    wanted = []
    for ratio in slow_ratios(scores):
        lead = math.tanh(max(ratio - 1, 0))
        wanted.append(min(0.8 * (1 + 0.5 * lead), 1) if lead > 0 else 0)
    assert_close(opm.drop_rates(torch.from_numpy(scores), 0.8, 0.5), wanted)
    assert min(wanted) == 0  # so that no row can lose all


def test_opm_with_a_rate_of_zero_is_joint_training() -> None:
    model = lopsided_model(3)
    plain = gradients(set_up(Method(), model), model)
    method = _started(OPM(q_base=0, p_exe=1, warmup=0), model)
    assert_same_gradients(gradients(method, model), plain)


def test_opm_drops_and_rescales_the_features() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = {name: f.detach().requires_grad_() for name, f in model.encode(inputs).items()}
    method = _started(OPM(p_exe=1, warmup=0), model)
    loss = method.loss(features, labels)
    scores = shared.label_scores(shared.stack(model.parts(features)), labels)
    rates = opm.drop_rates(scores, 0.5, 0.5)
    assert rates[0] > 0 == rates[1]
    generator = torch.Generator().manual_seed(0)
    torch.rand((), generator=generator)  # the coin
    factors = opm.feature_factors(rates, 12, generator)
    scaled = {n: f * w[:, None] for (n, f), w in zip(features.items(), factors, strict=True)}
    assert_close(loss, F.cross_entropy(model.fuse(scaled), labels))
    loss.backward()
    dropped = factors[0] == 0
    assert 0 < dropped.sum() < 12
    gradient = features["m0"].grad
    assert gradient is not None
    assert ((gradient == 0).all(dim=1) == dropped).all()


def test_opm_waits_for_its_warmup_and_its_coin() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    plain = F.cross_entropy(model.fuse(features), labels)
    method = set_up(OPM(p_exe=0.7, warmup=0.06), model, epochs=100)
    modulated = []
    for epoch in (0, 5, 6, 99):
        method.on_epoch_start(epoch)
        losses = [method.loss(features, labels) for _ in range(400)]
        modulated.append(float(np.mean([not torch.equal(loss, plain) for loss in losses])))
    assert modulated[:2] == [0, 0]
    assert modulated[2:] == pytest.approx([0.7, 0.7], abs=0.07)


# ---------------------------------------------------------------- AMCo


@pytest.mark.parametrize(
    ("epoch", "size", "wanted"),
    [
        (0, 6, [0, 0, 0, 0, 0]),
        (1, 6, [0, 3, 5, 6, 6]),
        (2, 6, [0, 5, 6, 6, 6]),
        (5, 6, [0, 6, 6, 6, 6]),
        (1, 31, [0, 15, 26, 31, 31]),
    ],
)
def test_amco_ramp_worked_example(epoch: int, size: int, wanted: list[int]) -> None:
    level, masked = 0.0, []
    for _ in range(5):
        masked.append(amco.num_masked(level, 0.3, size))
        level += epoch / 10
    assert masked == wanted


def test_amco_masses_worked_example() -> None:
    row = torch.tensor([[[2.0, 0, 0]], [[0.5, 0, 0]]])
    assert_close(amco.masses(row), [0.720142, 0.279858])


@given(counts, seeds)
def test_amco_masses_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    parts, _ = draw_parts(count, seed)
    m, b, c = count
    wanted = np.zeros(m)
    for row in range(b):
        shares = slow_softmax([float(parts[k, row, j]) for k in range(m) for j in range(c)])
        for modality in range(m):
            wanted[modality] += sum(shares[modality * c : (modality + 1) * c]) / b
    assert_close(amco.masses(parts), wanted)


@pytest.mark.parametrize("masked", [0, 1, 3, 5])
def test_amco_masks_have_that_many_zeros_in_random_places(masked: int) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([amco.random_mask(5, masked, generator) for _ in range(600)])
    assert (masks.sum(dim=1) == 5 - masked).all()
    assert_close(masks.mean(dim=0), [1 - masked / 5] * 5, atol=0.07)


@pytest.mark.parametrize("space", ["logit", "feature"])
def test_amco_masks_the_flagged_modality_in_the_next_batch(space: Any) -> None:
    model = lopsided_model()
    with torch.no_grad():
        model.fusion.weight[:, model.width :] *= 20
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = set_up(AMCo(mask_space=space), model)

    def masked(flags: list[bool]) -> list[Tensor]:
        """The parts, with all of the flagged modalities masked."""
        scales = {name: 0.0 if flag else 1.0 for name, flag in zip(features, flags, strict=True)}
        if space == "feature":
            return list(model.parts({n: f * scales[n] for n, f in features.items()}).values())
        return [part * scales[name] for name, part in model.parts(features).items()]

    def total(parts: list[Tensor]) -> float:
        return sum(F.cross_entropy(part, labels).item() for part in [parts[0] + parts[1], *parts])

    method.on_epoch_start(0)  # never masks
    assert_close(
        [method.loss(features, labels).item() for _ in range(4)], [total(masked([False] * 2))] * 4
    )
    seen = []
    for _ in range(2):
        method.on_epoch_start(3)  # masks nothing in the first batch, and all after it
        flags = [False, False]
        for _ in range(4):
            assert_close(method.loss(features, labels), total(masked(flags)))
            flags = (amco.masses(torch.stack(masked(flags))) > 0.5).tolist()
            seen.append(flags)
    assert [True, False] in seen
    assert seen[1:4].count([True, False]) < 3  # the mask comes off again


def test_amco_masks_part_of_the_flagged_modality_on_the_ramp() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = set_up(AMCo(), model)
    method.on_epoch_start(3)
    method.loss(features, labels)
    method.on_epoch_start(1)  # the ramp begins again
    method.loss(features, labels)
    loss = method.loss(features, labels)
    mask = amco.random_mask(3, 1, torch.Generator().manual_seed(0))  # ⌊3 sin(π/6)⌋ zeros
    parts = model.parts(features)
    masked = [parts["m0"] * mask, parts["m1"]]
    wanted = sum(F.cross_entropy(part, labels) for part in [masked[0] + masked[1], *masked])
    assert_close(loss, wanted)


def test_amco_gives_a_masked_encoder_no_gradient() -> None:
    model = lopsided_model()
    method = set_up(AMCo(), model)
    method.on_epoch_start(3)
    assert gradients(method, model)["encoders.m0.0.weight"].abs().max() > 1e-3
    masked = gradients(method, model)
    assert masked["encoders.m0.0.weight"].abs().max() == 0
    assert masked["encoders.m1.0.weight"].abs().max() > 1e-5


def test_amco_layer_starts_as_the_identity_is_trained_and_stays_at_evaluation() -> None:
    model = tiny_model(2)
    features = model.encode(tiny_rows(model, 12)[0])
    method = AMCo()
    set_up(method, model)
    assert_close(method.predict(features), model.fuse(features))
    run(method, model)
    (layer,) = method.extra_modules()
    assert not torch.equal(layer.weight, torch.eye(3))
    features = model.encode(tiny_rows(model, 12)[0])
    assert_close(method.predict(features), layer(model.fuse(features)))


def test_amco_outside_its_window_is_joint_training_through_the_layer() -> None:
    model = lopsided_model()
    plain = gradients(set_up(Method(), model), model)
    method = set_up(AMCo(end=0.25), model, epochs=8)
    for epoch, inside in ((2, True), (3, False)):
        method.on_epoch_start(epoch)
        for _ in range(3):
            edited = gradients(method, model)
            same = all(torch.allclose(edited[name], plain[name], atol=1e-6) for name in plain)
            assert same != inside
    (layer,) = method.extra_modules()
    assert layer.weight.grad is not None


# ---------------------------------------------------------------- the plain controls


@given(st.integers(2, 4), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]), seeds)
def test_modality_dropout_takes_at_most_one(m: int, n: int, rate: float, seed: int) -> None:
    kept = modality_dropout.kept_modalities(m, n, rate, torch.Generator().manual_seed(seed))
    assert kept.shape == (m, n)
    lost = (~kept).sum(dim=0)
    assert (lost <= 1).all()
    if rate in (0, 1):
        assert (lost == rate).all()


def test_modality_dropout_takes_each_as_often() -> None:
    kept = modality_dropout.kept_modalities(3, 6000, 0.6, torch.Generator().manual_seed(0))
    assert_close((~kept).double().mean(dim=1), [0.2] * 3, atol=0.02)


def test_modality_dropout_sets_features_to_zero_and_scales_nothing() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    loss = _started(ModalityDropout(rate=0.7), model).loss(features, labels)
    kept = modality_dropout.kept_modalities(3, 12, 0.7, torch.Generator().manual_seed(0))
    assert not kept.all()
    left = {n: f * k[:, None] for (n, f), k in zip(features.items(), kept, strict=True)}
    assert_close(loss, F.cross_entropy(model.fuse(left), labels))


def test_modality_dropout_with_a_rate_of_zero_is_joint_training() -> None:
    model = tiny_model(2)
    plain = gradients(set_up(Method(), model), model)
    assert_same_gradients(gradients(_started(ModalityDropout(rate=0), model), model), plain)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_unimodal_losses_are_added(weight: float) -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    heads = [F.cross_entropy(model.heads[name](f), labels) for name, f in features.items()]
    wanted = F.cross_entropy(model.fuse(features), labels) + weight * sum(heads)
    assert_close(set_up(UnimodalLosses(weight), model).loss(features, labels), wanted)


def test_late_fusion_trains_each_modality_as_if_alone() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    together = gradients(set_up(LateFusionOfUnimodal(), model), model)
    assert together["fusion.weight"].abs().max() == 0
    for name in model.modalities:
        model.zero_grad()
        F.cross_entropy(model.heads[name](model.encoders[name](inputs[name])), labels).backward()
        for prefix, module in ((f"encoders.{name}", model.encoders[name]), (f"heads.{name}", None)):
            for suffix, weight in (module or model.heads[name]).named_parameters():
                assert weight.grad is not None
                assert_close(together[f"{prefix}.{suffix}"], weight.grad)


def test_late_fusion_averages_probabilities() -> None:
    model = tiny_model(3)
    features = model.encode(tiny_rows(model, 6)[0])
    logits = set_up(LateFusionOfUnimodal(), model).predict(features)
    probabilities = [
        [slow_softmax(row) for row in model.heads[name](features[name])] for name in features
    ]
    assert_close(logits.exp(), np.mean(probabilities, axis=0))
    far = late_fusion.log_mean_softmax(torch.tensor([[[900.0, 0.0]], [[0.0, 0.0]]]))
    assert_close(far.exp(), [[0.75, 0.25]])


# ---------------------------------------------------------------- all of them


@every_method
@pytest.mark.parametrize("num_modalities", [2, 3, 4])
def test_short_runs_learn(build: Callable[[], Method], num_modalities: int) -> None:
    model = tiny_model(num_modalities)
    inputs, labels = tiny_rows(model, 20)
    method = set_up(build(), model)

    def nll() -> float:
        return F.cross_entropy(method.predict(model.encode(inputs)), labels).item()

    before = nll()
    losses = run(method, model, epochs=12)
    assert np.isfinite(losses).all()
    assert nll() < before


@every_method
def test_draws_come_from_the_generator_alone(build: Callable[[], Method]) -> None:
    state = torch.get_rng_state()
    first = run(build(), lopsided_model(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert run(build(), lopsided_model(3)) == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("name", ["ogm-ge", "opm", "amco", "amco-feature", "modality-dropout"])
def test_draws_depend_on_the_generator(name: str) -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    drawn = []
    for seed in (0, 0, 1):
        method = set_up(METHODS[name](), model, seed=seed)
        method.on_epoch_start(1)
        losses = []
        for _ in range(8):
            model.zero_grad()
            loss = method.loss(model.encode(inputs), labels)
            loss.backward()
            method.after_backward()
            losses.append((loss.item(), float(model.encoders["m0"][0].weight.grad.sum())))
        drawn.append(losses)
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-5)
    assert np.abs(np.subtract(drawn[0], drawn[2])).max() > 1e-3


@every_method
@pytest.mark.parametrize("num_rows", [1, 5])
def test_one_row_and_one_class_are_fine(build: Callable[[], Method], num_rows: int) -> None:
    model = lopsided_model()
    method = set_up(build(), model, num_rows=num_rows)
    for epoch in range(3):
        method.on_epoch_start(epoch)
        labels = torch.full((num_rows,), epoch)
        for _ in range(3):
            inputs = tiny_rows(model, num_rows)[0]
            loss = method.loss(model.encode(inputs), labels)
            assert loss.isfinite()
            found = gradients(method, model, labels, num_rows)
            assert all(gradient.isfinite().all() for gradient in found.values())
        method.on_epoch_end(epoch)


@every_method
def test_logits_that_overflow_a_softmax_are_fine(build: Callable[[], Method]) -> None:
    model = lopsided_model()
    with torch.no_grad():
        model.fusion.weight *= 1e4
    method = set_up(build(), model)
    method.on_epoch_start(0)
    assert all(gradient.isfinite().all() for gradient in gradients(method, model).values())
    assert all(gradient.isfinite().all() for gradient in gradients(method, model).values())


@pytest.mark.parametrize("name", ["ogm", "agm", "smv", "opm", "amco", "modality-dropout"])
def test_one_modality_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a model of 2 or more, got \['m0'\]"):
        set_up(METHODS[name](), tiny_model(1))


@pytest.mark.parametrize("name", ["joint", "unimodal-losses", "late-fusion"])
def test_one_modality_is_enough_for_the_others(name: str) -> None:
    assert np.isfinite(run(METHODS[name](), tiny_model(1))).all()
