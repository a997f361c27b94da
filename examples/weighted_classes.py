"""Weighted classes: handwritten digits of which five of the ten are rare in training.

`class_weight` and `label_smoothing` mean what they mean in ``torch.nn.CrossEntropyLoss``, for
aligned rows, misaligned rows and heads. Confidence and credit are measured without.

    python examples/weighted_classes.py            # every class the same weight in the loss
    python examples/weighted_classes.py --even     # every row the same weight, for comparison
"""

import argparse

import torch
from common import VIEWS, positive, start, widths
from digits import BATCH_SIZE, CLASSES, ConcatFusion, Rows
from torch import Tensor

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows
from midas_aug.targets import ClassIndex

RARE = CLASSES // 2  # the digits from here on are rare
KEPT = 0.05  # of their training rows


def thin_out(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers of the training rows that are left."""
    is_kept = torch.rand(len(labels), generator=generator) < KEPT
    return torch.nonzero((labels < RARE) | is_kept)[:, 0]


def main(epochs: int = 6, even: bool = False) -> dict[str, float]:
    """Train; accuracy on the validation rows of common and of rare digits."""
    training, validation, order = start(None)
    kept = thin_out(training.labels, order)
    counts = torch.bincount(training.labels[kept], minlength=CLASSES)
    weights = None if even else len(kept) / (CLASSES * counts.clamp(min=1))
    target = ClassIndex(CLASSES, class_weight=weights, label_smoothing=0.05)
    model = ConcatFusion(widths(training))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, target=target, seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        rows = kept[torch.randperm(len(kept), generator=order)]
        for batch in torch.split(rows, BATCH_SIZE):
            features = model.encode(gather_rows(training.views, batch))
            unimodal = model.classify(features)
            out = augment(features, training.labels[batch], unimodal_logits=unimodal)
            loss = criterion(model.fuse(out), out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return evaluate(model.eval(), validation)


@torch.no_grad()
def evaluate(model: ConcatFusion, rows: Rows) -> dict[str, float]:
    """Accuracy by how common a digit was in training."""
    right = model.fuse(model.encode(rows.views)).argmax(dim=1) == rows.labels
    is_rare = rows.labels >= RARE
    return {
        "common digits": float(right[~is_rare].float().mean()),
        "rare digits": float(right[is_rare].float().mean()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument("--even", action="store_true", help="the same weight for every row")
    for name, score in main(**vars(parser.parse_args())).items():
        print(f"{name}: {100 * score:.1f} %")
