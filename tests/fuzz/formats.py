"""What is damaged: for each format a whole sample, how it is injured, and what reads it.

A format's `read` gives a summary of what it understood. Where the library promises that nothing altered is accepted
(`sealed`), that summary must be the whole sample's, or the file must be refused.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutations import damage_bytes, damage_json, damage_safetensors, damage_text, damage_tree

import adasap
from adasap.data import DataSource, open_dataset
from adasap.data.files import decode_image
from adasap.experiments.page import write_page
from adasap.experiments.sweep.cells import expand
from adasap.experiments.sweep.file import read_sweep
from adasap.models.weights import load_weights_
from adasap.profiling import LatencyTable
from adasap.pruning import PruningPlan
from adasap.report.comparison import compare_runs
from adasap.report.files import report_data
from adasap.report.run_data import read_runs
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.segmentation.data.sources import open_segmentation_dataset
from adasap.training.folder import RunFolder
from detection_trees import write_coco, write_voc

SIZE = (3, 32, 32)
SPEC = adasap.ModelSpec("adasap:digits_net", {"widths": [4, 8, 16]}, SIZE, (0.5,) * 3, (0.5,) * 3)
Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        make: Writes a whole sample into a folder.
        files: Patterns of the files that are damaged, one of them each time.
        damage: How; bytes in, bytes out.
        read: Reads the folder, gives what was understood.
        sealed: Whether damage must never be accepted with another meaning.
        seal: Gives damaged files right digests again, as somebody who means harm would; done to half of the cases of
            a format that is not `sealed`.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    damage: Damage
    read: Callable[[Path], Any]
    sealed: bool = False
    seal: Callable[[Path], None] | None = None


def textual(change: Callable[[str, random.Random], str]) -> Damage:
    """Damage to the text of a file, sometimes to its bytes or its encoding."""

    def damage(data: bytes, draw: random.Random) -> bytes:
        kind = draw.random()
        if kind < 0.1:
            return damage_bytes(data, draw)
        text = data.decode()
        if kind < 0.15:
            return text.encode(draw.choice(("utf-16", "utf-8-sig", "utf-32")))
        return change(text, draw).encode(errors="surrogatepass")

    return damage


def damage_yaml(text: str, draw: random.Random) -> str:
    """YAML of a changed tree, or changed text."""
    if draw.random() < 0.5:
        return damage_text(text, draw)
    return str(yaml.safe_dump(damage_tree(yaml.safe_load(text), draw), sort_keys=False))


# --- models -----------------------------------------------------------------------------------------------------------


def _cut() -> tuple[torch.nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = adasap.open_model(SPEC)
    groups = adasap.trace_groups(model, torch.zeros(1, *SIZE))
    cost = adasap.MACs(model, groups, torch.zeros(1, *SIZE))
    plan = adasap.select_channels(groups, adasap.score("l2", model, groups), adasap.Budget(cost, kept=0.5))
    adasap.apply_plan_(model, groups, plan)
    return model, plan, groups


def _make_model(folder: Path) -> None:
    model, plan, groups = _cut()
    adasap.save(folder / "model.safetensors", model, spec=SPEC, plan=plan, groups=groups, metadata={"accuracy": 0.5})


def _state(model: torch.nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _make_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(adasap.open_model(SPEC).state_dict(), folder / "weights.safetensors")


def _read_weights(folder: Path) -> None:
    load_weights_(adasap.open_model(SPEC), folder / "weights.safetensors")


def _make_plan(folder: Path) -> None:
    (folder / "plan.json").write_text(_cut()[1].to_json())


def _read_plan(folder: Path) -> None:
    torch.manual_seed(0)
    model = adasap.open_model(SPEC)
    groups = adasap.trace_groups(model, torch.zeros(1, *SIZE))
    text = (folder / "plan.json").read_bytes().decode(errors="replace")
    adasap.apply_plan_(model, groups, PruningPlan.from_json(text))


# --- recipes, sweeps, tables ------------------------------------------------------------------------------------------

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"builder": "adasap:digits_net", "options": {"widths": [4, 8, 16]}, "mean": [0.5] * 3, "std": [0.5] * 3},
    "data": {
        "train": {"kind": "digits", "count": 64},
        "test": {"kind": "digits", "count": 32},
        "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast"], "severities": [3]}},
    },
    "training": {"batch_size": 32, "checkpoint_every": 1, "optimizer": {"learning_rate": 0.02}},
    "warm_up": {"epochs": 1},
    "pruning": {"epochs": 1, "budget": {"macs": 0.5}, "events": 1, "every": 1, "recalibration_batches": 1},
    "fine_tune": {"epochs": 1, "sharpness": {"kind": "uniform", "rho": 0.5}},
}
SWEEP: dict[str, Any] = {
    "name": "little",
    "recipe": "recipe.yaml",
    "runs": {"plain": {"set": {"seed": 3}}, "adasap": None},
    "grid": {"kept": {"0.4": {"pruning.budget": {"macs": 0.4}}, "0.2": {"pruning.budget": {"macs": 0.2}}}},
    "seeds": 2,
    "baselines": ["plain"],
    "primary": {"run": "adasap/0.4", "baseline": "plain/0.4", "suite": "corrupted"},
}


def _make_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def _make_sweep(folder: Path) -> None:
    _make_recipe(folder)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))


def _make_table(folder: Path) -> None:
    """A table of the model's layers in which a layer takes a microsecond a channel."""
    from adasap.profiling.reading import layer_calls

    model = adasap.open_model(SPEC)
    groups = adasap.trace_groups(model, torch.zeros(1, *SIZE))
    table = LatencyTable({"batch": 1, "device": "cpu"}, {}, 8, 1.1, 0.01)
    for call, point in table.missing(layer_calls(model, groups, torch.zeros(1, *SIZE))):
        table.points.setdefault(call.key, {})[point] = sum(point) / 1000
    (folder / "table.json").write_text(table.to_json())


