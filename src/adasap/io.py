"""Files: written whole or not at all, and read with suspicion, since they may come from anybody."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from adasap.errors import AdasapError

MOST_BYTES = 1 << 29
"""A text file above half a gigabyte is refused; COCO's largest annotation file has 470 MB."""
MOST_YAML = 100_000
MOST_NODES = 200_000
MOST_DEPTH = 60
MOST_DIGITS = 400
_PLAIN = {
    "ScalarNode": ("null", "bool", "int", "float", "str", "merge"),
    "SequenceNode": ("seq",),
    "MappingNode": ("map",),
}
"""Kinds of YAML nodes -> the tags that are read."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends without an error.

    It is written beside `path`, flushed to the disk and renamed. If anything fails (a full disk, an
    interrupt), the old file stays as it was and the unfinished one is removed.

    Raises:
        OSError: If the folder is missing or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder) / "report.json") as file:
        ...         _ = file.write(b"{}")
        ...     sorted(os.listdir(folder))
        ['report.json']
    """
    target = Path(os.path.realpath(path))  # through a link, so that the link stays one
    unfinished = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every system can flush a folder; the file itself is safe
        _flush_folder(target.parent)


@contextmanager
def staged_write(path: str | Path) -> Iterator[Path]:
    """A path in a folder of its own; after the block, unless it raised, what lies there moves to `path` and beside it.

    For files that come in twos, such as a graph and its weights: all are flushed to the disk, then renamed one by one,
    `path` last. If anything fails before that, older files stay as they were and the folder is removed.

    Raises:
        OSError: If the folder is missing or the disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with staged_write(Path(folder) / "net.xml") as file:
        ...         _ = file.write_text("<net/>"), file.with_suffix(".bin").write_bytes(b"1")
        ...     sorted(os.listdir(folder))
        ['net.bin', 'net.xml']
    """
    target = Path(os.path.realpath(path))  # through a link, so that the link stays one
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent))
    try:
        yield stage / target.name
        written = sorted(stage.iterdir(), key=lambda one: one.name == target.name)
        for one in written:
            with one.open("rb") as file:
                os.fsync(file.fileno())
        for one in written:
            os.replace(one, target.parent / one.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    with contextlib.suppress(OSError):  # as above
        _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_text(path: str | Path, *, what: str, error: type[AdasapError], most_bytes: int = MOST_BYTES) -> str:
    """The text of a file somebody else may have written: UTF-8, a byte-order mark at its start is dropped.

    Args:
        path: The file.
        what: What it should be, for messages, such as `a recipe`.
        error: What is raised for a file that cannot be read.
        most_bytes: A larger file is refused before it is read.

    Example:
        >>> from adasap.errors import DataError
        >>> read_text("nowhere.json", what="a latency table", error=DataError)
        Traceback (most recent call last):
        adasap.errors.DataError: nowhere.json does not exist; give the path of a latency table
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise error(f"{path} is a folder or a device; give the path of {what}")
        if (size := os.path.getsize(path)) > most_bytes:
            raise error(f"{path} has {size:,} bytes; {what} has at most {most_bytes:,}")
        return Path(path).read_bytes().decode("utf-8-sig")
    except AdasapError:  # raised above; most are ValueErrors, too
        raise
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise error(f"{path} does not exist; give the path of {what}") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8 text (byte {cause.start}); save {what} as UTF-8") from cause
    except (OSError, ValueError) as cause:  # ValueError: a zero byte in the path
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"{path} cannot be read ({reason or cause}); give the path of {what}") from cause


def parse_json(text: str, *, where: str, error: type[AdasapError]) -> Any:
    """JSON as the standard has it: no NaN or infinity (as a word or as `1e400`), no key twice, no bottomless nesting.

    Args:
        text: The JSON.
        where: The file or place, which begins every message.
        error: What is raised.

    Example:
        >>> from adasap.errors import DataError
        >>> parse_json('{"milliseconds": 1e400}', where="table.json", error=DataError)
        Traceback (most recent call last):
        adasap.errors.DataError: table.json is not valid JSON: the number 1e400 is not finite
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice = next(key for key in found if sum(key == other for other, _ in items) > 1)
            raise ValueError(f"the key {twice[:80]!r} is given twice")
        return found

    def constant(word: str) -> float:
        raise ValueError(f"the number {word} is not finite")

    def real(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else constant(digits[:40])

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"a number has {len(digits):,} digits; at most {MOST_DIGITS} are read")
        return int(digits)

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=real, parse_int=whole)
    except RecursionError as cause:
        raise error(f"{where} is not valid JSON: it is nested too deeply") from cause
    except ValueError as cause:
        raise error(f"{where} is not valid JSON: {cause}") from cause


