"""What the verbs do is called from Python: the same numbers, also of models and data that exist in memory alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.data import DataSource, InMemoryImages, open_dataset
from adasap.errors import BudgetError, DataError, ModelError, RecipeError
from adasap.evaluation import Cell, SuiteSource, open_suite
from adasap.experiments.classes import opening_lines
from adasap.experiments.compress import FinishedRun
from adasap.experiments.name_models import scaled_as_imagenet
from adasap.experiments.recipe import parse_recipe
from adasap.io import dump_yaml
from adasap.models import ModelSpec
from adasap.training import Record, StepRecord
from detector_nets import SMALL

Tree = dict[str, Any]
MEAN = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


class Colours(Dataset[tuple[np.ndarray, int]]):
    """Images uint8 [9, 9, 3] of noise, brightest in the channel that is their label."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        pixels = np.random.default_rng(index).integers(0, 150, (9, 9, 3), dtype=np.uint8)
        pixels[..., index % 3] += 40
        return pixels, index % 3


class Net(nn.Module):
    """Not of a builder, and of a size that only its data know."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.conv(images).relu().mean(dim=(2, 3)))
        return found


@pytest.fixture(scope="module")
def short(tiny_recipe: Callable[..., Tree]) -> Tree:
    data = {"train": {"kind": "digits", "count": 64}, "test": {"kind": "digits", "count": 20}}
    tree = tiny_recipe(data=data, pruning={"events": 1, "recalibration_batches": 0})
    return tree | {"training": {**tree["training"], "keep_stages": True}}


@pytest.fixture(scope="module")
def finished(short: Tree, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return adasap.run(short, out=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model, not trained."""
    torch.manual_seed(0)
    model = adasap.open_model(adasap.ModelSpec("adasap:digits_net", {"widths": [4, 8, 16]}, **MEAN))
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    adasap.prune(model, torch.zeros(1, 3, 32, 32), "l2", {"macs": 0.5}).save(path)
    return path


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = tensors_of(one), tensors_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Runs


@pytest.mark.slow
def test_a_recipe_is_run_alike_as_a_file_by_the_command_line_and_as_an_object(
    finished: FinishedRun, short: Tree, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(dump_yaml(short))
    call("compress", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "cli"))
    assert same(finished.folder, tmp_path / "cli" / "tiny")
    again = adasap.run(tmp_path / "r.yaml", out=tmp_path / "file", overrides={"training.checkpoint_every": 2})
    assert same(finished.folder, again.folder)
    theirs = json.loads((tmp_path / "cli" / "tiny" / "result.json").read_text())["scores"]["fine-tuned"]
    assert {name: suite.mean for name, suite in again.result.stages["fine-tuned"].items()} == theirs
    other = adasap.run(parse_recipe(short), out=tmp_path / "object", overrides=["seed=1"])
    assert other.recipe.seed == 1
    assert not same(finished.folder, other.folder)


