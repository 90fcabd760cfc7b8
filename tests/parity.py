"""What parity of the corruptions with other code means, for the tests and `benchmarks/corruptions_parity.py`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adasap.corruptions import corrupt
from adasap.models import ModelSpec, open_model

DETERMINISTIC = frozenset(
    ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"]
)
MAX_DIFFERENCE_LEVELS = 2.0
MAX_POINTS, MAX_RANDOM_POINTS, MAX_BOOTSTRAP_ERRORS, MAX_MEAN_POINTS = 1.0, 3.0, 3.0, 1.0


def num_seeds(name: str) -> int:
    """Over how many seeds the accuracy of a corruption is averaged."""
    return 1 if name in DETERMINISTIC else 10


def points_allowed(name: str, bootstrap_error: float) -> float:
    """How far two accuracies may be apart, in points."""
    return MAX_POINTS if name in DETERMINISTIC else max(MAX_RANDOM_POINTS, MAX_BOOTSTRAP_ERRORS * bootstrap_error)


def spectrum(change: Tensor, num_rings: int = 8) -> Tensor:
    """Mean power of float [N, 3, H, W] in rings of equal width from frequency 0 to 0.5 per pixel, [num_rings]."""
    power = torch.fft.fft2(change, norm="ortho").abs().square().mean(dim=(0, 1))
    down, right = (torch.fft.fftfreq(side) for side in power.shape)
    ring = ((down[:, None] ** 2 + right**2).sqrt() * 2 * num_rings).long().clamp(max=num_rings - 1).flatten()
    total = torch.zeros(num_rings).scatter_add_(0, ring, power.flatten())
    return total / ring.bincount(minlength=num_rings)


def compared(clean: Tensor, ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Two corruptions of the same images, uint8 [N, 3, H, W], compared in levels of 255 and in decades of power."""
    mine, other = (ours.float() - clean.float()), (theirs.float() - clean.float())
    decades = (spectrum(mine) + 1).log10() - (spectrum(other) + 1).log10()
    return {
        "mean_absolute_difference": (mine - other).abs().mean().item(),
        "mean_of_change": mine.mean().item(),
        "mean_of_change_theirs": other.mean().item(),
        "mean_error": mean_error(mine, other),
        "std_of_change": mine.std().item(),
        "std_of_change_theirs": other.std().item(),
        "spectrum_decades_apart": decades.abs().max().item(),
    }


def mean_error(mine: Tensor, other: Tensor) -> float:
    """Standard error of the difference of two mean changes: whole images are drawn lighter or darker (fog, frost)."""
    image_means = torch.stack([change.mean(dim=(1, 2, 3)) for change in (mine, other)])
    return (image_means.var(dim=1).sum() / len(mine)).sqrt().item()


def reference(shared_data: Path, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images [64, 3, 32, 32], the benchmark's own corrupted ones [5, 64, 3, 32, 32], and labels."""
    with np.load(shared_data / "cifar10c_reference" / "reference.npz") as file:
        clean, corrupted = torch.from_numpy(file["clean"]), torch.from_numpy(file[name])
        return clean.permute(0, 3, 1, 2), corrupted.permute(0, 1, 4, 2, 3), torch.from_numpy(file["labels"])


def resnet20(shared_data: Path) -> torch.nn.Module:
    weights = shared_data / "weights" / "resnet20_cifar10.safetensors"
    return open_model(ModelSpec("adasap:cifar_resnet20", weights=str(weights))).eval()


@torch.no_grad()
def correct(model: torch.nn.Module, shared_data: Path, images: Tensor, labels: Tensor) -> Tensor:
    """1 where the class is right, float [N]."""
    card = json.loads((shared_data / "weights" / "models.json").read_text())["resnet20_cifar10"]
    mean, std = (torch.tensor(card[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (model((images.float() / 255 - mean) / std).argmax(dim=1) == labels).float()


def accuracy_gap(model: torch.nn.Module, shared_data: Path, name: str, *, num_seeds: int) -> dict[str, float]:
    """Accuracy over the severities in percent, ours (mean over seeds) and theirs, and the gap's bootstrap error."""
    clean, theirs, labels = reference(shared_data, name)
    wanted = torch.stack([correct(model, shared_data, images, labels) for images in theirs]).mean(dim=0)
    runs = [
        torch.stack([correct(model, shared_data, corrupt(clean, name, s, seeds=seeds), labels) for s in range(1, 6)])
        for seeds in torch.arange(num_seeds)[:, None] * 1000 + torch.arange(len(clean))
    ]
    gap = (torch.stack(runs).mean(dim=(0, 1)) - wanted) * 100
    draws = torch.randint(len(gap), (1000, len(gap)), generator=torch.Generator().manual_seed(0))
    ours = torch.stack(runs).mean().item() * 100
    return {"ours": ours, "theirs": wanted.mean().item() * 100, "error": gap[draws].mean(dim=1).std().item()}


def peer(images: Tensor, name: str, severity: int) -> Tensor:
    """What imagecorruptions-imaug makes of uint8 [N, 3, H, W]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="imagecorruptions|pkg_resources|skimage|numba")
        warnings.filterwarnings("ignore", message=".*pkg_resources.*")
        import imagecorruptions

        pixels = [
            imagecorruptions.corrupt(image, corruption_name=name, severity=severity)
            for image in images.permute(0, 2, 3, 1).contiguous().numpy()
        ]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
