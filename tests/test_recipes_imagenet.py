"""The ImageNet recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adasap.experiments.recipe import read_recipe

RECIPES = Path(__file__).parents[1] / "recipes" / "imagenet"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("imagenet_*.yaml")), ids=lambda path: path.stem)
def test_imagenet_recipes_have_the_schedule_of_the_paper(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.warm_up.epochs + recipe.pruning.epochs + recipe.fine_tune.epochs == 90
    steps_per_epoch = 1_281_167 // recipe.training.batch_size
    assert recipe.pruning.events * recipe.pruning.every <= recipe.pruning.epochs * steps_per_epoch
    kinds = [phase.sharpness.kind for phase in (recipe.warm_up, recipe.fine_tune)]
    assert kinds == (["adaptive", "uniform"] if "adasap" in path.stem else ["plain", "plain"])
