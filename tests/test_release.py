"""What a release rests on: one version, workflows that only call the Makefile, checked archives."""

import importlib.util
import io
import re
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import midas_aug

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = midas_aug.__version__


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_version_is_the_same_wherever_it_is_named():
    assert re.findall(r"^version: (\S+)$", text_of("CITATION.cff"), re.M) == [VERSION]
    assert re.findall(r"^## \[(\S+)\]", text_of("CHANGELOG.md"), re.M)[0] == VERSION
    assert "\nversion =" not in text_of("pyproject.toml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile_and_nothing_else(path):
    targets = set(re.findall(r"^(\w+):", text_of("Makefile"), re.M))
    commands = re.findall(r"\brun: (\S+ .*)$", path.read_text(encoding="utf-8"), re.M)
    assert commands or path.stem == "none"
    for command in commands:
        if command != "choco install make --no-progress":
            program, target, *_ = command.split()
            assert program == "make"
            assert target in targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_by_commit_and_a_job_may_only_read_unless_it_says_so(path):
    text = path.read_text(encoding="utf-8")
    actions = re.findall(r"uses: (.+)", text)
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)
    assert "\npermissions:\n  contents: read\n" in text


def test_an_action_has_one_version_in_all_workflows():
    texts = [path.read_text(encoding="utf-8") for path in WORKFLOWS]
    pins = {pin for text in texts for pin in re.findall(r"uses: (.+)", text)}
    assert len({pin.partition("@")[0] for pin in pins}) == len(pins)


def test_the_tests_run_on_each_system_and_each_python():
    text = text_of(".github/workflows/tests.yml")
    pythons = re.findall(r"Python :: (3\.\d+)", text_of("pyproject.toml"))
    assert all(f'"{python}"' in text for python in pythons)
    assert all(system in text for system in ("ubuntu", "macos", "windows"))


def test_the_oldest_versions_are_the_lower_bounds():
    (bounds,) = re.findall(r"^dependencies = \[(.*)\]$", text_of("pyproject.toml"), re.M)
    oldest = dict(re.findall(r"^(\S+)==(\S+)$", text_of(".ci/oldest.txt"), re.M))
    for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)"', bounds):
        assert f"{oldest.pop(name)}.".startswith(f"{bound}.")
    assert not oldest


def test_what_checks_style_before_a_commit_is_what_checks_it_afterwards():
    (pinned,) = re.findall(r"^ruff==(\S+)$", text_of(".ci/constraints.txt"), re.M)
    assert set(re.findall(r"ruff==([\d.]+)", text_of(".pre-commit-config.yaml"))) == {pinned}


@pytest.fixture
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_dist", ROOT / ".ci" / "check_dist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack(folder: Path, held: Any, readme: str = "", extra: str = "midas_aug/py.typed") -> Path:
    with zipfile.ZipFile(folder / "m.whl", "w") as wheel:
        wheel.writestr("midas_aug/py.typed", "")
        wheel.writestr("midas_aug-1.0.dist-info/METADATA", f"Version: 1.0\n\n{readme}")
        if extra != "midas_aug/py.typed":
            wheel.writestr(extra, "")
    with tarfile.open(folder / "m.tar.gz", "w:gz") as sdist:
        for name in held:
            sdist.addfile(tarfile.TarInfo(f"m-1.0/{name}"), io.BytesIO())
    return folder


def test_archives_are_checked(checker, tmp_path, monkeypatch):
    for name in ("GITHUB_REF_NAME", "GITHUB_REF_TYPE"):
        monkeypatch.delenv(name, raising=False)
    code = "```python\na[b](c)  # ½\n```"
    whole = f"{code}\n[d](https://e)"
    assert checker.main(pack(tmp_path, checker.NEEDED, whole), code) == "1.0"
    with pytest.raises(SystemExit, match="the sdist lacks LICENSE"):
        checker.main(pack(tmp_path, set(checker.NEEDED) - {"LICENSE"}))
    with pytest.raises(SystemExit, match=r"nothing else: \['tests/x"):
        checker.main(pack(tmp_path, checker.NEEDED, extra="tests/x.py"))
    with pytest.raises(SystemExit, match=r"dead links: .*\(docs/a.md\)"):
        checker.main(pack(tmp_path, checker.NEEDED, "[a](docs/a.md)"), "")
    with pytest.raises(SystemExit, match=r"other code:\n```python\na\[b\]\(c\)"):
        checker.main(pack(tmp_path, checker.NEEDED, "```python\nab\n```"), code)
    monkeypatch.setenv("GITHUB_REF_TYPE", "tag")
    monkeypatch.setenv("GITHUB_REF_NAME", "v0.9")
    with pytest.raises(SystemExit, match=r"tag v1\.0"):
        checker.main(pack(tmp_path, checker.NEEDED))


def test_the_address_of_the_repository_is_named_everywhere_or_nowhere():
    """Links of README on an index, too, go where the project's address says."""
    text = text_of("pyproject.toml")
    found = re.search(r"^\[project\.urls\]\n(?:.*\n)*?(?:\w+) = \"(https://[^\"]+)\"", text, re.M)
    rest = text.partition("[tool.hatch.metadata")[2]
    named = [text_of("CITATION.cff"), text_of("mkdocs.yml"), rest]
    assert all(found[1] in one if found else "github.com" not in one for one in named)
