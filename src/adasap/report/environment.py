"""Where a result was made: versions and machine, without names of hosts or folders."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from adasap import processor
from adasap.convolutions import fewest_channels

PACKAGES = ("adasap", "torch", "torchvision", "timm", "accelerate", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """Versions, processor and device, ready for JSON."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": gpu,
        "processor": processor.describe(),
        "guarded_convolutions": guarded_convolutions(),
    }


def guarded_convolutions() -> str | None:
    """The convolutions whose weight gradients are computed another way, because this processor's own are wrong."""
    fewest = fewest_channels()
    return f"1x1, stride 2 or more, fewer than {fewest} input channels" if fewest else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
