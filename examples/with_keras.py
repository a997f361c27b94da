"""Keras 3 at input level: a torch DataLoader that gives (inputs, targets, sample_weight).

python examples/with_keras.py                            # on the torch backend
KERAS_BACKEND=jax python examples/with_keras.py
"""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from common import VIEWS, evaluate, load, parse, report, save, start, widths
from digits import CLASSES, FEATURES, HIDDEN, samples
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MisalignAugment
from midas_aug.integrations.keras import KerasCollate

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras


def build(widths: Mapping[str, int]) -> Any:
    """An encoder for each view, and a fusion head."""
    keras.utils.set_random_seed(0)
    inputs = {view: keras.Input((width,), name=view) for view, width in widths.items()}
    features = []
    for view in VIEWS:
        hidden = keras.layers.Dense(HIDDEN, "relu")(inputs[view])
        features.append(keras.layers.Dense(FEATURES, "relu")(hidden))
    fusion = keras.layers.Dense(CLASSES)(keras.layers.Concatenate()(features))
    model = keras.Model(inputs, fusion)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    nothing = {view: np.zeros((1, width), np.float32) for view, width in widths.items()}
    model.test_on_batch(nothing, np.zeros((1, CLASSES)))  # else fit takes a batch to look at it
    model.optimizer.build(model.trainable_variables)
    return model


class Variables:
    """The state of the model and the optimizer, for `save` and `load`."""

    def __init__(self, model: Any) -> None:
        self.variables = [*model.variables, *model.optimizer.variables]

    def state_dict(self) -> dict[str, Tensor]:
        values = map(keras.ops.convert_to_numpy, self.variables)
        return {str(number): torch.tensor(np.array(value)) for number, value in enumerate(values)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for variable, value in zip(self.variables, state.values(), strict=True):
            variable.assign(value.numpy())


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    training, validation, order = start(options.checkpoint)
    model = build(widths(training))
    augment = MisalignAugment(VIEWS, CLASSES, confidence="uniform", seed=0)
    loader = DataLoader(
        samples(training),
        batch_size=64,
        shuffle=True,
        generator=order,
        collate_fn=KerasCollate(augment),
    )
    parts = {"model": Variables(model), "augment": augment}
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        model.fit(loader, epochs=1, shuffle=False, verbose=0)  # the loader shuffles
        report(epoch, evaluate(on_torch(model), validation), torch.ones(len(VIEWS)))
        save(options.checkpoint, parts, order, epoch)
    return evaluate(on_torch(model), validation)


def on_torch(model: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    """The model as a function of torch tensors."""
    return lambda views: torch.tensor(
        model.predict({view: x.numpy() for view, x in views.items()}, verbose=0)
    )


if __name__ == "__main__":
    main(parse(__doc__))