@pytest.mark.slow
def test_a_run_is_watched_and_silent_and_prints_as_its_tables(
    short: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[Record] = []
    found = adasap.run(short, out=tmp_path, observe=records.append)
    assert "".join(capsys.readouterr()) == ""
    assert sum(isinstance(record, StepRecord) for record in records) == found.result.counters.step == 6
    for words in ("| fine-tuned |", "| MACs |", "6 steps, ", f"All of it lies in {tmp_path / 'tiny'}", "report.html"):
        assert words in str(found)
    assert repr(found) == str(found) == found._repr_markdown_()
    adasap.run(short, out=tmp_path, console=True)
    assert "nothing left to do" in capsys.readouterr().out


def test_a_preview_has_the_numbers_that_it_prints(short: Tree) -> None:
    found = adasap.preview(short, overrides={"pruning.budget": {"macs": 0.25}})
    assert found.cost <= found.limit <= 0.25 * found.dense_cost
    assert f"({found.cost / found.dense_cost:.3f})" in str(found)
    assert "frozen because" in str(found.table)
    before, after = (sum(int(row[place]) for row in found.table.rows) for place in (1, 2))
    assert [cell.replace(",", "") for cell in found.by_part.rows[-1][2:4]] == [str(before), str(after)]
    assert found.training_seconds >= found.plain_steps * found.step_seconds
    assert found.evaluation_seconds
    for words in ("data.train: 64 images, 10 classes", "suites: clean (20 images), corrupted (20 images)", "Device: "):
        assert words in str(found)
    assert "weights: those of its builder" in str(found)
    assert len(str(found).splitlines()) < 40


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(RecipeError, match="the recipe is a int; give a path, its keys as a mapping, or a Recipe"):
        adasap.run(3)  # type: ignore[arg-type]


# Evaluations


def test_a_file_is_scored_alike_from_python_as_a_module_and_by_the_command_line(
    model_file: Path, tmp_path: Path
) -> None:
    model = model_file
    suites = ("--suite", "clean", "--suite", "corrupted", "--corruptions", "fog", "--severities", "1,5")
    call("evaluate", str(model), "--data", "digits:", *suites, "--limit", "30", "--out", str(tmp_path / "cli"))
    wanted: dict[str, Any] = {"corruptions": ["fog"], "severities": [1, 5], "limit": 30}
    named = adasap.evaluate(model, "digits:", ["clean", "corrupted"], **wanted, out=tmp_path / "python")
    loaded = adasap.evaluate(adasap.load(model), "digits:", ["clean", "corrupted"], **wanted)
    texts = [json.loads((tmp_path / place / "evaluation.json").read_text()) for place in ("cli", "python")]
    for text in texts:
        del text["timings"]
    assert texts[0] == texts[1]
    for name in ("clean", "corrupted"):
        assert torch.equal(named[name].per_image(), loaded[name].per_image())
    assert named["corrupted"].mean == texts[0]["suites"]["corrupted"]["mean"]
    images = open_dataset(DataSource("digits"), "test")
    own = adasap.evaluate(adasap.load(model), images, {"fog": SuiteSource("corrupted", corruptions=("fog",))}, limit=30)
    assert torch.equal(own["fog"].cells[Cell("fog", 5)], named["corrupted"].cells[Cell("fog", 5)])
    opened = [open_suite("clean", SuiteSource("clean"), images).sampled(30, seed=0)]
    assert torch.equal(adasap.evaluate(model, opened)["clean"].per_image(), named["clean"].per_image())


@pytest.mark.slow
def test_a_run_and_a_recipe_are_scored_on_their_own_data(
    finished: FinishedRun, short: Tree, model_file: Path, tmp_path: Path
) -> None:
    def means(found: Any) -> dict[str, float]:
        return {name: suite.mean for name, suite in found.items()}

    of_run = means(adasap.evaluate(finished.folder).suites)
    assert list(of_run) == ["clean", "corrupted"]
    assert of_run == means(finished.result.stages["fine-tuned"])
    assert list(adasap.evaluate(finished.folder, suites="clean").suites) == ["clean"]
    call("evaluate", str(finished.folder), "--out", str(tmp_path / "cli"))
    written = json.loads((tmp_path / "cli" / "evaluation.json").read_text())["suites"]
    assert {name: suite["mean"] for name, suite in written.items()} == of_run

    recipe, test = tmp_path / "r.yaml", {"kind": "digits", "first": 40, "count": 20}
    recipe.write_text(dump_yaml({**short, "data": {**short["data"], "test": test}}))
    for split in (None, "train"):
        ours, theirs = (
            adasap.evaluate(model_file, data, "clean", split=split)
            for data in (recipe, DataSource(**test))  # type: ignore[arg-type]
        )
        assert torch.equal(ours["clean"].per_image(), theirs["clean"].per_image())
    assert means(adasap.evaluate(recipe).suites).keys() == {"clean", "corrupted"}
    recipe.write_text(dump_yaml({**short, "data": {**short["data"], "test": {"kind": "somebody.else:images"}}}))
    with pytest.raises(ModelError, match=r"asks to run 'somebody\.else:images'"):
        adasap.evaluate(model_file, recipe)


def test_a_module_and_a_data_set_of_memory_are_scored_and_left_as_they_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = Net().train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    found = adasap.evaluate(net, Colours(), ["clean", "corrupted"], corruptions=["contrast"], severities=[2], **MEAN)
    assert "".join(capsys.readouterr()) == ""
    images = torch.stack(
        [torch.from_numpy(image).permute(2, 0, 1) for image, _ in map(Colours().__getitem__, range(24))]
    )
    with torch.no_grad():
        right = net((images / 255 - 0.5) / 0.5).argmax(1) == torch.arange(24) % 3
    assert torch.equal(found["clean"].per_image().bool(), right)
    assert list(found["corrupted"].metrics) == [Cell("contrast", 2)]
    assert net.training
    assert net.conv.weight.is_contiguous()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert "| clean" in str(found)


def test_numbers_of_imagenet_that_nobody_gave_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.zeros(8, 3, 9, 9, dtype=torch.uint8)
    labelled, said = InMemoryImages(images, torch.arange(8) % 3), "images are prepared by ImageNet's mean and std; if "
    assert [note.startswith(said) for note in adasap.evaluate(Net(), labelled, ["clean"]).notes] == [True]
    assert adasap.evaluate(Net(), labelled, ["clean"], **MEAN).notes == ()
    floats = [(image / 255, 0) for image in images]
    assert adasap.evaluate(Net(), floats, ["clean"]).notes == ()
    assert adasap.evaluate(Net(), Colours(), ["clean"], task=Brightness(1.0)).notes == ()  # it prepares by 1 / 255
    for data in (labelled, floats):
        adasap.analyze(Net(), data, images=8, batch=8, only=["loss"], console=True)
        assert (said in capsys.readouterr().out) == (data is labelled)
    spec = {"builder": f"{__name__}:Net", "input_size": [3, 9, 9]}
    for model, expected in ((spec, True), (spec | {k: [*v] for k, v in MEAN.items()}, False)):
        recipe = parse_recipe(
            {"name": "own", "model": model, "data": {k: {"kind": "digits"} for k in ("train", "test")}}
        )
        data = adasap.Data(labelled, {}, torch.zeros(1, 3, 9, 9))
        task = adasap.ClassificationTask(mean=recipe.model.mean, std=recipe.model.std)
        assert (said in "".join(opening_lines(recipe, Net(), data, task))) == expected
    assert scaled_as_imagenet(ModelSpec("torchvision:resnet18"), labelled) == []


class Brightness(adasap.BaseTask[tuple[Tensor, Tensor]]):
    """How bright an image is; it has no defaults that its class could be opened with."""

    primary_metric = adasap.Metric("error", "error", "", higher_is_better=False)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0])[:, 0] - self.scale * batch[1]).square().mean()

    def evaluator(self) -> Any:
        return Errors(self)


