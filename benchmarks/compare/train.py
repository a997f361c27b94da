"""One run: train a method on a task with a seed, select the epoch, score the test rows once."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.common import metrics
from benchmarks.common.model import Features, LateFusion
from benchmarks.compare.encoders import WIDTH, build_encoder
from benchmarks.compare.tasks import Rows, Split
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.training import (
    BATCH_SIZE,
    Best,
    build_optimizer,
    keep_only,
    validate,
)
from midas_aug.functional import gather_rows

DECAY_AT = 5 / 7  # of the epochs: the paper's StepLR(50) of 70
EVALUATION_ROWS = 512  # encoded at a time


class Fitted(NamedTuple):
    """A trained model, as it was after the selected epoch."""

    model: LateFusion
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


def build_model(split: Split, seed: int) -> LateFusion:
    """A model whose initial weights depend on the seed and the modalities only."""
    torch.manual_seed(seed)
    inputs = split.training.inputs
    encoders = {name: build_encoder(values.shape[1:]) for name, values in inputs.items()}
    num_classes = int(torch.cat([rows.labels for rows in split]).max()) + 1
    return LateFusion(encoders, WIDTH, num_classes)


def train(
    method: Method, split: Split, *, epochs: int, learning_rate: float, seed: int, test: bool
) -> Outcome:
    """`fit`, then score; the test rows only with ``test=True``, once."""
    fitted = fit(method, split, epochs=epochs, learning_rate=learning_rate, seed=seed)
    training = encode(fitted.model, split.training)

    def score(part: Rows) -> dict[str, float]:
        rows = metrics.Scored(encode(fitted.model, part), part.labels)
        return metrics.evaluate(method.predict, rows, training)

    return Outcome(
        validation=score(split.validation),
        test=score(split.test) if test else None,
        epoch=fitted.epoch,
        steps=fitted.steps,
        seconds=fitted.seconds,
    )


def fit(method: Method, split: Split, *, epochs: int, learning_rate: float, seed: int) -> Fitted:
    """Train with SGD and one drop of the learning rate, as the paper does.

    The seed controls the initial weights, the order of the rows and the draws of the method. The
    epoch with the highest validation accuracy is selected, of equals the one with the lowest
    cross-entropy. Test rows are not looked at.

    Args:
        method: Fresh; it is set up here, and predicts with the fitted model afterwards.
        split: The rows.
        epochs: How many.
        learning_rate: Of SGD, up to `DECAY_AT`; a tenth from there.
        seed: See above.
    """
    model = build_model(split, seed)
    rows, labels = split.training
    setting = Setting(
        labels=labels,
        epochs=epochs,
        encode_training=lambda: EncodedRows(encode(model, split.training), labels),
    )
    method.setup(model, setting, torch.Generator().manual_seed(seed + 1_000_000))
    optimizer = build_optimizer(model, method, learning_rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(DECAY_AT * epochs)))
    order = torch.Generator().manual_seed(seed)
    best = Best()
    steps, seconds = 0, 0.0
    for epoch in range(epochs):
        started = time.process_time()
        model.train()
        method.on_epoch_start(epoch)
        for batch, keep in _batches(method, epoch, order):
            features = model.encode(gather_rows(rows, batch))
            loss = method.loss(keep_only(features, keep), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            method.after_backward()
            optimizer.step()
            method.after_step()
            steps += 1
        scheduler.step()
        method.on_epoch_end(epoch)
        seconds += time.process_time() - started
        validation = EncodedRows(encode(model, split.validation), split.validation.labels)
        if method.trained(epoch):
            best.offer(epoch, validate(method, validation), model, method)
        started = time.process_time()
        with torch.no_grad():
            method.on_validation(*validation)
        seconds += time.process_time() - started
    best.restore(model, method)
    return Fitted(model, best.epoch, steps, seconds)


@torch.no_grad()
def encode(model: LateFusion, rows: Rows) -> Features:
    """Features of all rows in eval mode, with the model left in the mode it was in."""
    was_training = model.training
    model.eval()
    chunks = [
        model.encode(gather_rows(rows.inputs, chunk))
        for chunk in torch.split(torch.arange(len(rows.labels)), EVALUATION_ROWS)
    ]
    model.train(was_training)
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _batches(
    method: Method, epoch: int, order: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The epoch's rows in random order, and which of their modalities are kept."""
    rows, keep = method.epoch_rows(epoch)
    for places in torch.split(torch.randperm(len(rows), generator=order), BATCH_SIZE):
        yield rows[places], None if keep is None else keep[places]
