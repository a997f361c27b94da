"""Confidence providers: right where they can work, a clear error where they cannot."""

import copy
import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug import functional as F
from midas_aug.confidence import (
    CalibratedConfidence,
    ConfidenceProvider,
    FrozenConfidence,
    HeadConfidence,
    LogitConfidence,
    LogitProvider,
    PrototypeConfidence,
    SkillConfidence,
    TableConfidence,
    UniformConfidence,
)
from midas_aug.confidence.base import as_provider, module_of
from midas_aug.confidence.calibration import fit_temperature
from tests.helpers import reference

N, C = 12, 4
LABELS = torch.arange(N) % C
DIMS = {"a": 5, "b": 3}


def features() -> dict[str, torch.Tensor]:
    return {key: torch.randn(N, dim) for key, dim in DIMS.items()}


def all_providers() -> dict[str, object]:
    return {
        "uniform": UniformConfidence(("a", "b")),
        "logits": LogitConfidence(("a", "b")),
        "heads": HeadConfidence(DIMS, C),
        "frozen": FrozenConfidence({key: nn.Linear(dim, C) for key, dim in DIMS.items()}),
        "table": TableConfidence(("a", "b"), N),
        "prototypes": PrototypeConfidence(DIMS, C),
        "calibrated": CalibratedConfidence(HeadConfidence(DIMS, C)),
        "skill": SkillConfidence(("a", "b"), C),
    }


@pytest.mark.parametrize("name", all_providers())
def test_every_provider_labels_a_batch_without_gradient_and_pickles(name):
    provider = all_providers()[name]
    assert isinstance(provider, ConfidenceProvider)
    batch = features() | {"index": torch.arange(N)}
    if name == "logits":
        batch |= {"a": torch.randn(N, C, requires_grad=True), "b": torch.randn(N, C)}
    scores = provider(batch, LABELS)
    assert scores.shape == (N, 2)
    assert not scores.requires_grad
    assert (scores >= 0).all()
    out = MisalignAugment(("a", "b"), C, confidence=provider)(batch, LABELS)
    assert torch.equal(out.confidence, scores)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(provider)))
    assert torch.equal(twin(batch, LABELS), scores)


def test_the_order_of_the_columns_is_that_of_the_modalities():
    logits = {"b": torch.randn(N, C), "a": torch.randn(N, C)}
    scores = LogitConfidence(("a", "b"))(logits, LABELS)
    for column, key in enumerate("ab"):
        expected = reference.true_class_confidence(logits[key].numpy(), LABELS.numpy())
        np.testing.assert_allclose(scores[:, column].numpy(), expected, rtol=1e-5)
    hot = LogitConfidence(("a", "b"), temperature=4.0)(logits, LABELS)
    expected = reference.true_class_confidence(logits["a"].numpy(), LABELS.numpy(), 4.0)
    np.testing.assert_allclose(hot[:, 0].numpy(), expected, rtol=1e-5)


def test_heads_give_logits_to_train_on_and_confidences_to_label_with():
    heads = HeadConfidence(DIMS, C)
    given = features()
    unimodal = heads.unimodal_logits(given)
    assert list(unimodal) == ["a", "b"]
    loss = sum(cross_entropy(logits, LABELS) for logits in unimodal.values())
    loss.backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())
    augment = MisalignAugment(("a", "b"), C, confidence=heads)
    with_logits = augment(given, LABELS, unimodal_logits=unimodal)
    computed = augment(given, LABELS, plan=with_logits.plan)
    assert torch.equal(with_logits.shares, computed.shares)
    with pytest.raises(MidasAugError, match=r"feature 'b'.*\['a'\]"):
        heads({"a": given["a"]}, LABELS)


