"""A number as the label: the value of a handwritten digit, from 0 to 9.

A prediction is one number; its loss is the squared error over 2·scale². Rows of the same value are
never partners. A swapped row has two values at once, each with its share of the loss.

    python examples/regression.py
"""

import argparse

import torch
from common import VIEWS, positive, start, widths
from digits import BATCH_SIZE, ConcatFusion, Rows

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows
from midas_aug.targets import Continuous

SPREAD = 3.0  # about the standard deviation of the values


def main(epochs: int = 6) -> dict[str, float]:
    """Train; R² of the validation rows, and their mean absolute error."""
    training, validation, order = start(None)
    model = ConcatFusion(widths(training), outputs=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    augment = MisalignAugment(VIEWS, target=Continuous(scale=SPREAD), seed=0)
    criterion = MidasLoss(len(VIEWS), warmup_epochs=1)
    for epoch in range(epochs):
        criterion.set_epoch(epoch)
        model.train()
        rows = torch.randperm(len(training.labels), generator=order)
        for batch in torch.split(rows, BATCH_SIZE):
            values = training.labels[batch].float()  # (N,)
            features = model.encode(gather_rows(training.views, batch))
            unimodal = model.classify(features)  # (N, 1) each
            out = augment(features, values, unimodal_logits=unimodal)
            loss = criterion(model.fuse(out), out, unimodal_logits=unimodal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return evaluate(model.eval(), validation)


@torch.no_grad()
def evaluate(model: ConcatFusion, rows: Rows) -> dict[str, float]:
    """How much of the variance is told, and how far off a prediction is on average."""
    values = rows.labels.float()
    errors = model.fuse(model.encode(rows.views))[:, 0] - values
    r2 = 1 - errors.square().sum() / (values - values.mean()).square().sum()
    return {"R²": float(r2), "mean absolute error": float(errors.abs().mean())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=positive, default=6)
    for name, score in main(**vars(parser.parse_args())).items():
        print(f"{name}: {score:.2f}")
