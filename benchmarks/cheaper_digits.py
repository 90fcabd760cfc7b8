"""What cheaper forms of the sharpness-aware step keep of the exact one's robustness, on the demo's digits.

    python benchmarks/cheaper_digits.py --seeds 5 --page docs/results-cheaper-steps.md

The demo's network, data and schedule (14 epochs to a quarter of the MACs), every form at the radii of the exact one,
from the same dense model of the same seed. Nothing is chosen by the outcome. Reported are the digits test images from
222 on, clean and under the 15 benchmark corruptions at five severities; `--split tuning` takes the others, under the
four validation corruptions, for whoever wants to choose radii. Every finished cell is kept, and a second call goes on.
Seeds are the outer loop: an interrupted run has whole seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from scipy.stats import t as student

import adasap
from adasap.cli.demo import compression_recipes, dense_recipe
from adasap.cli.runs import open_data, open_task
from adasap.config import parse_recipe
from adasap.data import DataSource, open_dataset
from adasap.export import atomic_write
from adasap.memory import kept_memory
from adasap.models import open_model
from adasap.robustness import SuiteSource, evaluate_suite, open_suite
from adasap.robustness.suites import Loading, PreparationTime, Suite

Tree = dict[str, Any]

NORMS = {"perturbation": {"norm_only": True}}
REMOVAL = {"form": {"direction": "removal"}}
PLAIN = {"kind": "plain"}
FORMS: dict[str, tuple[Tree, Tree]] = {
    "exact": ({}, {}),
    "plain": (PLAIN, PLAIN),
    "plain, twice the epochs": (PLAIN, PLAIN),
    "subbatch: 0.25": ({"form": {"subbatch": 0.25}},) * 2,
    "every: 4": ({"form": {"every": 4}},) * 2,
    "window: 0.25 (step 3)": ({}, {"form": {"window": 0.25}}),
    "subbatch: 0.25, window: 0.25 (step 3)": (
        {"form": {"subbatch": 0.25}},
        {"form": {"subbatch": 0.25, "window": 0.25}},
    ),
    "stale": ({"form": {"direction": "stale"}},) * 2,
    "norm_only": (NORMS, NORMS),
    "norm_only, subbatch: 0.25": (NORMS | {"form": {"subbatch": 0.25}},) * 2,
    "removal: attenuate, then plain": (REMOVAL, PLAIN),
    "removal: drop, then plain": ({"form": REMOVAL["form"] | {"removal": "drop"}}, PLAIN),
}
"""Name -> what is added to `sharpness` of steps 1 and 2, and of step 3."""

SPLITS = {
    "report": ({"kind": "digits", "first": 222}, "benchmark"),
    "tuning": ({"kind": "digits", "count": 222}, "validation"),
}


def recipe_of(form: str, seed: int, weights: Path) -> Tree:
    """The demo's AdaSAP recipe in this form, with a clean suite of next to nothing."""
    trees = compression_recipes(str(weights), seed)
    tree = copy.deepcopy(trees["plain-twice-the-epochs" if form == "plain, twice the epochs" else "adasap"])
    early, late = FORMS[form]
    tree["data"]["suites"], tree["data"]["test"] = {}, {"kind": "digits", "count": 32}
    tree["training"]["runtime"] = {"device": "cpu"}
    tree["warm_up"]["sharpness"] = early
    tree["fine_tune"]["sharpness"] = {"kind": "uniform", "rho": 0.5} | late
    return tree


def run(tree: Tree) -> adasap.Result:
    """Trains from the recipe's seed."""
    recipe = parse_recipe(tree)
    torch.manual_seed(recipe.seed)
    model = open_model(recipe.model)
    return adasap.compress(model, open_task(recipe), open_data(recipe), recipe)


def dense_weights(seed: int, folder: Path) -> Path:
    """The dense model of a seed, trained once."""
    path = folder / f"dense-{seed}.safetensors"
    if not path.is_file():
        tree = dense_recipe(seed)
        tree["data"]["suites"] = {}
        with atomic_write(path) as file:
            file.write(save({n: t.contiguous() for n, t in run(tree).model.state_dict().items()}))
    return path


class KeptSuite:
    """A suite whose batches are made once, for all models that it is to judge."""

    def __init__(self, suite: Suite) -> None:
        self.name, self.outputs, self.cell_names = suite.name, suite.outputs, suite.cell_names
        device, loading, spent = torch.device("cpu"), Loading(), PreparationTime()
        self._batches = {cell: list(suite.batches(cell, device, loading, spent)) for cell in suite.cell_names()}

    def batches(self, cell: str, *of: object) -> list[Any]:
        """The batches of a cell, wherever and however they are asked for."""
        return self._batches[cell]


def suites_of(split: str) -> dict[str, KeptSuite]:
    """Clean and corrupted images of a split."""
    source, corruptions = SPLITS[split]
    test = open_dataset(DataSource(**source), "test")
    sources = {"clean": SuiteSource("clean"), "corrupted": SuiteSource("corrupted", corruptions=corruptions)}
    return {name: KeptSuite(open_suite(name, suite, test)) for name, suite in sources.items()}