class Errors:
    def __init__(self, task: Brightness) -> None:
        self.task, self.errors = task, []  # type: ignore[var-annotated]

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        self.errors += (model(batch[0])[:, 0] - self.task.scale * batch[1]).abs().tolist()

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.errors) / len(self.errors)}

    def per_image(self) -> Tensor:
        return torch.tensor(self.errors)


def test_a_task_of_memory_says_what_good_means() -> None:
    losses = [adasap.evaluate(Net(), Colours(), task=Brightness(scale))["clean"].mean for scale in (0.0, 9.0)]
    assert losses[0] < 1 < losses[1]
    analysed = [
        adasap.analyze(Net(), Colours(), task=Brightness(scale), images=24, batch=8, only=["loss"], device="cpu")
        for scale in (0.0, 9.0)
    ]
    found = [analysis.models["Net"]["loss"]["loss"]["mean"] for analysis in analysed]
    assert found[0] < 1 < found[1]


GREY = "the model does not take images of 1 x 9 x 9"


class Flow(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("model", "data", "suites", "error", "message"),
    [
        (3, "digits:", "clean", ModelError, "the model is a int; give a torch.nn.Module, a ModelSpec"),
        ("adasap:digits_net", None, "clean", DataError, "wants a data set"),
        ("adasap:digits_net", None, {"a": SuiteSource("clean")}, DataError, "'a' names no data"),
        ("adasap:digits_net", Colours(), "imagenet-c", DataError, "imagenet-c wants"),
        ("adasap:digits_net", "digits:", [], DataError, "no suite is named"),
        (Net(), Flow(), "clean", DataError, "the data are a Flow; give `KIND:PATH`"),
        (
            Net(),
            InMemoryImages(torch.zeros(1, 1, 9, 9, dtype=torch.uint8), torch.tensor([0])),
            "clean",
            DataError,
            GREY,
        ),
    ],
)
def test_what_does_not_fit_is_said_before_work_starts(
    model: Any, data: Any, suites: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        adasap.evaluate(model, data, suites)


# Analyses


@pytest.mark.slow
def test_a_file_is_analysed_alike_from_python_and_by_the_command_line(model_file: Path, tmp_path: Path) -> None:
    settings = ("--images", "16", "--batch", "8", "--only", "loss,worst_case", "--set", "worst_case.steps=1")
    data = ("--data", "digits:", "--device", "cpu", "--out", str(tmp_path))
    call("analyze", f"small={model_file}", *data, *settings)
    wanted: dict[str, Any] = {"images": 16, "batch": 8, "only": ["loss", "worst_case"], "device": "cpu"}
    found = adasap.analyze({"small": model_file}, "digits:", options={"worst_case.steps": 1}, **wanted)
    theirs = json.loads((tmp_path / "analysis.json").read_text())["models"]
    assert found.folder is None
    assert _numbers(found.models) == _numbers(theirs)
    assert "Rise of the loss" in str(found)
    source = DataSource("digits")
    loaded = adasap.load(model_file)
    kept = adasap.analyze({"small": loaded}, source, options=["worst_case.steps=1"], **wanted, out=tmp_path)
    assert kept.models == theirs  # the seconds, too: nothing was computed again


def _numbers(tree: Any) -> Any:
    """Without times."""
    if not isinstance(tree, dict):
        return tree
    return {key: _numbers(value) for key, value in tree.items() if key != "seconds"}


def test_a_module_and_a_data_set_of_memory_are_analysed() -> None:
    net, wanted = Net().train(), {"images": 24, "batch": 24, "only": ["loss", "trace"], "device": "cpu"}
    found = adasap.analyze({"mine": net, "yours": Net()}, Colours(), **wanted, **MEAN)  # type: ignore[arg-type]
    assert list(found.models) == ["mine", "yours"]
    batch = adasap.ClassificationTask(**MEAN).collate([Colours()[index] for index in range(24)])
    task = adasap.ClassificationTask(**MEAN)
    with torch.no_grad():
        loss = task.loss(net.eval(), task.prepare(batch, torch.device("cpu"))).item()
    assert found.models["mine"]["loss"]["loss"]["mean"] == pytest.approx(loss, rel=1e-5)
    with pytest.raises(ModelError, match="two models have the same name"):
        adasap.analyze([Net(), Net()], Colours(), images=8, batch=8)
    with pytest.raises(DataError, match="24 images, 32 are wanted"):
        adasap.analyze(Net(), Colours(), images=32, batch=8)
    with pytest.raises(ModelError, match="no model is given"):
        adasap.analyze([], Colours(), images=8, batch=8)


# Sweeps, tables, profiles, comparisons, data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (SMALL["ssd_mobilenet_v1"], "shapes:"),
        (ModelSpec("adasap:unet", {"num_classes": 4, "width": 4, "depth": 2}, (3, 64, 64)), "shape-masks:"),
    ],
)
def test_a_model_that_no_run_knows_is_analysed_by_the_task_of_its_data(spec: ModelSpec, data: str) -> None:
    found = adasap.analyze({"net": spec}, data, images=4, batch=2, only=["loss"])
    assert 0 < found.models["net"]["loss"]["loss"]["mean"] < 100


