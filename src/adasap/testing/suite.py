"""What every suite must do: the same images in the same order in each cell, however they are batched."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from adasap.data import PreparationTime
from adasap.evaluation import Cell, Suite
from adasap.evaluation.suites import Loading
from adasap.tasks.task import first_images
from adasap.testing.random_state import global_random_state

CPU = torch.device("cpu")


def images_of(suite: Suite, cell: Cell, loading: Loading | None = None) -> list[Tensor]:
    """The raw images of a cell, [C, H, W] each."""
    batches = suite.batches(cell, CPU, loading or Loading(batch_size=2), PreparationTime())
    return [image for batch in batches for image in first_images(batch)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether these are the same images, bit for bit."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class SuiteContract:
    """Asks for the fixture `suite`: one of at least three images."""

    def test_it_has_a_name_and_different_cells(self, suite: Suite) -> None:
        assert suite.name
        assert len(set(suite.cells)) == len(suite.cells) > 0

    def test_every_cell_has_as_many_images(self, suite: Suite) -> None:
        counts = {cell: len(images_of(suite, cell)) for cell in suite.cells}
        assert len(set(counts.values())) == 1, f"the cells hold {counts} images"
        assert suite.record["images"] == next(iter(counts.values())) >= 3

    def test_the_batch_size_changes_no_image(self, suite: Suite) -> None:
        for cell in suite.cells:
            assert same(images_of(suite, cell, Loading(batch_size=1)), images_of(suite, cell, Loading(batch_size=3)))

    def test_workers_change_no_image(self, suite: Suite) -> None:
        cell = suite.cells[-1]
        assert same(images_of(suite, cell, Loading(batch_size=2, num_workers=1)), images_of(suite, cell))

    def test_batches_have_a_size(self, suite: Suite) -> None:
        assert suite.images_per_batch(Loading()) >= 1
        assert suite.images_per_batch(Loading(batch_size=7)) == 7

    def test_a_sample_keeps_images_and_their_draws_in_every_cell(self, suite: Suite) -> None:
        sample, places = suite.sampled(2, seed=0), set()
        assert sample.cells == suite.cells
        for cell in suite.cells:
            whole, some = images_of(suite, cell), images_of(sample, cell)
            assert len(some) == 2
            at = [next((i for i, image in enumerate(whole) if torch.equal(image, one)), None) for one in some]
            assert None not in at, f"an image of the sample of {cell} is none of the whole"
            places.add(tuple(at))
        assert len(places) == 1, f"the cells were sampled differently: {places}"

    def test_a_sample_of_more_than_there_is_is_the_whole(self, suite: Suite) -> None:
        cell = suite.cells[0]
        assert same(images_of(suite.sampled(10**6, seed=0), cell), images_of(suite, cell))

    def test_it_is_known_by_its_content(self, suite: Suite) -> None:
        first, second = suite.content(), suite.content()
        assert first
        assert same(first, second)
        assert not same(first, suite.sampled(2, seed=0).content()), "a sample is known as the whole"

    def test_its_record_is_ready_for_json(self, suite: Suite) -> None:
        assert {"kind", "images"} <= suite.record.keys()
        assert json.loads(json.dumps(dict(suite.record))) == dict(suite.record)
        assert all(isinstance(remark, str) for remark in suite.remarks)

    def test_global_random_state_is_not_moved(self, suite: Suite) -> None:
        before = global_random_state()
        images_of(suite, suite.cells[-1])
        assert global_random_state() == before
