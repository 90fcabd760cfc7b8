"""Does a sharpness-aware model lose less by INT8? A sweep's models, float and of 8 and 4 bits, clean and corrupted.

    python ../shared/data/unpack.py .cache/cifar10
    adasap sweep recipes/sweeps/few_images_main.yaml
    python benchmarks/int8_trained.py            # resumes model by model

Writes results/int8_trained.json after every model and docs/results-int8-trained.md from it. Named beforehand: the
primary comparison is what AdaSAP's models lose by INT8 of onnxruntime, per channel with the range that the processor
decides, minus what plain ones lose, corrupted, over seeds.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from files import write_json, write_page
from int8 import FLOAT, FULL, REDUCED, VARIANTS, Network, opened_images, variants

import adasap
from adasap.corruptions import BENCHMARK
from adasap.data import PreparationTime
from adasap.evaluation import Cell, Loading
from adasap.evaluation.statistics import Interval, SeedDifference, holm, mean_over_seeds, paired_over_seeds
from adasap.experiments.sweep import expand, read_sweep
from adasap.processor import saturates_int8
from adasap.profiling.timing import Setting
from adasap.report import Table
from adasap.report.environment import environment
from adasap.tasks.classification.task import ClassificationTask

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "int8_trained.json", ROOT / "docs" / "results-int8-trained.md"
SEVERITY, IMAGES, FIRST = 3, 1000, 5000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINE, PRIMARY = "plain_double", "adasap"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, default=ROOT / "recipes" / "sweeps" / "few_images_main.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="what was given to `adasap sweep --out`")
    parser.add_argument("--cifar10", type=Path, default=Path(".cache/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/int8_trained"))
    parser.add_argument("--page", action="store_true", help="write the page of what is there, run nothing")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    if not arguments.page:
        if results.setdefault("saturates", saturates_int8()) != saturates_int8():
            parser.error(
                f"{RESULTS} holds models of a processor of the other kind ({results['saturates']=}); go on there"
            )
        results |= {"environment": environment(), "setting": Setting().describe()}
        known = results.setdefault("processors", [])
        results["processors"] = sorted({*known, results["setting"]["processor"]})
        measure(results, arguments)
    write(results)


def measure(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The scores of every finished model that lack."""
    task = ClassificationTask(mean=MEAN, std=STD)
    network = Network("", "", "cifar10", calibrate=256, check=IMAGES, options={})
    calibration, suite = opened_images(network, arguments, task, first=FIRST)
    batches: dict[str, list[Any]] = {
        str(cell).partition("/")[0]: [
            task.prepare(batch, torch.device("cpu"))[:2]
            for batch in suite.batches(cell, torch.device("cpu"), Loading(50), PreparationTime())
        ]
        for cell in (Cell(), *(Cell(kind, SEVERITY) for kind in BENCHMARK))
    }
    for cell in expand(read_sweep(arguments.sweep), arguments.sweep.parent):
        seeds = results["runs"].setdefault(cell.run, {})
        if not cell.is_finished(arguments.runs) or str(cell.seed) in seeds:
            continue
        files = arguments.out / cell.recipe.name
        files.mkdir(parents=True, exist_ok=True)
        model = adasap.load(cell.folder(arguments.runs) / "model.safetensors").eval()
        found = scores(variants(model, calibration, files, torch.zeros(1, 3, 32, 32)), batches)
        seeds[str(cell.seed)] = found
        print(cell.title, {v: f"{s['corrupted']:.2f}" for v, s in found.items()}, flush=True)
        write(results)


