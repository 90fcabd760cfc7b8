"""Random numbers as a function of seed, step and rank, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed and what it is for.

    Example:
        >>> derived_seed(0, "step", 1) != derived_seed(0, "step", 2)
        True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Sets torch's generators (CPU and GPU) for one training step: dropout masks depend on nothing before it."""
    torch.manual_seed(derived_seed(seed, "step", step, rank))
