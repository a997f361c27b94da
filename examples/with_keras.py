"""Keras 3 at input level: a torch DataLoader that gives (inputs, targets, sample_weight).

python examples/with_keras.py                            # on the torch backend
KERAS_BACKEND=jax python examples/with_keras.py
"""

import argparse
import os  # New
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np  # New
import torch
from digits import CLASSES, FEATURES, HIDDEN, Rows, accuracy, load_splits, samples  # New
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MisalignAugment  # New
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps
from midas_aug.integrations.keras import KerasCollate  # New

os.environ.setdefault("KERAS_BACKEND", "torch")  # New
import keras  # New

VIEWS = ("pix", "fou")


# New from here
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


# New to here
def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(0)
    model = build({view: values.shape[1] for view, values in training.views.items()})  # New
    augment = MisalignAugment(VIEWS, CLASSES, confidence="uniform", seed=0)  # New
    data = samples(training)
    swap: dict[str, Any] = {"collate_fn": KerasCollate(augment)}  # New
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=order, **swap)  # New
    parts = {"model": Variables(model), "augment": augment}  # New
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        model.fit(loader, epochs=1, shuffle=False, verbose=0)  # New: the loader shuffles
        report(epoch, evaluate(on_torch(model), validation), torch.ones(len(VIEWS)))  # New
        save(options.checkpoint, parts, order, epoch)
    return evaluate(on_torch(model), validation)  # New


def on_torch(model: Any) -> Callable[[dict[str, Tensor]], Tensor]:  # New
    """The model as a function of torch tensors."""  # New
    return lambda views: torch.tensor(  # New
        model.predict({view: x.numpy() for view, x in views.items()}, verbose=0)  # New
    )  # New


@torch.no_grad()
def evaluate(predict: Callable[[dict[str, Tensor]], Tensor], rows: Rows) -> dict[str, float]:
    """Accuracy, and how often the labels of a misaligned row are the two that score highest."""
    plan = plan_swaps(rows.labels, len(VIEWS), generator=torch.Generator().manual_seed(0))
    mixed = {view: gather_rows(rows.views[view], plan.source[:, m]) for m, view in enumerate(VIEWS)}
    labels = rows.labels[plan.source]
    return {
        "accuracy": accuracy(predict(rows.views), rows.labels),
        "misaligned": float(misaligned_accuracy(predict(mixed), labels, valid=plan.valid)),
    }


def report(epoch: int, scores: Mapping[str, float], alpha: Tensor) -> None:
    """Print a line."""
    words = [f"{name} {100 * score:.1f} %" for name, score in scores.items()]
    print(f"epoch {epoch}: {', '.join(words)}, alpha {[round(a, 2) for a in alpha.tolist()]}")


def save(path: Path | None, parts: Mapping[str, Any], order: torch.Generator, epoch: int) -> None:
    """Keep all that the next epoch depends on."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "order": order.get_state(), "epoch": epoch + 1}, path)


def load(path: Path | None, parts: Mapping[str, Any], order: torch.Generator) -> int:
    """Take up what was kept, if there is something; the epoch to go on with."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    order.set_state(state["order"])
    return int(state["epoch"])


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint", type=Path, help="goes on from here, and is kept up to date")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)  # quick enough, and the same numbers on any number of cores
    main(parse())