def scores(runs: dict[str, Any], batches: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Variant -> accuracy in per cent, clean, by kind, and corrupted, their mean."""
    found: dict[str, dict[str, float]] = {variant: {} for variant in VARIANTS}
    for variant, kind in product(VARIANTS, batches):
        with torch.inference_mode():
            right = torch.cat([runs[variant](images).argmax(1) == labels for images, labels in batches[kind]])
        found[variant][kind] = 100 * right.float().mean().item()
    for one in found.values():
        one["corrupted"] = sum(one[kind] for kind in BENCHMARK) / len(BENCHMARK)
    return found


def write(results: dict[str, Any]) -> None:
    """JSON, and the page made of it."""
    write_json(RESULTS, results)
    write_page(PAGE, page(results))


def page(results: dict[str, Any]) -> list[str]:
    """What each kind of training loses, and the differences to plain training."""
    counts = {run: len(seeds) for run, seeds in results["runs"].items() if len(seeds) > 1}
    seeds = ", ".join(f"{run} {count}" for run, count in counts.items()) or "none yet"
    vnni = "without" if results["saturates"] else "with"
    return [
        "# INT8 of models trained with and without perturbations",
        "`python benchmarks/int8_trained.py` made this page from the models of "
        "`recipes/sweeps/few_images_main.yaml` on "
        f"{processor(results)} ({vnni} VNNI). ResNet-20 cut to 0.4 of its parameters and trained on 2,500 images; "
        f"{IMAGES:,} of CIFAR-10's test images from {FIRST:,} on, clean and under 15 corruptions at severity "
        f"{SEVERITY}; seeds: {seeds}. A loss is float minus INT8, in points; in brackets 95 % intervals of Student's t "
        "over seeds.",
        primary(results),
        "## Losses",
        str(losses_table(results, counts)),
        "## Losses beside plain training's",
        f"Loss minus that of `{BASELINE}`, paired by seed; above 0 the run loses more. p is corrected (Holm) for this "
        "table, the primary comparison left out.",
        str(differences_table(results, counts)),
        "## By kind of corruption",
        f"Mean loss of {decided(results)}, points.",
        str(kinds_table(results, counts)),
    ]


def processor(results: dict[str, Any]) -> str:
    threads = results["setting"]["threads"]
    return f"{' and '.join(results['processors'])}, {threads} thread{'s' * (threads > 1)}"


def losses(results: dict[str, Any], run: str, variant: str, kind: str, seeds: list[str]) -> list[float]:
    """Float minus variant, in points, seed by seed."""
    found = results["runs"][run]
    return [found[seed][FLOAT][kind] - found[seed][variant][kind] for seed in seeds]


def compared(results: dict[str, Any], run: str, variant: str, kind: str) -> SeedDifference | None:
    """A run's losses against the baseline's over the seeds that both have."""
    seeds = sorted(results["runs"].get(run, {}).keys() & results["runs"].get(BASELINE, {}).keys(), key=int)
    if len(seeds) < 2:
        return None
    mine, theirs = (losses(results, one, variant, kind, seeds) for one in (run, BASELINE))
    return paired_over_seeds(mine, theirs)


def primary(results: dict[str, Any]) -> str:
    found = compared(results, PRIMARY, decided(results), "corrupted")
    asked = f"what {PRIMARY} loses minus what {BASELINE} loses, corrupted, {decided(results)}"
    named = f"**Primary, named before it was run: {asked}**"
    if found is None:
        return f"{named}: not run yet on two seeds."
    low, high = found.interval.low, found.interval.high
    said = "it loses less" if high < 0 else "it loses more" if low > 0 else "no difference that shows"
    return f"{named}: {points(found.interval)} points, p = {found.p_value:.3f}, {found.num_seeds} seeds: {said}."


def decided(results: dict[str, Any]) -> str:
    """What `adasap export --int8` takes on such a processor."""
    return REDUCED if results["saturates"] else FULL


def points(found: Interval) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def losses_table(results: dict[str, Any], counts: dict[str, int]) -> Table:
    rows = []
    for run, variant in product(counts, VARIANTS[1:]):
        seeds = list(results["runs"][run])
        clean, corrupted = (mean_over_seeds(losses(results, run, variant, k, seeds)) for k in ("clean", "corrupted"))
        rows.append([run, variant, points(clean), points(corrupted)])
    return Table(["run", "how", "loss clean", "loss corrupted"], rows)


def differences_table(results: dict[str, Any], counts: dict[str, int]) -> Table:
    """Every run against the baseline; the primary comparison is not corrected."""
    asked = [(r, v, k) for r, v, k in product(counts, VARIANTS[1:], ("clean", "corrupted")) if r != BASELINE]
    found = {key: one for key in asked if (one := compared(results, *key)) is not None}
    others = [key for key in found if key != (PRIMARY, decided(results), "corrupted")]
    corrected = dict(zip(others, holm([found[key].p_value for key in others]), strict=True)) if others else {}
    rows = [
        [*key, points(one.interval), f"{one.p_value:.3f}", f"{corrected[key]:.3f}" if key in corrected else "primary"]
        for key, one in found.items()
    ]
    return Table(["run", "how", "images", "difference of losses", "p", "p corrected"], rows)


def kinds_table(results: dict[str, Any], counts: dict[str, int]) -> Table:
    rows = []
    for kind in BENCHMARK:
        means = (fmean(losses(results, run, decided(results), kind, list(results["runs"][run]))) for run in counts)
        rows.append([kind, *(f"{mean:+.2f}" for mean in means)])
    return Table(["corruption", *counts], rows)


if __name__ == "__main__":
    main()
