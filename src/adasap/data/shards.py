"""Reads images from shards, with labels or what a task keeps beside them: tar files as `webdataset` writes them.

They are indexed once and read at any place.

An index of all members makes the set map-style: every rank and worker reads what a step asks for, nothing is read twice
or left out, and a resumed run sees the same batches. Members are images, numbers and texts; nothing in a shard is run.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import torch

from adasap.data.files import EXTENSIONS, StoredImages
from adasap.data.images import MOST_CLASSES, check_labels
from adasap.data.splits import WORDS
from adasap.errors import DataError
from adasap.io import parse_json

LABELS = ("cls", "json", "txt")
"""Members that say the class of a sample, the first that it has: its number, an object with `label`, its name."""
_MOST_LABEL_BYTES = 1_000_000
_MOST_IMAGE_BYTES = 1 << 30
_MOST_SHARDS = 100_000
_MOST_PADDING = 1 << 20
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Member:
    """A file inside a shard.

    Attributes:
        shard: Path of the tar file.
        name: Its name there.
        offset: Where its bytes begin.
        size: How many there are.
    """

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}, member {self.name[:200]!r}"

    def open(self) -> BinaryIO:
        """Its bytes.

        Raises:
            DataError: If the shard ends before them.
        """
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise DataError(f"{self} is cut short: the shard was changed since it was opened; run the command again")
        return io.BytesIO(content)


class Members:
    """Where the images of shards lie; small beside them, for it is kept in every worker.

    Args:
        members: The images.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        shards = list(dict.fromkeys(member.shard for member in members))
        number = {shard: place for place, shard in enumerate(shards)}
        self.shards = shards
        self.names = np.array([member.name.encode("utf-8", "surrogateescape") for member in members])
        self.places = np.array([(number[m.shard], m.offset, m.size) for m in members], dtype=np.int64)

    def image(self, row: int) -> Member:
        """One of them."""
        shard, offset, size = (int(number) for number in self.places[row])
        return Member(self.shards[shard], self.names[row].decode("utf-8", "replace"), offset, size)


def read_shards(path: str, split: str | None, classes: Sequence[str] | None = None) -> StoredImages:
    """The images of shards with their labels, in the order of the shards and of their members.

    A sample is what has one name up to the first dot: `n01/3.jpg` and `n01/3.cls`. Its class is the number in `.cls`,
    else `label` in `.json`, else the name in `.txt`; other members are passed over, unread, and counted.

    Args:
        path: A tar file, names with braces such as `train-{0000..0146}.tar`, or a folder: of its folder named as the
            split, or those of its shards whose names have the split as a word (`imagenet-val-000003.tar`; `test` is
            also `val` and `validation`).
        split: `train`, `test`, ...; `.` takes all shards of the folder.
        classes: Names of the classes, in the order of their numbers.
    Raises:
        DataError: If there are no shards, or one is not an uncompressed tar, is cut short, or has a member or sample
            that cannot be used: names the shard and it.
    """
    shards = find_shards(path, split)
    images: list[Member] = []
    answers: list[int | str] = []
    passed: Counter[str] = Counter()
    for sample in samples_in(shards, LABELS, passed, read=True):
        images.append(sample.picture)
        answers.append(_class_of(sample))
    if not images:
        raise DataError(f"{path} has no samples in {len(shards)} shards; give shards with images and their classes")
    labels, names = _labels(answers, images, classes)
    kinds = ", ".join(f"{kind[:40]}: {count:,}" for kind, count in passed.most_common(5))
    remarks = [f"{path}: {len(images):,} samples in {len(shards):,} shards"]
    remarks += [f"members of other kinds, not read: {kinds}"] if passed else []
    numbers = [str(number) for number in range(int(labels.max()) + 1)]
    return StoredImages(Members(images), labels, names or numbers, named=names is not None, remarks=remarks)


