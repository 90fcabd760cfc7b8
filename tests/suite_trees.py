"""Tiny trees in the published layouts, and a model that reads the class number out of an image's colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from adasap.corruptions import BENCHMARK
from adasap.data.imagenet import imagenet_wnids
from adasap.evaluation import Cell

WNIDS = imagenet_wnids()
Value = TypeVar("Value")


def by_cell(named: Mapping[str, Value]) -> dict[Cell, Value]:
    """What is said of cells by their names."""
    return {Cell.parse(name): value for name, value in named.items()}


class ReadsColour(nn.Module):
    """Logits [N, outputs]: 1 for the class number red + 256 green of the middle pixel, 0 for others."""

    def __init__(self, outputs: int = 1000) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        middle = images[:, :, images.shape[2] // 2, images.shape[3] // 2]
        number = (255 * middle[:, :2]).round().long() @ torch.tensor([1, 256])
        return nn.functional.one_hot(number.clamp(max=self.outputs - 1), self.outputs).float()


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 7


def draw(path: Path, number: int, size: tuple[int, int] = (224, 224)) -> None:
    """A file of one colour; PNG content, whatever its name says, so that the colour stays exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(number)).save(path, "PNG")


def classes(root: Path, numbers: tuple[int, ...], name: Callable[[int], str], size: tuple[int, int]) -> None:
    """Two images per class."""
    for number in numbers:
        for k in range(2):
            draw(root / name(number) / f"image_{k}.JPEG", number, size)


def wnid_folders(root: Path) -> None:
    classes(root, (0, 1, 999), lambda n: WNIDS[n], (300, 260))


def numbered_folders(root: Path) -> None:
    classes(root, (0, 1, 10, 2), str, (260, 300))


def corruption_folders(root: Path, size: int = 224, corruptions: tuple[str, ...] = BENCHMARK, group: str = "") -> None:
    for corruption in corruptions:
        for severity in range(1, 6):
            classes(root / group / corruption / str(severity), (0, 1, 2), lambda n: WNIDS[n], (size, size))


def arrays(root: Path, outputs: int, count: int = 4) -> None:
    """CIFAR-10-C: red is the label, blue is 50 severity + the index of the image."""
    root.mkdir(parents=True)
    labels = np.arange(count) % outputs
    np.save(root / "labels.npy", np.tile(labels, 5))
    for corruption in BENCHMARK:
        images = np.zeros((5, count, 32, 32, 3), np.uint8)
        images[..., 0] = labels[:, None, None]
        images[..., 2] = (50 * np.arange(5)[:, None] + np.arange(count))[:, :, None, None]
        np.save(root / f"{corruption}.npy", images.reshape(-1, 32, 32, 3))


def cifar10_1(root: Path, version: str) -> None:
    root.mkdir(parents=True)
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[..., 0] = np.array([3, 1, 4, 1, 5, 9])[:, None, None]
    np.save(root / f"cifar10.1_{version}_data.npy", images)
    np.save(root / f"cifar10.1_{version}_labels.npy", np.array([3, 1, 4, 1, 5, 9], np.int32))


def objectnet(root: Path) -> None:
    """Two shared classes, one of which three outputs answer, and one that ImageNet lacks; the border is red."""
    mappings = root / "mappings"
    mappings.mkdir(parents=True)
    names = [f"name {number}, of {wnid}" for number, wnid in enumerate(WNIDS)]
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(reversed(names)) + "\n")
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(n): 999 - n for n in range(1000)}))
    labels = {"air_freshener": "Air freshener", "chair": "Chair", "lamp": "Desk lamp"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    shared = {"Desk lamp": names[846], "Chair": f"{names[423]}; {names[559]}; {names[765]}"}
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(shared))
    for folder, number in (("air_freshener", 5), ("chair", 559), ("lamp", 846)):
        for k in range(2):
            path = root / "images" / folder / f"{k}.png"
            draw(path, number, (260, 300))
            framed = Image.new("RGB", (264, 304), (255, 0, 0))
            framed.paste(Image.open(path), (2, 2))
            framed.save(path)


def npz(root: Path) -> None:
    root.mkdir(parents=True)
    images = np.zeros((5, 3, 32, 32, 3), np.uint8)
    images[..., 0] = np.arange(3)[:, None, None]
    np.savez(root / "arrays.npz", labels=np.arange(3), **dict.fromkeys(BENCHMARK, images))


def clean(root: Path) -> None:
    root.mkdir(parents=True)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[..., 0] = np.arange(3)[:, None, None]
    np.savez(root / "test.npz", images=images, labels=np.arange(3))


def tree_of(suite: str, root: Path) -> None:
    """Lays out what a suite wants at `root`; every image has the colour of its class."""
    makers: dict[str, Callable[[Path], None]] = {
        "clean": clean,
        "corrupted": clean,
        "corrupted-validation": clean,
        "corruption-arrays": npz,
        "imagenet-val": wnid_folders,
        "imagenet-c": corruption_folders,
        "imagenet-v2": lambda r: numbered_folders(r / "imagenetv2-matched-frequency-format-val"),
        "imagenet-v2-threshold0.7": lambda r: numbered_folders(r / "imagenetv2-threshold0.7-format-val"),
        "imagenet-v2-top-images": numbered_folders,
        "imagenet-a": wnid_folders,
        "imagenet-r": wnid_folders,
        "imagenet-sketch": wnid_folders,
        "objectnet": objectnet,
        "cifar10-c": lambda r: arrays(r, 10),
        "cifar100-c": lambda r: arrays(r, 100),
        "cifar10.1": lambda r: cifar10_1(r, "v6"),
        "cifar10.1-v4": lambda r: cifar10_1(r, "v4"),
        "tiny-imagenet-c": lambda r: corruption_folders(r, 64),
    }
    makers[suite](root)


def outputs_of(suite: str) -> int:
    """Outputs of a model for the suite's tree."""
    special = {"cifar10-c": 10, "cifar100-c": 100, "cifar10.1": 10, "cifar10.1-v4": 10, "tiny-imagenet-c": 3}
    return special.get(suite, 1000)


def side_of(suite: str) -> int:
    """Side of the model's input for the suite's tree, in pixels."""
    return 64 if suite.startswith("tiny") else 224 if suite.startswith(("imagenet", "objectnet")) else 32


def flat_val(root: Path) -> Iterator[int]:
    """ImageNet's validation set as one folder and a list; gives the class numbers."""
    numbers = (7, 2, 999)
    for k, number in enumerate(numbers, start=1):
        draw(root / f"ILSVRC2012_val_{k:08d}.JPEG", number)
        yield number
    lines = [f"ILSVRC2012_val_{k:08d}.JPEG {number}" for k, number in enumerate(numbers, start=1)]
    (root / "val.txt").write_text("\n".join(lines) + "\n")
