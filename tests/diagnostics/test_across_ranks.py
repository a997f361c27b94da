"""`diagnose_across_ranks` on gloo processes: one report, that of one process with all rows."""

from __future__ import annotations

import tempfile
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn

from midas_aug import MidasAugError
from midas_aug.diagnostics import diagnose, diagnose_across_ranks
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.ranks import AllRanks, OneProcess, loader_order
from midas_aug.targets import MultiLabel
from tests.helpers import planted

WORLD = 3
NAMES = ("audio", "video")
OF_CHANCE = ("misaligned", "confidence", "credit", "followed", "permutation", "share_")
UNLABELLED = 7  # rows of the planted set without a label, at its end


@cache
def made() -> planted.Planted:
    return planted.make_case("balanced", rows=203, batch=50)


@cache
def rows(part: str = "diagnosed") -> dict[str, torch.Tensor]:
    """All rows of a planted set, some of them without a label or without a modality."""
    whole = made().loader if part == "diagnosed" else made().training
    data = {key: torch.cat([batch[key] for batch in whole]) for key in whole[0]}
    if part == "diagnosed":
        data["label"][-UNLABELLED:] = -1
    data["present"] = torch.ones(len(data["label"]), 2, dtype=torch.bool)
    data["present"][::20, 1] = False
    data["tags"] = nn.functional.one_hot(data["label"].clamp(min=0), planted.CLASSES).float()
    return data


def batches(data: dict[str, torch.Tensor], index: torch.Tensor) -> list[Any]:
    return [{key: value[part] for key, value in data.items()} for part in index.split(16)]


def dealt(data: dict[str, torch.Tensor], rank: int, ranks: list[int]) -> list[Any]:
    """The rows that a sampler deals to a rank, where ``ranks`` take part."""
    if rank not in ranks:
        return []
    return batches(data, torch.arange(len(data["label"]))[ranks.index(rank) :: len(ranks)])


class WithNorm(nn.Module):
    """A model with buffers, which DDP hands around in every forward pass."""

    def __init__(self, model: planted.LinearFusion) -> None:
        super().__init__()
        self.model, self.norm = model, nn.BatchNorm1d(planted.CLASSES)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.norm(self.model(batch))
        return logits


def case(name: str, wrap: bool = False) -> tuple[Any, dict[str, Any]]:
    """The model and the options of a case."""
    built = made()
    options: dict[str, Any] = {"resamples": 50, "draws": 2, "unimodal": built.unimodal}
    model: Any = (built.model.encode, built.model.fuse)
    if "input" in name:
        options["unimodal"] = lambda batch: built.unimodal(built.model.encode(batch))
        model = WithNorm(built.model).eval()
        if wrap:
            model = nn.parallel.DistributedDataParallel(model)
    if "permute" in name:
        options["removal"] = "permute"
    if "zero" in name:
        options["removal"] = "zero"
    if "present" in name:
        options["present"] = "present"
    if "tags" in name:
        options |= {"target": MultiLabel(planted.CLASSES), "label": "tags"}
    return model, options


CASES = {  # with training rows or without, and which ranks have rows
    "feature mean": (True, [0, 1, 2]),
    "feature zero present": (False, [0, 1, 2]),
    "feature permute": (False, [1, 2]),
    "feature tags": (True, [0, 1, 2]),
    "input mean": (True, [0, 1, 2]),
    "input mean present": (False, [0, 1, 2]),
    "input zero": (True, [0, 2]),
    "input tags": (True, [0, 1, 2]),
}


def what_comes(work: Any) -> Any:
    try:
        return work()
    except Exception as error:
        return type(error).__name__, str(error)