def test_frozen_classifiers_stay_in_eval_mode_and_out_of_the_optimiser():
    frozen = FrozenConfidence(
        {key: nn.Sequential(nn.Dropout(0.9), nn.Linear(dim, C)) for key, dim in DIMS.items()}
    )
    parent = nn.ModuleDict({"frozen": frozen}).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    given = features()
    given["a"].requires_grad_()
    scores = [frozen(given, LABELS) for _ in range(2)]
    assert torch.equal(*scores)  # no dropout
    assert not scores[0].requires_grad
    with pytest.raises(MidasAugError, match=r"nn\.Module for 'a', got function"):
        FrozenConfidence({"a": lambda x: x, "b": nn.Linear(3, C)})


@pytest.mark.parametrize("provider", ["heads", "frozen", "prototypes", "calibrated"])
def test_models_refuse_to_run_in_a_loader_worker(provider, monkeypatch):
    monkeypatch.setattr("midas_aug.confidence.base.get_worker_info", lambda: SimpleNamespace())
    with pytest.raises(MidasAugError, match=r"DataLoader worker.*label"):
        all_providers()[provider](features(), LABELS)


@pytest.mark.parametrize("provider", ["heads", "frozen", "prototypes", "calibrated"])
def test_collate_draws_and_leaves_the_labels_of_a_model_to_the_loop(provider):
    confidence = all_providers()[provider]
    augment = MisalignAugment(("a", "b"), C, confidence=confidence)
    batch = features() | {"label": LABELS}
    drawn = augment.collate(lambda _: batch)([])
    with pytest.raises(MidasAugError, match=r"out\.label"):
        drawn.targets  # noqa: B018
    out = drawn.label(confidence=confidence, features=batch)
    assert torch.equal(out.confidence, confidence(batch, LABELS))


def test_a_table_starts_even_and_remembers_what_it_is_told():
    table = TableConfidence(("a", "b", "c"), 20, initial=0.5, index="row")
    batch = {"row": torch.tensor([3, 19, 3])}
    assert table(batch, LABELS[:3]).tolist() == [[0.5] * 3] * 3
    table.update(np.array([3]), np.array([[0.1, 0.2, 0.3]]))
    assert table(batch, LABELS[:3])[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert table({"row": np.array([3])}, np.array([0])).dtype == np.float32
    resumed = TableConfidence(("a", "b", "c"), 20, index="row")
    resumed.load_state_dict(pickle.loads(pickle.dumps(table.state_dict())))
    assert torch.equal(resumed.table, table.table)


def test_a_table_in_a_file_outlives_its_process_and_is_shared_by_copies(tmp_path):
    path = tmp_path / "confidence.bin"
    table = TableConfidence(("a", "b"), 10, path=path, initial=0.25)
    table.update(torch.tensor([4]), torch.tensor([[0.9, 0.1]]))
    worker = pickle.loads(pickle.dumps(table))
    assert torch.equal(worker.table, table.table)
    table.update(torch.tensor([5]), torch.tensor([[0.7, 0.3]]))
    assert worker.table[5].tolist() == pytest.approx([0.7, 0.3])  # it is the same memory
    reopened = TableConfidence(("a", "b"), 10, path=path)
    assert torch.equal(reopened.table, table.table)

    in_memory = TableConfidence(("a", "b"), 10)
    in_memory.load(path)
    assert torch.equal(in_memory.table, table.table)
    in_memory.update(torch.tensor([0]), torch.ones(1, 2))
    in_memory.save(tmp_path / "copy.bin")
    assert torch.equal(
        TableConfidence(("a", "b"), 10, path=tmp_path / "copy.bin").table, in_memory.table
    )
    with pytest.raises(MidasAugError, match=r"11 × 2 float32 numbers \(88 bytes\), got 80"):
        TableConfidence(("a", "b"), 11, path=path)
    with pytest.raises(MidasAugError, match="found none"):
        in_memory.load(tmp_path / "missing.bin")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: t({"index": torch.tensor([20])}, LABELS[:1]), ["0 … 19", "20"]),
        (lambda t: t({"index": torch.tensor([-1])}, LABELS[:1]), ["0 … 19", "-1"]),
        (lambda t: t({"row": torch.tensor([0])}, LABELS[:1]), ["data set index 'index'", "row"]),
        (lambda t: t({"index": torch.zeros(1)}, LABELS[:1]), ["integer dtype"]),
        (
            lambda t: t({"index": torch.zeros(1, dtype=torch.int64, device="meta")}, LABELS[:1]),
            ["on the CPU", "meta", "collate()"],
        ),
        (lambda t: t.update(torch.tensor([0]), torch.ones(1, 3)), ["(1, 2)", "(1, 3)"]),
        (lambda t: t.update(torch.tensor([25]), torch.ones(1, 2)), ["0 … 19", "25"]),
        (lambda t: t.load_state_dict({"table": torch.ones(3, 2)}), ["(20, 2)", "(3, 2)"]),
        (lambda t: TableConfidence(("a", "b"), 0), ["num_samples", "at least 1", "0"]),
    ],
)
def test_a_table_names_what_does_not_fit(call, words):
    with pytest.raises(MidasAugError) as error:
        call(TableConfidence(("a", "b"), 20))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_prototypes_are_moving_class_means_and_their_softmax_is_the_confidence():
    prototypes = PrototypeConfidence(DIMS, C, temperature=0.5, momentum=0.75)
    first, second = features(), features()
    labels = LABELS.clone()
    labels[labels == 3] = -1  # class 3 is never seen
    prototypes.update(first, labels)
    prototypes.update(second, labels)
    scores = prototypes(second, LABELS)
    for column, key in enumerate("ab"):
        centroids = []
        for label in range(3):
            rows = labels == label
            old, new = first[key][rows].mean(dim=0), second[key][rows].mean(dim=0)
            centroids.append(0.75 * old + 0.25 * new)
        for row in range(N):
            if LABELS[row] == 3:
                assert scores[row, column] == 0
                continue
            cosines = torch.stack(
                [torch.cosine_similarity(second[key][row], mean, dim=0) for mean in centroids]
            )
            expected = (cosines / 0.5).softmax(dim=0)[LABELS[row]]
            torch.testing.assert_close(scores[row, column], expected)
    assert prototypes.seen.tolist() == [True, True, True, False]


