"""Accelerate and iterable data: batches that it would hand out in parts are refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.confidence import TableConfidence

accelerate = pytest.importorskip("accelerate")
from accelerate.data_loader import prepare_data_loader  # noqa: E402

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("default")]
CLASSES, ROWS, BATCH = 4, 48, 8


class Stream(IterableDataset[dict[str, Any]]):
    """Samples that say which row they are."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(ROWS):
            image, text = torch.full((3,), float(row)), torch.full((2,), 100.0 + row)
            yield {"image": image, "text": text, "label": row % CLASSES}


def uniform() -> MisalignAugment:
    return MisalignAugment(("image", "text"), CLASSES, confidence="uniform", seed=0)


def make(dispatch: bool | None = None) -> Any:
    config = accelerate.utils.DataLoaderConfiguration(dispatch_batches=dispatch)
    return accelerate.Accelerator(cpu=True, dataloader_config=config)


def check(out: Any) -> list[int]:
    """Both modalities come from the rows of this batch; the rows."""
    own = out["image"][out.aligned, 0]
    assert torch.equal(out["image"][:, 0], own[out.source[:, 0]])
    assert torch.equal(out["text"][:, 0] - 100, own[out.source[:, 1]])
    return own.long().tolist()


@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (1, "spawn")])
@pytest.mark.parametrize("confidence", ["uniform", "logits"])
def test_a_batch_that_accelerate_dispatches_is_refused(workers, context, confidence):
    augment = MisalignAugment(("image", "text"), CLASSES, confidence=confidence, seed=0)
    options = {"num_workers": workers, "multiprocessing_context": context}
    loader = make().prepare(DataLoader(Stream(), BATCH, collate_fn=augment.collate(), **options))
    message = r"IterableDataset.*DataLoaderConfiguration\(dispatch_batches=False\)"
    with pytest.raises(MidasAugError, match=message):
        next(iter(loader))


def test_without_dispatch_iterable_data_is_augmented():
    loader = make(False).prepare(DataLoader(Stream(), BATCH, collate_fn=uniform().collate()))
    assert [row for out in loader for row in check(out)] == list(range(ROWS))


def test_without_dispatch_every_process_augments_batches_of_its_own():
    rows = []
    for process in range(2):
        loader = prepare_data_loader(
            DataLoader(Stream(), BATCH, collate_fn=uniform().collate()),
            num_processes=2,
            process_index=process,
            dispatch_batches=False,
            rng_types=[],
        )
        rows.append([row for out in loader for row in check(out)])
    assert len(rows[0]) == len(rows[1]) == ROWS // 2
    assert sorted(rows[0] + rows[1]) == list(range(ROWS))


def test_what_is_dispatched_can_be_augmented_in_the_loop_beside_another_loader():
    augment = uniform()
    dispatched = make().prepare(DataLoader(Stream(), BATCH))
    another = DataLoader(Stream(), BATCH, collate_fn=augment.collate())
    rows = []
    for batch in dispatched:
        rows += check(augment(batch))
        assert check(next(iter(another))) == list(range(BATCH))
    assert rows == list(range(ROWS))


def test_a_table_is_saved_beside_the_model(tmp_path):
    accelerator, table = make(), TableConfidence(("image", "text"), ROWS)
    accelerator.register_for_checkpointing(table)
    before = torch.rand(ROWS, 2)
    table.update(torch.arange(ROWS), before)
    accelerator.save_state(str(tmp_path))
    table.update(torch.arange(ROWS), torch.zeros(ROWS, 2))
    accelerator.load_state(str(tmp_path))
    assert torch.equal(table.table, before)
