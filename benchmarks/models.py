"""Which architectures can be traced, cut, proven, trained, saved and exported: one row of docs/models.md each.

    python benchmarks/models.py                        # every model of benchmarks/models.txt that has no result yet
    python benchmarks/models.py --only timm:dla34      # this one, anew
    rm results/models.json; python benchmarks/models.py  # all anew
    python benchmarks/models.py --report               # write docs/models.md from results/models.json only

A model passes if its channels are followed, half of its multiply-accumulates go with every group at a quarter of its
width or more, the cut equals the mask in float64 on re-drawn parameters while every wrong cut is seen, the cut model
runs forward and backward in both modes, survives saving and loading, and is exported by `torch.export` again. Each
model runs in a process of its own, with a time limit; results are written as they come, so the script can be stopped
and started again. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models_report
import torch
from models_measure import measured

import adasap
from adasap.io import atomic_write

HERE = Path(__file__).parent


def main() -> None:
    """Reads the options, measures what is missing, writes results and document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=HERE / "models.txt", help="file with one model name per line")
    parser.add_argument("--only", nargs="+", default=None, help="measure these anew")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--limit-s", type=float, default=1200, help="time limit per model")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "models.json")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "models.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one model, in this process, to standard output
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    names = options.list.read_text().split()
    rows = json.loads(options.out.read_text())["models"] if options.out.exists() else {}
    for name in [] if options.report else options.only or [name for name in names if name not in rows]:
        rows[name] = in_own_process(name, options.limit_s)
        print(f"{name:36} {told(rows[name])}", flush=True)
        write_results(options.out, {name: rows[name] for name in (*names, *rows) if name in rows})
    peer = json.loads((HERE / "models_peer.json").read_text())
    with atomic_write(options.document) as file:
        file.write(models_report.document(json.loads(options.out.read_text()), names, peer).encode())


def write_results(path: Path, rows: Mapping[str, Any]) -> None:
    """All rows and the machine, whole or not at all."""
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "adasap": adasap.__version__,
    }
    with atomic_write(path) as file:
        file.write((json.dumps({"machine": machine, "models": rows}, indent=1) + "\n").encode())


def in_own_process(name: str, limit_s: float) -> dict[str, Any]:
    """The row of one model; a crash or a timeout is a row too."""
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"over {limit_s:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"outcome": f"fails: {last[:300]}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row | {"total_s": time.perf_counter() - start}


def told(row: Mapping[str, Any]) -> str:
    """One line about a model: the outcome and the numbers behind it."""
    parts = [row["outcome"]]
    for title, key, form in (
        ("trace", "trace_s", ".1f"),
        ("MACs reachable", "macs_reachable", ".3f"),
        ("MACs kept", "macs_kept", ".3f"),
        ("share", "prunable_share", ".3f"),
        ("error", "proof_error", ".0e"),
        ("control", "smallest_control", ".0e"),
    ):
        parts += [f"{title} {row[key]:{form}}"] if row.get(key) is not None else []
    parts += [f"{what} {result}" for what, result in row.get("uses", {}).items()]
    return "; ".join([*parts, f"{row['total_s']:.0f} s in all" if "total_s" in row else "no time"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # builders and torch.export warn about themselves
    main()
