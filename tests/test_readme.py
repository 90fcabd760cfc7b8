"""The code of the README and of the pages under docs runs as it stands."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import adasap
from adasap import evaluation
from adasap.pruning import BudgetOptions, PruningOptions
from adasap.tasks.classification import metrics

ROOT = Path(__file__).parents[1]


def blocks(path: Path, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_readme_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = adasap.ModelSpec("torchvision:resnet18", {"num_classes": 10}, input_size=(3, 64, 64))
    model: nn.Module = adasap.open_model(spec)
    example_inputs = torch.randn(1, 3, 64, 64)
    names = {
        "adasap": adasap,
        "torch": torch,
        "spec": spec,
        "model": model,
        "example_inputs": example_inputs,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        "images": torch.randn(2, 3, 64, 64),
        "labels": torch.tensor([0, 1]),
    }
    dense = sum(p.numel() for p in model.parameters())
    code = blocks(ROOT / "README.md")
    assert len(code) == 3
    for block in code:
        exec(block, names)
    assert sum(p.numel() for p in model.parameters()) < dense
    assert names["step"].finite  # type: ignore[attr-defined]
    pruned = names["pruned"]
    assert isinstance(pruned, adasap.Pruned)
    assert pruned.cost_after <= 0.5 * pruned.cost_before
    assert sum(p.numel() for p in pruned.model.parameters()) < dense
    loaded = adasap.load(tmp_path / "small.safetensors")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


MIGRATION = ROOT / "docs" / "migration.md"


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


@pytest.fixture(scope="module")
def pretrained() -> nn.Module:
    torch.manual_seed(0)
    return adasap.open_model(adasap.ModelSpec("torchvision:resnet18", {"num_classes": 10}))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(blocks(MIGRATION))))
def test_every_block_of_the_migration_page_makes_the_model_smaller(
    place: int, pretrained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = copy.deepcopy(pretrained)
    names: dict[str, Any] = {
        "adasap": adasap,
        "torch": torch,
        "model": model,
        "example_inputs": torch.zeros(1, 3, 64, 64),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        "batches": [(torch.randn(2, 3, 64, 64), torch.tensor([1, 2])) for _ in range(4)],
        "loss": cross_entropy,
    }
    exec(blocks(MIGRATION)[place], names)
    smaller = names["pruned"].model if "pruned" in names else names["model"]
    with torch.no_grad():
        assert smaller(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in pretrained.parameters())


def test_the_loss_of_the_migration_page_is_the_one_of_its_test() -> None:
    (text,) = re.findall(r"\n    (def loss.*?)\n\n", MIGRATION.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {"torch": torch}
    exec(text.replace("\n    ", "\n"), names)
    net, batch = nn.Linear(4, 3), (torch.randn(2, 4), torch.tensor([0, 2]))
    assert torch.equal(names["loss"](net, batch), cross_entropy(net, batch))


def test_the_recipe_of_the_migration_page_is_one() -> None:
    (text,) = blocks(MIGRATION, "yaml")
    section = yaml.safe_load(text)
    options = PruningOptions(**section | {"budget": BudgetOptions(**section["budget"])})
    assert len(options.event_steps(0, 1000)) == 10
    assert adasap.build_criterion(options.criterion)


ROBUSTNESS = ROOT / "docs" / "robustness.md"


def test_the_code_of_the_robustness_page_runs_and_its_tables_are_what_it_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for block in blocks(ROBUSTNESS):
        exec(block, names)
    page = ROBUSTNESS.read_text()
    for title in ("Accuracy on corrupted (%)", "Ratios to clean"):
        assert f"\n\n{names['tables'][title]}\n\n" in page
    assert "Calibration and the worst class" in names["tables"]
    functions = {name for cell in re.findall(r"\| ([^|]*) \|\n", page) for name in re.findall(r"`(\w+)`", cell)}
    assert len(functions) == 11
    assert functions <= {*evaluation.__all__, *vars(metrics)}


def test_analysis_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = blocks(ROOT / "docs" / "analysis.md")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "all residuals within 0.001 of the largest eigenvalue" in printed
    assert names["large"].n_step.mean() > names["small"].n_step.mean() > 0
    assert names["removals"].damage.shape == (16,)
