"""The stages of a run: resumable by cell, shared out over processes, in mixed precision; what was used is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adasap
from adasap.data import DataSource, InMemoryImages
from adasap.errors import CheckpointError, DataError, RecipeError
from adasap.evaluation import (
    SUITES,
    Cell,
    CellImages,
    EvaluationFolder,
    SuiteKind,
    SuiteSource,
    evaluate_cell,
    evaluate_suite,
    evaluate_suites,
    open_own_suite,
    open_suite,
)
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.models import open_model
from adasap.tasks.classification.task import ClassificationTask
from adasap.tasks.detection.suites import open_detection_suite
from adasap.tasks.detection.task import DetectionTask
from adasap.tasks.segmentation.data.shapes import SHAPE_CLASSES, read_shape_masks
from adasap.tasks.segmentation.models.unet import unet
from adasap.tasks.segmentation.task import SegmentationTask
from adasap.training import CompressionRun, Record, StageRecord
from detector_nets import small_detector
from ranks import run_ranks

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
CPU = torch.device("cpu")
NUM_CELLS = 5
"""Of a stage: the clean one and four corrupted ones."""


@pytest.fixture
def short_recipe(tiny_recipe: TinyRecipe) -> TinyRecipe:
    """Nine steps, one event, and stages of five cells."""

    def build(**training: Any) -> Tree:
        data = {
            "train": {"kind": "digits", "count": 96},
            "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast", "fog"], "severities": [1, 3]}},
        }
        return tiny_recipe(data=data, pruning={"events": 1}, training=training)

    return build


def compress(tree: Tree, folder: Path | None, *, seed: int = 0, records: list[Record] | None = None) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(seed)
    model = open_model(recipe.model)
    observe = (lambda record: None) if records is None else records.append
    return adasap.compress(model, open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe)


def said(result: adasap.Result) -> Tree:
    return {s: {suite: found.to_json() for suite, found in of.items()} for s, of in result.stages.items()}


class Killed(BaseException):
    """As from outside: nothing catches it."""


class Cells:
    """Counts the cells that are computed, and ends the process's work before the n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed, self.last = 0, 10**9
        monkeypatch.setattr("adasap.evaluation.runner.evaluate_cell", self)

    def __call__(self, *given: Any) -> Any:
        if self.computed == self.last:
            raise Killed
        self.computed += 1
        return evaluate_cell(*given)

    def killed_after(self, number: int, work: Callable[[], object]) -> None:
        self.computed, self.last = 0, number
        with pytest.raises(Killed):
            work()
        self.computed, self.last = 0, 10**9


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    return Cells(monkeypatch)


@pytest.mark.slow
def test_a_killed_stage_goes_on_from_the_cells_that_are_there(
    short_recipe: TinyRecipe, tmp_path: Path, cells: Cells
) -> None:
    """Killed in `dense`, and in `pruned`, which comes before the checkpoint of its event."""
    whole = said(compress(short_recipe(), tmp_path / "whole"))
    assert cells.computed == 5 * NUM_CELLS
    kept = tmp_path / "killed" / "stage-cells"
    for number in (3, (NUM_CELLS - 3) + NUM_CELLS + 4):
        cells.killed_after(number, lambda: compress(short_recipe(), tmp_path / "killed"))
        assert len(list(kept.rglob("*.safetensors"))) == (3 if number == 3 else 4)
    records: list[Record] = []
    assert said(compress(short_recipe(), tmp_path / "killed", records=records)) == whole
    assert cells.computed == 3 * NUM_CELLS - 4
    assert not kept.exists()
    assert [r.stage for r in records if isinstance(r, StageRecord)] == list(whole)[2:]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "training"), [(1, {}), (0, {"evaluation": {"batch_size": 7}})])
