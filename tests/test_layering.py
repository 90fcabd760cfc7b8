"""A package imports only packages before it in this order, also inside functions and for types."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "adasap"
ORDER = (
    *("__version__", "errors", "metric", "plain_text", "processor", "io", "registry", "sealed", "checks", "schema"),
    *("memory", "machine_memory", "convolutions", "groups", "corruptions", "models", "data", "criteria", "sharpness"),
    *("pruning", "evaluation", "profiling", "report", "tasks", "training", "analysis", "extras", "pipeline", "export"),
    *("testing", "experiments", "integrations", "cli"),
)
CORE = ("groups", "criteria", "sharpness", "pruning")
BESIDE_TORCH = {
    "groups/heads_swin.py": {"torchvision"},  # stands in for a class of torchvision, imported where a model has it
    "groups/heads_cait.py": {"timm"},  # likewise
    "pruning/multiple_choice.py": {"numpy", "scipy"},  # the knapsack, inside its function
}


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere, types included: a type has a home, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> Iterator[tuple[str, Path]]:
    """Package and file, but for the package's own door, which names them all, and `python -m adasap`."""
    for path in sorted(SOURCE.rglob("*.py")):
        package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if package not in ("__init__", "__main__"):
            yield package, path


def test_no_package_imports_a_later_one() -> None:
    found = {
        (package, name.split(".")[1])
        for package, path in files()
        for name in imported(path)
        if name.startswith("adasap.") and name.split(".")[1] not in ORDER[: ORDER.index(package) + 1]
    }
    assert found == set(), "these imports point upward"


def test_the_core_imports_torch_alone() -> None:
    for package, path in files():
        if package in CORE:
            others = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"adasap", "torch"}
            assert others == BESIDE_TORCH.get(str(path.relative_to(SOURCE)), set()), path