def _read_table(folder: Path) -> None:
    from adasap.profiling import latency_cost

    model = adasap.open_model(SPEC)
    groups = adasap.trace_groups(model, torch.zeros(1, *SIZE))
    milliseconds = latency_cost(model, groups, torch.zeros(1, *SIZE), table=folder / "table.json").dense
    if not 0 <= milliseconds < float("inf"):
        raise AssertionError(f"a forward pass of {milliseconds} ms")


# --- runs -------------------------------------------------------------------------------------------------------------


def _make_run(folder: Path) -> None:
    shutil.copytree(_finished_run(), folder, dirs_exist_ok=True)


@cache
def _finished_run() -> Path:
    from rich.console import Console

    from adasap.experiments.compress import run_recipe
    from adasap.experiments.recipe import parse_recipe

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run_recipe(parse_recipe(RECIPE), folder, Console(quiet=True))
    return folder


def _read_run(folder: Path) -> str:
    return json.dumps(report_data(compare_runs(read_runs([folder]))), default=str)


def _read_page(folder: Path) -> None:
    found = compare_runs(read_runs([folder]))
    write_page(found, folder)
    page = (folder / "report.html").read_text()
    if "<fuzz" in page:
        raise AssertionError("a name became an element of the page")


def _read_resumed(folder: Path) -> Any:
    """Everything a run reads back before it goes on."""
    found = RunFolder(folder)
    if found.saved is None:
        return None
    tensors, metadata = found.saved
    stages = {name: {suite: scores.to_json() for suite, scores in of.items()} for name, of in found.stages.items()}
    sums = {name: float(tensor.double().sum()) for name, tensor in tensors.items()}
    return json.dumps([sums, metadata, stages], sort_keys=True, default=str)


def _seal_json(path: Path) -> None:
    """A right digest for what the file says now; a file that is not a JSON object is left."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError):
        return
    if isinstance(content, dict):
        content.pop("sha256", None)
        path.write_text(json.dumps({**content, "sha256": _digest_of(content)}))


def _digest_of(content: dict[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _seal_run(folder: Path) -> None:
    path = folder / "result.json"
    try:
        content = json.loads(path.read_text())
        for name in content["files"]:
            if (folder / name).is_file():
                content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        content.pop("sha256", None)
        path.write_text(json.dumps({**content, "sha256": _digest_of(content)}))
    except (ValueError, KeyError, TypeError, OSError, AttributeError, RecursionError):
        _seal_json(path)


def _seal_model(folder: Path) -> None:
    """A right digest for altered texts and tensors."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    from adasap.sealed import digest

    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            texts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts.pop("sha256", None)
        save_file(tensors, path, {**texts, "sha256": digest(texts, tensors)})
    except (SafetensorError, ValueError, TypeError, OSError):
        return


# --- images -----------------------------------------------------------------------------------------------------------


