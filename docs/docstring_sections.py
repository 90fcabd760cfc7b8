"""For the reference: sections of docstrings may follow one another without an empty line, as they do in the source."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"(?<=[^\n])\n(?=(?:Args|Attributes|Returns|Raises|Yields|Example):\n)")


class Sections(griffe.Extension):
    """Puts the empty line there that the parser looks for, and calls an example what it calls one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Every module, class, function and attribute as it is read."""
        if obj.docstring is not None:
            text = SECTION.sub("\n\n", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)