def test_prototypes_are_means_of_the_rows_that_have_the_modality():
    """What stands in for an absent one may be anything, and the row counts for the others."""
    prototypes = PrototypeConfidence(DIMS, C, momentum=0.75)
    present = {"a": torch.arange(N) % 3 > 0, "b": LABELS != 1}
    batches = [features(), features()]
    for given in batches:
        filled = {
            key: torch.where(present[key][:, None], rows, torch.nan) for key, rows in given.items()
        }
        prototypes.update(filled, LABELS, present=present)
    for number, key in enumerate("ab"):
        for label in range(C):
            rows = present[key] & (label == LABELS)
            assert bool(prototypes.seen_by_modality[number, label]) == bool(rows.any())
            if rows.any():
                old, new = (given[key][rows].mean(dim=0) for given in batches)
                found = prototypes.get_buffer(f"centroids_{number}")[label]
                torch.testing.assert_close(found, 0.75 * old + 0.25 * new)
    assert prototypes.seen.tolist() == [True, False, True, True]
    scores = prototypes(batches[0], LABELS)
    assert (scores[LABELS == 1, 0] > 0).all()  # known to this modality alone
    assert (scores[LABELS == 1, 1] == 0).all()


def test_prototypes_with_all_modalities_present_are_those_without_a_mask():
    plain, masked = (PrototypeConfidence(DIMS, C) for _ in range(2))
    for _ in range(2):
        given = features()
        plain.update(given, LABELS)
        masked.update(given, LABELS, present=torch.ones(N, 2, dtype=torch.bool))
    assert all(map(torch.equal, plain.state_dict().values(), masked.state_dict().values()))
    with pytest.raises(MidasAugError, match=r"present of shape \(12, 2\), got \(12, 1\)"):
        plain.update(given, LABELS, present=torch.ones(N, 1, dtype=torch.bool))


