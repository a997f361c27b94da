"""The package, its benchmarks and its examples hang together as they are meant to."""

from pathlib import Path

import pytest

from tests.helpers.source_checks import (
    import_circles,
    imported_by,
    imports_across,
    longer_than,
    private_uses,
    read_sources,
    unmirrored_folders,
)

ROOT = Path(__file__).parents[1]
WINGS = ("compare", "paper", "speed")
SHARED = ("common", "methods")  # each may import those before it
MAX_LINES = 400

# Private modules that someone outside the package imports, and why.
LENT = {"midas_aug._files": "one writer of whole files for the package and its benchmarks"}

METHOD_TESTS = ROOT / "tests" / "benchmarks" / "methods"

# What the methods are made of, tested with them.
WITH_THE_METHODS = ("base", "divergence", "entries", "suite_entries", "training")

# Folders of the benchmarks whose tests are those of the folder above.
UNMIRRORED = ("compare/data", "compare/report", "paper/datasets")


@pytest.fixture(scope="module")
def sources():
    return read_sources(ROOT, "midas_aug", "benchmarks", "examples")


def of(sources, folder):
    return {path: text for path, text in sources.items() if path.startswith(f"{folder}/")}


def test_nothing_imports_in_a_circle(sources):
    assert import_circles(sources) == []


def test_a_planted_circle_is_found():
    planted = {
        "midas_aug/__init__.py": "from midas_aug.a import A",
        "midas_aug/a.py": "from midas_aug.b import B",
        "midas_aug/b.py": "if TYPE_CHECKING:\n    from midas_aug import c",
        "midas_aug/c.py": "def late():\n    import midas_aug.a",
        "midas_aug/d.py": "from midas_aug.a import A",
    }
    assert import_circles(planted) == [["midas_aug.a", "midas_aug.b", "midas_aug.c"]]
    planted["midas_aug/c.py"] = "from . import a"
    assert import_circles(planted) == [["midas_aug.a", "midas_aug.b", "midas_aug.c"]]
    planted["midas_aug/c.py"] = ""
    assert import_circles(planted) == []
    planted["midas_aug/a.py"] = "import midas_aug"
    assert import_circles(planted) == [["midas_aug", "midas_aug.a"]]


def test_no_wing_of_the_benchmarks_imports_another(sources):
    wings = of(sources, "benchmarks")
    for wing in (*WINGS, *SHARED):
        assert of(wings, f"benchmarks/{wing}"), f"there is no wing {wing}"
    assert imports_across(wings, "benchmarks", WINGS, SHARED) == []


@pytest.mark.parametrize(
    ("path", "text", "finding"),
    [
        ("benchmarks/paper/run.py", "from benchmarks.compare import tasks", "compare"),
        ("benchmarks/paper/run.py", "def f():\n    import benchmarks.speed.step", "speed"),
        ("benchmarks/methods/a.py", "from benchmarks import paper", "paper"),
        ("benchmarks/common/a.py", "from benchmarks.methods.midas import Midas", "methods"),
        ("benchmarks/paper/run.py", "from benchmarks.methods.midas import Midas", None),
        ("benchmarks/methods/a.py", "from benchmarks.common import model", None),
        ("benchmarks/__main__.py", "from benchmarks.paper import run", None),
    ],
)
def test_a_planted_import_across_wings_is_found(path, text, finding):
    found = imports_across({path: text}, "benchmarks", WINGS, SHARED)
    assert found == ([] if finding is None else [f"{path} imports benchmarks.{finding}"])


