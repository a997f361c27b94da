"""Labels by skill: worked numbers, streaming, ranks, workers, and shares that a provider states."""

import copy
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug import functional as F
from midas_aug.confidence import SkillConfidence
from midas_aug.functional.skill import TEMPERATURES
from tests.helpers import planted

C = 4
LABELS = torch.arange(200) % C
FREQUENCIES = torch.tensor([0.4, 0.3, 0.2, 0.1])
UNEVEN = torch.repeat_interleave(torch.arange(C), torch.tensor([40, 30, 20, 10]))


def knows(labels: Tensor = LABELS, scale: float = 60.0) -> Tensor:
    return scale * one_hot(labels.clamp(min=0), C).float()


def noisy(seed: int = 0, scale: float = 1.0, labels: Tensor = LABELS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * (2 * knows(labels, 1.0) + torch.randn(len(labels), C, generator=generator))


def measured(*logits: Tensor, labels: Tensor = LABELS, **options: Any) -> SkillConfidence:
    skill = SkillConfidence(tuple("abcdef"[: len(logits)]), C, **options)
    skill.update(list(logits), labels)
    skill.step()
    return skill


# ---------------------------------------------------------------- the score


def test_a_head_that_names_the_class_frequencies_has_skill_0_and_a_perfect_one_1():
    frequencies = FREQUENCIES.log().expand(len(UNEVEN), C)
    for counts in (None, 1000 * FREQUENCIES):
        assert F.skill_score(frequencies, UNEVEN, counts) == pytest.approx(0, abs=1e-6)
        assert F.skill_score(knows(UNEVEN), UNEVEN, counts) == 1
    assert F.skill_score(torch.zeros(len(UNEVEN), C), UNEVEN) == 0  # worse than the frequencies
    assert F.skill_score(-knows(UNEVEN), UNEVEN) == 0


def test_a_worked_number():
    """Two classes; logits ln 3 apart and right in three of four rows: calibrated as they are."""
    logits = torch.tensor([[math.log(3), 0.0]]).repeat(4, 1)
    labels = torch.tensor([0, 0, 0, 1])
    balanced = torch.tensor([1, 1])
    expected = 1 - (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    assert expected == pytest.approx(0.18872, abs=1e-5)
    assert F.skill_score(logits, labels, balanced) == pytest.approx(expected, abs=1e-4)
    assert F.skill_score(logits, labels) == pytest.approx(0, abs=1e-4)  # the frequencies, too


def test_the_temperature_is_as_good_as_a_fine_search():
    for scale in (0.5, 1.0, 6.0):
        logits = noisy(scale=scale)
        best = minimize_scalar(
            lambda log_t, logits=logits: float(cross_entropy(logits / math.exp(log_t), LABELS)),
            bounds=(math.log(0.3), math.log(20)),
            method="bounded",
        )
        expected = 1 - best.fun / math.log(C)
        assert F.skill_score(logits, LABELS) == pytest.approx(expected, abs=5e-4)


def test_the_temperatures_lie_evenly_from_three_tenths_to_twenty():
    assert len(TEMPERATURES) == 60
    assert TEMPERATURES[0] == pytest.approx(0.3)
    assert TEMPERATURES[-1] == pytest.approx(20)
    steps = torch.tensor(TEMPERATURES, dtype=torch.float64).log().diff()
    torch.testing.assert_close(steps, steps[:1].expand(59))


def test_counts_are_any_multiple_of_the_frequencies():
    logits = noisy(labels=UNEVEN)
    plain = F.skill_score(logits, UNEVEN)
    assert 0.1 < plain < 0.9
    for factor in (1000.0, 1.0, 0.01):
        torch.testing.assert_close(F.skill_score(logits, UNEVEN, factor * FREQUENCIES), plain)


def test_a_common_factor_of_the_logits_does_not_matter():
    plain = F.skill_score(noisy(), LABELS)
    assert 0.2 < plain < 0.8
    for scale in (0.6, 2.0, 10.0):
        assert F.skill_score(noisy(scale=scale), LABELS) == pytest.approx(float(plain), abs=5e-4)
    step = (20 / 0.3) ** (1 / 59)  # from one temperature to the next: the same numbers
    torch.testing.assert_close(F.skill_score(noisy(scale=step), LABELS), plain)


def test_ignored_rows_count_nowhere():
    labels = torch.cat([LABELS, torch.tensor([-1, -7])])
    logits = torch.cat([noisy(), torch.full((2, C), 1e9)])
    torch.testing.assert_close(F.skill_score(logits, labels), F.skill_score(noisy(), LABELS))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(0, C), torch.zeros(0, dtype=torch.int64)),
        (torch.zeros(3, C), torch.tensor([-1, -1, -1])),
        (knows(torch.zeros(3).long()), torch.zeros(3, dtype=torch.int64)),  # one class
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)),
        (torch.full((8, C), float("nan")), torch.arange(8) % C),
        (torch.full((8, C), float("inf")), torch.arange(8) % C),
    ],
)
def test_nothing_to_know_is_skill_0_and_never_nan(logits, labels):
    assert F.skill_score(logits, labels) == 0


