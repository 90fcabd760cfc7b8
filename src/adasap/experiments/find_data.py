"""Which kind of data lies at a path, and which of its splits are for training and for the numbers that are reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adasap.data import SOURCES, DataSource
from adasap.data.folders import image_tree, is_hidden
from adasap.errors import DataError

TRAIN = ("train", "training", "trainset", "train2017", "train2014", "trainval")
VALIDATION = ("val", "valid", "validation", "valset", "val2017", "val2014", "dev")
TEST = ("test", "testing", "testset", "test2017", "eval")
"""What people call their splits, small letters, the usual names first."""


@dataclass(frozen=True)
class FoundData:
    """What lies at a path.

    Attributes:
        train: What there is to train on; all that there is, where there are no splits.
        test: What the numbers are reported on; None where there are no splits.
        validation: A third part, if there is one beside `test`.
        remarks: What was passed over.
    """

    train: DataSource
    test: DataSource | None = None
    validation: DataSource | None = None
    remarks: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task that the data are for; empty for code of the user's."""
        return self.train.row.task


def find_data(text: str, *, task: str = "") -> FoundData:
    """The kind of data at a path, by how its files are laid out, and its splits under any of their usual names.

    Args:
        text: A path, or `KIND:PATH`, or `package.module:function` of a function of the user's.
        task: What the data are for, where a layout holds boxes and masks, or images of classes and masks.
    Raises:
        DataError: If the layout is none that is known; says what lies there.
    """
    kind, colon, path = text.partition(":")
    if colon and kind in SOURCES:
        return _of_kind(kind, path or None)
    if colon and (kind.endswith(".py") or path.isidentifier()):
        return FoundData(DataSource(text), DataSource(text))
    return _of_kind(kind_at(Path(text), task), text)


def find_test_part(path: str, kind: str) -> DataSource | None:
    """What numbers are reported on of the data of this kind at a path, as `find_data` has it; None without such a part.

    Parts for training need not be there, and are not looked into.
    """
    place = Path(path)
    if place.is_file() or kind not in _SPLITS:
        return None
    for name in _named(_SPLITS[kind](place), (*TEST, *VALIDATION)):
        if kind != "folder" or _has_classes(place / name):
            return _source(kind, place, name)
    return None


