"""Let the API pages show an ``Example:`` section as code, which they do for ``Examples:`` alone."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rename the section as a docstring is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
