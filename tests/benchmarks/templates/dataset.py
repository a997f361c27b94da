"""A data set of the comparison. Copy it to benchmarks/compare/data/NAME.py and the test to
tests/benchmarks/compare/test_NAME.py, and fill in what fails.

Then: a line in DATASETS and in the table of benchmarks/compare/data/__init__.py, and a task in
benchmarks/compare/tasks.py. A package manager has to have the data, under a licence that allows
what is done with it; `download.Package` pins its version and its SHA-256.

| source | licence |
| --- | --- |
| fill in | fill in |
"""

from benchmarks.compare.data.base import Recipe, check

SOURCE_AND_LICENCE = ""  # fill in: the same as in the table above


def build():
    """Make the arrays from what was downloaded, the same on every machine."""
    raise NotImplementedError("fill in: a Dataset of inputs by modality, labels, classes, groups")


RECIPE = Recipe(build, shapes={}, rows="fill in: what `check` found, once you have looked at it")


def test_it_is_what_its_recipe_promises():
    check(build(), RECIPE)


def test_it_says_where_it_is_from():
    assert SOURCE_AND_LICENCE, "fill in: the source and the licence"


def test_every_class_has_rows_and_no_group_decides_a_class():
    dataset = build()
    assert set(dataset.labels.tolist()) == set(range(len(dataset.classes)))
    if dataset.groups is not None:  # a split by group has each class in each part
        for place in range(len(dataset.classes)):
            assert len(set(dataset.groups[dataset.labels == place].tolist())) >= 3
