"""Seeded damage: to bytes, to text, to the values of a JSON or YAML tree, and to a safetensors header."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from typing import Any

NUMBERS = (
    "nan",
    ".nan",
    "inf",
    "-.inf",
    "1e400",
    "-1",
    "0",
    "1000000000",
    "1e9",
    "9" * 5000,
    "0x7fffffffffffffff",
    "1:2:3",
)
WORDS = (
    "true",
    "null",
    "~",
    '""',
    '"1"',
    "[]",
    "{}",
    "[[[[[[[[[[",
    "<fuzz onload=x>",
    "[bold]x[/]",
    "../../etc/passwd",
    "\\ud800",
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        0.5,
        -0.0,
        1e308,
        10**9,
        10**18,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "nan",
        "1",
    ),
    *("inf", "1e400", "x", "x" * 10_000, "<fuzz onload=x>", "[bold]x[/]", "[/]", "../../../etc/passwd", "/etc/passwd"),
    *(
        "os:system",
        "a\0b",
        "\u202e",
        "\n",
        [],
        {},
        [[]],
        [None],
        [1, 2, 3],
        {"a": {}},
        [0] * 1000,
        [10**9],
        [-1, 10**12],
    ),
)


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to three small injuries."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        size = len(changed)
        at = draw.randrange(size + 1)
        length = draw.choice((1, 2, 4, 8, 64))
        match draw.randrange(7):
            case 0 if size:
                changed[at % size] ^= 1 << draw.randrange(8)
            case 1:
                changed[at : at + length] = draw.randbytes(length)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = draw.randbytes(length)
            case 5:
                changed[at:at] = changed[: draw.randrange(64)]
            case _:
                changed[at : at + length] = b"\xff" * length
    return bytes(changed)


def damage_text(text: str, draw: random.Random) -> str:
    """A number, word, line or mark is replaced, doubled or lost."""
    for _ in range(draw.choice((1, 1, 2))):
        tokens = [(m.start(), m.end()) for m in re.finditer(r"-?\d[\d.e+-]*|\w+|[^\w\s]", text)]
        lines = text.splitlines(keepends=True)
        if not tokens:
            return draw.choice(WORDS)
        start, end = draw.choice(tokens)
        row = draw.randrange(len(lines))
        match draw.randrange(7):
            case 0:
                text = text[:start] + draw.choice(NUMBERS) + text[end:]
            case 1:
                text = text[:start] + draw.choice(WORDS) + text[end:]
            case 2:
                text = text[:start] + text[end:]
            case 3:
                text = "".join([*lines[:row], *lines[row + 1 :]])
            case 4:
                text = "".join([*lines[: row + 1], *lines[row:]])
            case 5:
                text = text[:start] + text[start:end] * draw.choice((2, 50)) + text[end:]
            case _:
                text = text[:start] + "[" * draw.choice((1, 20, 5000)) + text[start:]
    return text


def damage_tree(tree: Any, draw: random.Random) -> Any:
    """A copy in which one node holds something else, is lost, renamed, doubled or nested."""
    changed = copy.deepcopy(tree)
    places = [(holder, key) for holder in _holders(changed) for key in _keys(holder)]
    if not places:
        return draw.choice(VALUES)
    holder, key = draw.choice(places)
    value = holder[key]
    match draw.randrange(8):
        case 0 | 1 | 2 | 3:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        case 4:
            del holder[key]
        case 5 if isinstance(holder, dict):
            holder[draw.choice(("x", "", "__class__", f"{key} ", str(key).upper(), "<fuzz>"))] = holder.pop(key)
        case 5:
            holder.extend(copy.deepcopy(holder))
        case 6:
            for _ in range(draw.choice((1, 3, 200))):
                value = [value] if draw.random() < 0.5 else {"a": value}
            holder[key] = value
        case _:
            holder[key] = str(value) if not isinstance(value, str) else 7
    return changed


def damage_json(text: str, draw: random.Random) -> str:
    """JSON of a changed tree, or changed text."""
    if draw.random() < 0.3:
        return damage_text(text, draw)
    return json.dumps(damage_tree(json.loads(text), draw))


def damage_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Damaged bytes, or a header that says something else about the tensors or in its texts."""
    if draw.random() < 0.3:
        return damage_bytes(data, draw)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    texts = header.get("__metadata__", {})
    if texts and draw.random() < 0.6:
        key = draw.choice(sorted(texts))
        try:
            texts[key] = damage_json(texts[key], draw)
        except ValueError:
            texts[key] = damage_text(texts[key], draw)
    else:
        header = damage_tree(header, draw)
    return with_header(json.dumps(header).encode(errors="replace"), data[8 + length :])


def with_header(header: bytes, body: bytes) -> bytes:
    """A safetensors file."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + body


def _holders(tree: Any) -> list[Any]:
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict | list):
            found.append(node)
            todo.extend(node.values() if isinstance(node, dict) else node)
    return found


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))
