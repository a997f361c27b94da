"""One run: train a method on a task with a seed, select the epoch, score the test rows once."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from benchmarks.common import metrics
from benchmarks.common.kinds import CLASSES, Kind
from benchmarks.common.model import ConcatFusion, Features
from benchmarks.compare.augment import BatchAugment, InputAugment
from benchmarks.compare.encoders import WIDTH, build_encoder
from benchmarks.compare.tasks import Rows, Split, Task
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.entries import DECAY, LEARNING_RATE, Config
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.reading import Reading
from benchmarks.methods.training import (
    BATCH_SIZE,
    WEIGHT_DECAY,
    Best,
    batch_places,
    build_optimizer,
    keep_only,
)
from midas_aug.functional import gather_rows

DECAY_AT = 5 / 7  # of the epochs: the paper's StepLR(50) of 70
EVALUATION_ROWS = 512  # encoded at a time

Scores: TypeAlias = dict[str, float]


class Fitted(NamedTuple):
    """A trained model, as it was after the selected epoch."""

    model: ConcatFusion
    epoch: int
    steps: int
    seconds: float


class Outcome(NamedTuple):
    """What a run tells.

    Attributes:
        validation: Scores of the validation rows at the selected epoch.
        test: Scores of the test rows, with the model of that epoch; None if not asked for.
        epoch: The selected one, from 0.
        steps: Gradient steps in all.
        seconds: CPU time of training alone, without evaluation.
    """

    validation: dict[str, float]
    test: dict[str, float] | None
    epoch: int
    steps: int
    seconds: float


def build_model(split: Split, seed: int, kind: Kind = CLASSES) -> ConcatFusion:
    """A model whose initial weights depend on the seed and the modalities only."""
    torch.manual_seed(seed)
    inputs = split.training.inputs
    encoders = {
        name: build_encoder(
            values.shape[1:],
            symbols=None if values.is_floating_point() else int(values.max()) + 1,
        )
        for name, values in inputs.items()
    }
    num_outputs = kind.num_outputs(torch.cat([rows.labels for rows in split]))
    return ConcatFusion(encoders, WIDTH, num_outputs)


class Regime(NamedTuple):
    """How a model is trained, whatever the method.

    Attributes:
        epochs: How many.
        learning_rate: Of SGD, up to `DECAY_AT`; a tenth from there.
        seed: Of the initial weights, the order of the rows, and the draws of method and
            augmentation.
        weight_decay: Of SGD.
        augment: Of the inputs of training batches, by modality. None: they stay as they are.
        speed: Factors of the gradients of encoders, by modality.
        kind: Of the labels.
    """

    epochs: int
    learning_rate: float
    seed: int
    weight_decay: float = WEIGHT_DECAY
    augment: Mapping[str, InputAugment] | None = None
    speed: Mapping[str, float] | None = None
    kind: Kind = CLASSES


def regime_of(task: Task, config: Config, seed: int) -> Regime:
    """How a task is trained with a configuration."""
    return Regime(
        epochs=task.epochs,
        learning_rate=task.kind.rate * float(config[LEARNING_RATE]),
        seed=seed,
        weight_decay=float(config.get(DECAY, WEIGHT_DECAY)),
        augment=task.augment,
        speed=task.speed,
        kind=task.kind,
    )


def train(method: Method, split: Split, regime: Regime, *, test: bool) -> Outcome:
    """`fit`, then score; the test rows only with ``test=True``, once."""
    return train_readings(method, split, {"": Reading()}, regime, test=test)[""]


def train_readings(
    method: Method, split: Split, readings: Mapping[str, Reading], regime: Regime, *, test: bool
) -> dict[str, Outcome]:
    """One training, scored in each way to read its model; each selects an epoch of its own."""
    run, kind = _run(method, split, readings, regime), regime.kind
    outcomes = {}
    for name, best in run.best.items():
        reading = readings[name]
        best.restore(run.model, method)
        reading.restore(best.epoch)

        def predict(features: Features, reading: Reading = reading) -> Tensor:
            return reading.predict(method, features)

        training = reading.looks_at(encode(run.model, split.training))

        def score(part: Rows, reading: Reading = reading, training: Features = training) -> Scores:
            features = reading.looks_at(encode(run.model, part))
            if kind is not CLASSES or part.present is not None:
                return _scores(kind, predict(features), part)
            return metrics.evaluate(predict, metrics.Scored(features, part.labels), training)

        outcomes[name] = Outcome(
            validation=score(split.validation),
            test=score(split.test) if test else None,
            epoch=best.epoch,
            steps=run.steps,
            seconds=run.seconds,
        )
    return outcomes


@torch.no_grad()
def _scores(kind: Kind, outputs: Tensor, part: Rows) -> Scores:
    """Scores of a kind; with modalities missing also of the rows that are whole, and the others."""
    scores = kind.scores(outputs, part.labels)
    if part.present is not None:
        whole = part.present.all(dim=1)
        for name, rows in (("whole", whole), ("incomplete", ~whole)):
            scores[f"{kind.main}.{name}"] = kind.score(outputs[rows], part.labels[rows])
    return scores


def fit(method: Method, split: Split, regime: Regime) -> Fitted:
    """Train with SGD and one drop of the learning rate, as the paper does.

    The epoch with the highest validation accuracy is selected, of equals the one with the lowest
    cross-entropy. A run whose loss is no number any more ends there. Test rows are not looked at.

    Args:
        method: Fresh; it is set up here, and predicts with the fitted model afterwards.
        split: The rows.
        regime: See `Regime`.
    """
    run = _run(method, split, {"": Reading()}, regime)
    run.best[""].restore(run.model, method)
    return Fitted(run.model, run.best[""].epoch, run.steps, run.seconds)


class _Run(NamedTuple):
    """A training that is over, with the best epoch of each way to read it."""

    model: ConcatFusion
    best: dict[str, Best]
    steps: int
    seconds: float


def _run(method: Method, split: Split, readings: Mapping[str, Reading], regime: Regime) -> _Run:
    seed, epochs = regime.seed, regime.epochs
    model = build_model(split, seed, regime.kind)
    rows, labels, present = split.training
    setting = Setting(
        labels=labels,
        epochs=epochs,
        encode_training=lambda: EncodedRows(encode(model, split.training), labels),
        kind=regime.kind,
        present=present,
        present_validation=split.validation.present,
        fit_apart=partial(_fit_apart, split.training, regime),
    )
    method.setup(model, setting, torch.Generator().manual_seed(seed + 1_000_000))
    optimizer = build_optimizer(model, method, regime.learning_rate, regime.weight_decay)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(DECAY_AT * epochs)))
    order = torch.Generator().manual_seed(seed)
    augmented = BatchAugment(regime.augment, seed)
    best = {name: Best() for name in readings}
    steps, seconds, diverged = 0, 0.0, False
    for epoch in range(epochs):
        started = time.process_time()
        model.train()
        method.on_epoch_start(epoch)
        augmented.start_epoch(epoch)
        inputs = _repaired(rows, method.sources(epoch))
        for batch, keep in _batches(method, epoch, order):
            features = model.encode(augmented(gather_rows(inputs, batch)))
            method.on_batch(batch)
            features = keep_only(features, method.present)
            loss = method.loss(keep_only(features, keep), labels[batch])
            if not loss.isfinite():
                diverged = True
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            method.after_backward()
            _scale_gradients(model, regime.speed or {})
            optimizer.step()
            method.after_step()
            steps += 1
        if diverged:
            break
        scheduler.step()
        method.on_epoch_end(epoch)
        seconds += time.process_time() - started
        validation = EncodedRows(encode(model, split.validation), split.validation.labels)
        if method.trained(epoch):
            for name, reading in readings.items():
                reached = reading.validate(method, validation, epoch)
                best[name].keep_better(epoch, reached, model, method)
        started = time.process_time()
        with torch.no_grad():
            method.on_validation(*validation)
        seconds += time.process_time() - started
    return _Run(model, best, steps, seconds)


def _scale_gradients(model: ConcatFusion, speed: Mapping[str, float]) -> None:
    """Let an encoder learn faster or slower than the rest of the model."""
    for name in speed.keys() & set(model.modalities):
        for weight in model.encoders[name].parameters():
            if weight.grad is not None:
                weight.grad.mul_(speed[name])


def _fit_apart(rows: Rows, regime: Regime, training: Tensor, held_out: Tensor) -> Features:
    """Logits of models of one modality each, trained as the run is, for rows that are held out.

    A fifth of the training rows selects the epoch.
    """
    selects = torch.arange(len(training)) % 5 == 0
    fits = training[~selects]

    def take(chosen: Tensor) -> Rows:
        inputs = {
            name: _without_new(values[chosen], values[fits]) for name, values in rows.inputs.items()
        }
        return Rows(inputs, rows.labels[chosen])

    parts = Split(take(fits), take(training[selects]), take(held_out))
    model = fit(LateFusionOfUnimodal(), parts, regime).model
    with torch.no_grad():
        return model.classify(encode(model, parts.test))


def _without_new(values: Tensor, training: Tensor) -> Tensor:
    """The values, without the symbols that the training rows do not have."""
    if values.is_floating_point():
        return values
    return values.masked_fill(~torch.isin(values, training), 0)


def _repaired(rows: Mapping[str, Tensor], sources: Tensor | None) -> Mapping[str, Tensor]:
    """The training rows with each modality taken from the row that ``sources`` names."""
    if sources is None:
        return rows
    columns = sources.unbind(dim=1)
    return {
        name: values[column] for (name, values), column in zip(rows.items(), columns, strict=True)
    }


@torch.no_grad()
def encode(model: ConcatFusion, rows: Rows) -> Features:
    """Features of all rows in eval mode, with the model left in the mode it was in.

    Those of modalities that a row does not have are 0.
    """
    was_training = model.training
    model.eval()
    chunks = [
        model.encode(gather_rows(rows.inputs, chunk))
        for chunk in torch.split(torch.arange(len(rows.labels)), EVALUATION_ROWS)
    ]
    model.train(was_training)
    features = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return keep_only(features, rows.present)


def _batches(
    method: Method, epoch: int, order: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The epoch's rows in random order, and which of their modalities are kept."""
    chosen = method.epoch_rows(epoch)
    for places in batch_places(chosen, order, BATCH_SIZE):
        yield chosen.rows[places], None if chosen.keep is None else chosen.keep[places]
