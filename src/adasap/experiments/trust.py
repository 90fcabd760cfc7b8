"""The one rule about code that a file asks for: only this package and registered families (timm, ...) run untrusted."""

from __future__ import annotations

from adasap.errors import ModelError
from adasap.experiments.recipe import Recipe
from adasap.models import is_trusted


def require_trust(builder: str, trusted: bool, where: object) -> None:
    """Raises ModelError unless the builder is one of ours or the user gave `--trust-builder`.

    Args:
        builder: As a recipe, a run's folder or a model file names it; what the user typed himself is his word.
        trusted: Whether the flag was given.
        where: The file that names it.
    """
    if not trusted and not is_trusted(builder):
        raise ModelError(
            f"{where} asks to run {builder!r:.120}, code that is not of adasap, torchvision, timm or smp; add "
            "--trust-builder to the command (trust_builder=True in Python) if you know that code"
        )


def require_trusted_recipe(recipe: Recipe, trusted: bool, where: object) -> None:
    """Raises ModelError if a recipe names a builder, task, data or cost of the user's and the flag was not given."""
    require_trust(recipe.model.builder, trusted, where)
    for code in recipe.own_code:
        require_trust(code, trusted, where)
