"""Ray Train: Ray starts the workers, the loop is that of DDP.

python examples/with_ray.py
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train  # New
import ray.train.torch  # New
import torch
from digits import CLASSES, LateFusion, Rows, accuracy, load_splits, samples
from torch import Tensor
from torch.utils.data import DataLoader

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows, misaligned_accuracy, plan_swaps

VIEWS = ("pix", "fou")


class Model(LateFusion):
    """An encoder and a head for each view, and a fusion head; the swap sits in between."""

    def forward(self, batch: Any, augment: Any = None) -> Any:
        """Logits; with an augmentation also what it made, and the logits of the views' heads."""
        features = self.encode(batch)
        if augment is None:
            return self.fuse(features)
        unimodal = self.classify(features)
        out = augment(features, batch["label"], unimodal_logits=unimodal)
        return self.fuse(out), out, unimodal


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    torch.manual_seed(0)
    training, validation, _ = load_splits(VIEWS, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(0)
    model: Any = Model({view: values.shape[1] for view, values in training.views.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    data = samples(training)
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=order)
    loader = ray.train.torch.prepare_data_loader(loader)  # New: a share of the rows
    warm_up = {"find_unused_parameters": True}  # New: no gradient for the fusion head yet
    model = ray.train.torch.prepare_model(model, parallel_strategy_kwargs=warm_up)  # New
    first_rank = ray.train.get_context().get_world_rank() == 0  # New
    parts = {"model": model, "optimizer": optimizer, "augment": augment, "criterion": criterion}
    first = load(options.checkpoint, parts, order)

    for epoch in range(first, options.epochs):
        criterion.set_epoch(epoch)
        model.train()
        for batch in loader:
            logits, out, unimodal = model(batch, augment)
            loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        if first_rank:  # New
            report(epoch, evaluate(model.module, validation), criterion.weak.alpha)  # New
        if first_rank:  # New
            save(options.checkpoint, parts, order, epoch)  # New
    scores = evaluate(model.module, validation)  # New
    ray.train.report(scores)  # New
    return scores  # New


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
    options = parse()  # New
    options.checkpoint = options.checkpoint and options.checkpoint.resolve()  # New
    ray.init(num_cpus=2, include_dashboard=False)  # New
    trainer = ray.train.torch.TorchTrainer(  # New
        main,  # New
        train_loop_config=options,  # New
        run_config=ray.train.RunConfig(storage_path=str(Path("runs/ray").resolve())),  # New
        scaling_config=ray.train.ScalingConfig(num_workers=2),  # New
    )  # New
    trainer.fit()  # New
