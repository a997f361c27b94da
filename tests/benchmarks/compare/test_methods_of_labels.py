"""Methods with tags, a number and missing modalities."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.kinds import CLASSES, NUMBER, TAGS, Kind
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.midas import Midas
from benchmarks.methods.suite_entries import LABEL_ENTRIES
from tests.benchmarks.methods.helpers import tiny_model, tiny_rows

KINDS = (CLASSES, TAGS, NUMBER)
NUM_ROWS = 24
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.main)


def labels_of(kind: Kind) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind is TAGS:
        return (torch.rand(NUM_ROWS, 3, generator=generator) < 0.5).float()
    if kind is NUMBER:
        return torch.randn(NUM_ROWS, generator=generator)
    return torch.arange(NUM_ROWS) % 3


def started(method: Method, kind: Kind, present: torch.Tensor | None) -> Method:
    """The method in its first epoch, about to see all rows as one batch."""
    model = tiny_model(2, num_classes=1 if kind is NUMBER else 3)
    setting = Setting(
        labels_of(kind),
        epochs=4,
        encode_training=lambda: EncodedRows({}, torch.empty(0)),
        kind=kind,
        present=present,
        present_validation=present,
    )
    method.setup(model, setting, torch.Generator().manual_seed(0))
    method.on_epoch_start(0)
    method.on_batch(torch.arange(NUM_ROWS))
    return method


def loss_of(method: Method, kind: Kind) -> torch.Tensor:
    inputs, _ = tiny_rows(method.model, NUM_ROWS)
    features = method.model.encode(inputs)
    if method.present is not None:
        columns = method.present.unbind(dim=1)
        features = {
            name: feature * has[:, None]
            for (name, feature), has in zip(features.items(), columns, strict=True)
        }
    return method.loss(features, labels_of(kind))


def present() -> torch.Tensor:
    has = torch.rand(NUM_ROWS, 2, generator=torch.Generator().manual_seed(2)) < 0.6
    return has | ~has.any(dim=1, keepdim=True)


@every_kind
@pytest.mark.parametrize("name", LABEL_ENTRIES)
@pytest.mark.parametrize("missing", [False, True])
def test_every_row_of_the_suite_has_a_loss_and_gradients(
    kind: Kind, name: str, missing: bool
) -> None:
    entry = LABEL_ENTRIES[name]
    method = started(entry.build({"learning_rate": 0.03}), kind, present() if missing else None)
    for _ in range(2):  # before and after the first measurement of skill
        loss = loss_of(method, kind)
        assert loss.isfinite()
        loss.backward()
        with torch.no_grad():
            method.on_validation(
                method.model.encode(tiny_rows(method.model, NUM_ROWS)[0]), labels_of(kind)
            )
    for parameter in method.model.encoders.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@every_kind
def test_what_is_missing_is_never_given_away(kind: Kind) -> None:
    method = started(Midas(warmup=0), kind, present())
    assert isinstance(method, Midas)
    seen = []
    augment = method.augment

    def watched(*arguments: object, **options: object) -> object:
        seen.append(augment(*arguments, **options))  # type: ignore[arg-type]
        return seen[-1]

    method.augment = watched  # type: ignore[assignment]
    loss_of(method, kind)
    (out,) = seen
    mixed = out.misaligned
    counts = out.weights[mixed] > 0
    assert counts.any()
    replaced = out.source[mixed] != out.anchor[mixed][:, None]
    has = torch.stack([present()[out.source[mixed][:, m], m] for m in range(2)], dim=1)
    assert has[counts][replaced[counts]].all()
    assert (out.shares[mixed][~has] == 0).all()
