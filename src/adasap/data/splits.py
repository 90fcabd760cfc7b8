"""What the parts of a data set are called, and what is said where the one that is asked for is not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from adasap.data.files import EXTENSIONS

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "val", "validation", "valid", "testing", "dev"),
}
"""Part -> the names under which it may lie, the likelier ones first."""
_SHOWN = 8


def say_parts(split: str | None, names: Iterable[str]) -> str:
    """The end of a message about a part that is not there: what there is, and what to give.

    Args:
        split: What was asked for.
        names: Of the parts that there are; folders end in a slash.
    Example:
        >>> say_parts("test", ["train/", "valid/"])
        'there are train/, valid/: give --split valid, or `split: valid` in a recipe'
        >>> say_parts("test", ["a.npz", "b.npz"])
        'there are a.npz, b.npz: give one of them by --split, or `split: NAME` in a recipe'
    """
    names = list(names)
    if not names:
        return "it holds nothing of that kind; correct the path"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    plain = [os.path.splitext(name.rstrip("/"))[0] for name in names]
    of_words = [name for word in WORDS.get(str(split), ()) for name in plain if name.lower() == word]
    likely = plain[0] if len(plain) == 1 else next(iter(of_words or get_close_matches(str(split), plain, n=1)), "")
    if not likely:
        return f"there are {shown}: give one of them by --split, or `split: NAME` in a recipe"
    return f"there are {shown}: give --split {likely}, or `split: {likely}` in a recipe"


def say_folders(root: Path, split: str | None) -> str:
    """The same of the folders below a folder; those that hold images themselves are classes, and the split is `.`."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        return "it has no folders at all; wanted one sub-folder of images per class"
    if any(_holds_images(root / name) for name in names):
        shown = ", ".join(f"{name}/" for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return f"there are {shown} with images: if they are the classes, give --split ., or `split: .` in a recipe"
    return say_parts(split, (f"{name}/" for name in names))


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(EXTENSIONS) and entry.is_file() for entry in entries)
