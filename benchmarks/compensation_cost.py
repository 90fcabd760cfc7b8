"""Seconds and memory of compensation: ResNet-50 (random weights and images, 224 px) to 0.7 of its MACs by L2.

    python benchmarks/compensation_cost.py --images 256     # about three minutes on two CPU cores

Prints the cut alone, then the cut with every layer refitted by least squares; memory is the most that the process held.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
import torchvision

import adasap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    images = parser.parse_args().images
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    batches = [torch.randn(16, 3, 224, 224) for _ in range(images // 16)]
    for title, more in {"alone": {}, "compensated": {"compensate": "least_squares", "batches": batches}}.items():
        started = time.perf_counter()
        pruned = adasap.prune(model, torch.zeros(1, 3, 224, 224), "l2", {"macs": 0.7}, **more)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{title}: {time.perf_counter() - started:.0f} s, {held:.1f} GiB at most; {pruned}")


if __name__ == "__main__":
    main()
