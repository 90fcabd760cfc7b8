"""Two processes on one machine (gloo): the same weights on both ranks, whatever each perturbed by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ranks import run_ranks

Tree = dict[str, Any]

WORKER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
import adasap
from adasap.experiments.compress import open_data, open_task
from adasap.models import open_model
for file in sorted(Path(sys.argv[1]).glob("*.yaml")):
    recipe = adasap.read_recipe(file)
    torch.manual_seed(0)
    model = open_model(recipe.model, trust_builder=True)
    result = adasap.compress(model, open_task(recipe), open_data(recipe), recipe)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    weights = {k: v.contiguous() for k, v in result.model.state_dict().items()}
    save_file(weights, file.with_suffix(f".{rank}.safetensors"))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def launch(trees: dict[str, Tree], folder: Path, ranks: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Name -> what each rank ended with; the runs share their processes, which take long to start."""
    folder.mkdir()
    for name, tree in trees.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, ranks=ranks)
    return {name: [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(ranks)] for name in trees}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


THREE_CUTS: Tree = {"epochs": 1, "budget": {"macs": 0.5}, "events": 3, "every": 2}
WITHOUT_NORMS: Tree = {"builder": "parallel_nets:no_norms", "options": {}}


def training(**options: Any) -> Tree:
    return {"batch_size": 32, "runtime": {"device": "cpu"}, **options}


def runs(tiny_recipe: Callable[..., Tree]) -> dict[str, Tree]:
    """Whatever ranks do together: reduce gradients, perturb, score, cut, mask, choose, average."""
    search = {
        "selection": "candidates",
        "selection_options": {"count": 3, "calibration_batches": 1, "scoring_batches": 2},
    }
    moments = {"name": "Adam", "learning_rate": 0.001, "options": {"eps": 1e-3}}
    found = {
        f"{criterion} {'one ascent point' if sync else 'm-sharpness'}": tiny_recipe(
            pruning={**THREE_CUTS, "criterion": criterion}, training=training(sync_perturbation=sync)
        )
        for criterion, sync in (("taylor", False), ("taylor", True), ("hutchinson", False))
    }
    found["cheaper steps"] = tiny_recipe(  # a stale direction is the reduced gradient; a part of a batch gives norms
        warm_up={"epochs": 1, "sharpness": {"variants": {"stale": {}}}},
        pruning={"criterion": "taylor", "compensate": "least_squares"},
        fine_tune={
            "epochs": 1,
            "sharpness": {"kind": "uniform", "form": {"subbatch": 0.5}, "variants": {"norm_only": {}}},
        },
        training=training(average_decay=0.9),
    )
    found["masks and candidates"] = tiny_recipe(
        pruning={
            "epochs": 1,
            "criterion": "taylor",
            "events": 3,
            "every": 2,
            "prepare": {"kind": "soft_masks"},
            **search,
        },
        training=training(),
    )
    for sync in (True, False):
        found[f"no norms {'together' if sync else 'apart'}"] = tiny_recipe(
            model=WITHOUT_NORMS,
            training=training(sync_perturbation=sync),
            pruning={**THREE_CUTS, "criterion": "taylor"},
        )
    for sync in (True, False):
        found[f"no norms budget {'together' if sync else 'apart'}"] = tiny_recipe(
            model=WITHOUT_NORMS,
            training=training(sync_perturbation=sync),
            warm_up={"sharpness": {"perturbation": {"loss_budget": {"sigma": 0.02, "when": "start", "batches": 5}}}},
            fine_tune={"epochs": 1, "sharpness": {"kind": "uniform", "perturbation": {"loss_budget": 0.05}}},
            pruning=THREE_CUTS,
        )
    found["no norms Adam"] = tiny_recipe(
        model=WITHOUT_NORMS,
        training=training(sync_perturbation=True, average_decay=0.9, optimizer=moments),
        pruning=THREE_CUTS,
    )
    return found


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights_and_with_those_of_one(
    tiny_recipe: Callable[..., Tree], tmp_path: Path
) -> None:
    """Without norm layers the two gradients of a batch average exactly; with m-sharpness they must not.

    With Adam the moments of the channels that stay, and the averaged weights beside them, go through three cuts.
    """
    trees = runs(tiny_recipe)
    ended = launch(trees, tmp_path / "two", ranks=2)
    assert [name for name, (first, second) in ended.items() if not equal(first, second)] == []
    single = {name: trees[name] for name in ("no norms together", "no norms budget together", "no norms Adam")}
    alone = {name: weights[0] for name, weights in launch(single, tmp_path / "one", ranks=1).items()}
    for name, weights in alone.items():
        far = {key: float((ended[name][0][key] - weight).abs().max()) for key, weight in weights.items()}
        assert max(far.values()) < 1e-5, (name, far)
    apart, together = ended["no norms apart"][0], alone["no norms together"]
    assert any(apart[n].shape != together[n].shape or (apart[n] - together[n]).abs().max() > 1e-3 for n in together)
