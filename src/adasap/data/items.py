"""Items of any map-style data set: read reproducibly, brought to tensors, and put together to batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from adasap.data.draws import generator_seeds
from adasap.errors import AdasapError, DataError


class Samples(Protocol):
    """A map-style data set, as `torch.utils.data.Dataset` says."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Gives the global generators of torch (CPU), NumPy and Python back as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - a user's transforms do
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch (CPU), NumPy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def read_items(dataset: Samples, indices: Tensor, *, seed: int = 0, epoch: int = 0) -> list[Any]:
    """Items of a data set, each read under its own random numbers.

    Before each item the global generators of torch, NumPy and Python are seeded by (seed, epoch, index) and given back
    afterwards: an item whose random transforms draw from them is the same on any number of workers and after a
    resumption. A data set with generators of its own has to follow the epoch, which its `set_epoch(epoch)` is told if
    it has one.

    Args:
        dataset: Any map-style data set.
        indices: int64 [B].
        seed: Of the run.
        epoch: Pass over the data.
    Raises:
        DataError: If an item cannot be read; names it.

    Example:
        >>> noise = type("Noise", (), {"__getitem__": lambda self, index: float(torch.rand(()))})()
        >>> first = read_items(noise, torch.tensor([3, 4]), epoch=1)
        >>> read_items(noise, torch.tensor([4]), epoch=1) == first[1:], len(set(first))
        (True, 2)
    """
    tell = getattr(dataset, "set_epoch", None)
    if tell is not None:
        tell(epoch)
    items = []
    with kept_random_states():
        for index, item_seed in zip(indices.tolist(), generator_seeds(seed, epoch, indices, "item"), strict=True):
            seed_everything(item_seed)
            try:
                items.append(dataset[index])
            except AdasapError:
                raise
            except Exception as error:
                raise DataError(
                    f"item {index} of {type(dataset).__name__} cannot be read ({type(error).__name__}: {error}); "
                    "correct the data set, or leave the item out"
                ) from error
    return items


def image_and_target(item: Any) -> tuple[Any, Any]:
    """The two parts of an item.

    Raises:
        DataError: If it is not a pair.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise DataError(
        f"an item of the data set is of type {type(item).__name__}{_length(item)}; give (image, target), or write "
        "`collate` of your task"
    )


def _length(item: Any) -> str:
    return f" with {len(item)} parts" if isinstance(item, tuple | list | Mapping) else ""


def image_tensor(image: Any) -> Tensor:
    """An image [C, H, W] of its own type, from PIL, NumPy ([H, W] or [H, W, C]), a tensor or a tv_tensor.

    Raises:
        DataError: For anything else.

    Example:
        >>> image_tensor(np.zeros((4, 6, 3), dtype=np.uint8)).shape
        torch.Size([3, 4, 6])
    """
    if isinstance(image, Tensor):
        plain = image.as_subclass(Tensor)
        return plain[None] if plain.ndim == 2 else _three(plain, image)
    array = np.asarray(image)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        raise _no_image(image)
    if array.ndim == 3 and array.shape[0] <= 4 < array.shape[2]:
        raise DataError(
            f"an image is an array {list(array.shape)}, which looks like [C, H, W]; give a tensor, or [H, W, C]"
        )
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def _three(plain: Tensor, image: Any) -> Tensor:
    if plain.ndim != 3:
        raise _no_image(image)
    return plain


def _no_image(image: Any) -> DataError:
    shape = f" {list(image.shape)}" if hasattr(image, "shape") else ""
    return DataError(
        f"an image is of type {type(image).__name__}{shape}; give PIL, NumPy [H, W] or [H, W, C], or a tensor [C, H, W]"
    )


def target_tensor(target: Any) -> Any:
    """Numbers, NumPy, PIL and tv_tensors as tensors; anything else as it is."""
    if isinstance(target, Tensor):
        return target.as_subclass(Tensor)
    if isinstance(target, bool | int | float | np.ndarray | np.generic) or hasattr(target, "getbands"):
        return torch.from_numpy(np.array(target))
    return target


def together(parts: Sequence[Any]) -> Any:
    """Tensors of one shape and type stacked, dictionaries key by key; otherwise a list.

    Example:
        >>> together([torch.zeros(2), torch.zeros(2)]).shape, together(["a", "b"])
        (torch.Size([2, 2]), ['a', 'b'])
    """
    first = parts[0]
    if all(isinstance(part, Tensor) and (part.shape, part.dtype) == (first.shape, first.dtype) for part in parts):
        return torch.stack(list(parts))
    if isinstance(first, Mapping) and all(isinstance(part, Mapping) and part.keys() == first.keys() for part in parts):
        return {key: together([target_tensor(part[key]) for part in parts]) for key in first}
    return list(parts)


def collated(samples: Sequence[Any]) -> tuple[Any, Any]:
    """Images and targets of (image, target) pairs: stacked where they have one shape, else lists.

    Example:
        >>> images, labels = collated([(np.zeros((4, 4), dtype=np.uint8), 1), (np.zeros((4, 4), dtype=np.uint8), 0)])
        >>> images.shape, images.dtype, labels
        (torch.Size([2, 1, 4, 4]), torch.uint8, tensor([1, 0]))
    """
    pairs = [image_and_target(sample) for sample in samples]
    images = together([image_tensor(image) for image, _ in pairs])
    return images, together([target_tensor(target) for _, target in pairs])


def is_indexed(data: Any) -> bool:
    """Whether data are a map-style data set, and neither a loader nor an iterable one."""
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return indexed and not isinstance(data, DataLoader | IterableDataset)


def content_of(dataset: Any) -> list[Tensor]:
    """What a data set is known again by: what its `content()` gives, else its labels, else eight of its items.

    Args:
        dataset: Any; a loader or an iterable set has nothing that could be looked at.
    """
    if hasattr(dataset, "content"):
        return list(dataset.content())
    if isinstance(getattr(dataset, "labels", None), Tensor):
        return [dataset.labels]
    if not is_indexed(dataset):
        return []
    places = sorted({place * (len(dataset) - 1) // 7 for place in range(8)})
    items = read_items(dataset, torch.tensor(places, dtype=torch.int64))
    return [torch.tensor([len(dataset)]), *(tensor for item in items for tensor in tensors_in(item))]


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples, dictionaries and dataclasses, in their order; numbers as tensors, too.

    Example:
        >>> tensors_in([(torch.ones(1), {"a": 2})])
        [tensor([1.]), tensor(2)]
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in tensors_in(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_in(part)]
    tensor = target_tensor(value)
    return [tensor] if isinstance(tensor, Tensor) else []