def test_prototypes_of_nothing_are_even_not_nan():
    prototypes = PrototypeConfidence(DIMS, C)
    out = MisalignAugment(("a", "b"), C, confidence=prototypes)(features(), LABELS)
    assert torch.equal(out.shares, torch.full_like(out.shares, 0.5))
    assert (out.confidence == 0).all()
    prototypes.update({key: value[:0] for key, value in features().items()}, LABELS[:0])
    assert not prototypes.seen.any()
    resumed = PrototypeConfidence(DIMS, C)
    prototypes.update(features(), LABELS)
    resumed.load_state_dict(prototypes.state_dict())
    given = features()
    assert torch.equal(resumed(given, LABELS), prototypes(given, LABELS))


def test_the_temperature_minimises_the_likelihood_of_held_out_data():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(600, C, generator=generator)
    labels = torch.multinomial(truth.softmax(dim=1), 1, generator=generator)[:, 0]
    for scale in (0.2, 1.0, 7.0):
        logits = scale * truth

        def nll(log_temperature, logits=logits):
            return float(cross_entropy(logits.double() / np.exp(log_temperature), labels))

        best = minimize_scalar(nll, bounds=(np.log(0.05), np.log(20)), method="bounded")
        found = fit_temperature(logits, labels)
        assert found == pytest.approx(np.exp(best.x), rel=1e-3)
        assert found == pytest.approx(scale, rel=0.2)  # the noise of 600 samples


