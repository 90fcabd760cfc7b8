"""What every corruption must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from adasap.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from adasap.corruptions.protocol import Constants, is_of_colour, is_on_levels
from adasap.testing.random_state import global_random_state, seed_global_generators

SIZES = ((23, 41), (5, 7), (9, 1), (1, 1))
"""Height and width; the last ones are smaller than any kernel."""


def photos(count: int = 4, side: int = 32) -> Tensor:
    """Images uint8 [N, 3, side, side], as smooth as photographs are, down to a few pixels."""
    coarse = torch.rand(count, 3, side // 6 + 1, side // 6 + 1, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


class CorruptionContract:
    """Asks for the fixture `corruption`, a name in `adasap.corruptions.CORRUPTIONS`."""

    def rising(self, corruption: str) -> tuple[Sequence[int], Constants]:
        """Severities of which each changes smooth images of 64 pixels more than the one before, and their constants."""
        return (1, 3, 5), "32"

    def test_keeps_shape_and_type_and_leaves_its_input_alone(self, corruption: str) -> None:
        images = photos()
        before = images.clone()
        for severity in range(1, NUM_SEVERITIES + 1):
            out = corrupt(images, corruption, severity)
            assert (out.shape, out.dtype) == (images.shape, torch.uint8), f"severity {severity}"
        assert torch.equal(images, before), "the images given were written to"

    def test_gives_finite_numbers(self, corruption: str) -> None:
        function = CORRUPTIONS.get(corruption)
        for severity in range(1, NUM_SEVERITIES + 1):
            images = photos(2) if is_on_levels(function) else photos(2).float() / 255
            out = function(images, severity, torch.arange(2), "32")
            assert out.isfinite().all(), f"severity {severity} gives numbers that are not finite"

    def test_an_image_gets_the_same_draws_in_any_batch_and_order(self, corruption: str) -> None:
        images, seeds, order = photos(), torch.tensor([7, 3, 9, 1]), torch.tensor([2, 0])
        whole = corrupt(images, corruption, 4, seeds=seeds)
        some = corrupt(images[order], corruption, 4, seeds=seeds[order])
        assert torch.equal(some, whole[order]), "draws depend on the batch; draw from each image's seed"

    def test_does_more_at_a_higher_severity(self, corruption: str) -> None:
        images, (severities, constants) = photos(side=64), self.rising(corruption)
        outs = [corrupt(images, corruption, severity, constants=constants) for severity in severities]
        change = [(out.float() - images.float()).abs().mean().item() for out in outs]
        assert [0, *change] == sorted({0, *change}), f"mean change at severities {severities}: {change}"

    def test_takes_any_size(self, corruption: str) -> None:
        for height, width in SIZES:
            for constants in get_args(Constants):
                out = corrupt(photos(2, 41)[:, :, :height, :width], corruption, 5, constants=constants)
                assert out.shape == (2, 3, height, width)

    def test_takes_grey_images(self, corruption: str) -> None:
        assert corrupt(photos()[:, :1], corruption, 3).shape == (4, 1, 32, 32)

    def test_takes_any_channels_unless_it_is_of_colour(self, corruption: str) -> None:
        if not is_of_colour(CORRUPTIONS.get(corruption)):
            five = torch.cat([photos(), photos()[:, :2]], dim=1)
            assert corrupt(five, corruption, 3).shape == five.shape, "mark it `of_colour` if it is for colours alone"

    def test_an_empty_batch_stays_empty(self, corruption: str) -> None:
        assert corrupt(photos()[:0], corruption, 1).shape == (0, 3, 32, 32)

    def test_the_layout_in_memory_does_not_matter(self, corruption: str) -> None:
        images = photos(2)
        wanted = corrupt(images, corruption, 3)
        strided = images.repeat_interleave(2, dim=3)[..., ::2]
        assert torch.equal(corrupt(images.contiguous(memory_format=torch.channels_last), corruption, 3), wanted)
        assert torch.equal(corrupt(strided, corruption, 3), wanted)

    def test_the_number_of_threads_does_not_matter(self, corruption: str) -> None:
        images, threads, outs = photos(3, 224), torch.get_num_threads(), []
        try:
            for number in (1, 2):
                torch.set_num_threads(number)
                outs.append(corrupt(images, corruption, 4))
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(*outs)

    def test_global_random_state_is_neither_read_nor_moved(self, corruption: str) -> None:
        outs = []
        for seed in (0, 1):
            seed_global_generators(seed)
            before = global_random_state()
            outs.append(corrupt(photos(2), corruption, 3))
            assert global_random_state() == before, "a global generator was drawn from; draw from the seeds"
        assert torch.equal(*outs), "draws depend on a global generator; draw from the seeds"
