"""JAX and Flax: NumPy batches are drawn and labelled on the host, the steps are jitted.

The encoders run once more than in PyTorch: the labels need their confidence before the step.

    python examples/with_jax.py
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from common import VIEWS, evaluate, load, parse, report, save, start, widths
from digits import CLASSES, FEATURES, HIDDEN, samples
from flax import nnx
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MisalignAugment, WeakModalityWeight


class Model(nnx.Module):
    """An encoder and a head for each view, and a fusion head."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        rngs = nnx.Rngs(0)
        self.encoders = nnx.Dict(
            {
                view: nnx.Sequential(
                    nnx.Linear(width, HIDDEN, rngs=rngs),
                    nnx.relu,
                    nnx.Linear(HIDDEN, FEATURES, rngs=rngs),
                    nnx.relu,
                )
                for view, width in widths.items()
            }
        )
        self.heads = nnx.Dict({view: nnx.Linear(FEATURES, CLASSES, rngs=rngs) for view in widths})
        self.fusion = nnx.Linear(FEATURES * len(widths), CLASSES, rngs=rngs)

    def encode(self, views: Mapping[str, Any]) -> dict[str, Any]:
        return {view: self.encoders[view](views[view]) for view in VIEWS}

    def classify(self, features: Mapping[str, Any]) -> dict[str, Any]:
        return {view: self.heads[view](features[view]) for view in VIEWS}

    def fuse(self, features: Mapping[str, Any]) -> Any:
        return self.fusion(jnp.concatenate([features[view] for view in VIEWS], axis=1))


@nnx.jit
def look(model: Model, views: Any) -> Any:
    """Features and unimodal logits of the aligned rows, for the labels."""
    features = model.encode(views)
    return features, model.classify(features)


@nnx.jit
def predict(model: Model, views: Any) -> Any:
    """Logits of intact rows."""
    return model.fuse(model.encode(views))


@nnx.jit
def step(
    model: Model, optimizer: Any, views: Any, labels: Any, source: Any, targets: Any, weights: Any
) -> Any:
    """One step on N + S rows; the N rows are encoded once and swapped by `source`."""

    def loss(model: Model) -> Any:
        features = model.encode(views)
        logits = model.fuse({v: features[v][source[:, m]] for m, v in enumerate(VIEWS)})
        fused = (optax.softmax_cross_entropy(logits, targets) * weights).mean()
        entropy = optax.softmax_cross_entropy_with_integer_labels
        heads = sum(entropy(u, labels).mean() for u in model.classify(features).values())
        return fused + heads, logits

    (_, logits), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
    optimizer.update(model, gradients)
    return logits


class Leaves:
    """The state of the model and the optimizer, for `save` and `load`."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, Tensor]:
        leaves = jax.tree.leaves(nnx.state(self.parts))
        return {str(number): torch.tensor(np.array(leaf)) for number, leaf in enumerate(leaves)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree = jax.tree.structure(nnx.state(self.parts))
        leaves = [jnp.asarray(leaf.numpy()) for leaf in state.values()]
        nnx.update(self.parts, jax.tree.unflatten(tree, leaves))


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of NumPy arrays."""
    return {key: np.stack([np.asarray(row[key]) for row in samples]) for key in samples[0]}


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    training, validation, order = start(options.checkpoint)
    model: Any = Model(widths(training))
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    weak = WeakModalityWeight(len(VIEWS))  # alpha, on NumPy arrays
    loader = DataLoader(
        samples(training),
        batch_size=64,
        shuffle=True,
        generator=order,
        drop_last=True,  # one shape, one compilation
        collate_fn=augment.collate(collate, materialize=False),
    )
    parts = {"model": Leaves(model, optimizer), "augment": augment, "weak": weak}
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        for out in loader:
            views = {view: out[view] for view in VIEWS}
            features, unimodal = jax.tree.map(np.asarray, look(model, views))
            out = out.label(unimodal_logits=unimodal, features=features)
            logits = step(model, optimizer, views, out.labels, out.source, *weak.fold(out))
            weak.update(np.asarray(logits), out)
        report(epoch, evaluate(on_torch(model), validation), weak.alpha)
        save(options.checkpoint, parts, order, epoch)
    return evaluate(on_torch(model), validation)


def on_torch(model: Model) -> Callable[[dict[str, Tensor]], Tensor]:
    """The model as a function of torch tensors."""
    return lambda views: torch.tensor(
        np.asarray(predict(model, {v: x.numpy() for v, x in views.items()}))
    )


if __name__ == "__main__":
    main(parse(__doc__))
