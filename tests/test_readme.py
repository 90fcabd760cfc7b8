"""The code of the README and of the pages under docs runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import adasap

ROOT = Path(__file__).parents[1]


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


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
