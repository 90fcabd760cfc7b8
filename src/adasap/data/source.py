"""One door to every data set: a source says where the images are, `open_dataset` reads them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adasap.checks import require_declared, require_within
from adasap.data.arrays import read_cifar10_1
from adasap.data.augmentation import ResizedImages, Resizing
from adasap.data.checking import without_broken
from adasap.data.cifar import read_cifar
from adasap.data.decoding import MOST_PIXELS, ImageFile, Reading
from adasap.data.digits import read_digits
from adasap.data.files import ImageFiles, as_channels, require_inside
from adasap.data.folders import read_folder
from adasap.data.hugging_face import read_hugging_face
from adasap.data.imagenet import read_imagenet, read_imagenet_v2, read_objectnet
from adasap.data.images import ImageSet, InMemoryImages, is_image_set
from adasap.data.lists import read_csv
from adasap.data.npz import read_npz
from adasap.data.shards import find_shards, read_shards
from adasap.data.splits import say_parts
from adasap.errors import AdasapError, DataError, suggestion
from adasap.models.own_code import imported, where_it_failed
from adasap.registry import Registry


@dataclass(frozen=True)
class SourceKind:
    """What a data source's `kind` stands for.

    Attributes:
        read: Gives the data set of a source and a split: all of it, or the part that the source names, as it is on
            disk. With `holds` as it is by default, `open_dataset` brings it to size and channels.
        holds: What its items are, for messages.
        task: The task that it is for by default: which one evaluates it on the command line.
        needs_path: Whether a source must say where it lies.
        any_size: Whether its images come in many sizes, so that suites of it are resized to the model's by default.
        resizes: Whether `resize` and `center_crop` may be given.
        takes_classes: Whether `classes` may be given.
        takes_options: The keys that `options` may have; of a function of the user's they are its keywords.
    """

    read: Callable[[DataSource, str | None, int | None], Any]
    holds: str = "images with labels"
    task: str = "classification"
    needs_path: bool = True
    any_size: bool = False
    resizes: bool = True
    takes_classes: bool = False
    takes_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSource:
    """Where a set of labelled images lies, and which part of it to take.

    Attributes:
        kind: `npz` (an archive with `images`, `labels` and optionally `classes`), `folder` (one sub-folder of
            image files per class, numbered in the order of their names), `csv` (a list of files and class numbers),
            `cifar10` or `cifar100` (the official Python version), `cifar10.1` (two `.npy` files), `imagenet` (class
            folders named by wnid, any of the 1,000), `imagenet-v2` (class folders 0 to 999), `objectnet` (as
            published, the classes of ImageNet), `wds` (shards, as webdataset writes them), `hf` (a set that Hugging
            Face `datasets` saved), or `digits` (scikit-learn's handwritten digits). Those of the tasks are
            registered beside them: with boxes, for detection, `voc` (Pascal VOC or any set in its layout), `coco`
            (COCO's JSON) and `shapes` (drawn here); boxes and masks in shards and sets of `datasets` are of kind
            `wds-boxes`, `hf-boxes`, `wds-masks` and `hf-masks`. `package.module:function` or
            `path/to/file.py:function` is a function of yours: called with `split`, and with `path` and `options`
            where they are given, it returns a map-style `torch.utils.data.Dataset` of (image, target).
        path: `npz`: the file, or a folder that holds `train.npz`, `test.npz`, ...; `folder`: the folder that
            holds `train/`, `test/`, ...; `csv`: the file, or the folder of `labels.csv`; CIFAR: the folder that holds
            `cifar-10-batches-py`, `cifar-100-python` or `cifar10.1_v6_data.npy`; `imagenet`: the class folders, or
            the folder that holds them as `val/`; `wds`: a tar file, names with braces (`train-{0000..0146}.tar`), or a
            folder of shards (also `wds-boxes`, `wds-masks`); `hf`: a folder that `save_to_disk` wrote, or Parquet or
            Arrow files (also `hf-boxes`, `hf-masks`); `voc`: the folder of `JPEGImages`, or the one above several such;
            `coco`: the JSON, or the folder of `annotations/`.
        split: Which split to read when it is not the one that is asked for; "." reads a folder itself. CIFAR-10.1: `v4`
            or `v6`; `voc`: also `VOC2007/trainval+VOC2012/trainval`, in short `07+12`. Or what the two parts are called
            here, `{train: training, test: valid}`: one source then serves training and test.
        first: Index of the first image to take.
        count: How many images to take; None takes all that follow.
        resize: Length of the shorter side to which each image is brought, in pixels; None leaves it as it is.
        center_crop: Side of the central square that is kept after that, in pixels.
        interpolation: How `resize` computes pixels.
        exif_orientation: Turn images upright as their EXIF orientation says, as viewers do.
        white: The sample value that is white (4095, 65535, 1.0), in images of more than 8 bits that do not say it.
        most_pixels: Files of more pixels are refused.
        skip_broken: Decode every image file at the start, and leave out those that cannot be; they are counted.
        follow_links: Read files that links lead to outside of `path`.
        classes: Of data with boxes: class names, labels 1, 2, ...; by default those of the data. Of `wds` and of
            masks: names of the labels 0, 1, ....
        options: Keyword arguments of a function of yours; of `hf` the columns, as in `{image: img, label: fine_label}`;
            of the tasks' kinds what their documentation says.
    """

    kind: str
    path: str | None = None
    split: str | dict[str, str] | None = None
    first: int = 0
    count: int | None = None
    resize: int | None = None
    center_crop: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    exif_orientation: bool = True
    white: float | None = None
    most_pixels: int = MOST_PIXELS
    skip_broken: bool = False
    follow_links: bool = False
    classes: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> SourceKind:
        """What the kind stands for."""
        return OWN if self.is_own else SOURCES.get(self.kind)

    @property
    def is_own(self) -> bool:
        """Whether the kind is a function of the user's."""
        return ":" in self.kind

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.path or self.kind

    def own_split(self, asked: str | None) -> str | None:
        """What a part is called here, where the source says it.

        Example:
            >>> DataSource("folder", "photos", split={"train": "train", "test": "valid"}).own_split("test")
            'valid'
        """
        return self.split.get(str(asked)) if isinstance(self.split, dict) else self.split

    @property
    def part(self) -> slice:
        """Which of the images."""
        return slice(self.first, None if self.count is None else self.first + self.count)

    @property
    def resizing(self) -> Resizing:
        """What brings each image to one size."""
        return Resizing(self.resize, self.center_crop, self.interpolation)

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return Reading(self.exif_orientation, self.white, self.most_pixels)

    def __post_init__(self) -> None:
        require_declared(self, DataError)
        _ = self.resizing, self.reading  # both check themselves
        if self.first < 0 or (self.count is not None and self.count < 1):
            raise DataError(
                f"first is {self.first} and count is {self.count}; "
                f"give first >= 0, and count >= 1 or leave count out to take all"
            )
        require_within(DataError, 0, 10**9, first=self.first, count=self.count)
        names = self.split if isinstance(self.split, dict) else {"test": self.split or "."}
        if not names or names.keys() - {"train", "test"} or not all(isinstance(n, str) and n for n in names.values()):
            raise DataError(
                f"split is {self.split!r:.80}; give a name as text, or what `train` and `test` are called, as in "
                "{train: train, test: valid}"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        row = self.row
        if row.needs_path and not self.path:
            raise DataError(f"a data source of kind {self.kind!r} needs a `path`; say where the images lie")
        if not row.resizes and self.resizing:
            raise DataError(
                f"a data source of kind {self.kind!r} holds {row.holds} and is not resized or cropped here: targets "
                "would be wrong; the model or the augmentation brings images to size"
            )
        if self.classes is not None and not row.takes_classes:
            known = ", ".join(name for name in SOURCES if SOURCES.get(name).takes_classes)
            raise DataError(f"`classes` is for {known}; a data source of kind {self.kind!r} has its own, drop it")
        unknown = next((key for key in self.options if key not in row.takes_options), None)
        if unknown is None or self.is_own:
            return
        if not row.takes_options:
            raise DataError(f"`options` are for functions of yours; a data source of kind {self.kind!r} has none")
        known = suggestion(unknown, row.takes_options)
        raise DataError(f"a data source of kind {self.kind!r} has no option {unknown!r:.80}; {known}")


def open_source(
    source: DataSource, split: str | None = None, *, channels: int | None = None, trust_code: bool = False
) -> Any:
    """Opens a data set of any kind.

    Args:
        source: Where it lies.
        split: `train`, `test`, or what the folders are called; `source.split` comes first if it is set.
        channels: Of the model's input, for kinds that can be read as grey and as colour.
        trust_code: Let `kind: package.module:function` run.
    Raises:
        DataError: If a file is missing or does not hold what it should, or code of the user's is not trusted.

    Example:
        >>> image, label = open_source(DataSource("digits"), "test")[0]
        >>> image.shape
        torch.Size([3, 32, 32])
    """
    require_trusted(source, trust_code)
    return source.row.read(source, source.own_split(split) or split, channels)


def require_trusted(source: DataSource, trust_code: bool) -> None:
    """Raises a DataError if a source is a function of the user's and is not trusted."""
    if source.is_own and not trust_code:
        raise DataError(
            f"{source.kind!r:.120} is code that is not of adasap; add --trust-builder to the command (trust_code=True "
            "in Python) if you know that code"
        )


def _own(source: DataSource, split: str | None) -> Any:
    """What the user's function gives.

    Raises:
        DataError: If it fails, or gives no data set.
    """
    function = imported(source.kind, what="function", error=DataError)
    place = {} if source.path is None else {"path": source.path}
    given: dict[str, Any] = {"split": split, **place, **source.options}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        name = source.kind.rpartition(":")[2]
        raise DataError(
            f"{source.kind} does not take what it is called with ({error}): write it as `def {name}"
            f"({', '.join(given)})`, where `split` is such as 'train' or 'test', and the others are `path` and the "
            "keys of `options` of the data source; or correct these"
        ) from error
    except ValueError:  # some builtins do not say what they take
        pass
    try:
        found = function(**given)
    except AdasapError:
        raise
    except Exception as error:
        raise DataError(f"{source.kind} failed: {where_it_failed(error)}; correct it, or its `options`") from error
    if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
        raise DataError(f"{source.kind} returned {type(found).__name__}; wanted a map-style torch Dataset")
    if source.part == slice(0, None):
        return found
    from torch.utils.data import Subset

    indices = range(len(found))[source.part]
    require_count(source, indices)
    return Subset(found, indices)


def open_dataset(source: DataSource, split: str | None = None, *, channels: int | None = None) -> ImageSet:
    """Reads the images of a source, or the part of them that it names, brought to the size that it wants.

    Args:
        source: Where the images lie.
        split: `train`, `test`, or what the folders are called; `source.split` comes first if it is set.
        channels: Of the model's input; colour becomes grey and grey colour. By default files are read as colour, and
            arrays as they are.
    Returns:
        Images in memory, except for image files, each of which is read when it is asked for.
    Raises:
        DataError: If a file is missing or does not hold what it should; the message names it.

    Example:
        >>> tuning = open_dataset(DataSource("digits", first=100, count=50), "test")
        >>> len(tuning), tuning.num_classes
        (50, 10)
    """
    found = open_source(source, split, channels=channels)
    if not is_image_set(found):
        raise DataError(f"{source.kind} holds {source.row.holds}; this wants images with labels")
    images: ImageSet = found
    return images


def require_links(source: DataSource, files: Iterable[ImageFile]) -> None:
    """Raises a DataError if files lead by links to outside of the source's folder, unless it says that they may.

    What lies inside a larger file is passed over.
    """
    path = Path(source.path or "")
    if not path.is_dir():  # a list, or COCO's JSON, perhaps in its folder `annotations`
        path = path.parent.parent if path.parent.name == "annotations" else path.parent
    if not source.follow_links:
        require_inside((file for file in files if isinstance(file, str)), path)


def require_linked_shards(source: DataSource, split: str | None) -> None:
    """`require_links` of the shards of a folder."""
    if os.path.isdir(source.path or ""):
        require_links(source, find_shards(source.path or "", split))


def require_count(source: DataSource, dataset: Sized) -> None:
    """Raises a DataError if a source wants more images than there are."""
    if source.count is not None and len(dataset) != source.count:
        raise DataError(
            f"{source.where}: wanted {source.count} images from index {source.first} on, but there are "
            f"only {len(dataset)}; lower `first` or `count`"
        )


def _labelled(read: Callable[[DataSource, str | None], ImageSet], **facts: Any) -> SourceKind:
    """A kind of images with labels, brought to the size and channels that are wanted."""

    def opened(source: DataSource, split: str | None, channels: int | None) -> ImageSet:
        dataset = read(source, split)
        require_count(source, dataset)
        if isinstance(dataset, ImageFiles):
            require_links(source, dataset.paths())
            dataset = dataset.read_as(source.reading)
            if source.skip_broken:
                dataset = without_broken(dataset)
        dataset = as_channels(dataset, channels, where=source.where)
        return ResizedImages(dataset, source.resizing) if source.resizing else dataset

    return SourceKind(opened, **facts)


def _path(source: DataSource) -> Path:
    return Path(source.path or "")


def _cifar(source: DataSource, split: str | None) -> ImageSet:
    name: Literal["cifar10", "cifar100"] = "cifar10" if source.kind == "cifar10" else "cifar100"
    return _part(read_cifar(name, _path(source), train_or_test(source, split)), source.part)


_KINDS: Mapping[str, SourceKind] = {
    "npz": _labelled(lambda s, split: read_npz(_npz_file(_path(s), split), s.part, s.white)),
    "folder": _labelled(lambda s, split: read_folder(_path(s), split).part(s.part)),
    "csv": _labelled(lambda s, split: read_csv(_path(s)).part(s.part)),
    "cifar10": _labelled(_cifar),
    "cifar100": _labelled(_cifar),
    "cifar10.1": _labelled(lambda s, _: _part(read_cifar10_1(_path(s), s.own_split("test") or "v6"), s.part)),
    "imagenet": _labelled(lambda s, split: read_imagenet(_path(s)).part(s.part), any_size=True),
    "imagenet-v2": _labelled(lambda s, split: read_imagenet_v2(_path(s)).part(s.part), any_size=True),
    "objectnet": _labelled(lambda s, split: read_objectnet(_path(s))[0].part(s.part), any_size=True),
    "wds": _labelled(lambda s, split: _shards(s, split).part(s.part), takes_classes=True),
    "hf": _labelled(lambda s, split: _saved_rows(s, split).part(s.part), takes_options=("image", "label")),
    "digits": _labelled(lambda s, split: _part(read_digits(train_or_test(s, split)), s.part), needs_path=False),
}
SOURCES: Registry[SourceKind] = Registry(
    "kind of data", _KINDS, at="adasap.data.SOURCES", packages="adasap.tasks", error=DataError
)
"""The kinds of data; tasks register their own, and so may you."""
OWN = SourceKind(
    lambda source, split, channels: _own(source, split), "what a function gives", "", needs_path=False, resizes=False
)
"""A function of the user's."""


def _shards(source: DataSource, split: str | None) -> ImageFiles:
    require_linked_shards(source, split)
    return read_shards(source.path or "", split, source.classes)


def _saved_rows(source: DataSource, split: str | None) -> ImageFiles:
    options = {name: source.options.get(name) for name in ("image", "label")}
    for name, column in options.items():
        if not isinstance(column, str | None):
            raise DataError(f"option {name} is {column!r:.80}; give the name of a column")
    return read_hugging_face(source.path or "", split, **options)


def _npz_file(path: Path, split: str | None) -> Path:
    if not path.is_dir():
        return path
    if split is None:
        raise DataError(f"{path} is a folder; name the .npz file, or a split such as `train`")
    if not (path / f"{split}.npz").is_file():
        known = (file.name for file in sorted(path.glob("*.npz")))
        raise DataError(f"{path} has no {split}.npz; {say_parts(split, known)}")
    return path / f"{split}.npz"


def train_or_test(source: DataSource, split: str | None) -> Literal["train", "test"]:
    """The split of a data set that has these two.

    Raises:
        DataError: For another one.
    """
    if split == "train":
        return "train"
    if split == "test":
        return "test"
    raise DataError(
        f"{source.kind} has no split {split!r}; choose `train` or `test`, and take a part of it with "
        f"`first` and `count`"
    )


def _part(dataset: InMemoryImages, part: slice) -> InMemoryImages:
    if part == slice(0, None):
        return dataset
    images, labels = dataset.images[part], dataset.labels[part]
    return InMemoryImages(images, labels, dataset.classes, where=f"images {part.start} and on")