def test_cells_of_other_weights_or_options_are_never_read(
    seed: int, training: Tree, short_recipe: TinyRecipe, tmp_path: Path, cells: Cells
) -> None:
    cells.killed_after(4, lambda: compress(short_recipe(), tmp_path))
    cells.killed_after(1, lambda: compress(short_recipe(**training), tmp_path, seed=seed))
    assert len(list((tmp_path / "stage-cells").rglob("*.safetensors"))) == 1


@pytest.mark.slow
def test_an_altered_cell_of_a_stage_is_refused(short_recipe: TinyRecipe, tmp_path: Path, cells: Cells) -> None:
    cells.killed_after(3, lambda: compress(short_recipe(), tmp_path))
    path = tmp_path / "stage-cells" / "cells" / "clean" / "clean.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"clean\.safetensors was altered or damaged: .*it is computed again"):
        compress(short_recipe(), tmp_path)


def test_a_suite_may_be_named_anything(tmp_path: Path) -> None:
    """A name is never a path out of the folder, and two names never share a file."""
    test = InMemoryImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    names = ("../../out", "a/b", "a-b", "..", "x" * 300)
    suites = [open_suite(name, SuiteSource("clean"), test) for name in names]
    task, model = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    folder = EvaluationFolder(tmp_path / "kept", {"model": "m"})
    evaluate_suites(model, task, suites, CPU, folder=folder)
    assert len(list((tmp_path / "kept" / "cells").glob("*/clean.safetensors"))) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert all(folder.read(name, Cell()) is not None for name in names)


# Precision


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:bf16 is emulated")
def test_stages_in_mixed_precision_are_close_and_recorded(short_recipe: TinyRecipe, tmp_path: Path) -> None:
    records: list[Record] = []
    low = compress(short_recipe(evaluation={"precision": "bf16"}), tmp_path, records=records)
    full = compress(short_recipe(), None)
    assert {r.precision for r in records if isinstance(r, StageRecord)} == {"bf16"}
    kept = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [line["precision"] for line in kept if line["kind"] == "stage"] == ["bf16"] * 5
    pairs = [
        (low.stages[stage][suite].metrics[cell]["loss"], metrics["loss"])
        for stage, suites in full.stages.items()
        for suite, found in suites.items()
        for cell, metrics in found.metrics.items()
    ]
    assert all(one == pytest.approx(other, rel=0.02) for one, other in pairs)
    assert all(one != other for one, other in pairs)
    with pytest.raises(CheckpointError, match=r"training\.evaluation\.precision \('bf16' there, 'float32' here\)"):
        compress(short_recipe(), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:bf16 is emulated")
def test_the_precision_of_training_is_taken_where_that_is_asked(short_recipe: TinyRecipe) -> None:
    for asked, runtime, found in (("training", "bf16", "bf16"), ("float32", "bf16", "float32")):
        runtime_options = {"device": "cpu", "precision": runtime}
        recipe = parse_recipe(short_recipe(evaluation={"precision": asked}, runtime=runtime_options))
        model, data = open_model(recipe.model), open_data(recipe)
        run = CompressionRun(model, open_task(recipe), data, recipe, folder=None, observe=lambda record: None)
        assert run.scoring_precision == found
    tree = short_recipe(evaluation={"precision": "fp16"}, runtime={"device": "cpu"})
    with pytest.raises(RecipeError, match="precision fp16 needs a GPU"):
        compress(tree, None)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(short_recipe: TinyRecipe, tmp_path: Path, cells: Cells) -> None:
    cells.killed_after(3 * NUM_CELLS, lambda: compress(short_recipe(), tmp_path))
    workers = short_recipe(evaluation={"num_workers": 1})
    cells.killed_after(0, lambda: compress(workers, tmp_path))


@pytest.mark.slow
def test_a_detector_and_a_segmenter_are_scored_in_mixed_precision() -> None:
    source = DataSource("shapes", count=6)
    boxes = open_detection_suite("clean", SuiteSource("clean", source))
    detection = DetectionTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=boxes.images.classes)
    torch.manual_seed(0)
    masks = SegmentationTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=SHAPE_CLASSES)
    images = open_own_suite("clean", SuiteSource("clean"), read_shape_masks("test", slice(6)), masks)
    for model, task, suite in (
        (small_detector("ssd_mobilenet_v1"), detection, boxes),
        (unet(len(SHAPE_CLASSES), width=8, depth=3).eval(), masks, images),
    ):
        full, low = (evaluate_suite(model, task, suite, CPU, None, precision) for precision in ("float32", "bf16"))
        assert low.mean == pytest.approx(full.mean, abs=0.05)
        assert low.metrics.keys() == full.metrics.keys()


