"""Random numbers without a state: each is a pure function of (seed, epoch, image, purpose)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint64]


def random_words(seed: int, epoch: int, indices: Tensor, purpose: str) -> Words:
    """One 64-bit random number per image, uint64 [N], by the SplitMix64 finalizer (Steele et al., 2014).

    Example:
        >>> a = random_words(0, 3, torch.tensor([7, 8]), "flip")
        >>> b = random_words(0, 3, torch.tensor([8]), "flip")
        >>> bool(a[1] == b[0])  # whatever batch the image is in
        True
    """
    code = int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")
    word = np.zeros(len(indices), dtype=np.uint64)
    for part in (seed & 0xFFFF_FFFF_FFFF_FFFF, epoch, code):
        word = _mix(word ^ np.uint64(part))
    return _mix(word ^ indices.numpy().astype(np.uint64))


def random_integers(seed: int, epoch: int, indices: Tensor, purpose: str, bound: int) -> Tensor:
    """One integer from 0 to bound - 1 per image, int64 [N]; bound below 2^31."""
    high = random_words(seed, epoch, indices, purpose) >> np.uint64(33)
    return torch.from_numpy(((high * np.uint64(bound)) >> np.uint64(31)).astype(np.int64))


def generator_seeds(seed: int, epoch: int, indices: Tensor, purpose: str) -> list[int]:
    """One seed for a torch generator per image."""
    return [int(word) for word in random_words(seed, epoch, indices, purpose) >> np.uint64(1)]


def sample_indices(num_images: int, count: int, *, seed: int) -> Tensor:
    """`count` of the indices 0 to num_images - 1, drawn without replacement, ascending, int64 [count].

    The images with the smallest random numbers: a smaller sample of one seed is a part of a larger one.

    Example:
        >>> sample_indices(10, 3, seed=0)
        tensor([0, 8, 9])
    """
    order = np.argsort(random_words(seed, 0, torch.arange(num_images), "sample"), kind="stable")
    return torch.from_numpy(np.sort(order[:count]))


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Gives torch's CPU generator back as it was: torchvision's transforms draw from it and from no other."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _mix(word: Words) -> Words:
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