def go_wrong(rank: int) -> dict[str, Any]:
    """Errors on one rank, on all, in what is sent, and where there is nothing to diagnose."""
    data = rows()
    model, options = case("input zero")

    def ask(loader: Any, **more: Any) -> Any:
        return what_comes(lambda: diagnose_across_ranks(model, loader, NAMES, **options | more))

    def broken() -> Any:
        yield from dealt(data, rank, [0, 1, 2])
        if rank == 1:
            raise OSError("the disk is gone")

    bad = {**data, "audio": data["audio"].clone()}
    bad["audio"][100] = float("nan")
    ranks = AllRanks()
    return {
        "loader": ask(broken()),
        "argument": ask(dealt(data, rank, [0, 1, 2]), draws=0 if rank == 2 else 1),
        "nan": ask(dealt(bad, rank, [0, 1, 2])),
        "nothing": ask([]),
        "unknown": ask([], colour=1),
        "unsendable": what_comes(lambda: ranks.at_first(lambda: [1, lambda: 2], list)),
        "unreturnable": what_comes(lambda: ranks.at_first(lambda: [1], lambda _: lambda: 2)),
        "still in step": ranks.shared(lambda: rank),
        "items": ranks.at_first(lambda: list(range(rank)), list),
    }


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    found: dict[str, Any] = {}
    for name, (has_training, ranks) in CASES.items():
        model, options = case(name, wrap=True)
        if has_training:
            options["training"] = dealt(rows("training"), rank, ranks)
        report = diagnose_across_ranks(model, dealt(rows(), rank, ranks), NAMES, **options)
        found[name] = (report.to_dict(), report.replicates, report.labels)
    found["errors"] = go_wrong(rank)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.barrier()  # a rank that closes its connections first can abort another one
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(folder,), nprocs=WORLD)
        return [
            torch.load(Path(folder) / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD)
        ]


def in_one_process(name: str) -> Any:
    """The slow way: one process reads all rows in order."""
    model, options = case(name)
    if CASES[name][0]:
        options["training"] = dealt(rows("training"), 0, [0])
    return diagnose(model, dealt(rows(), 0, [0]), NAMES, **options)


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_same_report(ranks, name):
    first, *others = (found[name] for found in ranks)
    for other in others:
        assert str(other[0]) == str(first[0])  # where NaN is NaN
        assert all((other[1][key] == first[1][key]).all() for key in first[1])


def of_the_same_rows(ranks, name):
    """Content and replicates of the ranks' report, and that of one process, whose rows it has."""
    expected = in_one_process(name)
    content, replicates, labels = ranks[0][name]
    assert (labels == expected.labels).all()
    assert content["settings"] == expected.settings
    assert list(content["scores"]) == list(expected.scores)
    return content, replicates, expected


@pytest.mark.parametrize("name", [name for name in CASES if "feature" in name])
def test_at_feature_level_it_is_the_report_of_one_process_to_the_last_interval(ranks, name):
    content, replicates, expected = of_the_same_rows(ranks, name)
    for key, score in expected.scores.items():
        assert content["scores"][key] == pytest.approx(score.to_dict(), abs=1e-6, nan_ok=True), key
        assert replicates[key] == pytest.approx(expected.replicates[key], abs=1e-6), key


@pytest.mark.parametrize("name", [name for name in CASES if "input" in name])
def test_at_input_level_it_differs_where_partners_are_drawn(ranks, name):
    content, replicates, expected = of_the_same_rows(ranks, name)
    for key, score in expected.scores.items():
        drawn = key.startswith(OF_CHANCE)
        tolerance = 0.15 if drawn else 1e-6
        assert content["scores"][key]["value"] == pytest.approx(score.value, abs=tolerance), key
        if not drawn:
            assert replicates[key] == pytest.approx(expected.replicates[key], abs=1e-6), key


def test_rows_that_lack_a_modality_are_counted_over_all_ranks(ranks):
    for name in ("feature zero present", "input mean present"):
        lacking = (~rows()["present"].all(dim=1) & (rows()["label"] >= 0)).sum()
        assert ranks[0][name][0]["settings"]["incomplete_rows"] == lacking


