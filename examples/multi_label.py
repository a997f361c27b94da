"""Several labels per row: which of four things are true of a handwritten digit.

The label is a row of zeros and ones; two digits of which the same is true are never partners.

    python examples/multi_label.py            # MidasLoss
    python examples/multi_label.py --stock    # PyTorch's own binary cross-entropy
"""

import argparse
from collections.abc import Mapping

import torch
from common import VIEWS, positive, start, widths
from digits import BATCH_SIZE, ConcatFusion, Rows
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from midas_aug import MidasLoss, MisalignAugment, MisalignedBatch
from midas_aug.functional import gather_rows
from midas_aug.targets import MultiLabel

NAMES = ("even", "prime", "has a loop", "above four")
TRUE_OF = {
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "has a loop": (0, 6, 8, 9),
    "above four": (5, 6, 7, 8, 9),
}
TABLE = torch.tensor([[digit in TRUE_OF[name] for name in NAMES] for digit in range(10)]).float()


def stock_loss(logits: Tensor, out: MisalignedBatch, unimodal: Mapping[str, Tensor]) -> Tensor:
    """The same loss without `MidasLoss`, and so without its weak-modality weights."""
    rows = binary_cross_entropy_with_logits(logits, out.targets, reduction="none").mean(dim=1)
    loss: Tensor = (out.weights * rows).mean()
    for head in unimodal.values():
        loss = loss + binary_cross_entropy_with_logits(head, out.labels)
    return loss


def main(epochs: int = 6, stock: bool = False) -> dict[str, float]:
    """Train; the share of validation rows of which each thing is told rightly."""
    training, validation, order = start(None)
    model = ConcatFusion(widths(training), outputs=len(NAMES))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, target=MultiLabel(len(NAMES)), seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        rows = torch.randperm(len(training.labels), generator=order)
        for batch in torch.split(rows, BATCH_SIZE):
            labels = TABLE[training.labels[batch]]  # (N, 4) zeros and ones
            features = model.encode(gather_rows(training.views, batch))
            unimodal = model.classify(features)
            out = augment(features, labels, unimodal_logits=unimodal)
            logits = model.fuse(out)
            if stock:
                loss = stock_loss(logits, out, unimodal)
            else:
                loss = criterion(logits, out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return evaluate(model.eval(), validation)


@torch.no_grad()
def evaluate(model: ConcatFusion, rows: Rows) -> dict[str, float]:
    """The share of rows that are right, by name."""
    told = model.fuse(model.encode(rows.views)) > 0
    right = (told == TABLE[rows.labels].bool()).float().mean(dim=0)
    return dict(zip(NAMES, right.tolist(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument("--stock", action="store_true", help="PyTorch's binary cross-entropy")
    for name, share in main(**vars(parser.parse_args())).items():
        print(f"{name}: {100 * share:.1f} % right")