# A user's own kind of suite


@pytest.mark.usefixtures("registered_for_a_test")
def test_a_suite_of_ones_own_is_registered_like_ours(tmp_path: Path) -> None:
    def read(source: SuiteSource) -> tuple[dict[Cell, CellImages], int | None]:
        level = int((source.place() / "level.txt").read_text())
        images = InMemoryImages(torch.full((2, 3, 8, 8), level, dtype=torch.uint8), torch.tensor([0, 1]))
        return {cell: CellImages(images) for cell in source.cells()}, None

    (tmp_path / "level.txt").write_text("200")
    SUITES.register("mine", SuiteKind(read, on_disk="level.txt", corruptions=("rain",)))
    source = SuiteSource("mine", path=str(tmp_path), severities=(1, 2))
    suite = open_suite("mine", source)
    assert suite.cells == (Cell("rain", 1), Cell("rain", 2))
    task = ClassificationTask(mean=(0.0,) * 3, std=(1.0,) * 3)
    assert evaluate_suite(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), task, suite, CPU).mean == 0.5
    with pytest.raises(DataError, match="there is no suite 'mne'; did you mean 'mine'"):
        SuiteSource("mne")


# Two processes

WORKER = """
import json, sys
from pathlib import Path
import torch
from rich.console import Console
import adasap.evaluation.runner as runner
from adasap.experiments.compress import open_data, open_task
from adasap.models import open_model
import adasap
computed = []
evaluate_cell = runner.evaluate_cell
def counted(model, task, suite, cell, *rest):
    computed.append(f"{suite.name} {cell}")
    return evaluate_cell(model, task, suite, cell, *rest)
runner.evaluate_cell = counted
out = Path(sys.argv[1])
recipe = adasap.read_recipe(out / "recipe.yaml")
torch.manual_seed(0)
result = adasap.compress(open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=out / "run")
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
said = {s: {n: found.to_json() for n, found in of.items()} for s, of in result.stages.items()}
(out / f"{rank}.json").write_text(json.dumps({"computed": computed, "stages": said}))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_share_the_cells_of_a_stage_and_have_the_scores_of_one(
    short_recipe: TinyRecipe, tmp_path: Path
) -> None:
    """Training by two ranks is other training: the dense model's scores are compared, which nothing has trained yet."""
    found: dict[int, list[Tree]] = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        evaluation = {"num_workers": ranks - 1}
        tree = short_recipe(evaluation=evaluation, runtime={"device": "cpu"})
        (folder / "recipe.yaml").write_text(json.dumps(tree))
        (folder / "worker.py").write_text(WORKER)
        run_ranks(folder / "worker.py", folder, ranks=ranks)
        found[ranks] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
        assert not (folder / "run" / "stage-cells").exists()
    (alone,), (first, second) = found[1], found[2]
    assert first["stages"] == second["stages"]
    assert first["stages"]["dense"] == alone["stages"]["dense"]
    assert len(alone["computed"]) == 5 * NUM_CELLS
    for stage in range(5):
        whole = alone["computed"][stage * NUM_CELLS : (stage + 1) * NUM_CELLS]
        shares = first["computed"][stage * 3 : stage * 3 + 3], second["computed"][stage * 2 : stage * 2 + 2]
        assert shares == (whole[::2], whole[1::2])
