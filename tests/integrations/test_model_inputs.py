"""What `MidasTrainer` makes of a batch, which needs no trainer: inputs by modality, swapped."""

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.integrations._inputs import MISALIGNED, InputCollate, inputs_by_modality

CLASSES, ROWS = 3, 6
KEYS = {"image": "pixels", "text": ["ids", "mask"]}
NAMES = ("image", "text")
GROUPS = {"image": ("pixels",), "text": ("ids", "mask")}
OPTIONS: dict[str, Any] = {"label": "labels", "confidence": "uniform", "hardness": None, "seed": 0}


def samples() -> list[dict[str, Any]]:
    """Every input says the row that it comes from."""
    return [
        {
            "pixels": torch.full((2,), float(row)),
            "ids": torch.full((3,), row),
            "mask": torch.full((3,), row),
            "labels": row % CLASSES,
            "extra": row,
        }
        for row in range(ROWS)
    ]


def collate(modalities: Any, inputs: Any = None, **options: Any) -> dict[str, Any]:
    augment = MisalignAugment(modalities, CLASSES, **OPTIONS)
    return InputCollate(augment, default_collate, inputs_by_modality(inputs, augment), **options)(
        samples()
    )


@pytest.mark.parametrize(
    ("modalities", "inputs"),
    [
        (KEYS, None),
        (KEYS, KEYS),
        (KEYS, {"text": ["mask", "ids"], "image": ("pixels",)}),
        (NAMES, KEYS),
        (NAMES, {"image": ["pixels"], "text": ["ids", "mask"]}),
    ],
)
def test_all_inputs_of_a_modality_are_swapped_together(modalities, inputs):
    batch = collate(modalities, inputs)
    assert set(batch) == {"pixels", "ids", "mask", "labels", "extra", MISALIGNED}
    source, anchor = batch[MISALIGNED].source, batch[MISALIGNED].anchor
    assert len(source) == 3 * ROWS
    assert torch.equal(batch["pixels"][:, 0].long(), source[:, 0])
    assert torch.equal(batch["ids"][:, 0], source[:, 1])
    assert torch.equal(batch["mask"], batch["ids"])
    assert torch.equal(batch["extra"], anchor)
    assert torch.equal(source, collate(KEYS)[MISALIGNED].source)


def test_inputs_that_are_modalities_need_no_mapping():
    batch = collate(("pixels", "mask"))
    source = batch[MISALIGNED].source
    assert torch.equal(batch["pixels"][:, 0].long(), source[:, 0])
    assert torch.equal(batch["mask"][:, 0], source[:, 1])


@pytest.mark.parametrize("modalities", [KEYS, NAMES])
def test_the_model_gets_what_it_takes_and_an_input_comes_first(modalities):
    batch = collate(modalities, KEYS, taken={"extra", "pixels", "mask"})
    assert list(batch) == ["pixels", "mask", "extra", MISALIGNED]


@pytest.mark.parametrize(
    ("modalities", "inputs", "message"),
    [
        (NAMES, {"image": "pixels"}, r"modalities \('image', 'text'\), got those of \('image',\)"),
        (NAMES, {"image": "pixels", "text": ["ids", "pixels"]}, "each input in one modality"),
        (NAMES, ["pixels", "ids"], r"inputs to map each modality .* got \['pixels', 'ids'\]"),
        (NAMES, "pixels", "inputs to map each modality .* got 'pixels'"),
        (NAMES, {}, r"inputs to map each modality .* got \{\}"),
        (NAMES, {"image": "pixels", "text": None}, "inputs to map each modality"),
        (KEYS, {"image": "pixels", "text": "ids"}, r"keys of the augmentation, .*leave inputs out"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(modalities, inputs, message):
    augment = MisalignAugment(modalities, CLASSES, **OPTIONS)
    assert inputs_by_modality(KEYS, augment) == GROUPS
    with pytest.raises(MidasAugError, match=message):
        inputs_by_modality(inputs, augment)


def test_an_input_that_a_batch_lacks_is_named():
    with pytest.raises(MidasAugError, match=r"found no \['pixels'\].*remove_unused_columns=False"):
        collate(KEYS, kept={"ids", "mask", "labels"})
