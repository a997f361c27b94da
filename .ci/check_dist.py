"""What `make dist` has built holds what it should, and README can be read on an index."""

import email
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path

NEEDED = (  # by the tests and by make, in an unpacked sdist
    ".ci/constraints.txt", "LICENSE", "Makefile", "CONTRIBUTING.md", "mkdocs.yml",
    "benchmarks/results/full/README.md", "benchmarks/results/full/runs.jsonl",
    "docs/cookbook/table.md", "docs/images/idea-light.svg", "examples/data/digits.npz",
    "examples/data/README.md", "tests/conftest.py", "tests/helpers/reference.py",
)  # fmt: skip


README = Path(__file__).parents[1] / "README.md"


def main(folder: Path, readme: str | None = None) -> str:
    """Look at the one wheel and the one sdist of a folder; the version."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(metadata))
    strays = [name for name in names if not name.startswith(("midas_aug/", "midas_aug-"))]
    if strays or "midas_aug/py.typed" not in names:
        sys.exit(f"the wheel should hold midas_aug with py.typed and nothing else: {strays[:5]}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(set(NEEDED) - held):
        sys.exit(f"the sdist lacks {', '.join(missing)}")
    version = str(message["Version"])
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if os.environ.get("GITHUB_REF_TYPE") == "tag" and tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version {version}; tag v{version}")
    shown = bytes(message.get_payload(decode=True)).decode("utf-8")
    whole = README.read_text(encoding="utf-8") if readme is None else readme
    code = re.findall(r"```python.*?```", whole, re.DOTALL)
    if lost := [block for block in code if block not in shown]:
        sys.exit(f"on an index README would have other code:\n{lost[0]}")
    text = re.sub(r"```.*?```", "", shown, flags=re.DOTALL)
    if relative := re.findall(r"\]\((?!https://)[^)\s]+\)|<picture|<!--", text):
        sys.exit(f"on an index README would have dead links: {relative}")
    return version


if __name__ == "__main__":
    print("dist", main(Path(sys.argv[1])), "is whole")  # noqa: T201
