"""Cuts under a norm over the channels against exact ones: accuracy right after the cut and after a short training.

    python benchmarks/inexact.py --model vit            # CIFAR-10, one core; goes on where it was
    python benchmarks/inexact.py --model convnext

A small ViT and a small ConvNeXt of torchvision classes learn the first 6,400 training images of CIFAR-10 from scratch,
are cut once to 0.5 and 0.3 of their MACs by L2, every group keeping a tenth, and train on for two epochs with the same
optimizer. `exact`: groups under a LayerNorm are frozen; `inexact`: they go by score like all others; `last`: only where
the exact ones cannot meet the budget, and only measured there. `rescaled`: each LayerNorm's scale times the root of the
mean square, about the mean, that the channels that stay have on 512 training images, over that of all. Accuracy is of
the first 2,000 test images; one seed.

Writes results/inexact.json; trained networks lie in .cache/inexact.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.convnext import LayerNorm2d as ConvNeXtNorm
from torchvision.models.vision_transformer import VisionTransformer

import adasap
from adasap.errors import BudgetError

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CACHE = ROOT / "results" / "inexact.json", ROOT / ".cache"
IMAGES, TESTED, BATCH, RATE = 6_400, 2_000, 128, 2e-3
BEFORE, AFTER = 10, 2
"""Epochs of the dense network, and after a cut."""
KEPT = (0.5, 0.3)
RANKINGS = ("uniform", "global")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "inexact": {"allow_inexact": True},
    "last": {"allow_inexact": True, "inexact": "last"},
}
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "vit": lambda: VisionTransformer(32, 8, 4, 4, hidden_dim=64, mlp_dim=128, num_classes=10),
    "convnext": lambda: ConvNeXt([CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 2)], num_classes=10),
}
EXAMPLE = torch.zeros(1, 3, 32, 32)


def images_of(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Images float [count, 3, 32, 32], centred and scaled, and labels int64 [count]."""
    with np.load(CACHE / "cifar10" / f"{split}.npz") as file:
        images, labels = file["images"][:count], file["labels"][:count]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.47).div(0.25), torch.from_numpy(labels)


def train_(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """AdamW with a linear fall of the rate to zero; images are flipped by chance."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    steps = epochs * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            flipped = torch.rand(len(index), 1, 1, 1, generator=generator) < 0.5
            batch = torch.where(flipped, images[index].flip(-1), images[index])
            loss = F.cross_entropy(model(batch), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent."""
    model.eval()
    right = [
        (model(part).argmax(1) == own).sum() for part, own in zip(images.split(500), labels.split(500), strict=True)
    ]
    return round(100 * float(sum(right)) / len(labels), 2)


@torch.no_grad()
def rescale_norms_(dense: nn.Module, pruned: adasap.Pruned, images: Tensor) -> None:
    """Scales of LayerNorms in the cut model times sqrt(E[variance over what stays] / E[variance over all])."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].movedim(1, -1) if isinstance(module, ConvNeXtNorm) else args[0]

        return hook

    norms = {name: module for name, module in dense.named_modules() if isinstance(module, nn.LayerNorm)}
    handles = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms.items()]
    dense.eval()(images)
    for handle in handles:
        handle.remove()
    for group in pruned.dense_groups:
        kept = pruned.plan.kept.get(group.name)
        for slot in group.with_role("scale") if kept is not None and group.inexact else ():
            name = slot.name.removesuffix(".weight")
            positions = slot.positions[kept].flatten()
            part = seen[name][..., positions].var(-1, correction=0).mean()
            pruned.model.get_submodule(name).weight.mul_((part / seen[name].var(-1, correction=0).mean()).sqrt())


def measured(model: nn.Module, kept: float, ranking: Any, way: str, data: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """One cell: what was cut, and how well it does."""
    budget = {"macs": kept}
    try:
        pruned = adasap.prune(model, EXAMPLE, "l2", budget, ranking=ranking, min_kept=0.1, **WAYS[way])
    except BudgetError as error:
        return {"impossible": str(error)}
    cell: dict[str, Any] = {
        "macs": round(pruned.cost_after / pruned.cost_before, 3),
        "mask_error": pruned.mask_error,
        "not_exact": list(pruned.not_exact),
        "cut": accuracy(pruned.model, *data["test"]),
    }
    trained = {"trained": copy.deepcopy(pruned.model)}
    if pruned.not_exact:
        rescale_norms_(model, pruned, data["train"][0][:512])
        cell["cut_rescaled"] = accuracy(pruned.model, *data["test"])
        trained["trained_rescaled"] = pruned.model
    for name, cut in trained.items():
        train_(cut, *data["train"], epochs=AFTER, seed=1)
        cell[name] = accuracy(cut, *data["test"])
    return cell


def dense_of(name: str, data: Mapping[str, tuple[Tensor, Tensor]]) -> nn.Module:
    """The trained network, from the cache if it is there."""
    torch.manual_seed(0)
    model, file = MODELS[name](), CACHE / "inexact" / f"{name}.pt"
    if file.is_file():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model
    train_(model, *data["train"], epochs=BEFORE, seed=0)
    file.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), file)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    name = parser.parse_args().model
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    data = {"train": images_of("train", IMAGES), "test": images_of("test", TESTED)}
    model = dense_of(name, data)
    results[f"{name}, dense"] = {"accuracy": accuracy(model, *data["test"])}
    for ranking in RANKINGS:
        for kept in KEPT:
            for way in WAYS:
                key = f"{name}, {kept}, {ranking}, {way}"
                exact = results.get(f"{name}, {kept}, {ranking}, exact", {})
                if key not in results and not (way == "last" and "impossible" not in exact):
                    results[key] = measured(model, kept, ranking, way, data)
                    print(key, results[key], flush=True)
                    write_json(RESULTS, results)
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()