def kind_at(path: Path, task: str = "") -> str:
    """The kind of data source that fits what lies at a path.

    Raises:
        DataError: If there is none, or nothing lies there.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder or file of your data, or KIND:PATH")
    if path.is_file():
        return _kind_of_file(path, task)
    inside = {name for name in os.listdir(path) if not is_hidden(name)}
    boxes = {"JPEGImages", "Annotations"} <= inside or bool(_below(path, "JPEGImages"))
    if {"JPEGImages", "SegmentationClass"} <= inside and (task == "segmentation" or not boxes):
        return "voc-masks"
    if boxes:
        return "voc"
    if {"leftImg8bit", "gtFine"} <= inside:
        return "cityscapes"
    if _coco_listings(path):
        return "coco-masks" if task == "segmentation" else "coco"
    if _mask_splits(path):
        return "masks"
    for name, kind in {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}.items():
        if name in inside:
            return kind
    if inside & {"dataset_dict.json", "state.json"} or _files(path, ".parquet", ".arrow"):
        return "hf"
    if _files(path, ".npz"):
        return "npz"
    if _files(path, ".tar") or any(_files(path / name, ".tar") for name in _named(inside, (*TRAIN, *TEST))):
        return "wds"
    if "labels.csv" in inside or _named((Path(name).stem for name in inside if name.endswith(".csv")), TRAIN):
        return "csv"
    if any((path / name).is_dir() for name in inside):
        return "folder"
    raise DataError(f"{path} is laid out like no data set that is known: {_listed(path)}; {_WANTED}")


_WANTED = (
    "wanted train/ and val/ with a folder of images per class, an .npz archive, VOC's or COCO's layout, images/ and "
    "masks/, shards, or a CSV; or write KIND:PATH"
)


def _kind_of_file(path: Path, task: str) -> str:
    kinds = {".npz": "npz", ".csv": "csv", ".tar": "wds", ".parquet": "hf", ".arrow": "hf"}
    if path.suffix == ".json":
        return "coco-masks" if task == "segmentation" else "coco"
    if path.suffix not in kinds:
        raise DataError(f"{path} is a file of no kind that is known; {_WANTED}")
    return kinds[path.suffix]


def _of_kind(kind: str, path: str | None) -> FoundData:
    whole = DataSource(kind, path, split="." if kind in ("folder", "masks") and path else None)
    if path is None or kind in ("cifar10", "cifar100", "digits", "shapes", "shape-masks"):
        return FoundData(DataSource(kind, path), DataSource(kind, path))
    place = Path(path)
    if place.is_file() or kind not in _SPLITS:
        return FoundData(whole)
    sources = {name: _source(kind, place, name) for name in _SPLITS[kind](place)}
    usable, remarks = dict(sources), []
    if kind == "folder":
        for name in sources:
            if not _has_classes(place / name):
                del usable[name]
                remarks.append(f"{place / name} has no class folders with images: passed over")
    train, validation, test = (_first(usable, names) for names in (TRAIN, VALIDATION, TEST))
    if train is None:
        if not sources or (kind in ("folder", "masks") and not usable):
            return FoundData(whole, remarks=tuple(remarks))
        if len(usable) == 1 or not (validation or test):
            return FoundData(next(iter(usable.values())), remarks=tuple(remarks))
        raise DataError(
            f"{path} has the splits {', '.join(sorted(usable))} and none for training; call one of them `train`"
        )
    return FoundData(train, test or validation, validation if test else None, tuple(remarks))


def _source(kind: str, place: Path, name: str) -> DataSource:
    if kind == "csv":
        return DataSource(kind, str(place / f"{name}.csv"))
    return DataSource(kind, str(place), split=name)


def _first(sources: Mapping[str, DataSource], names: Sequence[str]) -> DataSource | None:
    found = _named(sources, names)
    return sources[found[0]] if found else None


def _named(there: Iterable[str], names: Sequence[str]) -> list[str]:
    """Those of the names that are called so, whatever their case, in the order of `names`; `VOC2007/test` is a test."""
    by_name: dict[str, list[str]] = {}
    for name in sorted(there):
        by_name.setdefault(name.rpartition("/")[2].lower(), []).append(name)
    return [found for name in names for found in by_name.get(name, [])]


def _folder_splits(path: Path) -> list[str]:
    names = [name for name in os.listdir(path) if (path / name).is_dir() and not is_hidden(name)]
    return _named(names, (*TRAIN, *VALIDATION, *TEST))


def _has_classes(folder: Path) -> bool:
    try:
        return bool(image_tree(folder))
    except DataError:
        return False


def _npz_splits(path: Path) -> list[str]:
    return [Path(name).stem for name in _files(path, ".npz")]


def _csv_splits(path: Path) -> list[str]:
    return _named((Path(name).stem for name in _files(path, ".csv")), (*TRAIN, *VALIDATION, *TEST))


def _voc_splits(path: Path) -> list[str]:
    """The lists of `ImageSets/Main`, but for those of single classes; of a folder of several such, with its name."""
    folders = ["", *(f"{name}/" for name in _below(path, "JPEGImages"))]
    return [f"{folder}{name}" for folder in folders for name in _lists(path / folder / "ImageSets" / "Main")]


def _lists(folder: Path) -> list[str]:
    names = [Path(name).stem for name in _files(folder, ".txt")]
    return [name for name in names if "_" not in name]


def _coco_listings(path: Path) -> list[str]:
    """Splits that have a listing."""
    names = [name.removeprefix("instances_").removesuffix(".json") for name in _files(path / "annotations", ".json")]
    names += [name for name in _folders(path) if (path / name / "_annotations.coco.json").is_file()]
    return names or [name.removesuffix(".json") for name in _files(path, ".json") if _is_listing(path / name)]


def _is_listing(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        return '"images"' in text and '"categories"' in text
    except (OSError, UnicodeDecodeError):
        return False


def _mask_splits(path: Path) -> list[str]:
    """Names of the folders below `images` and `masks`, or above them; "." where these hold the files themselves."""
    images, masks = path / "images", path / "masks"
    if images.is_dir() and masks.is_dir():
        return [name for name in _folders(images) if (masks / name).is_dir()] or ["."]
    return [name for name in _folders(path) if (path / name / "images").is_dir() and (path / name / "masks").is_dir()]


def _hf_splits(path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((path / "dataset_dict.json").read_text())["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        return _named(_folders(path), (*TRAIN, *VALIDATION, *TEST))


_SPLITS: dict[str, Callable[[Path], list[str]]] = {
    "folder": _folder_splits,
    "npz": _npz_splits,
    "csv": _csv_splits,
    "voc": _voc_splits,
    "coco": _coco_listings,
    "coco-masks": _coco_listings,
    "masks": _mask_splits,
    "voc-masks": lambda path: _lists(path / "ImageSets" / "Segmentation"),
    "cityscapes": lambda path: _folders(path / "leftImg8bit"),
    "wds": lambda path: _named(_folders(path), (*TRAIN, *VALIDATION, *TEST)),
    "hf": _hf_splits,
}


def _files(folder: Path, *endings: str) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(endings) and not is_hidden(name))


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if (folder / name).is_dir() and not is_hidden(name))


def _below(path: Path, name: str) -> list[str]:
    return [folder for folder in _folders(path) if (path / folder / name).is_dir()]


def _listed(path: Path) -> str:
    names = sorted(name + "/" * (path / name).is_dir() for name in os.listdir(path) if not is_hidden(name))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it holds {', '.join(names[:8])}{more}" if names else "it is empty"


def with_keys(found: FoundData, **keys: Any) -> FoundData:
    """The same with further keys of every source."""
    sources = {
        name: replace(source, **keys)
        for name in ("train", "test", "validation")
        if (source := getattr(found, name)) is not None
    }
    return replace(found, **sources)