def find_shards(path: str, split: str | None) -> list[str]:
    """The tar files that a path and split name, sorted by name.

    Raises:
        DataError: If there are none, or the names do not tell which are of the split.

    Example:
        >>> find_shards("nowhere-{0..1}.tar", "train")
        Traceback (most recent call last):
        adasap.errors.DataError: nowhere-0.tar does not exist; complete the shards, or correct the path
    """
    if not os.path.isdir(path):
        shards = _unfolded(path)
        for shard in shards:
            if not os.path.isfile(shard):
                raise DataError(f"{shard[:200]} does not exist; complete the shards, or correct the path")
        return shards
    inside = os.path.join(path, split) if split not in (None, ".") else path
    folder = inside if os.path.isdir(inside) else path
    found = sorted(name for name in os.listdir(folder) if name.endswith(".tar") and not name.startswith("."))
    if not found:
        raise DataError(f"{folder} has no files *.tar; give the folder of the shards, uncompressed tar files")
    if folder != path or split in (None, "."):
        return [os.path.join(folder, name) for name in found]
    assert split is not None
    words = {name: set(re.split(r"[^a-z]+", name.lower())) for name in found}
    for word in WORDS.get(split, (split,)):
        if chosen := [name for name in found if word in words[name]]:
            return [os.path.join(folder, name) for name in chosen]
    raise DataError(
        f"{path} has no shards of the split {split!r}: neither a folder of that name nor names such as "
        f"{split}-0000.tar, but {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}; give `split` of the data "
        "source: a word of their names, or `.` for all"
    )


def _unfolded(path: str) -> list[str]:
    """The names that braces with a range stand for; others are taken as they are."""
    match = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", path)
    if match is None:
        return [path]
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + _MOST_SHARDS:
        raise DataError(
            f"{match.group()} in {path[:200]} names no shards, or over {_MOST_SHARDS:,}; write a range such as "
            "{0000..0146}"
        )
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [f"{path[: match.start()]}{number}{rest}" for number in numbers for rest in _unfolded(path[match.end() :])]


@dataclass
class Sample:
    """The members of one name.

    Attributes:
        shard: Path of the tar file.
        key: The name up to the first dot.
        image: Its image, once it was found.
        beside: Kind, such as `json` -> the member and its bytes, of those that were asked for.
    """

    shard: str
    key: str
    image: Member | None = None
    beside: dict[str, tuple[Member, bytes]] = field(default_factory=dict)

    def add_beside(self, member: Member, kind: str, content: bytes) -> None:
        """Takes in what was asked for beside the image."""
        if kind in self.beside:
            raise DataError(f"{self} has two members .{kind}; keep one")
        self.beside[kind] = member, content

    def add_image(self, member: Member) -> None:
        """Takes in the image."""
        if self.image is not None:
            raise DataError(f"{self} has two images, {self.image.name[:200]!r} and {member.name[:200]!r}; keep one")
        if member.size > _MOST_IMAGE_BYTES:
            raise DataError(f"{member} has {member.size:,} bytes, which is no image; take it out")
        self.image = member

    @property
    def picture(self) -> Member:
        """Its image.

        Raises:
            DataError: If it has none.
        """
        if self.image is None:
            raise DataError(f"{self} has no image; give one member of a kind such as .jpg or .png, or take it out")
        return self.image

    def __str__(self) -> str:
        return f"{self.shard}, sample {self.key[:200]!r}"


def samples_in(shards: Sequence[str], kinds: Sequence[str], passed: Counter[str], *, read: bool) -> Iterator[Sample]:
    """The samples of shards, in order.

    Args:
        shards: Paths of tar files.
        kinds: What is taken beside the image of each, such as `json`: what a name goes on with after the first dot.
        passed: Counts the members that are passed over.
        read: Read what is beside the images, up to 1 MB of each.
    """
    for shard in shards:
        yield from _samples(shard, kinds, passed, read=read)


def _samples(shard: str, kinds: Sequence[str], passed: Counter[str], *, read: bool) -> Iterator[Sample]:
    samples: dict[str, Sample] = {}
    for tar, found in _members(shard):
        folder, _, name = found.name.rpartition("/")
        stem, _, kind = name.partition(".")
        kind = kind.lower()
        if name.startswith(".") or (kind not in kinds and f".{kind}" not in EXTENSIONS):
            passed["hidden" if name.startswith(".") else f".{kind}"] += 1
            continue
        key = f"{folder}/{stem}" if folder else stem
        sample = samples.setdefault(key, Sample(shard, key))
        member = Member(shard, found.name, found.offset_data, found.size)
        if kind in kinds:
            sample.add_beside(member, kind, _content(tar, found) if read else b"")
        else:
            sample.add_image(member)
    yield from samples.values()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member, as many as a label could have and one more."""
    file = tar.extractfile(member)
    return file.read(_MOST_LABEL_BYTES + 1) if file is not None else b""


def _members(shard: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files of a shard."""
    size = os.path.getsize(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps a million of them
                if not member.isdir():
                    _check_member(member, shard, size)
                    yield tar, member
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError, EOFError, OverflowError) as error:
        raise DataError(
            f"{shard} cannot be read as an uncompressed tar file ({error}); copy it again, or unpack it by gzip -d"
        ) from error