@pytest.mark.slow
def test_a_sweep_of_a_mapping_is_read_by_the_command_line(short: Tree, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_yaml(short))
    tree = {"name": "s", "recipe": "tiny.yaml", "seeds": 1, "runs": {"a": {}, "b": {"set": {"fine_tune.epochs": 0.5}}}}
    (tmp_path / "s.yaml").write_text(dump_yaml(tree))
    found = adasap.sweep(tree, out=tmp_path / "runs", beside=tmp_path)
    assert ([outcome.state for outcome in found.outcomes], found.failed) == (["finished", "finished"], ())
    ours = (tmp_path / "runs" / "s" / "sweep.json").read_bytes()
    assert "0 to run" in call("sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "runs"), "--dry-run")
    told = call("sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "runs"))
    assert "1 of 2: b, seed 0: found" in told  # the shortest first
    assert (tmp_path / "runs" / "s" / "sweep.json").read_bytes() == ours
    assert "| b |" in str(found)


@pytest.mark.slow
def test_a_latency_table_goes_on_by_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    found = adasap.latency_table("adasap:digits_net", path, seconds=0.01, num_plans=0)
    call("profile", "adasap:digits_net", "--latency-table", str(path), "--seconds", "0.01", "--plans", "1")
    again = adasap.latency_table("adasap:digits_net", path, seconds=0.01, num_plans=1)
    assert again.table.points == found.table.points
    assert again.accuracy is not None
    assert "random plan 1" in str(again)
    with pytest.raises(BudgetError, match="was measured with batch=1, now it would be 2"):
        adasap.latency_table("adasap:digits_net", path, batch=2, seconds=0.01, num_plans=0)


def test_a_module_is_profiled_where_its_size_is_said() -> None:
    with pytest.raises(ModelError, match=r"size of the images that .*Net takes is not known"):
        adasap.profile(Net(), seconds=0.0)
    found = adasap.profile(Net(), size=9, batch=2, seconds=0.0)["model"]
    assert (found.macs, [one.batch_size for one in found.latency]) == (49 * 8 * 27 + 8 * 3, [1, 2])
    other = adasap.profile(Net(), size=(3, 9, 5), batch=1, seconds=0.0)
    assert other["model"].macs == 7 * 3 * 8 * 27 + 8 * 3
    assert "| MACs | 4,560 |" in str(other)


@pytest.mark.slow
def test_runs_are_compared_alike(finished: FinishedRun, tmp_path: Path) -> None:
    told = call("compare", str(finished.folder), "--out", str(tmp_path / "cli"))
    found = adasap.compare([finished.folder], out=tmp_path / "python")
    assert f"The page: {tmp_path / 'cli' / 'report.html'}" in told
    assert (tmp_path / "cli" / "report.json").read_bytes() == (tmp_path / "python" / "report.json").read_bytes()
    assert found.comparison.runs[0].name == "tiny"
    assert found.page.is_file()


def test_data_are_checked_alike(tmp_path: Path) -> None:
    found = adasap.check_data("digits:", split="test", out=tmp_path / "broken.txt")
    assert call("check", "digits:", "--split", "test").splitlines() == [str(part) for part in found.parts()]
    assert (tmp_path / "broken.txt").read_text() == ""
    own = adasap.check_data(Colours(5))
    assert (own.inspection.sizes, own.summary) == ({"9 x 9": 5}, ("5 items",))


def test_every_name_of_the_package_is_there() -> None:
    assert [name for name in adasap.__all__ if not hasattr(adasap, name)] == []
    assert set(adasap.__all__) <= set(dir(adasap))
