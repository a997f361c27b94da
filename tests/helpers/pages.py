"""The code of a page's section, for pages that go on from it."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"(?:```python|<!--- invisible-code-block: python)\n(.*?)(?:```|-->)", re.DOTALL)


def run_section(page: str, title: str, names: dict[str, Any]) -> None:
    """Run the blocks of a section, hidden ones too, as if they stood on the page of ``names``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = CODE.findall(section)
    if not blocks:
        raise ValueError(f"{page} has no code under {title!r}")
    for block in blocks:
        exec(block, names)
