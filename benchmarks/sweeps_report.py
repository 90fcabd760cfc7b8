"""The page of all sweeps: docs/results-sweeps.md from results/sweep_*.json, and what has not been run.

adasap sweep recipes/sweeps/digits_main.yaml
python benchmarks/sweeps_report.py                # copies what runs/sweeps holds, then writes the page
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from files import write_json, write_page

from adasap.experiments.sweep import read_sweep
from adasap.experiments.sweep.schema import load_results
from adasap.experiments.sweep.table import sweep_text
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, SWEEPS = ROOT / "results", ROOT / "docs" / "results-sweeps.md", ROOT / "recipes" / "sweeps"
STAGES = ("dense", "warmed up", "pruned", "recalibrated", "fine-tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="what was given to `adasap sweep --out`")
    arguments = parser.parse_args()
    for found in sorted(arguments.runs.glob("*/sweep.json")):
        results = load_results(found)
        if any(run["cells"] for run in results["runs"].values()):
            write_json(RESULTS / f"sweep_{results['name']}.json", results, indent=None)
    write_page(PAGE, page())


def page() -> list[str]:
    """Every sweep that has results, then the others by name."""
    sweeps = [read_sweep(path) for path in sorted(SWEEPS.glob("*.yaml"))]
    done = {sweep.name: RESULTS / f"sweep_{sweep.name}.json" for sweep in sweeps}
    parts = [
        "# Sweeps",
        "Each section is what `adasap sweep recipes/sweeps/NAME.yaml` printed; all scores by seed and stage are in\n"
        "`results/sweep_NAME.json`; `python benchmarks/sweeps_report.py` made this page. [sweeps.md](sweeps.md) says\n"
        "what the columns mean.",
    ]
    for file in filter(Path.is_file, done.values()):
        results = load_results(file, needs_digest=False)
        parts += [sweep_text(results, level=2).rstrip(), stages(results), machine(results)]
    missing = [f"- `{sweep.name}.yaml`: {sweep.title}" for sweep in sweeps if not done[sweep.name].is_file()]
    return [*parts, "## Not run", "\n".join(missing)] if missing else parts


def stages(results: dict[str, Any]) -> str:
    """Mean corrupted accuracy after each stage, where there is such a suite."""
    rows = []
    for name, run in results["runs"].items():
        cells = list(run["cells"].values())
        if cells and all("corrupted" in cell["scores"] for cell in cells):
            means = [fmean(cell["stages"][stage]["corrupted"] for cell in cells) for stage in STAGES]
            rows.append([name, *(f"{100 * mean:.2f}" for mean in means)])
    title = "### Corrupted accuracy on the way, means over seeds (%)"
    return f"{title}\n\n{Table(['run', *STAGES], rows)}" if rows else ""


def machine(results: dict[str, Any]) -> str:
    """Where it ran and for how long."""
    where = results["environments"][0]
    cells = [cell for run in results["runs"].values() for cell in run["cells"].values()]
    minutes = sum(cell["training_seconds"] for cell in cells) / 60
    device = where["gpu"] or f"CPU, {where['torch_threads']} thread" + ("s" if where["torch_threads"] > 1 else "")
    more = len(results["environments"]) - 1
    others = f" (and {more} other environment{'s' * (more > 1)})" * (more > 0)
    return (
        f"{len(cells)} runs, {minutes:.0f} minutes of training in all by the clock, beside other work; {device}, torch "
        f"{where['packages']['torch']}, Python {where['python']}{others}."
    )


if __name__ == "__main__":
    main()
