"""Let the API pages show what docstrings of this package have and Markdown does not know."""

import re
from typing import Any

import griffe

MATH = re.compile(r"^( *)\.\. math:: (.+(?:\n\1 +\S.*)*)$", flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite a docstring as it is read: ``Example:`` is code, and ``.. math::`` a formula."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one object."""
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)


def translate(docstring: str) -> str:
    """A docstring that Markdown and mkdocstrings read as it is meant."""
    docstring = re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE)
    return MATH.sub(r"\1```math\n\1\2\n\1```", docstring)