def test_a_class_that_is_ruled_out_does_no_harm_where_it_is_not_the_label():
    logits = knows()
    logits[LABELS == 0, 1] = float("-inf")
    assert F.skill_score(logits, LABELS) == 1


def test_numpy_in_numpy_out_and_half_precision_in_float32():
    found = F.skill_score(noisy().numpy(), LABELS.numpy())
    assert isinstance(found, np.ndarray)
    assert found == pytest.approx(float(F.skill_score(noisy(), LABELS)))
    assert F.skill_score(noisy().bfloat16(), LABELS).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.skill_score(knows(), LABELS[:3]), ["logits", "(3, any)", "(200, 4)"]),
        (lambda: F.skill_score(knows(), LABELS, torch.ones(3)), ["class_counts", "(4)", "(3,)"]),
        (lambda: F.skill_score(knows(), LABELS, torch.zeros(C)), ["not all 0", "bincount"]),
        (lambda: F.skill_score(knows(), LABELS, -torch.ones(C)), ["at least 0", "-1"]),
        (lambda: F.skill_score(knows()[:, :2], LABELS), ["2 columns", "label 3"]),
        (lambda: F.shares_by_source(torch.ones(2, 3), torch.ones(1, 2).long()), ["(any, 3)"]),
        (lambda: F.shares_by_source(torch.ones(2, 2), torch.tensor([[0, 2]])), ["0 … 1", "2"]),
        (lambda: SkillConfidence(("a",), 3), ["at least two", "('a',)"]),
        (lambda: SkillConfidence(("a", "b"), 3, ema=0), ["ema above 0", "0"]),
        (lambda: SkillConfidence(("a", "b"), 3, eps=0), ["eps above 0", "0"]),
        (lambda: SkillConfidence(("a", "b"), C).update([knows()], LABELS), ["unimodal_logits"]),
        (
            lambda: SkillConfidence(("a", "b"), C).update([knows(), knows()[:, :3]], LABELS),
            ["unimodal_logits['b']", "(200, 4)", "(200, 3)"],
        ),
        (
            lambda: SkillConfidence(("a", "b"), C).update({"a": knows()}, LABELS),
            ["unimodal_logits", "'b'"],
        ),
        (
            lambda: SkillConfidence(("a", "b"), C).cross_fit(lambda *_: [], LABELS[:3], folds=5),
            ["5 folds of 3 rows"],
        ),
        (
            lambda: SkillConfidence(("a", "b"), C).cross_fit(lambda *_: [], LABELS, folds=2.5),
            ["folds to be an integer", "2.5"],
        ),
        (
            lambda: SkillConfidence(("a", "b"), C).cross_fit(
                lambda *_: [], LABELS, groups=LABELS.clamp(max=1)
            ),
            ["5 folds of 2 groups"],
        ),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(MidasAugError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


# ---------------------------------------------------------------- shares


def slow_shares(confidence: np.ndarray, source: np.ndarray) -> np.ndarray:
    """One vote a source: the mean of its modalities' confidences, divided among them."""
    shares = np.zeros(source.shape)
    for number, row in enumerate(source):
        votes = {s: np.mean([confidence[s, m] for m in np.flatnonzero(row == s)]) for s in row}
        total = sum(votes.values())
        for m, s in enumerate(row):
            vote = votes[s] / total if total else 1 / len(votes)
            shares[number, m] = vote / (row == s).sum()
    return shares


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 5), st.integers(0, 8))
def test_shares_by_source_equal_a_slow_loop(seed, rows, modalities, samples):
    generator = np.random.default_rng(seed)
    confidence = generator.random((rows, modalities)) * generator.integers(0, 2, modalities)
    source = generator.integers(0, rows, (samples, modalities))
    found = F.shares_by_source(confidence, source)
    np.testing.assert_allclose(found, slow_shares(confidence, source), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_two_modalities_share_as_the_rule_says():
    skill = measured(noisy(), torch.zeros_like(noisy()))
    first, second = (float(s) for s in skill.skill)
    assert second == 0
    batch = {"a": torch.rand(8, 2), "b": torch.rand(8, 2)}
    out = MisalignAugment(("a", "b"), C, confidence=skill, hardness=None)(batch, LABELS[:8])
    expected = (first + 0.02) / (first + second + 0.04)
    torch.testing.assert_close(out.shares[8:, 0], torch.full((16,), expected))
    assert torch.equal(out.shares[:8], torch.full((8, 2), 0.5))
    torch.testing.assert_close(
        out.shares[8:], F.label_shares(out.confidence, out.source[8:])
    )  # the same rule, for two


@pytest.mark.parametrize("k", [0, 1, 2])
def test_with_three_modalities_the_kept_ones_have_one_vote(k):
    skill = SkillConfidence(("a", "b", "c"), C)
    skill.skill.copy_(torch.tensor([0.9, 0.5, 0.1]))
    skill.load_state_dict(skill.state_dict())
    batch = {name: torch.rand(4, 2) for name in "abc"}
    out = MisalignAugment(("a", "b", "c"), C, confidence=skill, hardness=None)(batch, LABELS[:4])
    block = out.shares[4 * (k + 1) : 4 * (k + 2)]  # modality k comes from the partner
    kept = [m for m in range(3) if m != k]
    s = skill.skill.tolist()
    mean = (s[kept[0]] + s[kept[1]]) / 2
    both = (mean + 0.02) / (mean + s[k] + 0.04)
    torch.testing.assert_close(block[:, kept], torch.full((4, 2), both / 2))
    torch.testing.assert_close(block[:, k], torch.full((4,), 1 - both))
    assert not torch.allclose(block, F.label_shares(out.confidence, out.source[4:])[4 * k :][:4])


class Stating:
    """A provider that gives all to the first modality."""

    def __call__(self, batch, labels):
        return torch.ones(len(labels), 2)

    def shares(self, confidence, source):
        return one_hot(torch.zeros(len(source), dtype=torch.int64), 2).to(confidence.dtype)


def test_any_provider_may_state_the_shares_and_they_travel_with_the_batch():
    batch = {"a": torch.rand(8, 2), "b": torch.rand(8, 2), "label": LABELS[:8]}
    augment = MisalignAugment(("a", "b"), C, confidence=Stating(), hardness=None)
    out = augment(batch)
    assert out.shares[8:].tolist() == [[1.0, 0.0]] * 16
    assert torch.equal(out.targets[8:], one_hot(out.source_labels[8:, 0], C).float())
    again = pickle.loads(pickle.dumps(out))
    assert torch.equal(again.shares, out.shares)
    assert torch.equal(out.to("cpu").shares, out.shares)
    assert out.to("meta").shares.device.type == "meta"
    even = out.label(confidence=torch.ones(8, 2))  # labelled anew, by someone else
    assert torch.equal(even.shares, torch.full((24, 2), 0.5))
    assert torch.equal(even.label(confidence=Stating()).shares, out.shares)
    loss = MidasLoss(2, unimodal_weight=0, weak_modality=None)(torch.randn(24, C), out)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stated_shares_of_any_precision_are_float32_in_the_batch(dtype):
    class Rounded(Stating):
        def shares(self, confidence, source):
            return torch.tensor([[0.75, 0.25]], dtype=dtype).expand(len(source), 2)

    batch = {"a": torch.rand(8, 2), "b": torch.rand(8, 2)}
    out = MisalignAugment(("a", "b"), C, confidence=Rounded(), hardness=None)(batch, LABELS[:8])
    assert out.shares.dtype == torch.float32
    assert out.targets.dtype == torch.float32
    assert out.shares[8:].unique(dim=0).tolist() == [[0.75, 0.25]]
    arrays = {name: part.numpy() for name, part in batch.items()}
    if dtype != torch.bfloat16:  # NumPy has none

        class OfArrays(Stating):
            def __call__(self, batch, labels):
                return np.ones((len(labels), 2))

            def shares(self, confidence, source):
                return Rounded.shares(self, confidence, source).numpy()

        augment = MisalignAugment(("a", "b"), C, confidence=OfArrays(), hardness=None)
        assert augment(arrays, LABELS[:8].numpy()).shares.dtype == np.float32


def test_stated_shares_carry_no_gradient_and_are_floats():
    class Trained(Stating):
        def shares(self, confidence, source):
            return torch.full((len(source), 2), 0.5, requires_grad=True)

    class Counted(Stating):
        def shares(self, confidence, source):
            return torch.ones(len(source), 2, dtype=torch.int64)

    batch = {"a": torch.rand(8, 2), "b": torch.rand(8, 2)}
    augment = MisalignAugment(("a", "b"), C, confidence=Trained(), hardness=None)
    assert not augment(batch, LABELS[:8]).shares.requires_grad
    augment = MisalignAugment(("a", "b"), C, confidence=Counted(), hardness=None)
    with pytest.raises(MidasAugError, match=r"shares to have a float dtype, got torch\.int64"):
        augment(batch, LABELS[:8])


def test_stated_shares_of_a_wrong_shape_are_refused():
    class Wrong(Stating):
        def shares(self, confidence, source):
            return confidence

    augment = MisalignAugment(("a", "b"), C, confidence=Wrong(), hardness=None)
    with pytest.raises(MidasAugError, match=r"shares of shape \(16, 2\), got \(8, 2\)"):
        augment({"a": torch.rand(8, 2), "b": torch.rand(8, 2)}, LABELS[:8])


def test_numpy_batches_have_numpy_shares():
    skill = measured(noisy(), noisy(1), torch.zeros(len(LABELS), C))
    batch = {name: np.ones((6, 2)) for name in "abc"}
    out = MisalignAugment(("a", "b", "c"), C, confidence=skill)(batch, LABELS[:6].numpy())
    assert isinstance(out.shares, np.ndarray)
    expected = slow_shares(out.confidence, out.source[6:])
    np.testing.assert_allclose(out.shares[6:], expected, atol=1e-6)


# ---------------------------------------------------------------- the state


def test_the_first_measurement_replaces_the_start_and_later_ones_count_half():
    skill = SkillConfidence(("a", "b"), C)
    assert skill.skill.tolist() == [1, 1]
    skill.step()  # nothing was seen
    assert skill.skill.tolist() == [1, 1]
    for logits in (noisy(), noisy(scale=0), knows()):
        skill.update([logits, knows()], LABELS)
        skill.step()
    first = float(F.skill_score(noisy(), LABELS))
    assert skill.skill.tolist() == pytest.approx([first / 4 + 0 / 4 + 1 / 2, 1.0], abs=1e-6)
    skill.step()
    assert skill.skill[0] == pytest.approx(first / 4 + 1 / 2, abs=1e-6)
    assert int(skill.steps) == 3


def test_ema_is_the_weight_of_the_new_measurement():
    skill = SkillConfidence(("a", "b"), C, ema=0.25)
    for logits in (knows(), noisy(scale=0)):
        skill.update([logits, knows()], LABELS)
        skill.step()
    assert skill.skill.tolist() == pytest.approx([0.75, 1.0], abs=1e-6)


def test_any_number_of_batches_is_one_batch():
    labels = LABELS.clone()
    labels[::7] = -1
    whole = measured(noisy(), noisy(1), labels=labels)
    for size in (1, 13, 200):
        streamed = SkillConfidence(("a", "b"), C)
        for part in torch.arange(200).split(size):
            streamed.update([noisy()[part], noisy(1)[part]], labels[part])
        streamed.update([torch.zeros(0, C)] * 2, labels[:0])
        streamed.step()
        torch.testing.assert_close(streamed.skill, whole.skill)


def test_the_entropy_is_that_of_the_training_set_where_it_is_known():
    counts = torch.bincount(UNEVEN)
    skill = measured(noisy(), knows(), class_counts=counts)
    expected = F.skill_score(noisy(), LABELS, counts)
    torch.testing.assert_close(skill.skill[0], expected)
    assert not torch.isclose(expected, F.skill_score(noisy(), LABELS))


def test_logits_by_name_are_put_in_order_and_the_augmentation_checks_it():
    skill = SkillConfidence(("a", "b"), C)
    skill.update({"b": knows(), "a": torch.zeros(200, C)}, LABELS)
    skill.step()
    assert skill.skill.tolist() == [0, 1]
    with pytest.raises(MidasAugError, match="in the order"):
        MisalignAugment(("b", "a"), C, confidence=skill)


def test_the_state_is_in_the_state_dict_and_reaches_workers_when_loaded():
    skill = measured(noisy(), torch.zeros(200, C))
    resumed = SkillConfidence(("a", "b"), C)
    resumed.load_state_dict(pickle.loads(pickle.dumps(skill.state_dict())))
    for provider in (resumed, copy.deepcopy(skill), pickle.loads(pickle.dumps(skill))):
        assert torch.equal(provider({}, LABELS), skill({}, LABELS))
        for either in (provider, skill):
            before = either.skill.clone()
            either.update([knows(), knows()], LABELS)
            either.step()
            assert not torch.equal(either.skill, before)
        assert torch.equal(provider.skill, skill.skill)
        skill.load_state_dict(measured(noisy(), torch.zeros(200, C)).state_dict())


def test_a_model_in_bfloat16_keeps_the_skill_in_float32():
    skill = measured(noisy(), knows()).to(torch.bfloat16)
    assert skill.skill.dtype == torch.float32
    assert torch.equal(skill.skill, measured(noisy(), knows()).skill)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_head_that_has_diverged_is_refused_and_nothing_is_taken_in(bad):
    logits = noisy()
    logits[3, 1] = bad
    for dtype in (torch.float32, torch.bfloat16):
        skill = SkillConfidence(("a", "b"), C)
        skill.update([knows(), noisy()], LABELS)
        with pytest.raises(MidasAugError, match=r"\['b'\].*in 1 of 200 rows; a head has diverged"):
            skill.update([knows(), logits.to(dtype)], LABELS)
        skill.step()
        assert torch.equal(skill.skill, measured(knows(), noisy()).skill)
    with pytest.raises(MidasAugError, match="in 1 of 200 rows"):
        measured(logits.numpy(), knows())


def test_a_row_that_does_not_count_may_hold_anything_and_a_masked_class_minus_infinity():
    logits, labels, present = noisy(), LABELS.clone(), torch.ones(200, 2, dtype=torch.bool)
    logits[3] = float("nan")
    labels[3] = -1
    assert measured(logits, knows(), labels=labels).skill[0] > 0.2
    present[3, 0] = False
    skill = SkillConfidence(("a", "b"), C)
    skill.update([logits, knows()], LABELS, present=present)
    skill.step()
    assert skill.skill[0] > 0.2
    masked = knows()
    masked[LABELS == 0, 1] = float("-inf")
    large = torch.where(masked > 0, 3e38, 0.0)  # overflows at a temperature below 1
    assert measured(masked, large).skill.tolist() == [1, 1]
    masked[0, 0] = float("-inf")  # the label itself: its loss is infinite
    assert measured(masked, knows()).skill.tolist() == [0, 1]


def test_a_planted_modality_of_noise_has_no_skill_though_its_head_is_sure():
    case = planted.make_case("noise")
    skill = SkillConfidence(("audio", "video"), planted.CLASSES)
    sure = []
    with torch.no_grad():
        for batch in case.loader:
            logits = case.unimodal(case.model.encode(batch))
            sure.append(logits["video"].softmax(dim=1).amax(dim=1))
            skill.update(logits, batch["label"])
    skill.step()
    assert torch.cat(sure).mean() > 1.2 / planted.CLASSES
    assert skill.skill[0] > 0.4
    assert skill.skill[1] < 0.02


# ---------------------------------------------------------------- cross-fitting


@pytest.mark.parametrize("groups", [None, torch.arange(200) // 9])
def test_cross_fitting_holds_every_row_out_once_and_measures_the_same(groups):
    labels = LABELS.clone()
    labels[:5] = -1
    logits = noisy(), noisy(1)
    seen, calls = [], []

    def fit(training, held_out):
        both = torch.cat([training, held_out])
        assert sorted(both.tolist()) == list(range(5, 200))
        if groups is not None:
            assert not set(groups[training].tolist()) & set(groups[held_out].tolist())
        else:  # each class has its part
            assert (torch.bincount(labels[held_out]) - len(held_out) / C).abs().max() <= 1
        assert abs(len(held_out) - 39) <= (0 if groups is None else 9)
        seen.extend(held_out.tolist())
        calls.append(held_out)
        return [head[held_out] for head in logits]

    skill = SkillConfidence(("a", "b"), C)
    skill.cross_fit(fit, labels, groups=groups)
    assert sorted(seen) == list(range(5, 200))
    assert len(calls) == 5
    torch.testing.assert_close(skill.skill, measured(*logits, labels=labels).skill)
    other = SkillConfidence(("a", "b"), C)
    calls_before = [part.tolist() for part in calls]
    calls.clear()
    other.cross_fit(fit, labels, groups=groups, seed=1)
    if groups is None:
        assert [part.tolist() for part in calls] != calls_before


# ---------------------------------------------------------------- workers and ranks


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.full((2,), float(index))
        return {"a": row, "b": row, "c": row, "label": index % C}


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("materialize", [True, False])
def test_running_workers_see_a_new_skill(context, materialize):
    skill = SkillConfidence(("a", "b", "c"), C)
    augment = MisalignAugment(("a", "b", "c"), C, confidence=skill, hardness=None, seed=0)
    loader = DataLoader(
        Rows(),
        batch_size=16,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=augment.collate(materialize=materialize),
    )
    for out in loader:
        assert torch.equal(out.confidence, torch.full((16, 3), 1.02))
    skill.update([knows(), torch.zeros(200, C), knows()], LABELS)
    skill.step()
    for out in loader:
        assert torch.equal(out.confidence, torch.tensor([[1.02, 0.02, 1.02]]).expand(16, 3))
        expected = F.shares_by_source(out.confidence, out.source[16:])
        assert torch.equal(out.shares[16:], expected)
        anew = out.label(confidence=skill)
        assert torch.equal(anew.shares, out.shares)


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    skill = SkillConfidence(("a", "b"), C)
    half = slice(0, 150) if rank == 0 else slice(150, 200)
    skill.update([noisy()[half], noisy(1, labels=UNEVEN.repeat(2))[half]], LABELS[half])
    skill.step()
    first = skill.skill.clone()
    if rank == 0:  # the other one has no batch
        skill.update([knows(), noisy()], LABELS)
    skill.step()
    torch.save(torch.stack([first, skill.skill]), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_ranks_agree_and_equal_one_process_with_all_rows():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(folder,), nprocs=2)
        first, second = (torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    alone = SkillConfidence(("a", "b"), C)
    alone.update([noisy(), noisy(1, labels=UNEVEN.repeat(2))], LABELS)
    alone.step()
    torch.testing.assert_close(first[0], alone.skill)
    alone.update([knows(), noisy()], LABELS)
    alone.step()
    torch.testing.assert_close(first[1], alone.skill)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_labels_by_skill_compile_in_one_graph():
    torch._dynamo.reset()
    skill = measured(noisy(), noisy(1), torch.zeros(200, C))
    augment = MisalignAugment(("a", "b", "c"), C, confidence=skill, hardness=None)
    batch = {name: torch.rand(8, 2) for name in "abc"}
    plan = F.plan_swaps(LABELS[:8], 3)

    def label(batch: Any, labels: Tensor) -> Tensor:
        return augment(batch, labels, plan=plan).targets

    compiled = torch.compile(label, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, LABELS[:8]), label(batch, LABELS[:8]))
    skill.update([torch.zeros(200, C), knows(), knows()], LABELS)
    skill.step()
    torch.testing.assert_close(compiled(batch, LABELS[:8]), label(batch, LABELS[:8]))


# ---------------------------------------------------------------- what workers are told


def published(skill: SkillConfidence) -> list[float]:
    """What a worker that is spawned now would read."""
    return (pickle.loads(pickle.dumps(skill))({}, LABELS)[0] - 0.02).tolist()


def by_step(skill: SkillConfidence) -> None:
    skill.update([torch.zeros(200, C), knows()], LABELS)
    skill.step()


def by_loading(skill: SkillConfidence, assign: bool = False) -> None:
    state = {**skill.state_dict(), "skill": torch.tensor([0.0, 1.0]), "steps": torch.tensor(1)}
    skill.load_state_dict(state, assign=assign)


def behind_its_back(skill: SkillConfidence) -> None:
    skill._buffers["skill"] = torch.tensor([0.0, 1.0])


WAYS_TO_CHANGE = {
    "step": by_step,
    "load_state_dict": by_loading,
    "load_state_dict with assign": lambda skill: by_loading(skill, assign=True),
    "in place": lambda skill: skill.skill.copy_(torch.tensor([0.0, 1.0])),
    "assignment": lambda skill: setattr(skill, "skill", torch.tensor([0.0, 1.0])),
    "behind its back": behind_its_back,
}


@pytest.mark.parametrize("way", WAYS_TO_CHANGE)
def test_whoever_changes_the_skill_what_is_published_follows(way):
    skill = SkillConfidence(("a", "b"), C)
    assert published(skill) == pytest.approx([1, 1])
    WAYS_TO_CHANGE[way](skill)
    assert skill({}, LABELS)[0].tolist() == pytest.approx([0.02, 1.02])
    assert published(skill) == pytest.approx([0, 1])
    skill.reset_parameters()
    assert published(skill) == pytest.approx([1, 1])
    assert skill({}, LABELS)[0].tolist() == pytest.approx([1.02, 1.02])


class TwoRows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"a": torch.ones(2), "b": torch.ones(2), "label": index % C}


@pytest.mark.parametrize(
    ("way", "context"),
    [*((way, "fork") for way in WAYS_TO_CHANGE), ("step", "spawn"), ("behind its back", "spawn")],
)
def test_a_worker_that_starts_after_a_change_reads_it_and_a_later_one_too(way, context):
    skill = SkillConfidence(("a", "b"), C)
    augment = MisalignAugment(("a", "b"), C, confidence=skill, hardness=None)
    loader = DataLoader(
        TwoRows(),
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=augment.collate(),
    )
    WAYS_TO_CHANGE[way](skill)
    for out in loader:
        assert out.confidence[0].tolist() == pytest.approx([0.02, 1.02])
    skill.update([knows(), knows()], LABELS)
    skill.step()  # a worker's own copy of the buffer must not win over this
    for out in loader:
        assert out.confidence[0].tolist() == pytest.approx((skill.skill + 0.02).tolist())
    assert skill({}, LABELS)[0].tolist() == pytest.approx((skill.skill + 0.02).tolist())
