"""Training batches of a loader or iterable data set of the user's own; a resumed run draws the first ones again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from adasap.data.draws import generator_seeds
from adasap.data.items import is_indexed, kept_random_states, seed_everything
from adasap.data.stream import Batching, TrainingStream
from adasap.errors import DataError


class Stream(Protocol):
    """Batches without end."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines for whoever starts the run."""

    def iterate(self, start_step: int = 0) -> Iterator[Any]:
        """Batches of `start_step` and all later steps."""

    def first(self, count: int) -> list[Any]:
        """The batches of the first steps."""


def open_stream(
    train: Any,
    batching: Callable[[], Batching],
    *,
    collate: Callable[[Sequence[Any]], Any],
    batch_size: int,
    seed: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> Stream:
    """The stream of any training data.

    Args:
        train: A map-style data set, an `IterableDataset` or a `DataLoader`.
        batching: Gives how batches are made of a map-style data set.
        collate: Puts items of an iterable data set together.
        batch_size, seed, num_workers, rank, world_size: As for `TrainingStream`; a loader brings its own batch size and
            workers.
    Raises:
        DataError: For anything else, a loader of unknown length, or one on several processes.
    """
    if is_indexed(train):
        ranks = {"rank": rank, "world_size": world_size}
        return TrainingStream(train, batching(), batch_size=batch_size, seed=seed, num_workers=num_workers, **ranks)
    if isinstance(train, IterableDataset):
        options: dict[str, Any] = {"num_workers": num_workers, "collate_fn": collate, "drop_last": True}
        train = DataLoader(train, batch_size, **options)
    if not isinstance(train, DataLoader):
        raise DataError(
            f"the training data are of type {type(train).__name__}; give a map-style torch Dataset, an IterableDataset "
            "or a DataLoader"
        )
    if world_size > 1:
        raise DataError(
            f"a loader of your own cannot be shared out over {world_size} processes; give a map-style Dataset"
        )
    return LoaderStream(train, seed=seed)


class LoaderStream:
    """The batches of a loader, pass after pass.

    Every pass begins with the global generators of torch, NumPy and Python seeded by (seed, pass), and draws from
    states that are kept apart from the run's own: what the loader draws is the same in every run of that seed.

    Args:
        loader: With a length; its batches are what the task prepares.
        seed: Of the run.
    Raises:
        DataError: If its length is not known or 0.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.arange(6))
        >>> stream = LoaderStream(DataLoader(data, 2, shuffle=True), seed=0)
        >>> whole = [batch[0].tolist() for batch in stream.first(5)]
        >>> next(stream.iterate(4))[0].tolist() == whole[4], stream.steps_per_epoch
        (True, 3)
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int) -> None:
        try:
            self.steps_per_epoch = len(loader)
        except TypeError as error:
            raise DataError(
                f"the length of {type(loader.dataset).__name__} is not known ({error}); give it a `__len__`: the "
                "number of its items in one pass"
            ) from error
        if self.steps_per_epoch < 1:
            raise DataError("the loader gives no batch; check its data set, batch_size and drop_last")
        self.loader, self.seed = loader, seed
        self.remarks = (
            "data.train is a loader or iterable data set of your own: a resumed run draws the batches of all steps "
            "before again and passes over them, and has the same numbers if the loader gives the same batches again",
        )
        self._first: list[Any] = []

    def iterate(self, start_step: int = 0) -> Iterator[Any]:
        """Batches of `start_step` and all later steps, without end; those before are drawn and passed over."""
        for step, batch in enumerate(self._batches()):
            if step >= start_step:
                yield batch

    def first(self, count: int) -> list[Any]:
        """The batches of the first steps; kept, so that a loader with a state of its own is not disturbed again."""
        if len(self._first) < count:
            batches = self._batches()
            self._first = [next(batches) for _ in range(count)]
        return self._first[:count]

    def _batches(self) -> Iterator[Any]:
        epoch = 0
        while True:
            yield from self._of_epoch(epoch)
            epoch += 1

    def _of_epoch(self, epoch: int) -> Iterator[Any]:
        tell = getattr(self.loader.dataset, "set_epoch", None)
        if tell is not None:
            tell(epoch)
        with kept_random_states():
            seed_everything(generator_seeds(self.seed, epoch, torch.zeros(1, dtype=torch.int64), "loader")[0])
            iterator, states = iter(self.loader), _states()
        for _ in range(self.steps_per_epoch):
            with kept_random_states():
                _set_states(states)
                try:
                    batch = next(iterator)
                except StopIteration:
                    raise DataError(
                        f"the loader says that it has {self.steps_per_epoch} batches and gave fewer; correct the "
                        "length of its data set"
                    ) from None
                states = _states()
            yield tuple(batch) if isinstance(batch, list) else batch


def _states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - a user's transforms do


def _set_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
