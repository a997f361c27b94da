"""Input augmentation: what it does to a row, and that a seed decides it."""

import kanji
import pytest
import torch

from benchmarks.compare.augment import BatchAugment, RandomCrop, ShiftAndMask, WordDropout


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramps(rows=64, size=16):
    """Pictures whose two channels tell where a pixel was, across and down."""
    line = torch.linspace(-1, 1, size)
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([across, down]).expand(rows, 2, size, size)


def test_a_crop_is_a_part_of_the_picture_in_its_bounds():
    crops = RandomCrop(0.5)(ramps(), generator())
    assert crops.shape == (64, 2, 16, 16)
    assert float(crops.abs().max()) <= 1 + 1e-6
    across, down = (
        crops[:, 0, :, 15] - crops[:, 0, :, 0],
        crops[:, 1, 15] - crops[:, 1, 0],
    )
    assert bool((across > 0).all())  # never mirrored
    area = across[:, 0] * down[:, 0] / 4
    assert 0.4 < float(area.min()) < 0.65
    assert 0.9 < float(area.max()) <= 1.01
    assert float(area.std()) > 0.05


def test_a_crop_of_everything_is_the_picture_up_to_its_proportions():
    crops = RandomCrop(1.0)(ramps(), generator())
    assert float((crops[:, 0].amax(dim=(1, 2)) - crops[:, 0].amin(dim=(1, 2))).min()) > 1.6


def test_half_of_the_crops_are_mirrored_if_asked():
    crops = RandomCrop(0.5, flip=True)(ramps(400), generator())
    mirrored = crops[:, 0, 0, 15] < crops[:, 0, 0, 0]
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    assert bool((crops[:, 1, 15] > crops[:, 1, 0]).all())


def test_a_shift_moves_all_channels_alike_and_fills_with_zero():
    series = torch.arange(1.0, 21).expand(50, 3, 20)
    moved = ShiftAndMask(shift=0.25, mask=0.0)(series, generator())
    assert bool((moved == moved[:, :1]).all())
    moves = set()
    for row in moved[:, 0]:
        seen = row[row > 0]
        assert bool((seen.diff() == 1).all())
        place = int(row.nonzero()[0])
        moves.add(place - int(seen[0]) + 1)
        assert 15 <= len(seen) <= 20
    assert min(moves) < 0 < max(moves)
    assert max(map(abs, moves)) <= 5


def test_a_mask_blanks_one_stretch():
    masked = ShiftAndMask(shift=0.0, mask=0.3)(torch.ones(200, 2, 20), generator())
    blanks = (masked[:, 0] == 0).sum(dim=1)
    assert set(blanks.tolist()) == set(range(7))
    for row in masked[:, 0]:
        edges = torch.nn.functional.pad(row, (1, 1), value=1.0).diff().abs().sum()
        assert float(edges) in (0.0, 2.0)


def test_words_are_dropped_at_the_rate_and_no_other_word_appears():
    words = torch.arange(1, 13).expand(500, 12)
    kept = WordDropout(0.4)(words, generator())
    assert bool(((kept == words) | (kept == 0)).all())
    assert 0.37 < float((kept == 0).float().mean()) < 0.43


@pytest.mark.parametrize(
    ("augment", "values"),
    [
        (RandomCrop(0.5), ramps(4).clone()),
        (ShiftAndMask(0.2, 0.2), torch.randn(4, 2, 20)),
        (WordDropout(0.5), torch.arange(1, 41).view(4, 10)),
    ],
)
def test_the_input_is_left_alone_and_the_generator_decides(augment, values):
    before = values.clone()
    first, again, other = (augment(values, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(values, before)
    assert first.dtype == values.dtype
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_draws_the_same_wherever_the_run_started():
    batch = {"words": torch.arange(1, 201).view(10, 20), "other": torch.randn(10, 3)}
    whole, resumed = (BatchAugment({"words": WordDropout(0.5)}, seed=3) for _ in range(2))
    drawn = []
    for epoch in range(3):
        whole.start_epoch(epoch)
        drawn.append([whole(batch)["words"] for _ in range(2)])
    resumed.start_epoch(2)
    assert torch.equal(resumed(batch)["words"], drawn[2][0])
    assert torch.equal(resumed(batch)["words"], drawn[2][1])
    assert not torch.equal(drawn[2][0], drawn[2][1])
    assert not torch.equal(drawn[1][0], drawn[2][0])
    assert resumed(batch)["other"] is batch["other"]


def test_no_augmentation_passes_the_batch_on():
    batch = {"other": torch.randn(10, 3)}
    nothing = BatchAugment(None, seed=0)
    nothing.start_epoch(0)
    assert nothing(batch)["other"] is batch["other"]


def test_the_demo_crops_as_the_comparison_does():
    pictures = torch.rand(7, 1, 32, 32)
    torch.testing.assert_close(
        kanji.crop(pictures, generator()), RandomCrop(kanji.SMALLEST_CROP)(pictures, generator())
    )
