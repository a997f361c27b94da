"""The accumulating metrics: equal to the function on all rows at once, also over two processes."""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torchmetrics import MetricCollection

from midas_aug import MidasAugError, functional
from midas_aug.diagnostics import (
    DiscrepancyRatio,
    MisalignedAccuracy,
    MisalignedConfidence,
    ShareCollapse,
    ShareEntropy,
    collapsed_share_fraction,
    discrepancy_ratio,
    misaligned_accuracy,
    misaligned_confidence,
    share_entropy,
)
from tests.helpers.operators import OperatorCount

CLASSES = 4


def make_rows(seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randint(CLASSES, (rows, 2), generator=generator)
    noise = torch.randn(rows, CLASSES, generator=generator)
    logits = noise + 2 * torch.nn.functional.one_hot(sources, CLASSES).sum(dim=1)
    return logits, sources, torch.rand(rows, generator=generator) < 0.8


def make_metrics() -> dict[str, torch.nn.Module]:
    return {
        "count": MisalignedAccuracy(),
        "skip": MisalignedAccuracy(same_label="skip"),
        "wrong": MisalignedAccuracy(same_label="wrong"),
        "confidence": MisalignedConfidence(2),
        "normalized": MisalignedConfidence(2, normalized=True),
        "entropy": ShareEntropy(),
        "collapse": ShareCollapse(tolerance=0.1),
        "ratio": DiscrepancyRatio(2),
    }


def update(metrics, logits, sources, valid):
    for name in ("count", "skip", "wrong", "confidence", "normalized"):
        metrics[name].update(logits, sources, valid)
    shares = logits[:, :2].softmax(dim=1)
    for name in ("entropy", "collapse"):
        metrics[name].update(shares, valid)
    labels = torch.where(valid, sources[:, 0], -1)
    metrics["ratio"].update({"a": logits, "b": -logits}, labels)


def at_once(logits, sources, valid):
    shares, labels = logits[:, :2].softmax(dim=1), torch.where(valid, sources[:, 0], -1)
    sums = [functional.true_class_confidence(sign * logits, labels).sum() for sign in (1, -1)]
    return {
        "count": misaligned_accuracy(logits, sources, valid=valid),
        "skip": misaligned_accuracy(logits, sources, valid=valid, same_label="skip"),
        "wrong": misaligned_accuracy(logits, sources, valid=valid, same_label="wrong"),
        "confidence": misaligned_confidence(logits, sources, valid=valid),
        "normalized": misaligned_confidence(logits, sources, valid=valid, normalized=True),
        "entropy": share_entropy(shares, valid=valid),
        "collapse": collapsed_share_fraction(shares, valid=valid, tolerance=0.1),
        "ratio": discrepancy_ratio(torch.stack(sums)),
    }


def halves() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [make_rows(0, 37), make_rows(1, 11)]  # of different size: no mean of means


def test_batches_add_up_to_all_rows_at_once():
    metrics = make_metrics()
    for half in halves():
        update(metrics, *half)
    expected = at_once(*(torch.cat(part) for part in zip(*halves(), strict=True)))
    for name, metric in metrics.items():
        assert torch.allclose(metric.compute(), expected[name], atol=1e-6), name
        metric.reset()
    update(metrics, *halves()[1])
    expected = at_once(*halves()[1])
    for name, metric in metrics.items():
        assert torch.allclose(metric.compute(), expected[name], atol=1e-6), name


def named(logits, sources, valid):
    """Arguments by name: a collection hands each metric those that it takes."""
    return {
        "logits": logits,
        "source_labels": sources,
        "shares": logits[:, :2].softmax(dim=1),
        "valid": valid,
        "unimodal_logits": [logits, -logits],
        "labels": sources[:, 0],
    }


@pytest.mark.parametrize("pair", list(itertools.combinations(make_metrics(), 2)))
def test_no_two_metrics_are_taken_for_one_in_a_collection(pair):
    """After batches that look alike a MetricCollection goes on with one of two equal states."""
    everything = torch.ones(6, dtype=torch.bool)
    # Even shares; right; each source's label has probability 1/2, and 1/2 of the two.
    alike = torch.tensor([[0.0, 0.0, -50.0, -50.0]] * 6), torch.tensor([[0, 1]] * 6), everything
    together = MetricCollection({key: make_metrics()[key] for key in pair})
    alone = {key: MetricCollection({key: make_metrics()[key]}) for key in pair}
    for collection in (together, *alone.values()):
        for rows in (alike, halves()[0]):
            collection.update(**named(*rows))
    found = together.compute()
    for key in pair:
        assert torch.equal(found[key], alone[key].compute()[key]), key


def test_an_update_does_not_wait_for_the_device(monkeypatch):
    monkeypatch.setattr("midas_aug.functional.shares.may_read_values", lambda _: False)
    metrics, half = make_metrics(), halves()[0]
    with OperatorCount() as log:
        update(metrics, *half)
    assert log.operators > 50
    assert log.waiting == []


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    metrics = make_metrics()
    update(metrics, *halves()[rank])
    found = {name: metric.compute() for name, metric in metrics.items()}
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_find_what_one_process_with_all_rows_finds():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(folder,), nprocs=2)
        ranks = [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]
    expected = at_once(*(torch.cat(part) for part in zip(*halves(), strict=True)))
    for found in ranks:
        for name, value in expected.items():
            assert torch.allclose(found[name], value, atol=1e-6), name


def test_batches_without_rows_count_nothing():
    metrics = make_metrics()
    update(metrics, *make_rows(0, 0))
    update(metrics, *halves()[0])
    update(metrics, *make_rows(0, 0))
    expected = at_once(*halves()[0])
    for name, metric in metrics.items():
        assert torch.allclose(metric.compute(), expected[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MisalignedAccuracy(same_label="both"), ["skip", "'both'"]),
        (lambda: MisalignedConfidence(1), ["2", "got 1"]),
        (lambda: DiscrepancyRatio(1), ["2", "got 1"]),
        (lambda: MisalignedConfidence("2"), ["num_modalities", "integer", "'2'"]),
        (lambda: MisalignedConfidence(2.5), ["num_modalities", "integer", "2.5"]),
        (lambda: MisalignedConfidence(2, normalized="no"), ["normalized", "'no'"]),
        (lambda: ShareCollapse(tolerance="x"), ["tolerance", "from 0 to 1", "'x'"]),
        (lambda: ShareCollapse(tolerance=float("nan")), ["tolerance", "from 0 to 1", "nan"]),
        (
            lambda: MisalignedConfidence(3).update(torch.zeros(1, 3), torch.tensor([[0, 1]])),
            ["3 modalities", "(1, 2)"],
        ),
        (
            lambda: DiscrepancyRatio(2).update([torch.zeros(1, 3)], torch.tensor([0])),
            ["2 modalities", "got 1"],
        ),
    ],
)
def test_errors_say_what_came(call, words):
    with pytest.raises(MidasAugError) as caught:
        call()
    for word in ["expected", *words]:
        assert word in str(caught.value)


def test_without_torchmetrics_the_functions_work_and_the_metrics_name_the_extra():
    script = """
import sys
sys.modules["torchmetrics"] = None
import torch
from midas_aug import diagnostics
print(diagnostics.accuracy(torch.eye(2), torch.arange(2)).item())
try:
    diagnostics.MisalignedAccuracy
except ValueError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    first, second = done.stdout.splitlines()
    assert first == "1.0"
    assert "pip install torchmetrics" in second
    assert "pip install '.[diagnostics]'" in second
