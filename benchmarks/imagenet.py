"""Exercises the ImageNet recipes at full size for three steps on drawn images; says what a whole run takes.

    python benchmarks/imagenet.py      # half an hour on two cores; rows that are there stay

Every recipe of recipes/imagenet runs as it stands, but for batch, length and data: one step of warm-up, one with the
cut to the recipe's budget, one of fine-tuning, in an ImageNet tree of drawn photographs. Weights are drawn, since the
pretrained ones are not at hand. Measured are MACs before and after, the bytes that one image keeps alive between
forward and backward in bf16, and the seconds of a plain step before and after the cut, in the recipe's precision on
this machine's CPU. Writes results/imagenet.json and the tables of docs/imagenet.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_section
from rich.console import Console
from torch import Tensor, nn
from torchvision.io import write_jpeg

from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import read_recipe
from adasap.models import open_model
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "imagenet"
RESULTS = ROOT / "results" / "imagenet.json"
WNIDS = ("n01440764", "n01443537", "n02123045", "n03445777")
BATCH = 8
IMAGES, GLOBAL_BATCH, GPUS = 1_281_167, 1024, 8
SUSTAINED = 40e12
"""Floating-point operations per second of one GPU in training, to be replaced by what yours sustains."""


def main() -> None:
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        draw_tree(Path(folder) / "imagenet")
        for path in sorted(RECIPES.glob("imagenet_*.yaml")):
            if "step_seconds" not in rows.get(path.stem, {}):
                rows[path.stem] = measured(path, Path(folder))
                write_json(RESULTS, rows)
                print(path.stem, rows[path.stem], flush=True)
    write_section(ROOT / "docs" / "imagenet.md", "measured", str(measured_table(rows)))
    write_section(ROOT / "docs" / "imagenet.md", "whole", str(whole_table(rows)))


def draw_tree(place: Path) -> None:
    """`BATCH` photographs for training and as many for validation, of several sizes, over four classes."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for index in range(BATCH):
            folder = place / split / WNIDS[index % len(WNIDS)]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = torch.rand(1, 3, 12, 16, generator=generator)
            image = nn.functional.interpolate(coarse, (300, 400 + 10 * index), mode="bicubic").clamp(0, 1)
            write_jpeg((image[0] * 255).to(torch.uint8), str(folder / f"{index}.JPEG"))


def measured(path: Path, folder: Path) -> dict[str, Any]:
    """Three steps of the recipe, and what its step needs."""
    overrides = [
        "model.weights=null",
        f"data.train.path={folder / 'imagenet'}",
        f"data.test.path={folder / 'imagenet'}",
        "data.suites={}",
        f"training.batch_size={BATCH}",
        "training.num_workers=0",
        *table_of(path),
        "training.schedule.warm_up_epochs=0",
        "training.optimizer.learning_rate=0.001",
        *("warm_up.epochs=1", "pruning.epochs=1", "pruning.events=1", "fine_tune.epochs=1"),
    ]
    recipe, whole = read_recipe(path, overrides), read_recipe(path)
    run = run_recipe(recipe, folder / path.stem, Console(quiet=True))
    dense, pruned = run.profiles["dense"], run.profiles["compressed"]
    records = [json.loads(line) for line in (folder / path.stem / "records.jsonl").read_text().splitlines()]
    epochs = {"warm_up": whole.warm_up, "pruning": whole.warm_up, "fine_tune": whole.fine_tune}
    lengths = {"warm_up": whole.warm_up.epochs, "pruning": whole.pruning.epochs, "fine_tune": whole.fine_tune.epochs}
    return {
        "steps_run": sum(record["kind"] == "step" for record in records),
        "mask_error": max(record["mask_error"] for record in records if record["kind"] == "prune"),
        "parameters": [dense.parameters, pruned.parameters],
        "macs": [dense.macs, pruned.macs],
        "bytes_per_image": saved_bytes(open_model(recipe.model), BATCH) / BATCH,
        "step_seconds": [step_seconds(model) for model in (open_model(recipe.model), run.result.model)],
        "threads": torch.get_num_threads(),
        "epochs": sum(lengths.values()),
        "dense_passes": sum(lengths[phase] * epochs[phase].sharpness.passes for phase in ("warm_up", "pruning")),
        "pruned_passes": lengths["fine_tune"] * epochs["fine_tune"].sharpness.passes,
    }


def table_of(path: Path) -> list[str]:
    """For a budget of latency a table of this machine's layers, made once."""
    spec = read_recipe(path).model
    if read_recipe(path).pruning.budget.latency is None:
        return []
    table = Path(".cache") / f"{spec.builder.partition(':')[2]}_latency.json"
    table.parent.mkdir(exist_ok=True)
    if not table.is_file():
        command = ["adasap", "profile", spec.builder, "--latency-table", str(table), "--plans", "0"]
        subprocess.run([sys.executable, "-m", *command], check=True)
    return [f"pruning.budget.latency_table={table}"]


def saved_bytes(model: nn.Module, batch: int) -> int:
    """Bytes that a forward pass in bf16 keeps for its backward pass, parameters aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        loss = model(torch.randn(batch, 3, 224, 224)).float().square().mean()
    del loss
    return sum(kept.values())


def step_seconds(model: nn.Module) -> float:
    """Seconds per image of a plain step in bf16, channels last: the median of five after one."""
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels, seconds = torch.arange(BATCH), []
    for _ in range(6):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) / BATCH


def measured_table(rows: dict[str, Any]) -> Table:
    """What was run and measured here."""
    header = [
        *("recipe", "steps run", "cut against mask", "parameters (M)", "MACs (G)", "kept for backward (MB / image)"),
        "plain step here (ms / image)",
    ]
    cells = []
    for name, row in rows.items():
        parameters = " -> ".join(f"{count / 1e6:.2f}" for count in row["parameters"])
        macs = " -> ".join(f"{count / 1e9:.2f}" for count in row["macs"])
        memory = f"{row['bytes_per_image'] / 1e6:.0f}"
        seconds = " -> ".join(f"{1000 * value:.0f}" for value in row["step_seconds"])
        cells.append([name, str(row["steps_run"]), f"{row['mask_error']:.1e}", parameters, macs, memory, seconds])
    return Table(header, cells)


def whole_table(rows: dict[str, Any]) -> Table:
    """A whole run by the formulas of the page."""
    cells = []
    for name, row in rows.items():
        passes = row["dense_passes"], row["pruned_passes"]
        work = 6 * IMAGES * sum(count * macs for count, macs in zip(passes, row["macs"], strict=True))
        measured = IMAGES * sum(count * seconds for count, seconds in zip(passes, row["step_seconds"], strict=True))
        memory = row["bytes_per_image"] * GLOBAL_BATCH / GPUS + 16 * row["parameters"][0]
        cells.append(
            [
                *(name, f"{row['epochs']:.0f}", f"{sum(passes):.0f}", f"{work:.2e}"),
                *(f"{work / (GPUS * SUSTAINED) / 3600:.2f}", f"{measured / GPUS / 3600:.0f}", f"{memory / 1e9:.1f}"),
            ]
        )
    header = [
        *("recipe", "epochs", "epochs of passes", "operations", "hours on 8 GPUs at 40 TFLOP/s"),
        *("hours on 8 CPU cores", "memory per GPU (GB)"),
    ]
    return Table(header, cells)


if __name__ == "__main__":
    main()