def read_json(path: str | Path, *, what: str, error: type[AdasapError], most_bytes: int = MOST_BYTES) -> Any:
    """`read_text` and `parse_json` together."""
    return parse_json(read_text(path, what=what, error=error, most_bytes=most_bytes), where=str(path), error=error)


def parse_yaml(text: str, *, where: str, error: type[AdasapError]) -> Any:
    """Plain values, as JSON has them; no key twice, no number that is not finite, no bomb of aliases.

    `1e-3` is a number, as YAML 1.2 has it, and a date is text.

    Args:
        text: The YAML.
        where: The file or place, which begins every message.
        error: What is raised.

    Example:
        >>> from adasap.errors import DataError
        >>> parse_yaml("a: 1\\na: 2", where="recipe.yaml", error=DataError)
        Traceback (most recent call last):
        adasap.errors.DataError: recipe.yaml is not valid YAML: line 2: the key 'a' is given twice
    """
    import yaml

    if len(text) > MOST_YAML:
        raise error(f"{where} has {len(text):,} characters; YAML of at most {MOST_YAML:,} is read")
    try:
        node = yaml.compose(text, Loader=_yaml_dialect(yaml.SafeLoader))
        if node is None:
            return None
        _check_yaml(node)
        value = _yaml_values(node)
    except RecursionError as cause:
        raise error(f"{where} is not valid YAML: it is nested too deeply") from cause
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError, LookupError) as cause:
        raise error(f"{where} is not valid YAML: {cause}") from cause
    return value


def _check_yaml(root: Any) -> None:
    """ValueError for keys given twice, huge or infinite numbers, deep nesting, and aliases that multiply."""
    import yaml

    visits = 0

    def visit(node: Any, depth: int, above: frozenset[int]) -> None:
        nonlocal visits
        visits += 1
        line = node.start_mark.line + 1
        if visits > MOST_NODES:
            raise ValueError(f"line {line}: its aliases (`*name`) unfold to over {MOST_NODES:,} values")
        if depth > MOST_DEPTH or id(node) in above:
            raise ValueError(f"line {line}: it is nested deeper than {MOST_DEPTH} levels")
        if node.tag.rpartition(":")[2] not in _PLAIN[type(node).__name__]:
            raise ValueError(f"line {line}: {node.tag[:80]!r} is not read; give text, numbers, true, false, null")
        inside = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            seen: set[str | float] = set()
            for key, value in node.value:
                _check_key(key, seen)
                visit(key, depth + 1, inside)
                visit(value, depth + 1, inside)
        elif isinstance(node, yaml.SequenceNode):
            for child in node.value:
                visit(child, depth + 1, inside)
        elif node.tag.endswith((":int", ":float")):
            if len(node.value) > MOST_DIGITS:
                raise ValueError(f"line {line}: a number has {len(node.value):,} characters")
            if node.tag.endswith(":float") and not math.isfinite(_yaml_values(node)):
                raise ValueError(f"line {line}: the number {node.value} is not finite")

    visit(root, 0, frozenset())


def _check_key(key: Any, seen: set[str | float]) -> None:
    """ValueError unless a key is text or a number that was not there before; merging (`<<`) may be repeated."""
    line, name = key.start_mark.line + 1, str(key.value)
    if key.tag.endswith(":merge"):
        return
    if not key.tag.endswith((":str", ":int", ":float")):
        raise ValueError(f"line {line}: the key {name[:80]} is not text; put it in quotes")
    value = name if key.tag.endswith(":str") or len(name) > MOST_DIGITS else _yaml_values(key)  # 16 is 0x10
    if value in seen:
        raise ValueError(f"line {line}: the key {name[:80]!r} is given twice")
    seen.add(value)


def _yaml_values(node: Any) -> Any:
    import yaml

    return yaml.constructor.SafeConstructor().construct_document(node)


def dump_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads back as the same value; keys stay in their order.

    Example:
        >>> dump_yaml({"name": "1e5", "rate": 1e-5})
        "name: '1e5'\\nrate: 1.0e-05\\n"
    """
    import yaml

    return str(yaml.dump(value, Dumper=_yaml_dialect(yaml.SafeDumper), sort_keys=False, allow_unicode=True))


@cache
def _yaml_dialect(base: Any) -> Any:
    """A loader or dumper of PyYAML, where `1e5` is a number and `2026-01-31` is text."""
    dialect: Any = type("Dialect", (base,), {})
    timestamp = "tag:yaml.org,2002:timestamp"
    dialect.yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] != timestamp]
        for first, resolvers in base.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z")
    dialect.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return dialect