def _check_end(shard: str, place: int) -> None:
    """A tar file ends in zeros; at anything else Python's reader stops as at an end, and samples would be lost."""
    with open(shard, "rb") as file:
        file.seek(place)
        rest = file.read(_MOST_PADDING + 1)
    if not 512 <= len(rest) <= _MOST_PADDING or any(rest):
        raise DataError(
            f"{shard} is cut short or damaged at byte {place:,}, where neither a member begins nor the file ends; copy "
            "it again, or write it anew if tar files were put one behind the other"
        )


def _check_member(member: tarfile.TarInfo, shard: str, size: int) -> None:
    where = f"{shard}, member {member.name[:200]!r}"
    if not member.isreg() or member.issparse():
        raise DataError(f"{where} is a link, device or sparse file; shards hold plain files, write it without")
    for path in (PurePosixPath(member.name), PureWindowsPath(member.name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts or "\0" in member.name:
            raise DataError(
                f"{where} has a name that leaves the folder of the shard; write relative names without `..`"
            )
    if member.size < 0 or member.offset_data + member.size > size:
        raise DataError(f"{where} is cut short; copy the shard again")


def _class_of(sample: Sample) -> int | str:
    """The class of a sample: a number or a name."""
    for kind in LABELS:
        if kind in sample.beside and (answer := _answer(kind, *sample.beside[kind])) is not None:
            return answer
    key = sample.key[:100]
    raise DataError(
        f"{sample} has no class; give {key}.cls with its number, or `label` in {key}.json, or its name in {key}.txt"
    )


def _answer(kind: str, member: Member, content: bytes) -> int | str | None:
    """The class that a member says; None for JSON without `label`, and for texts that are no name."""
    if kind == "txt":
        name = content.decode("utf-8", "replace").strip()
        return name if 0 < len(name) <= _LONGEST_NAME and name.isprintable() else None
    found: Any = content.decode("utf-8", "replace").strip()
    if kind == "json":
        tree = json_of(member, content)
        if not isinstance(tree, dict) or "label" not in tree:
            return None
        found = tree["label"]
        if isinstance(found, str) and 0 < len(found) <= _LONGEST_NAME and not found.isdigit():
            return found
    if len(content) > _MOST_LABEL_BYTES:
        raise DataError(f"{member} has {member.size:,} bytes, which is no class; write its number alone")
    number = str(found)
    if isinstance(found, bool | float) or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise DataError(f"{member} says class {number[:80]!r}; write its number, such as 0 or 17")
    if int(number) >= MOST_CLASSES:
        raise DataError(f"{member} says class {number}; classes are numbered from 0 to {MOST_CLASSES - 1:,}")
    return int(number)


def json_of(member: Member, content: bytes) -> Any:
    """What a member of JSON says.

    Raises:
        DataError: If it is longer than 1 MB, or not JSON.
    """
    if len(content) > _MOST_LABEL_BYTES:
        raise DataError(
            f"{member} has {member.size:,} bytes; at most {_MOST_LABEL_BYTES:,} are read of what is beside an image"
        )
    return parse_json(content.decode("utf-8", "replace").strip(), where=str(member), error=DataError)


def _labels(
    answers: Sequence[int | str], images: Sequence[Member], classes: Sequence[str] | None
) -> tuple[torch.Tensor, Sequence[str] | None]:
    """Numbers, and the names of the classes where they have any."""
    numbered = isinstance(answers[0], int)
    other = next((place for place, answer in enumerate(answers) if isinstance(answer, int) is not numbered), None)
    if other is not None:
        raise DataError(
            f"{images[other]} has the class {answers[other]!r:.80}, others have {answers[0]!r:.80}; write numbers or "
            "names, not both"
        )
    where = images[0].shard
    if numbered:
        labels = torch.tensor(answers, dtype=torch.int64)
        known = MOST_CLASSES if classes is None else len(classes)
        if (place := next((place for place, label in enumerate(labels.tolist()) if label >= known), None)) is not None:
            raise DataError(
                f"{images[place]} has class {answers[place]}, and `classes` names {known}, from 0 on; complete them"
            )
        return check_labels(labels, len(images), classes, where=where), classes
    names = list(classes) if classes is not None else sorted({str(answer) for answer in answers})
    number = {name: place for place, name in enumerate(names)}
    unknown = next((place for place, answer in enumerate(answers) if answer not in number), None)
    if unknown is not None:
        raise DataError(
            f"{images[unknown]} has the class {answers[unknown]!r:.80}, which `classes` does not name; add it"
        )
    return torch.tensor([number[str(answer)] for answer in answers], dtype=torch.int64), names
