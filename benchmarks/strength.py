"""How strong should a perturbation be? The gain over plain training of as many passes against the budget of loss.

    python ../shared/data/unpack.py .cache/cifar10
    adasap sweep recipes/sweeps/few_images_tuning.yaml
    python benchmarks/strength.py                # scores the sweep's models on more images; resumes cell by cell

Writes results/strength.json after every model, docs/images/strength.svg and a section of docs/radii.md. The images are
the 5,000 of the tuning split under the four validation corruptions: nothing of it is a reported number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_section
from method_pictures import IMAGES, INK, ORANGE, SOFT, TEAL, dot, line, svg, text

import adasap
from adasap.data import DataSource
from adasap.evaluation.statistics import Interval, paired_difference
from adasap.experiments.sweep import expand, read_sweep
from adasap.io import atomic_write
from adasap.processor import native_bf16
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "strength.json", ROOT / "docs" / "radii.md"
SWEEP = ROOT / "recipes" / "sweeps" / "few_images_tuning.yaml"
SUITES = {"clean": "clean", "corrupted": "corrupted-validation"}
SIGMAS, RATES = (0.03, 0.1, 0.3), (0.02, 0.05)
TITLE = "Gain over plain training of as many passes, in points, against the budget of loss"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="what was given to `adasap sweep --out`")
    parser.add_argument("--cifar10", type=Path, default=Path(".cache/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/strength"))
    parser.add_argument("--page", action="store_true", help="draw what is there, run nothing")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if not arguments.page:
        measure(results, arguments)
    found = gains(results)
    with atomic_write(IMAGES / "strength.svg") as file:
        file.write(picture(found).encode())
    write_section(PAGE, "strength", str(table(found)))


def measure(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Scores of the sweep's finished models that lack: for each image how many of its versions are right."""
    data = DataSource("npz", str(arguments.cifar10 / "test.npz"), count=5000)
    for cell in expand(read_sweep(SWEEP), SWEEP.parent):
        name = f"{cell.run}, seed {cell.seed}"
        if name in results or not cell.is_finished(arguments.runs):
            continue
        found = adasap.evaluate(
            cell.folder(arguments.runs) / "model.safetensors",
            data,
            list(SUITES.values()),
            severities=[1, 3, 5],
            precision="auto",
            out=arguments.out / cell.recipe.name,
        )
        scores = {kind: found[suite].per_image() for kind, suite in SUITES.items()}
        count = {kind: len(found[suite].metrics) for kind, suite in SUITES.items()}
        right = {kind: "".join(f"{round(s * count[kind]):x}" for s in one.tolist()) for kind, one in scores.items()}
        results[name] = {"precision": "bf16" if native_bf16() else "float32", "right": right, "versions": count}
        print(name, {kind: f"{100 * one.mean():.2f}" for kind, one in scores.items()}, flush=True)
        write_json(RESULTS, results)


def scores_of(results: dict[str, Any], run: str, kind: str) -> torch.Tensor | None:
    """Shares of an image's versions that are right, mean over seeds, in per cent, float64 [images]."""
    found = [one for name, one in sorted(results.items()) if name.startswith(f"{run}, ")]
    if not found:
        return None
    each = [[int(digit, 16) / one["versions"][kind] for digit in one["right"][kind]] for one in found]
    return 100 * torch.tensor(each, dtype=torch.float64).mean(dim=0)


def gains(results: dict[str, Any]) -> dict[tuple[float, float, str], Interval]:
    """(Rate, sigma, kind of images) -> gain over plain training at the same rate, paired by image."""
    found = {}
    for rate in RATES:
        for sigma in SIGMAS:
            for kind in SUITES:
                mine = scores_of(results, f"sigma_{sigma}_rate_{rate}", kind)
                plain = scores_of(results, f"plain_rate_{rate}", kind)
                if mine is not None and plain is not None:
                    found[rate, sigma, kind] = paired_difference(mine, plain)
    return found


def table(found: dict[tuple[float, float, str], Interval]) -> Table:
    rows = [
        [f"{rate}", f"{sigma}", *(shown(found[rate, sigma, kind]) for kind in SUITES)]
        for rate, sigma in sorted({key[:2] for key in found})
    ]
    return Table(["learning rate", "sigma", "gain, clean", "gain, corrupted"], rows)


def shown(one: Interval) -> str:
    return f"{one.value:+.1f} ({one.low:+.1f} to {one.high:+.1f})"


def picture(found: dict[tuple[float, float, str], Interval]) -> str:
    """A panel for each rate: sigma along, points up, intervals over images."""
    width, height, top, bottom = 320.0, 260, 40.0, 205.0
    highest = max([1.0, *(one.high for one in found.values())])
    lowest = min([-1.0, *(one.low for one in found.values())])

    def up(points: float) -> float:
        return bottom - (bottom - top) * (points - lowest) / (highest - lowest)

    parts: list[str] = []
    for panel, rate in enumerate(RATES):
        left = 40 + panel * width
        parts += [
            text(left + 120, 22, f"learning rate {rate}", weight="bold"),
            text(left + 250, 226, "sigma", anchor="start"),
        ]
        parts += [line([(left, up(0)), (left + 240, up(0))], SOFT, 1)]
        parts += [
            text(left - 6, up(mark) + 4, f"{mark:+d}" if mark else "0", anchor="end") for mark in marks(lowest, highest)
        ]
        for place, sigma in enumerate(SIGMAS):
            x = left + 40 + 80 * place
            parts.append(text(x, 226, f"{sigma}"))
            for kind, color, shift in (("clean", TEAL, -6), ("corrupted", ORANGE, 6)):
                if (rate, sigma, kind) in found:
                    one = found[rate, sigma, kind]
                    parts += [line([(x + shift, up(one.low)), (x + shift, up(one.high))], color)]
                    parts.append(dot(x + shift, up(one.value), color))
    words = (("clean", TEAL, 40), ("corrupted", ORANGE, 85), ("points over plain training, 95 % over images", INK, 165))
    parts += [text(x, 248, one, color=color, anchor="start") for one, color, x in words]
    return svg(int(2 * width + 20), height, TITLE, parts)


def marks(lowest: float, highest: float) -> Sequence[int]:
    return range(int(lowest), int(highest) + 1)


if __name__ == "__main__":
    main()