def _make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save(folder / "a.jpg", exif=exif)
    whole.save(folder / "a.png")
    whole.convert("P").save(folder / "b.png")
    whole.save(folder / "a.webp")
    whole.save(folder / "a.bmp")
    whole.save(folder / "a.tif")
    whole.convert("L").save(folder / "a.pgm")
    whole.convert("RGBA").save(folder / "c.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "d.png")
    whole.save(folder / "a.gif", save_all=True, append_images=[whole])


def _read_images(folder: Path) -> None:
    problems: list[Exception] = []
    for path in sorted(folder.iterdir()):
        try:
            decode_image(str(path))
        except adasap.errors.AdasapError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _use(dataset: Any) -> None:
    for index in range(len(dataset)):
        dataset[index]


def _make_npz(folder: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(folder / "test.npz", images=images, labels=np.arange(12) % 3, classes=np.array(["a", "b", "c"]))


def _damage_npz(data: bytes, draw: random.Random) -> bytes:
    """Damaged bytes, or a whole archive whose members are damaged."""
    if draw.random() < 0.3:
        return damage_bytes(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim = draw.choice(sorted(members))
    match draw.randrange(4):
        case 0:
            members[victim] = damage_bytes(members[victim], draw)
        case 1:
            header, body = members[victim][10:128], members[victim][128:]
            text = damage_text(header.decode(), draw)[:117].ljust(117).encode(errors="replace") + b"\n"
            members[victim] = members[victim][:10] + text[:118] + body
        case 2:
            arrays = [
                np.array([10**9] * 12),
                np.full(12, -1),
                np.zeros(12),
                np.array([["a"]]),
                np.array(3),
                np.zeros((0,)),
            ]
            arrays += [
                np.array([object()], dtype=object),
                np.full(12, np.nan),
                np.array(["x"] * 12),
                np.zeros((12, 1), "<i4"),
            ]
            buffer = io.BytesIO()
            np.save(buffer, draw.choice(arrays), allow_pickle=True)
            members[victim] = buffer.getvalue()
        case _:
            members[draw.choice(("x.npy", "../x.npy", "labels", "classes.npy"))] = members.pop(victim)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return out.getvalue()


def _make_csv(folder: Path) -> None:
    rows = ["file,class_index,class_name"]
    for index in range(6):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{index % 3},{'abc'[index % 3]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


OBJECTS = {
    "a": [("cat", (1, 1, 20, 20), False), ("dog", (5, 5, 30, 25), True)],
    "b": [("cat", (2, 3, 9, 9), False)],
    "c": [],
}


def _make_voc(folder: Path) -> None:
    write_voc(folder, OBJECTS)


def _make_coco(folder: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in (1, 2, 3)]
    boxes = [
        {"id": n, "image_id": image, "category_id": 1 + n % 2, "bbox": [1, 2, 10, 12], "iscrowd": n % 2, "area": 120}
        for n, image in enumerate((1, 1, 2))
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    write_coco(folder / "set", {"images": images, "annotations": boxes, "categories": categories})


def _make_masks(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind / "test").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(draw.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(folder / f"images/test/{name}.jpg")
        Image.fromarray(draw.integers(0, 3, (24, 40), dtype=np.uint8)).save(folder / f"masks/test/{name}.png")
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")


def _damage_masks(data: bytes, draw: random.Random) -> bytes:
    return TEXT(data, draw) if data[:3] == b"sky" else damage_bytes(data, draw)


def _make_coco_masks(folder: Path) -> None:
    (folder / "test").mkdir()
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in (1, 2)]
    for image in images:
        Image.new("RGB", (40, 30)).save(folder / "test" / str(image["file_name"]))
    outlines: list[Any] = [[[1, 1, 20, 1, 20, 20]], {"size": [30, 40], "counts": [100, 60, 1040]}]
    outlines.append({"size": [30, 40], "counts": "T3l1`P1"})
    objects = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 2, "segmentation": outline, "iscrowd": n % 2}
        for n, outline in enumerate(outlines)
    ]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_test.json").write_text(json.dumps(content))


# --- class names ------------------------------------------------------------------------------------------------------

PARTS = (
    "<fuzz onload=x>",
    "[bold]",
    "[/]",
    "</script>",
    "a",
    "é",
    "\u202e",
    "🐈",
    " ",
    "'",
    '"',
    "&lt;",
    "$x$",
    "{{7*7}}",
    "|",
    "`",
)


def _make_names(folder: Path) -> None:
    (folder / "names.txt").write_text("cat\ndog\n")


def _damage_names(data: bytes, draw: random.Random) -> bytes:
    names = ["".join(draw.choices(PARTS, k=draw.randrange(1, 5))).replace("/", "") or "x" for _ in range(2)]
    return "\n".join(names).encode()


def _read_names(folder: Path) -> None:
    """A folder with such classes is read, its names printed."""
    from rich.console import Console

    names = (folder / "names.txt").read_text().split("\n")
    for name in names:
        (folder / "test" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "test" / name / "1.png")
    try:
        classes = open_dataset(DataSource("folder", str(folder)), "test").classes
        from adasap.report import Table

        Console(file=io.StringIO()).print(Table(["class", "accuracy"], [[name, "1"] for name in classes]))
    finally:
        shutil.rmtree(folder / "test", ignore_errors=True)


JSON, YAML, TEXT = textual(damage_json), textual(damage_yaml), textual(damage_text)


def _damage_run_file(data: bytes, draw: random.Random) -> bytes:
    try:
        json.loads(data)
    except ValueError:
        return TEXT(data, draw) if data[:1] in b"{n" else damage_bytes(data, draw)
    return JSON(data, draw)


def _damage_checkpoint(data: bytes, draw: random.Random) -> bytes:
    return JSON(data, draw) if data[:1] == b"{" else damage_safetensors(data, draw)


FORMATS: dict[str, Format] = {
    "model": Format(
        _make_model,
        ("*.safetensors",),
        damage_safetensors,
        lambda f: _state(adasap.load(f / "model.safetensors")),
        True,
    ),
    "strange model": Format(
        _make_model,
        ("*.safetensors",),
        damage_safetensors,
        lambda f: _state(adasap.load(f / "model.safetensors")),
        seal=_seal_model,
    ),
    "weights": Format(_make_weights, ("*.safetensors",), damage_safetensors, _read_weights),
    "plan": Format(_make_plan, ("plan.json",), JSON, _read_plan, seal=lambda f: _seal_json(f / "plan.json")),
    "recipe": Format(_make_recipe, ("recipe.yaml",), YAML, lambda f: adasap.read_recipe(f / "recipe.yaml")),
    "sweep": Format(_make_sweep, ("sweep.yaml",), YAML, lambda f: expand(read_sweep(f / "sweep.yaml"), f)),
    "table": Format(_make_table, ("table.json",), JSON, _read_table, seal=lambda f: _seal_json(f / "table.json")),
    "run": Format(_make_run, ("*.json", "records.jsonl", "recipe.yaml"), _damage_run_file, _read_run, seal=_seal_run),
    "page": Format(
        _make_run,
        ("result.json", "examples/examples.json", "recipe.yaml"),
        _damage_run_file,
        _read_page,
        seal=_seal_run,
    ),
    "checkpoint": Format(
        _make_run, ("checkpoint.safetensors", "stage-*.json"), _damage_checkpoint, _read_resumed, True
    ),
    "image": Format(_make_images, ("*",), damage_bytes, _read_images),
    "npz": Format(
        _make_npz, ("test.npz",), _damage_npz, lambda f: _use(open_dataset(DataSource("npz", str(f)), "test"))
    ),
    "csv": Format(_make_csv, ("labels.csv",), TEXT, lambda f: _use(open_dataset(DataSource("csv", str(f))))),
    "voc": Format(
        _make_voc,
        ("Annotations/*.xml", "ImageSets/Main/*.txt"),
        TEXT,
        lambda f: _use(open_detection_dataset(DataSource("voc", str(f)), "test")),
    ),
    "coco": Format(
        _make_coco,
        ("set/annotations/*.json",),
        JSON,
        lambda f: _use(open_detection_dataset(DataSource("coco", str(f / "set")), "val2017")),
    ),
    "masks": Format(
        _make_masks,
        ("images/test/*", "masks/test/*", "classes.txt"),
        _damage_masks,
        lambda f: _use(open_segmentation_dataset(DataSource("masks", str(f)), "test")),
    ),
    "coco masks": Format(
        _make_coco_masks,
        ("annotations/*.json",),
        JSON,
        lambda f: _use(open_segmentation_dataset(DataSource("coco-masks", str(f)), "test")),
    ),
    "names": Format(_make_names, ("names.txt",), _damage_names, _read_names),
}
