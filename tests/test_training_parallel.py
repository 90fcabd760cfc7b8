"""Two processes on one machine (gloo): the same weights on both ranks, whatever each perturbed by."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

Tree = dict[str, Any]

WORKER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
import adasap
from adasap.cli.runs import open_data, open_task
from adasap.models import open_model
recipe = adasap.read_recipe(Path(sys.argv[1]))
torch.manual_seed(0)
model = open_model(recipe.model, trust_builder=True)
result = adasap.compress(model, open_task(recipe), open_data(recipe), recipe)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
save_file({k: v.contiguous() for k, v in result.model.state_dict().items()}, f"{sys.argv[2]}/rank{rank}.safetensors")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(tree: Tree, folder: Path, ranks: int) -> list[dict[str, torch.Tensor]]:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    (folder / "worker.py").write_text(WORKER)
    arguments = [str(folder / "worker.py"), str(folder / "recipe.yaml"), str(folder)]
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
    launcher = torchrun if ranks > 1 else []
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
    }
    done = subprocess.run([sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(ranks)]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("criterion", "sync"),
    [("taylor", False), ("taylor", True), ("hutchinson", False)],
    ids=["taylor m-sharpness", "taylor one ascent point", "hutchinson m-sharpness"],
)
def test_both_ranks_end_with_the_same_weights(
    tiny_recipe: Callable[..., Tree], tmp_path: Path, criterion: str, sync: bool
) -> None:
    tree = tiny_recipe(
        pruning={"epochs": 1, "criterion": criterion, "budget": {"macs": 0.5}, "events": 3, "every": 2},
        training={"batch_size": 32, "sync_perturbation": sync, "runtime": {"device": "cpu"}},
    )
    first, second = launch(tree, tmp_path / "two", ranks=2)
    assert equal(first, second)


@pytest.mark.slow
def test_both_ranks_take_cheaper_steps_alike(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> None:
    """A stale direction is the reduced gradient; a part of each rank's batch gives norms alone."""
    tree = tiny_recipe(
        warm_up={"epochs": 1, "sharpness": {"form": {"direction": "stale"}}},
        pruning={"criterion": "taylor"},
        fine_tune={
            "epochs": 1,
            "sharpness": {"kind": "uniform", "form": {"subbatch": 0.5}, "perturbation": {"norm_only": True}},
        },
        training={"batch_size": 32, "average_decay": 0.9, "runtime": {"device": "cpu"}},
    )
    first, second = launch(tree, tmp_path / "two", ranks=2)
    assert equal(first, second)


@pytest.mark.slow
def test_both_ranks_mask_and_choose_alike(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> None:
    search = {"selection": "candidates", "candidates": {"count": 3, "calibration_batches": 1, "scoring_batches": 2}}
    tree = tiny_recipe(
        pruning={
            "epochs": 1,
            "criterion": "taylor",
            "events": 3,
            "every": 2,
            "prepare": {"kind": "soft_masks"},
            **search,
        },
        training={"batch_size": 32, "runtime": {"device": "cpu"}},
    )
    first, second = launch(tree, tmp_path / "two", ranks=2)
    assert equal(first, second)


@pytest.mark.slow
def test_two_ranks_make_the_numbers_of_one_where_the_ascent_point_is_shared(
    tiny_recipe: Callable[..., Tree], tmp_path: Path
) -> None:
    """Without norm layers the two gradients of a batch average exactly; with m-sharpness they must not."""

    def run(name: str, ranks: int, sync: bool) -> dict[str, torch.Tensor]:
        tree = tiny_recipe(
            model={"builder": "parallel_nets:no_norms", "options": {}},
            training={"batch_size": 32, "sync_perturbation": sync, "runtime": {"device": "cpu"}},
            pruning={"epochs": 1, "criterion": "taylor", "budget": {"macs": 0.5}, "events": 3, "every": 2},
        )
        return launch(tree, tmp_path / name, ranks)[0]

    alone, together, apart = run("alone", 1, True), run("together", 2, True), run("apart", 2, False)
    difference = {name: float((together[name] - alone[name]).abs().max()) for name in alone}
    assert max(difference.values()) < 1e-5, difference
    assert any(apart[n].shape != alone[n].shape or (apart[n] - alone[n]).abs().max() > 1e-3 for n in alone)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Adam"])
def test_state_that_two_ranks_cut_trains_on_as_that_of_one(
    tiny_recipe: Callable[..., Tree], tmp_path: Path, optimizer: str
) -> None:
    """The moments of the channels that stay, and the averaged weights beside them, through three cuts."""

    def run(name: str, ranks: int) -> list[dict[str, torch.Tensor]]:
        tree = tiny_recipe(
            model={"builder": "parallel_nets:no_norms", "options": {}},
            training={
                "batch_size": 32,
                "sync_perturbation": True,
                "average_decay": 0.9,
                "optimizer": {"name": optimizer, "learning_rate": 0.001, "options": {"eps": 1e-3}},
                "runtime": {"device": "cpu"},
            },
            pruning={"epochs": 1, "budget": {"macs": 0.5}, "events": 3, "every": 2},
        )
        return launch(tree, tmp_path / name, ranks)

    (alone,), (first, second) = run("alone", 1), run("together", 2)
    assert equal(first, second)
    difference = {name: float((first[name] - alone[name]).abs().max()) for name in alone}
    assert max(difference.values()) < 1e-5, difference
