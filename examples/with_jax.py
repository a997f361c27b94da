"""JAX and Flax: NumPy batches are drawn and labelled on the host, the steps are jitted.

The encoders run once more than in PyTorch: the labels need their confidence before the step.

    python examples/with_jax.py
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax  # New
import jax.numpy as jnp  # New
import numpy as np  # New
import optax  # New
import torch
from digits import CLASSES, FEATURES, HIDDEN, Rows, accuracy, load_splits, samples  # New
from flax import nnx  # New
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MisalignAugment, WeakModalityWeight  # New
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps

VIEWS = ("pix", "fou")


# New from here
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


# New to here
def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(0)
    model: Any = Model({view: values.shape[1] for view, values in training.views.items()})
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)  # New
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    weak = WeakModalityWeight(len(VIEWS))  # New: alpha, on NumPy arrays
    data = samples(training)
    data = data[: len(data) // 64 * 64]  # New: one shape, one compilation
    draw: dict[str, Any] = {"collate_fn": augment.collate(collate, materialize=False)}  # New
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=order, **draw)  # New
    parts = {"model": Leaves(model, optimizer), "augment": augment, "weak": weak}  # New
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        for out in loader:  # New
            views = {view: out[view] for view in VIEWS}  # New
            features, unimodal = jax.tree.map(np.asarray, look(model, views))  # New
            out = out.relabel(unimodal_logits=unimodal, features=features)  # New
            logits = step(model, optimizer, views, out.labels, out.source, *weak.apply(out))  # New
            weak.update(np.asarray(logits), out)  # New
        report(epoch, evaluate(on_torch(model), validation), weak.alpha)  # New
        save(options.checkpoint, parts, order, epoch)
    return evaluate(on_torch(model), validation)  # New


def on_torch(model: Model) -> Callable[[dict[str, Tensor]], Tensor]:  # New
    """The model as a function of torch tensors."""  # New
    return lambda views: torch.tensor(  # New
        np.asarray(predict(model, {v: x.numpy() for v, x in views.items()}))  # New
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
