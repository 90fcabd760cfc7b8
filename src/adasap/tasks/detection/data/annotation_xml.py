"""XML of annotations as a tree: in any encoding, without namespaces, and without anything that could grow."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MOST_BYTES = 1 << 24
MOST_ELEMENTS = 300_000
MOST_DEPTH = 60
_MULTI_BYTE = ("gb2312", "gbk", "gb18030", "big5", "big5hkscs", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949")
"""Encodings of annotation tools that the XML parser does not know; single-byte ones it takes from Python."""


def read_xml(path: Path) -> Element:
    """The root of an XML file; tags without namespaces and prefixes.

    A document type, and with it every declared entity, is refused where it begins, before anything is expanded.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not XML, is too large or too deep, or declares a document type.
    """
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    return _parse(*_readable(content.lstrip(b" \t\r\n")))


def _readable(content: bytes) -> tuple[bytes, str | None]:
    """The content with its encoding, where the parser has to be told; decoded anew where it does not know it."""
    declared = re.match(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})", content)
    if declared is None:
        return content, None
    try:
        name = codecs.lookup(declared[1].decode()).name
    except LookupError as error:
        raise ValueError(f"unknown encoding {declared[1]!r}") from error
    return (content.decode(name).encode(), "utf-8") if name in _MULTI_BYTE else (content, None)


def _parse(content: bytes, encoding: str | None) -> Element:
    builder, parser = TreeBuilder(), expat.ParserCreate(encoding)
    depth = elements = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEPTH or elements > MOST_ELEMENTS:
            raise ValueError(f"more than {MOST_DEPTH} levels or {MOST_ELEMENTS:,} elements")
        builder.start(tag.rpartition(":")[2], attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(":")[2])

    def refuse(*_: Any) -> None:
        raise ValueError("a document type or an entity is declared")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
        return builder.close()
    except expat.ExpatError as error:
        raise ValueError(f"not XML: {error}") from error
    except LookupError as error:
        raise ValueError(f"unknown encoding: {error}") from error
