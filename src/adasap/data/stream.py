"""The training batches: batch k is a pure function of (seed, k), so a resumed run sees the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adasap.data.augmentation import Augmentation
from adasap.data.draws import generator_seeds
from adasap.data.items import Samples
from adasap.errors import AdasapError, DataError

Batch = tuple[Tensor, Tensor]
"""Images uint8 [B, C, H, W] and labels int64 [B]."""


class BatchMaker(Protocol):
    """Makes the raw batches of a training stream, each a function of (seed of the run, epoch, indices)."""

    def labelled(self, dataset: Any, indices: Tensor, epoch: int) -> Any:
        """The batch of these items, int64 [B], varied as they are in this epoch; random states stay as they were."""


class Batching(Protocol):
    """How batches are made of items, such as an `Augmentation`."""

    def maker(self, *, seed: int) -> BatchMaker:
        """What makes them in a run of that seed."""


class TrainingStream:
    """Shuffled, augmented batches without end, the same on any number of workers and ranks.

    Each epoch is a permutation drawn from (seed, epoch); what is left over at its end is dropped. Each
    image's augmentation is drawn from (seed, epoch, index of the image).

    Args:
        dataset: A map-style data set.
        batching: How its items become batches: an `Augmentation` of images with labels, which by default are left as
            they are, or what `Task.batching` gives.
        batch_size: Images per step over ALL ranks.
        seed: Of the run.
        num_workers: Processes that prepare batches; 0 prepares them in this process.
        rank: Which part of each batch this process takes: every `world_size`-th image from `rank` on.
        world_size: Number of processes that train together.
    Raises:
        DataError: If the batch is larger than the data set or cannot be shared out evenly.
        RecipeError: If the augmentation names an unknown transform.

    Example:
        >>> from adasap.data import DataSource, open_dataset
        >>> stream = TrainingStream(open_dataset(DataSource("digits"), "train"), batch_size=64, seed=0)
        >>> stream.steps_per_epoch
        21
        >>> images, labels = next(stream.iterate(start_step=100))
        >>> images.shape, labels.shape, bool((labels == stream.batch(100)[1]).all())
        (torch.Size([64, 3, 32, 32]), torch.Size([64]), True)
    """

    def __init__(
        self,
        dataset: Samples,
        batching: Batching | None = None,
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check(len(dataset), batch_size, num_workers, rank, world_size)
        self.dataset = dataset
        self.maker: BatchMaker = (batching or Augmentation()).maker(seed=seed)
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self._permutation: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data; the incomplete last one is dropped."""
        return len(self.dataset) // self.batch_size

    def indices(self, step: int) -> Tensor:
        """Which images this rank takes at a step, int64 [batch_size / world_size]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed(self._epoch_seed(epoch))
            self._permutation = (epoch, torch.randperm(len(self.dataset), generator=generator))
        whole = self._permutation[1][place * self.batch_size : (place + 1) * self.batch_size]
        return whole[self.rank :: self.world_size]

    def batch(self, step: int) -> Any:
        """This rank's part of the batch of one step, made in this process."""
        return self.maker.labelled(self.dataset, self.indices(step), step // self.steps_per_epoch)

    @property
    def remarks(self) -> tuple[str, ...]:
        """None: a resumed run begins where it was."""
        return ()

    def first(self, count: int) -> list[Any]:
        """The batches of the first steps, made in this process."""
        return [self.batch(step) for step in range(count)]

    def iterate(self, start_step: int = 0) -> Iterator[Any]:
        """Batches of `start_step` and all later steps, without end, prepared ahead by the workers.

        Close the iterator (`.close()`, or let go of it) to stop the workers.

        Raises:
            DataError: If an image cannot be read, at the step that needs it.
        """
        if start_step < 0:
            raise DataError(f"start_step is {start_step}; steps are counted from 0")
        loader = DataLoader(
            _BatchesByStep(self),
            batch_size=None,
            sampler=_StepsFrom(start_step),
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
            collate_fn=as_it_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the loader takes a number from the global one
        )
        for batch in loader:
            if isinstance(batch, AdasapError):
                raise batch
            yield tuple(batch) if isinstance(batch, list) else batch  # the pinning of memory makes lists of tuples

    def _epoch_seed(self, epoch: int) -> int:
        return generator_seeds(self.seed, epoch, torch.zeros(1, dtype=torch.int64), "order")[0]


class _BatchesByStep(Dataset[Any]):
    """The stream as a map from step to batch; an error we raised on purpose is handed over, not re-worded."""

    def __init__(self, stream: TrainingStream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> Any:
        try:
            return self.stream.batch(step)
        except AdasapError as error:
            return error


class _StepsFrom:
    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def as_it_is(batch: Any) -> Any:
    """What the loader does with a batch that is one already: nothing."""
    return batch


def _check(num_images: int, batch_size: int, num_workers: int, rank: int, world_size: int) -> None:
    if not 1 <= batch_size <= num_images:
        raise DataError(
            f"batch_size is {batch_size} and there are {num_images} images; give a batch_size from 1 to {num_images}"
        )
    if num_workers < 0:
        raise DataError(f"num_workers is {num_workers}; give 0 or more processes")
    if world_size < 1 or not 0 <= rank < world_size:
        raise DataError(f"rank is {rank} of {world_size} processes; give a rank from 0 to world_size - 1")
    if batch_size % world_size:
        raise DataError(
            f"batch_size {batch_size} is over all {world_size} processes and cannot be shared out evenly; "
            f"choose {batch_size // world_size * world_size or world_size} or "
            f"{(batch_size // world_size + 1) * world_size}"
        )
