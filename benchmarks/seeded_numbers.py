"""Records the numbers of three short runs at fixed seeds, and tells whether another state of the code gives the same.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/seeded_numbers.py record --out before.json
    python benchmarks/seeded_numbers.py compare before.json

Run on one machine before and after a change that should change no number. Kept are the loss, gap, gradient norm and
learning rate of every step, the plan, and the scores of all images after each stage: of the digits recipe (105 steps),
of a ResNet-20 on CIFAR-10 (40 steps) and of a detector of blood cells (20 steps), in float32 on one thread of the CPU.
Numbers are compared to the last bit; exit code 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

COMMON = ("training.runtime.precision=float32", "training.runtime.device=cpu", "seed=0")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits": (
        "recipes/digits/digits_adasap.yaml",
        (
            "warm_up.epochs=1",
            "pruning.epochs=2",
            "fine_tune.epochs=2",
            "data.suites.corrupted.corruptions=[gaussian_noise, fog]",
        ),
    ),
    "cifar10": (
        "recipes/cifar10/resnet20_adasap_l2.yaml",
        (
            "data.train.count=2560",
            "data.test.count=500",
            "data.suites={corrupted: {kind: corrupted, corruptions: [snow, jpeg_compression], severities: [3]}, "
            "shifted: {kind: clean, data: {kind: npz, path: ../shared/data/cifar_shift/cifar_shift.npz}}}",
            "warm_up.epochs=0.5",
            "pruning={epochs: 1, events: 4, every: 5, criterion: taylor, budget: {macs: 0.5}}",
            "fine_tune.epochs=0.5",
        ),
    ),
    "detection": (
        "recipes/bccd/bccd_adasap.yaml",
        (
            "model.weights=null",
            "data.train.count=80",
            "data.test.count=24",
            "data.suites.corrupted.corruptions=[gaussian_noise, contrast]",
            "warm_up.epochs=1",
            "pruning.epochs=2",
            "pruning.events=3",
            "pruning.every=3",
            "fine_tune.epochs=1",
            "training.schedule.warm_up_epochs=0.5",
        ),
    ),
}
STEP_NUMBERS = ("loss", "gap", "gradient_norm", "learning_rate")


def numbers_of(name: str, beside: Path) -> dict[str, Any]:
    """Runs one recipe in a fresh process and folder, and reads what it left.

    Args:
        name: A key of `RUNS`.
        beside: The working folder, which paths of the recipes are relative to.
    """
    recipe, settings = RUNS[name]
    with tempfile.TemporaryDirectory() as out:
        words = [word for setting in (*COMMON, *settings, f"name={name}") for word in ("--set", setting)]
        command = [sys.executable, "-m", "adasap", "compress", str(ROOT / recipe), *words, "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, cwd=beside, env=environment, check=True, stdout=subprocess.DEVNULL)
        return _read(Path(out) / name)


def _read(folder: Path) -> dict[str, Any]:
    from adasap.export import read_header

    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    plan = read_header(folder / "model.safetensors").plan
    return {
        "steps": [[record[key] for key in STEP_NUMBERS] for record in records if record.get("kind") == "step"],
        "plan": None if plan is None else json.loads(plan.to_json()),
        "scores": {
            stage: {suite: {"metrics": found["cells"], "images": found["scores"]} for suite, found in suites.items()}
            for stage, suites in result["stages"].items()
        },
    }


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """The places at which two trees of numbers differ, with both values.

    Example:
        >>> differences({"steps": [[1.0, None]]}, {"steps": [[1.5, None]]})
        ['steps.0.0: 1.0 before, 1.5 now']
    """
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        pairs = [(str(key), before[key], now[key]) for key in before]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{place}: {before!r:.60} before, {now!r:.60} now"]
    return [line for key, *pair in pairs for line in differences(*pair, f"{place}.{key}" if place else key)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("before", type=Path, nargs="?", help="What was recorded, for `compare`.")
    parser.add_argument("--out", type=Path, help="Where `record` writes.")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--beside", type=Path, default=ROOT, help="The folder that holds .cache/cifar10.")
    asked = parser.parse_args(arguments)
    if (asked.what == "record") != (asked.out is not None) or (asked.what == "compare") != (asked.before is not None):
        parser.error("record wants --out FILE, compare wants the file that was recorded")
    before = {} if asked.before is None else json.loads(asked.before.read_text())
    found: dict[str, Any] = {}
    failed = False
    for name in asked.runs:
        found[name] = numbers_of(name, asked.beside)
        if asked.out is not None:
            asked.out.write_text(json.dumps(found))
            print(f"{name}: {len(found[name]['steps'])} steps recorded")
            continue
        differing = differences(before[name], json.loads(json.dumps(found[name])))
        failed = failed or bool(differing)
        print(f"{name}: {len(found[name]['steps'])} steps, {len(differing)} numbers differ")
        print("".join(f"  {line}\n" for line in differing[:10]), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
