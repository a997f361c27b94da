"""Rows without a modality: handwritten digits of which one view in three is missing.

`present` says which views a row has. A missing view is never given to another row, has no part in a
label, and its head is not trained on it; its features are zeros here, in training and after.

    python examples/missing_modalities.py
"""

import argparse
from collections.abc import Mapping

import torch
from common import VIEWS, positive, start, widths
from digits import BATCH_SIZE, CLASSES, ConcatFusion, Rows, accuracy
from torch import Tensor

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows

MISSING = 1 / 3


def draw_present(num_rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Which views a row has, ``(N,)`` bool of each; a row that would have none has both."""
    has = torch.rand(num_rows, len(VIEWS), generator=generator) >= MISSING
    has |= ~has.any(dim=1, keepdim=True)
    return dict(zip(VIEWS, has.unbind(dim=1), strict=True))


def only(features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features, zeros where a row does not have the view."""
    return {view: feature * present[view][:, None] for view, feature in features.items()}


def main(epochs: int = 6) -> dict[str, float]:
    """Train; accuracy on the validation rows with all views, and with one alone."""
    training, validation, order = start(None)
    present = draw_present(len(training.labels), order)
    model = ConcatFusion(widths(training))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, CLASSES, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        rows = torch.randperm(len(training.labels), generator=order)
        for batch in torch.split(rows, BATCH_SIZE):
            has = gather_rows(present, batch)
            features = only(model.encode(gather_rows(training.views, batch)), has)
            unimodal = model.classify(features)
            labels = training.labels[batch]
            out = augment(features, labels, unimodal_logits=unimodal, present=has)
            loss = criterion(model.fuse(out), out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return evaluate(model.eval(), validation)


@torch.no_grad()
def evaluate(model: ConcatFusion, rows: Rows) -> dict[str, float]:
    """Accuracy by what a row has."""
    features = model.encode(rows.views)
    scores = {"all views": accuracy(model.fuse(features), rows.labels)}
    for view in VIEWS:
        alone = {v: f if v == view else torch.zeros_like(f) for v, f in features.items()}
        scores[f"{view} alone"] = accuracy(model.fuse(alone), rows.labels)
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=positive, default=6)
    for name, score in main(**vars(parser.parse_args())).items():
        print(f"{name}: {100 * score:.1f} %")
