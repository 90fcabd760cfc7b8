"""Global random numbers, which nothing that is seeded may read or move."""

from __future__ import annotations

import random

import numpy as np
import torch


def global_random_state() -> tuple[bytes, str, object]:
    """The state of torch's, NumPy's and Python's generators."""
    _, key, *place = np.random.get_state()  # noqa: NPY002 the subject
    return torch.get_rng_state().numpy().tobytes(), f"{list(key)} {place}", random.getstate()


def seed_global_generators(seed: int) -> None:
    """Puts them all into another state."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 the subject
    random.seed(seed)
