"""Which architectures can be traced, cut, proven, trained, saved and exported: one row of docs/models.md each.

    python benchmarks/models.py                        # every model of benchmarks/models.txt that has no result yet
    python benchmarks/models.py --family detection     # those of one family; families can run side by side
    python benchmarks/models.py --only timm:dla34      # this one, anew
    python benchmarks/models.py --peer                 # the peer's results, into benchmarks/models_peer.json
    rm results/models.json; python benchmarks/models.py  # all anew
    python benchmarks/models.py --report               # write docs/models.md from the results only

A model passes if its channels are followed, half of its multiply-accumulates go with every group at a quarter of its
width or more, the cut equals the mask in float64 on re-drawn parameters while every wrong cut is seen, the cut model
runs forward and backward in both modes, survives saving and loading, and is exported by `torch.export` again. Each
model runs in a process of its own, with a time limit; results are written as they come, so the script can be stopped
and started again. Weights are random, images as small as the model takes. Times are of the processor, so that other
work beside it matters little.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models_report
import torch
from models_measure import measured
from models_peer import peers_result

import adasap
from adasap.io import atomic_write

HERE = Path(__file__).parent
mp = multiprocessing.get_context("fork")


def main() -> None:
    """Reads the options, measures what is missing, writes results and document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=HERE / "models.txt", help="one model per line, '# family' above")
    parser.add_argument("--family", default="", help="only families whose name has this in it")
    parser.add_argument("--only", nargs="+", default=None, help="measure these anew")
    parser.add_argument("--peer", action="store_true", help="measure the peer instead")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--limit-s", type=float, default=600, help="processor time per model, in seconds")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "models.json")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "models.md")
    options = parser.parse_args()
    families, peer_file = listed(options.list), HERE / "models_peer.json"
    chosen = [name for family, names in families.items() if options.family.lower() in family.lower() for name in names]
    out, measure = (peer_file, peers_result) if options.peer else (options.out, measured)
    rows = rows_of(out)
    for name in [] if options.report else options.only or sorted(chosen, key=lambda name: name in rows):
        if options.only or name not in (rows := rows_of(out)) or rows[name].get("stale"):
            row = in_own_process(measure, name, options.limit_s)
            print(f"{name:36} {told(row)}", flush=True)
            write_row(out, name, row)
    with atomic_write(options.document) as file:
        results, peer = (json.loads(path.read_text()) for path in (options.out, peer_file))
        file.write(models_report.document(results, families, peer).encode())


def listed(path: Path) -> dict[str, list[str]]:
    """Family -> names of its models, in the order of the file."""
    families: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, path.read_text().splitlines())):
        if line.startswith("#"):
            names = families.setdefault(line.lstrip("# "), [])
        else:
            names.append(line)
    return families


def rows_of(path: Path) -> dict[str, Any]:
    """Name -> row, of a file of results; none if there is no such file."""
    return dict(json.loads(path.read_text())["models"]) if path.exists() else {}


def write_row(path: Path, name: str, row: Mapping[str, Any]) -> None:
    """One more row, beside those that other runs have written meanwhile; whole or not at all."""
    about = json.loads(path.read_text()) if path.exists() else {}
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "adasap": adasap.__version__,
    }
    kept = {key: value for key, value in about.items() if key not in ("models", "machine")}
    head = kept if "about" in kept else {**kept, "machine": machine}
    with atomic_write(path) as file:
        models = {**about.get("models", {}), name: row}
        file.write((json.dumps({**head, "models": models}, indent=1) + "\n").encode())


def in_own_process(measure: Callable[[str], dict[str, Any]], name: str, limit_s: float) -> dict[str, Any]:
    """The row of one model; a crash or a timeout is a row too. The process has what is imported here already."""
    receiver, sender = mp.Pipe(duplex=False)
    process = mp.Process(target=_send, args=(sender, measure, name, limit_s))
    start = time.perf_counter()
    process.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        over = process.exitcode == -signal.SIGXCPU
        return {"outcome": f"over {limit_s:.0f} s" if over else f"fails: exit status {process.exitcode}"}
    process.join()
    return row | {"total_s": time.perf_counter() - start}


def _send(sender: Any, measure: Callable[[str], dict[str, Any]], name: str, limit_s: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s) + 5))
    for stream in (1, 2):  # torch.export prints whole graphs
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        sender.send(measure(name))
    except Exception as error:  # whatever it is, it is the row
        sender.send({"outcome": f"fails: {type(error).__name__}: {str(error).strip()[:300]}"})


def told(row: Mapping[str, Any]) -> str:
    """One line about a model: the outcome and the numbers behind it."""
    parts = [row["outcome"]]
    for title, key, form in (
        ("trace (CPU s)", "trace_cpu_s", ".1f"),
        ("MACs reachable", "macs_reachable", ".3f"),
        ("MACs kept", "macs_kept", ".3f"),
        ("share", "prunable_share", ".3f"),
        ("inexact", "inexact_share", ".3f"),
        ("error", "proof_error", ".0e"),
        ("control", "smallest_control", ".0e"),
    ):
        parts += [f"{title} {row[key]:{form}}"] if row.get(key) is not None else []
    parts += [f"{what} {result}" for what, result in row.get("uses", {}).items()]
    return "; ".join([*parts, f"{row['total_s']:.0f} s in all" if "total_s" in row else "no time"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # builders and torch.export warn about themselves
    main()
