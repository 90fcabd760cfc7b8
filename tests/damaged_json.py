"""JSON with one place altered, as a careless editor or a stranger leaves it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

STRANGE: tuple[Any, ...] = (None, "x", -1, True, [], {}, 10**400, 1e308, "", [None])


def damaged(content: Any, count: int, *, seed: int = 0) -> Iterator[Any]:
    """Copies of plain JSON, each with one value removed or replaced by something strange."""
    generator, places = random.Random(seed), list(_places(content, ()))
    for _ in range(count):
        *above, last = generator.choice(places)
        changed = copy.deepcopy(content)
        inside = changed
        for key in above:
            inside = inside[key]
        if generator.random() < 0.3:
            del inside[last]
        else:
            inside[last] = generator.choice(STRANGE)
        yield changed


def _places(value: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*above, key)
        yield from _places(inner, (*above, key))