def test_calibration_brings_an_overconfident_modality_in_line():
    logits = {"a": 9 * torch.randn(400, C), "b": torch.randn(400, C)}
    labels = torch.randint(C, (400,))
    labels[:5] = -1
    calibrated = CalibratedConfidence(LogitConfidence(("a", "b")))
    plain = calibrated(logits, labels)
    assert torch.equal(plain, LogitConfidence(("a", "b"))(logits, labels))
    calibrated.fit(logits, labels)
    assert calibrated.temperatures[0] > 5  # noise: as flat as it gets
    scores = calibrated(logits, labels)
    for column, key in enumerate("ab"):
        expected = reference.true_class_confidence(
            logits[key].numpy(), labels.numpy(), float(calibrated.temperatures[column])
        )
        np.testing.assert_allclose(scores[:, column].numpy(), expected, rtol=1e-4, atol=1e-7)
    resumed = CalibratedConfidence(LogitConfidence(("a", "b")))
    resumed.load_state_dict(calibrated.state_dict())
    assert torch.equal(resumed(logits, labels), scores)
    # The call's own logits are divided, too.
    out = MisalignAugment(("a", "b"), C, confidence=calibrated)(
        {"a": torch.rand(400, 2), "b": torch.rand(400, 2)}, labels, unimodal_logits=logits
    )
    assert torch.equal(out.confidence, scores)
    assert not calibrated.needs_model
    assert CalibratedConfidence(HeadConfidence(DIMS, C)).needs_model
    assert isinstance(calibrated, LogitProvider)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: CalibratedConfidence(UniformConfidence(("a", "b"))),
            ["unimodal_logits", "Uniform"],
        ),
        (lambda: UniformConfidence(1), ["at least two", "got 1"]),
        (lambda: LogitConfidence(("a", "b"), temperature=0), ["temperature above 0", "0"]),
        (lambda: PrototypeConfidence(DIMS, C, temperature=0), ["temperature above 0"]),
        (lambda: PrototypeConfidence(DIMS, C, momentum=1.0), ["[0, 1)", "1.0"]),
        (lambda: PrototypeConfidence(("a", "b"), C), ["names to feature sizes", "('a', 'b')"]),
        (lambda: HeadConfidence(("a", "b"), C), ["names to feature sizes", "('a', 'b')"]),
        (lambda: FrozenConfidence(("a", "b")), ["names to classifiers", "('a', 'b')"]),
        (lambda: PrototypeConfidence(DIMS, C, sync="no"), ["sync", "True or False", "'no'"]),
        (
            lambda: HeadConfidence(DIMS, C)(dict.fromkeys(DIMS, torch.rand(N, 9)), LABELS),
            ["(12, 9)", "(N, 5)"],
        ),
        (lambda: HeadConfidence(DIMS, C)(dict.fromkeys(DIMS, LABELS), LABELS), ["int64", "'a'"]),
        (
            lambda: MisalignAugment(("a", "b"), C, confidence=UniformConfidence(tuple("abc"))),
            ["2 modalities", "3"],
        ),
        (lambda: PrototypeConfidence(DIMS, C)({"a": torch.rand(N, 4)}, LABELS), ["['a']", "5"]),
        (lambda: fit_temperature(torch.rand(2, 3), torch.tensor([-1, -1])), ["at least one row"]),
        (lambda: fit_temperature(torch.rand(2, 3), torch.tensor([0])), ["(1, 3)", "(2, 3)"]),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(MidasAugError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_representations_are_short():
    assert repr(UniformConfidence(("a", "b"))) == "UniformConfidence(('a', 'b'))"
    assert repr(LogitConfidence(("a", "b"))) == "LogitConfidence(('a', 'b'), temperature=1.0)"
    assert repr(TableConfidence(("a", "b"), 3)) == (
        "TableConfidence(('a', 'b'), 3, index='index', path=None)"
    )


def test_label_asks_for_the_provider_the_augmentation_was_built_with():
    """Logits alone would be labelled without its temperatures."""
    calibrated = CalibratedConfidence(HeadConfidence(DIMS, C))
    calibrated.temperatures.fill_(5.0)
    batch = features() | {"label": LABELS}
    drawn = MisalignAugment(("a", "b"), C, confidence=calibrated).collate(lambda _: batch)([])
    logits = calibrated.unimodal_logits(batch)
    with pytest.raises(MidasAugError, match=r"confidence=\.\.\., the CalibratedConfidence"):
        drawn.label(unimodal_logits=logits)
    out = drawn.label(confidence=calibrated, unimodal_logits=logits)
    assert torch.equal(out.confidence, calibrated(batch, LABELS))


def test_a_users_module_counts_as_a_model_and_stays_out_of_the_workers():
    class Mine(nn.Module):
        def forward(self, batch, labels):
            return torch.ones(len(labels), 2)

    batch = features() | {"label": LABELS}
    augment = MisalignAugment(("a", "b"), C, confidence=Mine())
    with pytest.raises(MidasAugError, match=r"out\.label"):
        augment.collate(lambda _: batch)([]).targets  # noqa: B018
    # `Mine` is local and could not be pickled: that it is not is what this shows.
    collate = pickle.loads(pickle.dumps(augment.collate()))
    assert collate.augment.confidence == "logits"
    assert isinstance(augment.confidence.wrapped, Mine)


def test_a_copied_table_has_memory_of_its_own():
    table = TableConfidence(("a", "b"), 4)
    copied = copy.deepcopy(table)
    copied.update(torch.tensor([0]), torch.tensor([[0.5, 0.25]]))
    assert table.table[0].tolist() == [1, 1]


def test_a_table_keeps_diverged_numbers_out():
    for bad in (-1.0, float("nan")):
        with pytest.raises(MidasAugError, match="finite and at least 0"):
            TableConfidence(("a", "b"), 4).update(torch.tensor([0]), torch.tensor([[0.5, bad]]))


def test_prototypes_compute_in_float32_under_autocast():
    prototypes = PrototypeConfidence(DIMS, C)
    given = features()
    prototypes.update(given, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = prototypes(given, LABELS)
    assert torch.equal(inside, prototypes(given, LABELS))
    with pytest.raises(MidasAugError, match="num_classes=4, got 7"):
        prototypes.update(given, LABELS + 4)


# ---------------------------------------------------------------- callables of one's own


def test_a_provider_is_taken_as_it_is():
    for provider in all_providers().values():
        assert as_provider(provider) is provider
        assert (module_of(provider) is provider) == isinstance(provider, nn.Module)


class Loudness:
    """A callable with all that a provider may say."""

    modalities = ("a", "b")
    needs_model = True

    def __init__(self) -> None:
        self.gain = 1.0

    def __call__(self, batch, labels):
        return torch.full((len(labels), 2), self.gain)

    def from_logits(self, unimodal_logits, labels):
        return torch.full((len(labels), 2), 2 * self.gain)

    def shares(self, confidence, source):
        return torch.tensor([[0.75, 0.25]]).expand(len(source), 2)

    def state_dict(self):
        return {"gain": self.gain}

    def load_state_dict(self, state):
        self.gain = state["gain"]


def test_what_a_callable_says_of_itself_counts():
    mine = Loudness()
    provider = as_provider(mine)
    assert isinstance(provider, ConfidenceProvider)
    assert provider.wrapped is mine
    assert provider.modalities == ("a", "b")
    assert provider.needs_model
    assert provider.takes_logits
    provider.load_state_dict({"gain": 0.5})
    assert provider.state_dict() == {"gain": 0.5}
    assert repr(provider) == repr(mine)
    augment = MisalignAugment(("a", "b"), C, confidence=mine)
    out = augment(features(), LABELS)
    assert out.confidence.unique().tolist() == [0.5]
    assert out.shares[N:].unique(dim=0).tolist() == [[0.75, 0.25]]
    logits = {key: torch.randn(N, C) for key in "ab"}
    assert augment(features(), LABELS, unimodal_logits=logits).confidence.unique().tolist() == [1]
    with pytest.raises(MidasAugError, match="in the order"):
        MisalignAugment(("b", "a"), C, confidence=mine)


def test_a_plain_function_has_what_every_provider_has():
    provider = as_provider(lambda batch, labels: torch.tensor([[0.9, 0.3]]).expand(len(labels), 2))
    assert provider.modalities is None
    assert not provider.needs_model
    assert not provider.takes_logits
    assert provider.state_dict() == {}
    provider.load_state_dict({})
    with pytest.raises(MidasAugError, match="expected no state"):
        provider.load_state_dict({"gain": 1})
    with pytest.raises(MidasAugError, match="reads unimodal logits"):
        provider.from_logits({}, LABELS)
    assert module_of(provider) is None
    out = MisalignAugment(("a", "b"), C, confidence=provider)(features(), LABELS)
    torch.testing.assert_close(out.shares[N:], torch.tensor([[0.75, 0.25]]).expand(2 * N, 2))


class Scores(nn.Module):
    def forward(self, batch, labels):
        return torch.ones(len(labels), 2)


def test_a_module_or_its_method_counts_as_a_model():
    module = Scores()
    assert as_provider(module).needs_model
    assert module_of(as_provider(module)) is module
    assert as_provider(module.forward).needs_model
    assert module_of(as_provider(module.forward)) is None  # the model is somebody else's
    assert not as_provider(UniformConfidence(("a", "b")).__call__).needs_model


@pytest.mark.parametrize("thing", [UniformConfidence, nn.Linear, "logits", None, 3, torch.ones(2)])
def test_what_is_no_provider_is_named(thing):
    with pytest.raises(MidasAugError, match="expected a confidence provider"):
        as_provider(thing)


def test_a_state_for_a_provider_without_one_is_refused():
    with pytest.raises(MidasAugError, match=r"no state for UniformConfidence.*\['table'\]"):
        UniformConfidence(("a", "b")).load_state_dict({"table": torch.ones(2, 2)})


def test_a_forward_pass_that_is_repeated_does_not_update_prototypes_again():
    prototypes, given = PrototypeConfidence(DIMS, C), features()
    weight = torch.ones(1, requires_grad=True)

    def step(factor):
        scaled = {key: value * factor.detach() for key, value in given.items()}
        prototypes.update(scaled, LABELS)
        given["a"] = given["a"] + 1  # a second update would move the centroids
        return (factor * scaled["b"]).sum()

    loss = checkpoint(step, weight, use_reentrant=False)
    before = prototypes.get_buffer("centroids_0").clone()
    loss.backward()
    assert torch.equal(prototypes.get_buffer("centroids_0"), before)
    prototypes.update(given, LABELS)
    assert not torch.equal(prototypes.get_buffer("centroids_0"), before)


def update_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    states = {}
    for sync in (True, False):
        prototypes = PrototypeConfidence(DIMS, C, sync=sync)
        for rows in rows_of_ranks(rank):
            given = {key: value[rows] for key, value in all_features().items()}
            prototypes.update(given, LABELS[rows])
        states[sync] = prototypes.state_dict()
    torch.save(states, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def all_features() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {key: torch.randn(N, dim, generator=generator) for key, dim in DIMS.items()}


def rows_of_ranks(rank: int) -> list[slice]:
    """Of two updates; the second rank has no row in the second one."""
    return [[slice(0, 5), slice(0, 3)], [slice(5, 9), slice(0, 0)]][rank]


def test_ranks_have_the_centroids_of_all_their_rows():
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(update_on_rank, args=(folder,), nprocs=2)
        ranks = [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]
    alone = PrototypeConfidence(DIMS, C)
    for rows in (slice(0, 9), slice(0, 3)):
        given = {key: value[rows] for key, value in all_features().items()}
        alone.update(given, LABELS[rows])
    for name, wanted in alone.state_dict().items():
        torch.testing.assert_close(ranks[0][True][name], wanted)
        assert torch.equal(ranks[0][True][name], ranks[1][True][name])
    assert not torch.equal(ranks[0][False]["centroids_0"], ranks[1][False]["centroids_0"])


def test_unimodal_heads_of_one_logit_are_told_of_a_column_per_class():
    augment = MisalignAugment(("a", "b"), 2)
    logits = {key: torch.randn(N, 1) for key in "ab"}
    for labels in (LABELS % 2, torch.zeros(N, dtype=torch.int64)):  # also where the column would do
        with pytest.raises(MidasAugError, match=r"\(12, 2\), got \(12, 1\).*binary.*2 outputs"):
            augment(features(), labels, unimodal_logits=logits)
    one = MisalignAugment(("a", "b"), 1)(features(), labels, unimodal_logits=logits)
    assert not one.valid[N:].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_ignored_row_may_hold_anything_for_a_confidence_of_ones_own(value, compiled):
    labels = torch.tensor([0, 1, 2, 0, 1, -1])
    logits = torch.randn(18, 3)
    augment = MisalignAugment(
        ("a", "b"),
        3,
        confidence=lambda batch, labels: torch.stack([batch["a"][:, 0], batch["b"][:, 0]], dim=1),
        hardness=None,
    )
    plan = F.plan_swaps(labels, 2)

    def loss(batch, labels, logits, plan):
        return MidasLoss(2, weak_modality=None)(logits, augment(batch, labels, plan=plan))

    call = torch.compile(loss, backend="eager") if compiled else loss
    found = []
    for held in (0.0, value):
        batch = {"a": torch.rand(6, 2, generator=torch.Generator().manual_seed(0)) + 1}
        batch["b"] = batch["a"].flip(1)
        batch["a"][5] = held
        found.append(float(call(batch, labels, logits, plan)))
    assert np.isfinite(found).all()
    assert found[0] == found[1]
