"""emoji-3, from drawings that are made up."""

import io

import numpy as np
from PIL import Image

from benchmarks.compare import data
from benchmarks.compare.data import images
from benchmarks.compare.data.emoji3 import assemble, code

SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="72" height="72">'
    b'<rect width="72" height="72" fill="#00ff00"/></svg>'
)


def png(color):
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), color).save(file, "PNG")
    return file.getvalue()


def emoji(name, image, subcategory="face", category="Smileys"):
    return {"name": name, "image": image, "subcategory": subcategory, "category": category}


LIST = [
    emoji("GRINNING FACE", "1f600.png"),
    emoji("WHITE SMILING FACE", "263a-fe0f.png"),
    emoji("DRAWN BY ONE", "1f601.png"),
    emoji("COMPASS", "1f9ed.png", subcategory="map"),
    emoji("FLAG OF NOWHERE", "1f1e6-1f1e8.png", category="Flags"),
]
RED = {code(one["image"]): png("red") for one in LIST}
GREEN = {key: SVG for key in RED if key != "1f601"}


def test_an_emoji_has_a_row_for_each_drawing_and_they_stay_together():
    dataset = assemble(LIST, {"red": RED, "green": GREEN}, smallest=1)
    assert dataset.classes == ("face", "map")
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert dataset.groups.tolist() == [0, 0, 1, 1, 2, 2]
    image = dataset.inputs["image"]
    assert image.shape == (6, 3, 32, 32)
    assert (image[::2].mean(axis=(0, 2, 3)) == [255, 0, 0]).all()
    assert (image[1::2].mean(axis=(0, 2, 3)) == [0, 255, 0]).all()
    names = dataset.inputs["name"]
    assert np.array_equal(names[::2], names[1::2])
    assert (names > 0).sum(axis=1).tolist() == [2, 2, 3, 3, 1, 1]
    assert set(names[0]) & set(names[2]) - {0}  # both are faces


def test_small_subgroups_are_left_out():
    dataset = assemble(LIST, {"red": RED, "green": GREEN}, smallest=2)
    assert dataset.classes == ("face",)


def test_sets_agree_on_a_code_however_they_write_it():
    assert code("package/img/google/64/263a-fe0f.png") == code("package/color/svg/263A.svg")
    assert code("1f600.png") != code("1f601.png")


def test_a_picture_may_be_small_and_of_either_kind():
    for picture in (png("blue"), SVG):
        assert images.draw(picture, 8).shape == (3, 8, 8)
        assert images.draw(picture).shape == (3, images.SIZE, images.SIZE)


def test_its_recipe_has_the_shapes_that_are_built():
    dataset = assemble(LIST, {"red": RED, "green": GREEN}, smallest=1)
    shapes = {name: values.shape[1:] for name, values in dataset.inputs.items()}
    assert shapes == data.DATASETS["emoji-3"].shapes