def test_an_error_on_one_rank_is_one_on_all(ranks):
    first, second, third = (found["errors"] for found in ranks)
    assert second["loader"] == ("OSError", "the disk is gone")
    for other in (first, third):
        assert other["loader"][0] == "MidasAugError"
        assert "an error on rank 1: OSError: the disk is gone" in other["loader"][1]
    assert "expected draws as an integer" in third["argument"][1]
    assert "error on rank 2: expected draws as an integer" in first["argument"][1]


def test_what_is_wrong_with_all_rows_together_is_told_on_every_rank(ranks):
    for found in (of_rank["errors"] for of_rank in ranks):
        assert found["nan"][0] == "MidasAugError"
        assert f"1 of {203 - UNLABELLED} of the whole model" in found["nan"][1]
        assert "expected at least one row to diagnose" in found["nothing"][1]
        assert "colour" in found["unknown"][1]


def test_what_cannot_be_sent_is_an_error_and_the_ranks_stay_in_step(ranks):
    first, second, third = (found["errors"] for found in ranks)
    for found in (first, second, third):
        assert "an error on rank 1" in found["unsendable"][1]
        assert "pickle" in found["unreturnable"][1].lower()
        assert found["still in step"] == [0, 1, 2]
        assert found["items"] == [[], [0], [0, 1]]


# ---------------------------------------------------------------- without processes


def test_rows_are_ordered_as_a_sampler_deals_them_out():
    for counts in ([5, 4, 4], [3], [0, 2], [1, 4]):
        size = max(counts)
        table = [[(place, rank) for place in range(count)] for rank, count in enumerate(counts)]
        flat = list(chain.from_iterable(table))
        expected = [
            flat.index((place, rank))
            for place in range(size)
            for rank, count in enumerate(counts)
            if place < count
        ]
        assert loader_order(counts).tolist() == expected


@pytest.mark.parametrize("kept", [10**6, 1000 * 3])
def test_rows_of_heads_are_merged_in_order_and_no_more_than_one_process_keeps(kept):
    """With 3 classes 1000 rows are kept at the least."""
    total, generator = 4100, torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (total,), generator=generator)
    logits = torch.arange(total, dtype=torch.float32)[:, None].expand(-1, 3)
    parts = [HeadRows(("a",), seed=rank, kept=kept) for rank in range(WORLD)]
    for rank, part in enumerate(parts):
        for index in torch.arange(total)[rank::WORLD].split(100):
            part.add([logits[index]], labels[index])
    merged = HeadRows(("a",), kept=kept).merged([part.content for part in parts])
    labelled = (labels >= 0).nonzero()[:, 0]
    assert merged.n_rows == len(labelled)
    chosen = labelled[merged.place]
    assert torch.equal(merged.logits[0, :, 0].long(), chosen)
    assert torch.equal(merged.labels, labels[chosen])
    assert len(chosen) == min(len(labelled), kept // 3)
    assert (chosen.diff() > 0).all()
    # No rank is favoured, and no stretch of rows.
    assert chosen.double().mean() == pytest.approx(total / 2, rel=0.05)
    assert torch.bincount(chosen % WORLD).tolist() == pytest.approx([len(chosen) / 3] * 3, rel=0.12)


def test_heads_of_no_rank_are_none():
    assert HeadRows(("a",)).content is None
    assert HeadRows(("a",)).merged([None, None]).n_rows == 0


def test_one_process_does_everything_itself():
    assert OneProcess().shared(lambda: 3) == [3]
    assert OneProcess().at_first(lambda: [1, 2], list) == [[1, 2]]


def test_without_a_process_group_it_is_diagnose():
    model, options = case("feature mean")
    loader = dealt(rows(), 0, [0])
    ours = diagnose_across_ranks(model, loader, NAMES, **options)
    assert str(ours.to_dict()) == str(diagnose(model, loader, NAMES, **options).to_dict())
    with pytest.raises(MidasAugError, match="expected draws"):
        diagnose_across_ranks(model, loader, NAMES, draws=0)
