"""Compares the corruptions with the benchmark authors' arrays at 32 pixels and with imagecorruptions-imaug at 224.

    PYTHONPATH=tests python benchmarks/corruptions_parity.py

Writes results/corruptions_parity.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from files import write_json

import parity
from adasap.corruptions import BENCHMARK, VALIDATION, corrupt

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
NUM_SEEDS = 10


def main() -> None:
    model, rows = parity.resnet20(SHARED), {}
    for name in (*BENCHMARK, *VALIDATION):
        rows[name] = {"at_32": at_32(name), "at_224": at_224(name)}
        num_seeds = 1 if name in parity.DETERMINISTIC else NUM_SEEDS
        rows[name]["accuracy"] = parity.accuracy_gap(model, SHARED, name, num_seeds=num_seeds)
        print(name, *misses(name, rows[name]), sep="; ", flush=True)
        write_json(ROOT / "results" / "corruptions_parity.json", rows)
    gaps = [row["accuracy"]["ours"] - row["accuracy"]["theirs"] for row in rows.values()]
    print(f"mean gap over {len(gaps)}: {sum(gaps) / len(gaps):+.2f} points")


def misses(name: str, row: dict[str, Any]) -> list[str]:
    accuracy, found = row["accuracy"], []
    gap = accuracy["ours"] - accuracy["theirs"]
    bound = max(parity.MAX_RANDOM_POINTS, parity.MAX_BOOTSTRAP_ERRORS * accuracy["error"])
    if name in parity.DETERMINISTIC:
        bound = parity.MAX_POINTS
        worst = max(part["mean_absolute_difference"] for part in row["at_32"] + row["at_224"])
        found.append(f"{'MISSES' if worst > parity.MAX_DIFFERENCE_LEVELS else 'pixels'} {worst:.3f} levels")
    return [*found, f"{'MISSES' if abs(gap) > bound else 'accuracy'} {gap:+.2f} points of {bound:.2f}"]


def at_32(name: str) -> list[dict[str, float]]:
    clean, theirs, _ = parity.reference(SHARED, name)
    return [parity.compared(clean, corrupt(clean, name, s + 1), theirs[s]) for s in range(5)]


def at_224(name: str) -> list[dict[str, float]]:
    coarse = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    clean = F.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    return [parity.compared(clean, corrupt(clean, name, s), parity.peer(clean, name, s)) for s in range(1, 6)]


if __name__ == "__main__":
    main()
