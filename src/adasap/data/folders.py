"""Finds image files in folders, one folder per class, and tells what was passed over."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from adasap.data.files import EXTENSIONS, ImageFiles
from adasap.data.splits import say_folders
from adasap.errors import DataError

_OF_SYSTEMS = frozenset(
    {
        *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
        *("Thumbs.db", "desktop.ini"),
    }
)
"""What operating systems and file servers leave in folders, beside names that begin with a dot."""
_SHOWN = 3


@dataclass
class PassedOver:
    """What lay in a folder of images and is none of it: kind -> the names, by folder."""

    names: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """One more."""
        self.names.setdefault(kind, Counter())[name] += 1

    def remarks(self) -> tuple[str, ...]:
        """One sentence with counts and the first names, or none if there was nothing.

        Example:
            >>> passed = PassedOver()
            >>> passed.add("hidden", ".ipynb_checkpoints")
            >>> passed.remarks()
            ('passed over: 1 hidden (.ipynb_checkpoints)',)
        """
        kinds = [f"{sum(names.values()):,} {kind} ({_first(names)})" for kind, names in self.names.items()]
        return (f"passed over: {', '.join(kinds)}",) if kinds else ()


def read_folder(root: Path, split: str | None) -> ImageFiles:
    """The image files below `root/split`, one sub-folder per class in the order of their names.

    A class's images may lie in folders of its own folder. Hidden files and folders, those of operating systems, and
    folders without images are no classes; `remarks` counts and names them.

    Raises:
        DataError: If the folder is missing or has no class folders with images; says which folders there are.
    """
    folder, passed = root / split if split else root, PassedOver()
    if root.is_dir() and not folder.is_dir():
        raise DataError(f"{root} has no folder {split!r:.80}; {say_folders(root, split)}")
    tree = image_tree(folder, passed)
    files = [os.path.join(name, file) for name, inside in tree.items() for file in inside]
    labels = torch.tensor([number for number, inside in enumerate(tree.values()) for _ in inside], dtype=torch.int64)
    return ImageFiles(files, labels, tuple(tree), str(folder), remarks=passed.remarks())


def image_tree(root: Path, passed: PassedOver | None = None) -> dict[str, tuple[str, ...]]:
    """Sub-folder -> the image files in it and below, both in the order of their names; links are followed.

    Args:
        root: The folder of the class folders.
        passed: Is told what is no class or no image.
    Raises:
        DataError: If there is no such folder, it cannot be read, or no sub-folder has images.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; wanted one sub-folder of images per class in it")
    passed, tree = passed or PassedOver(), {}
    try:
        for name in sorted(os.listdir(root)):
            if is_hidden(name):
                passed.add("hidden", name)
            elif not (root / name).is_dir():
                passed.add("files beside the class folders", name)
            elif files := tuple(_images_below(root / name, passed)):
                tree[_utf8(name, root)] = files
            else:
                passed.add("folders without images", name)
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read ({error.strerror}); allow reading it") from error
    _require_distinct(tree, root)
    if not tree:
        found = "".join(passed.remarks()) or "it is empty"
        raise DataError(f"{root} has no sub-folders with images; wanted one sub-folder of images per class ({found})")
    return tree


def _require_distinct(names: Iterable[str], root: Path) -> None:
    """Folders whose names are the same text in two forms of Unicode, as copied between systems."""
    seen: set[str] = set()
    for name in names:
        if (normal := unicodedata.normalize("NFC", name)) in seen:
            raise DataError(
                f"{root} has two class folders called {normal!r}, in two forms of Unicode; merge them, or rename one"
            )
        seen.add(normal)


def _images_below(folder: Path, passed: PassedOver) -> Iterator[str]:
    """Paths relative to the folder: folder by folder in the order of their paths, no folder twice."""
    seen: set[str] = set()
    found: list[tuple[str, list[str]]] = []
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in [name for name in (*folders, *files) if is_hidden(name)]:
            passed.add("hidden", name)
        folders[:] = [name for name in folders if not is_hidden(name)]
        kept = []
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not is_hidden(name):
                kept.append(name)
            elif not is_hidden(name):
                passed.add("other files", name)
        found.append((place, sorted(kept)))
    for place, kept in sorted(found):
        below = os.path.relpath(place, folder)
        yield from (name if below == os.curdir else os.path.join(below, name) for name in kept)


def _raise(error: OSError) -> None:
    raise error


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and programs keep for themselves.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("cat")
        (True, False)
    """
    return name.startswith(".") or name in _OF_SYSTEMS


def _utf8(name: str, root: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = name.encode(errors="replace").decode()
        raise DataError(f"{root}: the name of the class folder {shown!r} is not UTF-8; rename it") from error
    return name


def _first(names: Counter[str]) -> str:
    shown = [name.encode(errors="replace").decode() for name in list(names)[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