def test_nobody_touches_the_private_parts_of_another_module(sources):
    found = private_uses(sources)
    lent = [one for one in found if one.split()[-1] in LENT]
    assert [one for one in found if one not in lent] == []
    assert {one.split()[-1] for one in lent} == LENT.keys()


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        ("benchmarks/a.py", "def f(out):\n    return out._data", ["out._data"]),
        ("benchmarks/a.py", "def f(out):\n    out._data = 1", ["out._data"]),
        ("benchmarks/a.py", "def f(out):\n    out.a[0]._data += 1", ["out.a[0]._data"]),
        ("benchmarks/a.py", "def f(out):\n    return getattr(out, '_data', 0)", ["out._data"]),
        ("benchmarks/a.py", "class A:\n    def f(self):\n        self.out._x()", ["self.out._x"]),
        ("midas_aug/b.py", "from midas_aug._a import _f", ["midas_aug._a._f"]),
        ("midas_aug/b.py", "from midas_aug._a import f", []),
        ("midas_aug/b.py", "from midas_aug import _a", []),
        ("benchmarks/b.py", "from midas_aug._a import f", ["midas_aug._a"]),
        ("benchmarks/b.py", "import midas_aug._a", ["midas_aug._a"]),
        ("midas_aug/b.py", "from torch._dynamo import f", ["torch._dynamo"]),
        ("midas_aug/b.py", "from torch.utils._python_dispatch import f", []),
        ("midas_aug/b.py", "import torch\ntorch._C._other()", ["torch._C._other"]),
        ("midas_aug/b.py", "row._asdict(), row._fields, row._replace(a=1), os._exit(1)", []),
        ("midas_aug/b.py", "other.__dict__, other.__class__", []),
        ("midas_aug/b.py", "class A:\n    _x = 1\n    def f(self, o):\n        return o._x", []),
        ("midas_aug/b.py", "class A:\n    def __init__(self):\n        self._x = 1\nA()._x", []),
        ("midas_aug/b.py", "class A:\n    def f(self):\n        super()._x()\n        self._y", []),
    ],
)
def test_a_planted_use_of_a_private_name_is_found(path, text, names):
    sources = {"midas_aug/_a.py": "", path: text}
    assert [one.split()[-1] for one in private_uses(sources)] == names


def test_no_file_of_the_package_is_too_long(sources):
    assert not longer_than(of(sources, "midas_aug"), MAX_LINES)


def test_a_planted_long_file_is_found():
    planted = {"midas_aug/a.py": "a\n" * 400, "midas_aug/b.py": "a\n" * 401}
    assert longer_than(planted, 400) == ["midas_aug/b.py"]


def test_the_tests_mirror_the_folders_of_the_package(sources):
    tests = read_sources(ROOT, "tests")
    own = {path: text for path, text in tests.items() if not path.startswith("tests/benchmarks/")}
    assert unmirrored_folders(of(sources, "midas_aug"), own) == []


def test_the_tests_mirror_the_folders_of_the_benchmarks(sources):
    tests = read_sources(ROOT, "tests/benchmarks")
    found = unmirrored_folders(of(sources, "benchmarks"), tests, "tests/benchmarks")
    assert [one for one in found if not one.startswith(UNMIRRORED)] == []


@pytest.mark.parametrize(
    ("package", "tests", "findings"),
    [
        (["midas_aug/a.py", "midas_aug/__init__.py"], ["tests/test_b.py"], 0),
        (["midas_aug/a/b.py"], ["tests/a/test_c.py"], 0),
        (["midas_aug/a/b.py"], ["tests/test_a.py"], 0),
        (["midas_aug/a/b/c.py", "midas_aug/a/c.py"], ["tests/a/test_b.py"], 0),
        (["midas_aug/a/b.py"], ["tests/test_b.py", "tests/a/helpers.py"], 1),
        (["midas_aug/b.py"], ["tests/a/test_b.py"], 1),
    ],
)
def test_a_planted_folder_without_tests_is_found(package, tests, findings):
    assert len(unmirrored_folders(package, tests)) == findings


def test_every_method_of_the_benchmarks_has_a_test_file_of_its_own(sources):
    methods = {Path(path).stem for path in of(sources, "benchmarks/methods")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in METHOD_TESTS.glob("test_*.py")}
    assert methods - tests == set(WITH_THE_METHODS)
    assert tests - methods == {"every_method"}


def test_the_tests_of_the_package_need_no_benchmarks():
    assert importing(read_sources(ROOT, "tests"), "benchmarks") == []


def test_a_planted_import_of_the_benchmarks_is_found():
    planted = {
        "tests/test_a.py": "def test():\n    from benchmarks.common import model",
        "tests/helpers/b.py": "import benchmarks",
        "tests/benchmarks/test_c.py": "import benchmarks.paper",
        "tests/test_d.py": "import midas_aug\nfrom tests.benchmarks.helpers import x",
        "tests/test_e.py": "from tests.helpers import benchmarks_of",
    }
    assert importing(planted, "benchmarks") == [
        "tests/helpers/b.py",
        "tests/test_a.py",
        "tests/test_d.py",
    ]


def importing(tests, package):
    """The tests outside a package's own folder that import it."""
    return sorted(
        path
        for path, text in tests.items()
        if not path.startswith(f"tests/{package}/")
        and any(
            f"{name}.".startswith((f"{package}.", f"tests.{package}."))
            for name in imported_by(text)
        )
    )
