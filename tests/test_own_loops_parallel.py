"""Two processes with gloo train what one process trains: a plain loop, and the Trainer of Transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from parallel_nets import no_norms
from ranks import run_ranks

pytest.importorskip("transformers")

import two_process_loops
from two_process_loops import State

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Transformers' own, of its and torch's


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """Each perturbs by its half of the batch; with one ascent point they make the numbers of a single process."""
    run_ranks(two_process_loops.__file__, tmp_path)
    loops: dict[str, Callable[[bool], State]] = {
        "plain": two_process_loops.plain,
        "transformers": partial(two_process_loops.transformers, folder=tmp_path),
    }
    whole = {name: tensor.shape for name, tensor in no_norms().state_dict().items()}
    for name, alone in loops.items():
        expected = alone(True)
        assert {key: tensor.shape for key, tensor in expected.items()} != whole
        for sync in (False, True):
            first, second = (torch.load(tmp_path / f"{name}.{sync}.{rank}.pt") for rank in (0, 1))
            assert all(torch.equal(first[key], second[key]) for key in first), (name, sync)
            if sync:
                torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
