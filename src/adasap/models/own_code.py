"""Code in the user's own module or file: imported, with errors of that code shown where they are."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from adasap.errors import AdasapError, suggestion


def imported(name: str, *, what: str, error: type[AdasapError]) -> Callable[..., Any]:
    """The function or class that `package.module:NAME` or `path/to/file.py:NAME` names; its code runs.

    The working folder, or that of the file, is put on the path of imports, as `python -m` does.

    Args:
        name: Where it is.
        what: What it is, for messages: `model`.
        error: What is raised if there is no such module or name, or the module itself fails: then with the line that
            failed.
    """
    source, _, attribute = name.rpartition(":")
    module = _of_file(Path(source), name, error) if source.endswith(".py") else _of_name(source, name, error)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{source} has no {what} {attribute!r}; {suggestion(attribute, known)}")
    code: Callable[..., Any] = found
    return code


def where_it_failed(error: BaseException) -> str:
    """File and line of the innermost code that is not of an installed package, if there is any, and the error itself.

    Example:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError as error:
        ...     where_it_failed(error).partition(":")[2]
        ' ZeroDivisionError: division by zero'
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    foreign = ("site-packages", "dist-packages", "<frozen", ours)
    own = [frame for frame in frames if not any(part in frame.filename for part in foreign)]
    place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"{place}{type(error).__name__}: {error}"


def _of_name(source: str, name: str, kind: type[AdasapError]) -> ModuleType:
    _on_path(Path.cwd())
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(f"{error.name}.")):
            raise kind(
                f"{name}: cannot import {source!r} ({error}); run from the folder that holds it, install it, or "
                f"give the file: path/to/file.py:NAME"
            ) from error
        raise kind(f"{name} failed when it was imported: {where_it_failed(error)}") from error
    except Exception as error:
        raise kind(f"{name} failed when it was imported: {where_it_failed(error)}") from error


def _of_file(path: Path, name: str, kind: type[AdasapError]) -> ModuleType:
    if not path.is_file():
        raise kind(f"{name}: there is no file {path}; write path/to/file.py:NAME")
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    module_name = path.stem if known is None else f"{path.stem}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _on_path(path.parent)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise kind(f"{name} failed when it was imported: {where_it_failed(error)}") from error
    return module


def _on_path(folder: Path) -> None:
    """At the front, once; it stays there, for what the code imports when it runs."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
