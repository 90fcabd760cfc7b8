"""Kills a small run again and again at seeded moments; it must end as the run that nobody killed, bit for bit.

    python tests/kill_runs.py --kills 100 --seed 0

A kill is SIGKILL, before or after the n-th call of one function: between the two passes of a step, amid a cut, halfway
through a write, in the evaluation of a stage, in the profile at the end. After ten kills a run may come through; then
weights, records, scores and the model file are compared, and the next run begins.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import Recipe, parse_recipe
from adasap.export import read_header
from adasap.groups import trace_groups

KILLS_PER_RUN = 10

MOMENTS: dict[str, tuple[str, str]] = {
    "between the passes": ("adasap.sharpness.step:Step._pass", "before"),
    "after an optimizer step": ("adasap.training.loop:Trainer._update", "after"),
    "before a cut": ("adasap.training.pruning_event:apply_plan_", "before"),
    "amid a cut": ("adasap.groups.cutting:replace_data_", "before"),
    "after a cut": ("adasap.training.pruning_event:apply_plan_", "after"),
    "in recalibration": ("adasap.training.scoring:Scoring.recalibrate", "after"),
    "in an evaluation": ("adasap.evaluation.runner:evaluate_cell", "before"),
    "after a stage": ("adasap.training.folder:RunFolder.write_stage", "after"),
    "halfway through a write": ("adasap.io:os.fsync", "before"),
    "before a file takes its place": ("adasap.io:os.replace", "before"),
    "after a file took its place": ("adasap.io:os.replace", "after"),
    "halfway through a record": ("adasap.report.records:RecordFile.__call__", "half"),
    "in the profile": ("adasap.experiments.compress:profile_models", "after"),
}
"""What is going on -> the function whose call it is, and whether the kill comes before or after that call."""


def recipe() -> Recipe:
    """Every kind of state: momentum, averages, evidence, masks of an earlier event, kept stages."""
    return parse_recipe(
        {
            "name": "tiny",
            "model": {"builder": "adasap:digits_net", "options": {"widths": [4, 8]}},
            "data": {
                "train": {"kind": "digits", "count": 192},
                "test": {"kind": "digits", "count": 60},
                "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast"], "severities": [3]}},
            },
            "training": {
                "batch_size": 32,
                "checkpoint_every": 2,
                "average_decay": 0.9,
                "keep_stages": True,
                "optimizer": {"learning_rate": 0.02},
                "runtime": {"device": "cpu", "precision": "float32"},
            },
            "warm_up": {"epochs": 1},
            "pruning": {
                "epochs": 2,
                "criterion": "taylor",
                "budget": {"macs": 0.5},
                "events": 3,
                "every": 3,
                "prepare": {"kind": "soft_masks"},
                "recalibration_batches": 2,
            },
            "fine_tune": {"epochs": 1, "sharpness": {"kind": "uniform", "rho": 0.5}},
        }
    )


def resolve(place: str) -> tuple[Any, str]:
    """The owner of a function and its name there, of `module:Class.function`."""
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def hooked(moment: str, at: int, counts: dict[str, int]) -> None:
    """Counts the calls of a moment's function and kills this process at the given one; 0 kills nobody."""
    place, when = MOMENTS[moment]
    owner, name = resolve(place)
    function: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        counts[moment] = counts.get(moment, 0) + 1
        last = counts[moment] == at
        if last and when == "half":
            file = arguments[0]._file
            file.write(b'{"kind": "step", "st')
            file.flush()
        if last and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


@contextmanager
def forked() -> Iterator[list[int]]:
    """Inside, the caller is a child if the list is empty, which must leave by `os._exit`; else the list is a status."""
    status: list[int] = []
    child = os.fork()
    if child:
        status.append(os.waitpid(child, 0)[1])
    yield status


def run(folder: Path, moment: str | None = None, at: int = 0) -> bool:
    """The run in a process of its own, killed at a moment; whether it came through.

    Raises:
        RuntimeError: If it ended by itself in any other way.
    """
    with forked() as status:
        if not status:
            code = 1
            try:
                torch.set_num_threads(1)  # torch makes its pool of threads anew here, or two threads of autograd would
                counts: dict[str, int] = {}
                for name in MOMENTS if moment is None else [moment]:
                    hooked(name, at, counts)
                run_recipe(recipe(), folder, Console(quiet=True), brief=True)
                if moment is None:
                    (folder / "calls.json").write_text(json.dumps(counts))
                code = 0
            finally:
                os._exit(code)
    if status[0] not in (0, signal.SIGKILL):
        raise RuntimeError(f"the run in {folder} ended with status {status[0]} ({moment}, call {at})")
    return status[0] == 0


def differences(whole: Path, killed: Path) -> list[str]:
    """What two finished runs do not have in common; seconds, latencies and what they go into are left out."""
    tensors = ["checkpoint.safetensors", "model.safetensors", *_names(whole, "stage-*.safetensors")]
    found = [name for name in tensors if not _same_tensors(whole / name, killed / name)]
    texts = _names(whole, "stage-*.json")
    found += [name for name in texts if (whole / name).read_bytes() != (killed / name).read_bytes()]
    if _records(whole) != _records(killed):
        found.append("records.jsonl")
    if _result(whole) != _result(killed):
        found.append("result.json")
    return found


def _names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def _same_tensors(one: Path, other: Path) -> bool:
    """Whether all tensors are the same bits; of a model file its digest says so of its texts too."""
    mine, theirs = load_file(one), load_file(other)
    if mine.keys() != theirs.keys() or any(not torch.equal(mine[key], theirs[key]) for key in mine):
        return False
    return one.name != "model.safetensors" or read_header(one).sha256 == read_header(other).sha256


def _records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def _result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    del result["counters"]["training_seconds"]
    sizes = {name: (profile["parameters"], profile["macs"]) for name, profile in result["profiles"].items()}
    timed = ("profiles", "seconds", "environment", "records", "files", "sha256")  # digests of files that hold seconds
    return {**{key: value for key, value in result.items() if key not in timed}, "sizes": sizes}


def kill(kills: int, seed: int, folder: Path) -> int:
    """Kills runs, compares those that came through, prints what happened; how many differed."""
    trace_groups(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # what this imports, every run would import anew
    run(folder / "whole")
    calls = json.loads((folder / "whole" / "calls.json").read_text())
    if missing := sorted(MOMENTS.keys() - calls.keys()):
        raise RuntimeError(f"the run never calls {missing}; a moment without a call kills nobody")
    draws, done, number, wrong = random.Random(seed), 0, 1, 0
    moments = list(MOMENTS)
    while done < kills:
        here = folder / f"killed-{number}"
        alive, killed_here = True, 0
        while alive and killed_here < KILLS_PER_RUN and done < kills:
            moment = moments[done % len(moments)]
            if run(here, moment, draws.randint(1, max(1, calls[moment] // 3))):
                alive = False  # it came through before that call
            else:
                done, killed_here = done + 1, killed_here + 1
        if alive:
            run(here)
        found = differences(folder / "whole", here)
        wrong += bool(found)
        print(f"run {number}, killed {killed_here} times: {', '.join(found) or 'the same bits'}", flush=True)
        number += 1
    return wrong


def main() -> None:
    """Exit code 1 if a killed run ended otherwise than the whole one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no threads of its own
    with tempfile.TemporaryDirectory() as folder:
        wrong = kill(arguments.kills, arguments.seed, Path(folder))
    print(f"{arguments.kills} kills, seed {arguments.seed}: {wrong} runs ended otherwise")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