def cell(form: str, seed: int, weights: Path, suites: dict[str, KeptSuite]) -> dict[str, Any]:
    """One form, one seed: accuracies in percent, cost in plain steps."""
    tree, started = recipe_of(form, seed, weights), time.perf_counter()
    result, task, device = run(tree), open_task(parse_recipe(tree)), torch.device("cpu")
    scores = {name: 100 * evaluate_suite(result.model, task, suite, device).mean for name, suite in suites.items()}
    return {
        "form": form,
        "seed": seed,
        **scores,
        "steps": result.counters.step,
        "plain_steps": result.counters.passes,
        "seconds": time.perf_counter() - started,
    }


def difference(cells: list[dict[str, Any]], form: str, than: str, key: str) -> tuple[float, float]:
    """Mean over seeds of form minus than, paired by seed, and half of its 95 % t interval (nan for one seed)."""
    by_seed = {name: {c["seed"]: c[key] for c in cells if c["form"] == name} for name in (form, than)}
    pairs = [by_seed[form][seed] - by_seed[than][seed] for seed in by_seed[form] if seed in by_seed[than]]
    if len(pairs) < 2:
        return (pairs or [float("nan")])[0], float("nan")
    half = float(student.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return statistics.mean(pairs), half


def signed(value: float, half: float) -> str:
    """A difference, with half of its interval if there is one."""
    return f"{value:+.2f}" if math.isnan(half) else f"{value:+.2f} ± {half:.2f}"


def page(report: dict[str, Any], command: str) -> str:
    """The table as Markdown, with the answer to the question."""
    cells = report["cells"]
    seeds = sorted({c["seed"] for c in cells})
    rows, within = [], []
    exact_steps = next(c["steps"] for c in cells if c["form"] == "exact")
    for form in FORMS:
        mine = [c for c in cells if c["form"] == form]
        if not mine:
            continue
        cost = statistics.mean(c["plain_steps"] for c in mine) / exact_steps
        clean, corrupted = (statistics.mean(c[key] for c in mine) for key in ("clean", "corrupted"))
        gain, half = difference(cells, form, "exact", "corrupted")
        over_plain = signed(*difference(cells, form, "plain", "corrupted"))
        rows.append(
            f"| {form} | {cost:.2f} | {clean:.2f} | {corrupted:.2f} | "
            + ("" if form == "exact" else signed(gain, half))
            + " | "
            + ("" if form == "plain" else over_plain)
            + f" | {len(mine)} |"
        )
        if not form.startswith(("exact", "plain")) and round(cost, 2) <= 1.25 and not math.isnan(half):
            within.append((form, gain, half))
    kept = [name for name, gain, half in within if gain - half >= -0.3]
    lost = [name for name, gain, half in within if gain + half < -0.3]
    answer = (
        f"**Met, by the whole interval, for: {'; '.join(kept)}.**"
        if kept
        else "**Not shown for any form**: no interval lies above -0.3 as a whole."
    )
    refuted = (
        f"Refuted, by the whole interval, for: {'; '.join(lost)}." if lost else "It is not refuted for any, either."
    )
    return "\n".join(
        [
            "# What cheaper forms keep, on digits",
            "",
            f"    {command}",
            "",
            f"The demo's network, data and schedule ({exact_steps} steps, a quarter of the MACs left), seeds "
            f"{', '.join(map(str, seeds))}; every form with the exact form's radii, none of them tuned; digits test "
            "images from 222 on, 15 corruptions x 5 severities. Cost in plain steps per step of the exact form's "
            "schedule, as counted; ± is half a 95 % t interval over seeds of the difference paired by seed (same dense "
            "model, same data order).",
            "",
            "| form | cost | clean (%) | corrupted (%) | corrupted, minus exact | corrupted, minus plain | seeds |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "Aim: a form at 1.25 plain steps or less whose corrupted accuracy is within 0.3 points of the exact "
            f"form's. {answer} {refuted}",
            "",
            f"Asked of the {len(within)} forms at 1.25 or less that have two seeds or more, without a correction for "
            "asking several times. Means are over the seeds that a form has; differences are paired, so they need not "
            "be those of the means. Where the exact form's own gain over plain steps is within its interval, keeping "
            "it is worth little.",
            "",
        ]
    )


def main() -> None:
    """Fills in what is missing, writes JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--split", choices=list(SPLITS), default="report")
    parser.add_argument("--out", type=Path, default=Path("results/cheaper_steps_digits.json"))
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    parser.add_argument("--dense", type=Path, default=Path(".cache/cheaper_digits"), help="where dense models are kept")
    arguments = parser.parse_args()
    arguments.dense.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"cells": []}
    report |= {"split": arguments.split, "torch": torch.__version__}
    done = {(c["form"], c["seed"]) for c in report["cells"]}
    wanted = {(form, seed) for form in arguments.forms for seed in range(arguments.seeds)}
    suites = suites_of(arguments.split) if wanted - done else {}
    with kept_memory():
        for seed in range(arguments.seeds):
            for form in arguments.forms:
                if (form, seed) in done:
                    continue
                found = cell(form, seed, dense_weights(seed, arguments.dense), suites)
                report["cells"].append(found)
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}, flush=True)
                with atomic_write(arguments.out) as file:
                    file.write((json.dumps(report, indent=1) + "\n").encode())
    if arguments.page:
        command = f"python benchmarks/cheaper_digits.py --seeds {arguments.seeds} --page {arguments.page}"
        with atomic_write(arguments.page) as file:
            file.write(page(report, command).encode())


if __name__ == "__main__":
    main()
