"""What holds for every method of the comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.agm import AGM
from benchmarks.methods.amco import AMCo
from benchmarks.methods.base import Method
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.lemda import LeMDA
from benchmarks.methods.lfm import LFM
from benchmarks.methods.mcr import MCR
from benchmarks.methods.mixup import Mixup
from benchmarks.methods.modality_dropout import ModalityDropout
from benchmarks.methods.ogm import OGM
from benchmarks.methods.opm import OPM
from benchmarks.methods.powmix import PowMix
from benchmarks.methods.smv import SMV
from benchmarks.methods.suite_entries import RIVALS, RULES
from benchmarks.methods.unimodal_losses import UnimodalLosses
from tests.benchmarks.methods.helpers import (
    encoded,
    gradients_of,
    lopsided_model,
    loss_of,
    run,
    set_up,
    started,
    step_gradients,
    tiny_model,
    tiny_rows,
)

# Each method as it acts from the first epoch on.
BALANCING: dict[str, Callable[[], Method]] = {
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
every_method = pytest.mark.parametrize("build", BALANCING.values(), ids=BALANCING)

MIXING: dict[str, Callable[[], Method]] = {
    "lfm": LFM,
    "lfm, js, constant": lambda: LFM(align="js", classification_weight=0.5),
    "mcr": MCR,
    "mcr, independent": lambda: MCR(mode="independent"),
    "mcr, collaborative": lambda: MCR(mode="collaborative"),
    "mixup": Mixup,
    "mixup, λ each": lambda: Mixup(shared_lambda=False),
    "powmix": PowMix,
    "powmix, isotropic": lambda: PowMix(iid_mixes=False, reweight="uniform", clean_weight=1.0),
    "lemda": LeMDA,
}
DRAWING = [name for name in MIXING if not name.startswith("lfm")]


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
        method = set_up(BALANCING[name](), model, seed=seed)
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
            found = step_gradients(method, model, labels, num_rows)
            assert all(gradient.isfinite().all() for gradient in found.values())
        method.on_epoch_end(epoch)


@every_method
def test_logits_that_overflow_a_softmax_are_fine(build: Callable[[], Method]) -> None:
    model = lopsided_model()
    with torch.no_grad():
        model.fusion.weight *= 1e4
    method = set_up(build(), model)
    method.on_epoch_start(0)
    assert all(gradient.isfinite().all() for gradient in step_gradients(method, model).values())
    assert all(gradient.isfinite().all() for gradient in step_gradients(method, model).values())


@pytest.mark.parametrize("name", ["ogm", "agm", "smv", "opm", "amco", "modality-dropout"])
def test_one_modality_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a model of 2 or more, got \['m0'\]"):
        set_up(BALANCING[name](), tiny_model(1))


@pytest.mark.parametrize("name", ["joint", "unimodal-losses", "late-fusion"])
def test_one_modality_is_enough_for_the_others(name: str) -> None:
    assert np.isfinite(run(BALANCING[name](), tiny_model(1))).all()


@pytest.mark.parametrize("name", MIXING)
def test_only_the_given_generator_is_drawn_from(name: str) -> None:
    model, before = tiny_model(3, width=16), torch.get_rng_state()
    losses = []
    for seed in (5, 5, 6):
        method = started(MIXING[name](), model, seed)
        loss = loss_of(method)
        loss.backward()
        method.after_backward()
        method.after_step()
        losses.append(loss.item())
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == (name in DRAWING)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("batch", ["one row", "one class", "dead", "huge"])
def test_extreme_batches_give_finite_losses_and_gradients(
    name: str, num_modalities: int, batch: str
) -> None:
    model = tiny_model(num_modalities, width=16)
    method = started(MIXING[name](), model)
    inputs, labels = tiny_rows(model, 1 if batch == "one row" else 7)
    if batch == "one class":
        labels = torch.ones_like(labels)
    features = model.encode(inputs)
    if batch in ("dead", "huge"):
        scale = 0.0 if batch == "dead" else 1e4
        features = {key: scale * values for key, values in features.items()}
    loss = method.loss(features, labels)
    loss.backward()
    method.after_backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in gradients_of(model))


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_a_few_epochs_lower_the_joint_loss(name: str, num_modalities: int) -> None:
    model = tiny_model(num_modalities, width=16)
    method = set_up(MIXING[name](), model, num_rows=24)
    inputs, labels = tiny_rows(model, 24)
    parameters = [*model.parameters()]
    parameters += [p for module in method.extra_modules() for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.03)

    def clean_loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(method.predict(model.encode(inputs)), labels).item()

    at_first = clean_loss()
    for epoch in range(4):
        method.on_epoch_start(epoch)
        for rows in method.epoch_rows(epoch).rows.split(8):
            batch = {key: values[rows] for key, values in inputs.items()}
            optimizer.zero_grad()
            method.loss(model.encode(batch), labels[rows]).backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
        method.on_epoch_end(epoch)
    assert clean_loss() < at_first


@pytest.mark.parametrize("method", [LFM(), MCR()])
def test_one_modality_is_refused_where_modalities_are_compared(method: Method) -> None:
    with pytest.raises(ValueError, match="2 or more"):
        set_up(method, tiny_model(1))


@pytest.mark.parametrize("method", [Mixup(), PowMix(), LeMDA()])
def test_one_modality_will_do_where_nothing_is_compared(method: Method) -> None:
    assert loss_of(started(method, tiny_model(1))).isfinite()


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_has_four_configurations_and_trains(name):
    entry = RIVALS[name]
    assert len(entry.configs()) == 4
    for config in entry.configs():
        model = tiny_model(3)
        method = set_up(entry.build(config), model)
        method.on_epoch_start(0)
        features, labels = encoded(model)
        method.loss(features, labels).backward()
        method.after_backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.encoders.parameters())


GROWN = ("inforeg", "cggm", "remix", "pdmp", "aug", "masam")  # what they keep grows with the run
MEASURED = [name for name in RULES if name != "skill-folds"]  # which needs a loop of its own


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_a_rival_learns_and_draws_from_its_generator_alone(name, num_modalities):
    state = torch.get_rng_state()
    model = tiny_model(num_modalities)
    inputs, labels = tiny_rows(model, 20)
    method = RIVALS[name].build({})
    set_up(method, model, epochs=12)
    before = F.cross_entropy(method.predict(model.encode(inputs)), labels).item()
    assert np.isfinite(run(method, model, epochs=12)).all()
    after = F.cross_entropy(method.predict(model.encode(inputs)), labels).item()
    assert after < before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", GROWN)
def test_a_rival_refuses_one_modality(name):
    with pytest.raises(ValueError, match=r"expected a model of 2 or more, got \['m0'\]"):
        set_up(RIVALS[name].build({}), tiny_model(1))


@pytest.mark.parametrize("name", [*GROWN, *MEASURED])
def test_a_method_that_is_stopped_within_an_epoch_goes_on_as_if_it_had_not(name):
    """Two steps an epoch; stopped after the first step of the third of five epochs."""

    def start():
        model = tiny_model(3)
        method = set_up((RIVALS | RULES)[name].build({}), model, epochs=5)
        modules = [model, *method.extra_modules()]
        weights = [weight for module in modules for weight in module.parameters()]
        return model, method, torch.optim.SGD(weights, lr=0.1, momentum=0.9)

    inputs, labels = tiny_rows(tiny_model(3), 12)

    def go(model, method, optimizer, epochs, steps, resumed=None):
        for epoch in epochs:
            if resumed is None or epoch != epochs[0]:
                method.on_epoch_start(epoch)
            _, keep, group = method.epoch_rows(epoch)
            order = torch.arange(12) if group is None else group.argsort(stable=True)
            groups = (
                [order] if group is None else [order[group[order] == g] for g in group.unique()]
            )
            batches = [half for one in groups for half in one.tensor_split(2) if len(half)]
            for batch in batches[1 if resumed and epoch == epochs[0] else 0 :][: steps.get(epoch)]:
                features = model.encode({key: values[batch] for key, values in inputs.items()})
                method.on_batch(batch)
                if keep is not None:
                    columns = keep[batch].unbind(dim=1)
                    features = {
                        key: feature * column[:, None]
                        for (key, feature), column in zip(features.items(), columns, strict=True)
                    }
                optimizer.zero_grad()
                method.loss(features, labels[batch]).backward()
                method.after_backward()
                optimizer.step()
                method.after_step()
            if epoch in steps:
                return
            method.on_epoch_end(epoch)
            with torch.no_grad():
                method.on_validation(model.encode(inputs), labels)

    whole = start()
    go(*whole, range(5), {})
    half = start()
    go(*half, range(3), {2: 1})
    states = [copy.deepcopy(part.state_dict()) for part in half]
    again = start()
    again[0].load_state_dict(states[0])
    again[1].on_epoch_start(2)
    again[1].load_state_dict(states[1])
    again[2].load_state_dict(states[2])
    go(*again, range(2, 5), {}, resumed=True)
    for one, other in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)
