"""Matches the classes of a data set with those of another, or of a model, by their names."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from adasap.data.imagenet import imagenet_names, imagenet_wnids
from adasap.data.images import ImageSet, SomeImages, class_names
from adasap.errors import DataError

Names = tuple[str, ...]
_LISTED = 20
_NUMBERED = 3


@dataclass(frozen=True)
class ClassMatch:
    """How the labels of a data set become those of a reference.

    Attributes:
        numbers: The reference's number of each class of the data set, -1 where it has none and none is needed; None if
            labels stay as they are.
        classes: Class names afterwards; None if neither side has names.
        remark: One line for whoever reads the results: what is missing, or that numbers were used; may be empty.
    """

    numbers: tuple[int, ...] | None
    classes: Names | None
    remark: str = ""


def match_classes(
    reference: Sequence[str] | None, given: Sequence[str] | None, occurring: Collection[int], *, where: str, of: str
) -> ClassMatch:
    """Matches classes by name; the order in which either side lists them does not matter.

    Names are the same if they are the same text (in Unicode's normal form C). Names that differ in letter case or
    spaces are suggested and not taken. Where one side has no names, labels are numbers, and the remark says so.

    Args:
        reference: Class names that labels are to follow; None if there are none.
        given: Class names of the data set; None if there are none.
        occurring: Labels that occur in the data set; classes without an image or object need no counterpart.
        where: What messages call the data set.
        of: What messages call the reference.
    Raises:
        DataError: For a class that occurs and that the reference does not know, or one that it knows twice.

    Example:
        >>> match_classes(["cat", "dog", "owl"], ["owl", "cat"], {0, 1}, where="data.test", of="data.train").numbers
        (2, 0)
    """
    if reference is None or given is None:
        _require_plain_numbers(where, of, reference or given or ())
    if reference is None:
        return ClassMatch(None, None if given is None else tuple(given), numbers_used(of, where, given))
    if given is None:
        return ClassMatch(None, tuple(reference), numbers_used(where, of, reference))
    theirs, mine = _normal(reference), _normal(given)
    missing = [name for name in dict.fromkeys(theirs) if name not in {mine[label] for label in occurring}]
    remark = _missing(missing, reference, where, of)
    if mine == theirs:
        return ClassMatch(None, tuple(reference), remark)
    _require_known(theirs, mine, occurring, where, of)
    number = {name: place for place, name in enumerate(theirs)}
    numbers = tuple(number.get(name, -1) for name in mine)
    moved = any(numbers[label] != label for label in occurring)
    by_name = f"{where}: classes are matched by name with those of {of}" if moved else ""
    return ClassMatch(numbers, tuple(reference), "; ".join(part for part in (by_name, remark) if part))


def matched_images(
    images: ImageSet, reference: Sequence[str] | None, *, where: str, of: str
) -> tuple[ImageSet, ClassMatch]:
    """Images whose labels are numbers of the reference's classes, and how they came about.

    Example:
        >>> from adasap.data import InMemoryImages
        >>> archive = InMemoryImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ["dog", "cat"])
        >>> images, _ = matched_images(archive, ["cat", "dog"], where="data.test", of="data.train")
        >>> images.labels
        tensor([1, 0])
    """
    occurring = set(images.labels.tolist())
    match = match_classes(reference, class_names(images), occurring, where=where, of=of)
    return renumbered(images, match), match


def renumbered(images: ImageSet, match: ClassMatch) -> ImageSet:
    """The same images under the labels of a match; they share their pixels."""
    if match.classes is None or (match.numbers is None and class_names(images) == match.classes):
        return images
    labels = images.labels if match.numbers is None else torch.tensor(match.numbers)[images.labels]
    return relabelled(images, labels, match.classes)


def relabelled(images: ImageSet, labels: Tensor, classes: Sequence[str]) -> ImageSet:
    """The same images under other labels and class names; they share their pixels."""
    if not hasattr(images, "named"):  # a user's own set, which may keep its labels anywhere
        images = SomeImages(images, torch.arange(len(images)))
    same = copy.copy(images)
    same.labels, same.classes = labels, tuple(classes)
    same.named = True
    return same


def names_of_outputs(num_outputs: int, given: Sequence[str] | None, occurring: Collection[int]) -> Names | None:
    """ImageNet's names in the order of the outputs, if a model has its 1,000 and the data use these names.

    Args:
        num_outputs: Of a model that keeps no names itself.
        given: Class names of the data set.
        occurring: Labels that occur in it.
    Returns:
        The wnids or the usual English names, whichever the data use; None for other data or models.

    Example:
        >>> names_of_outputs(1000, ["n01443537", "n01440764"], {0, 1})[:2]
        ('n01440764', 'n01443537')
    """
    if given is None or num_outputs != len(imagenet_wnids()):
        return None
    used = {given[label] for label in occurring}
    known = (names() for names in (imagenet_wnids, imagenet_names))
    return next((names for names in known if used <= set(names)), None)


def _normal(names: Sequence[str]) -> Names:
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def numbers_used(without: str, other: str, names: Sequence[str] | None) -> str:
    """What is said where a side without names was numbered as the other; empty where neither side has names."""
    if names is None:
        return ""
    some = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:_NUMBERED]))
    more = ", ..." if len(names) > _NUMBERED else ""
    return f"{without} names no classes: they are numbers, in the order of {other} ({some}{more})"


def _require_plain_numbers(where: str, of: str, names: Sequence[str]) -> None:
    """Names such as 0, 1, 10, 2, or 0, 1, 3, could be meant as they read or as they stand: nobody can tell."""
    if not names or not all(name.isascii() and name.isdigit() and len(name) < 10 for name in names):
        return
    read = [int(name) for name in names]
    if read != list(range(read[0], read[0] + len(read))):
        raise DataError(
            f"one of {where} and {of} names no classes, and the names of the other are numbers in another order than "
            f"they stand in: {_listed(names)}; name the classes on both sides, such as in a csv with `class_index` and "
            "`class_name` (ImageNet-V2's folders are read by the kind imagenet-v2)"
        )


def _missing(missing: Sequence[str], reference: Sequence[str], where: str, of: str) -> str:
    if not missing:
        return ""
    whose = "its" if where == of else "the"
    owner = "" if where == of else f" of {of}"
    return (
        f"{where} has no image of {len(missing):,} of {whose} {len(reference):,} classes{owner}: "
        f"{_listed(missing, count=False)}"
    )


def _require_known(theirs: Names, mine: Names, occurring: Collection[int], where: str, of: str) -> None:
    used = [mine[label] for label in sorted(occurring)]
    unknown = [name for name in dict.fromkeys(used) if name not in theirs]
    if unknown:
        raise DataError(
            f"{where} has classes that {of} does not know: {_listed(unknown)}{_nearest(unknown[0], theirs)}; {of} has: "
            f"{_listed(theirs)}; {where} has: {_listed(tuple(dict.fromkeys(used)))}; rename these classes, or leave "
            "their images out (objects with `classes` of voc and coco)"
        )
    twice = [name for name in used if theirs.count(name) > 1 or used.count(name) > 1]
    if twice:
        raise DataError(
            f"the class {twice[0]!r} is there more than once in {of} ({_listed(theirs)}) or {where} ({_listed(used)}), "
            "and the two number their classes differently; give each class a name of its own"
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    """A suggestion: names that differ in letter case, spaces, `_` or `-` alone come first."""
    folded = {_folded(other): other for other in known}
    near = get_close_matches(_folded(name), folded, n=1, cutoff=0.75)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-\t")


def _listed(names: Sequence[str], *, count: bool = True) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more + (f" ({len(names):,})" if count else "")
