"""Results as JSON and the page made of them, both replaced at once so that a stopped script leaves whole files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adasap.io import atomic_write


def write_json(path: Path, results: Any, *, indent: int | None = 1) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(results, indent=indent) + "\n").encode())


def write_page(path: Path, parts: Sequence[str]) -> None:
    """Markdown blocks, an empty line between them; empty ones are left out."""
    with atomic_write(path) as file:
        file.write(("\n\n".join(part for part in parts if part) + "\n").encode())


def write_section(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a Markdown page."""
    before, opening, rest = path.read_text().partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- end of {name} -->")
    if not closing:
        raise ValueError(f"{path} has no section between <!-- {name} --> and <!-- end of {name} -->; add both lines")
    with atomic_write(path) as file:
        file.write(f"{before}{opening}{text}\n{closing}{after}".encode())
