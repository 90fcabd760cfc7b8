"""A batch in parts: small enough for a processor's caches, and as many at a time as it may use threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

CHUNK_VALUES = 2**19
"""Three images of 224 pixels, or 170 of 32: half of it, and threads wait for each other between operators that are too
short; twice as much, and the steps of a corruption leave the caches. Measured with benchmarks/corruptions.py."""


def for_each_chunk(work: Callable[[slice], None], num_images: int, values_per_image: int) -> None:
    """Calls `work` with slices that cover the images, from as many threads as torch uses within an operator.

    The operators of one chunk then run in one thread each: they last some ten microseconds, too short to share out.
    The chunks do not depend on the number of threads, so neither do results.
    """
    size = max(1, CHUNK_VALUES // max(1, values_per_image))
    chunks = [slice(start, start + size) for start in range(0, num_images, size)]
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(chunks) < 2:
        for chunk in chunks:
            work(chunk)
        return
    try:
        # The number is a thread's own, but also the default of threads to come; hence the restoring.
        num_workers = min(num_threads, len(chunks))
        with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, chunks))
    finally:
        torch.set_num_threads(num_threads)
