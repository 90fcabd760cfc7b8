"""One rule about code that a file names: only our own, torchvision's and timm's builders run by themselves."""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from adasap.cli.main import app
from adasap.errors import AdasapError, ModelError
from adasap.experiments.recipe import parse_recipe, recipe_tree, set_key
from adasap.export import save
from adasap.models import ModelSpec, check_options, open_model

Tree = dict[str, Any]
RUNNER = CliRunner()
CODE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("was_run").touch()
class Net(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1), nn.Flatten())
def build(width=4):
    return Net(width)
def broken():
    return undefined_name
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of somebody's in it, which leaves a trace when it is run."""
    (tmp_path / "intruder.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("intruder", None)


def run(*words: str) -> str:
    result = RUNNER.invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _written(tree: Tree, path: Path) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.mark.parametrize("builder", ["intruder:build", "os:system", "./intruder.py:build"])
@pytest.mark.parametrize(
    "words",
    [
        ["compress", "RECIPE"],
        ["compress", "RECIPE", "--dry-run"],
        ["evaluate", "RECIPE", "--data", "digits:"],
        ["profile", "RECIPE"],
        ["profile", "RECIPE", "--latency-table", "table.json"],
        ["groups", "RECIPE"],
        ["export", "RECIPE", "out.onnx", "--to", "onnx"],
        ["analyze", "RECIPE", "--data", "digits:"],
        ["analyze", "FOLDER"],
        ["analyze", "x=FOLDER"],
        ["sweep", "SWEEP"],
        ["sweep", "SWEEP", "--dry-run"],
        ["groups", "FILE"],
        ["export", "FILE", "out.onnx", "--to", "onnx"],
    ],
)
def test_no_verb_runs_what_a_file_names(
    words: list[str], builder: str, here: Path, tiny_recipe: Callable[..., Tree]
) -> None:
    tree = tiny_recipe(model={"builder": builder, "options": {}})
    recipe, spec = _written(tree, here / "run" / "recipe.yaml"), ModelSpec(builder, input_size=(3, 32, 32))
    sweep = _written({"name": "s", "runs": {"a": "run/recipe.yaml"}, "seeds": 1}, here / "sweep.yaml")
    save(here / "run" / "model.safetensors", torch.nn.Linear(2, 2), spec=spec)
    places = {"RECIPE": recipe, "SWEEP": sweep, "FOLDER": "run", "x=FOLDER": "x=run", "FILE": "run/model.safetensors"}
    with pytest.raises(ModelError, match=r"asks to run .*; add --trust-builder"):
        run(*(places.get(word, word) for word in words))
    assert not (here / "was_run").exists()
    assert "intruder" not in sys.modules


def _leaves(tree: Tree, above: str = "") -> Iterator[str]:
    """Dotted keys of all values that hold no keys themselves."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


@pytest.mark.slow
def test_no_key_of_a_recipe_runs_what_it_names(here: Path, tiny_recipe: Callable[..., Tree]) -> None:
    """Every key holds the name of a stranger's code in turn, whatever it is for, and so will every later one."""
    suites = {"x": {"kind": "corrupted", "corruptions": ["fog"], "data": {"kind": "digits"}}}
    tree = recipe_tree(parse_recipe(tiny_recipe(data={"suites": suites})))
    refused = []
    for key in (*_leaves(tree), "task.kind"):
        for value in ("intruder:build", {"kind": "intruder:build"}, {"intruder:build": {}}):
            changed = copy.deepcopy(tree)
            set_key(changed, key, value)
            if key == "pruning.budget.cost":
                changed["pruning"]["budget"] = {"cost": value, "kept": 0.5}
            try:
                run("compress", "--dry-run", _written(changed, here / "recipe.yaml"))
            except AdasapError as error:
                refused += [key] * ("asks to run" in str(error))
            assert not (here / "was_run").exists(), (key, value)
    wanted = {"model.builder", "task.kind", "data.train.kind", "data.suites.x.data.kind", "pruning.budget.cost"}
    assert wanted <= set(refused)


def test_the_flag_lets_a_recipe_run(here: Path, tiny_recipe: Callable[..., Tree]) -> None:
    tree = tiny_recipe(model={"builder": "intruder:build", "options": {"width": 5}})
    recipe = _written(tree, here / "recipe.yaml")
    assert "2 groups" in run("groups", recipe, "--size", "32", "--trust-builder")
    assert (here / "was_run").exists()


@pytest.mark.parametrize("name", ["intruder:build", "intruder:Net", "./intruder.py:build", "intruder.py:Net"])
def test_a_model_typed_on_the_command_line_is_the_users_word(name: str, here: Path) -> None:
    assert "2 groups" in run("groups", name, "--size", "32")


def test_a_builder_that_says_no_size_is_asked_for_one(here: Path) -> None:
    with pytest.raises(ModelError, match=r"size of the images that intruder:build takes is not known.*--size"):
        run("groups", "intruder:build")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intruder:broken", r"intruder\.py, line 11: NameError: name 'undefined_name'"),
        ("intruder:biuld", "did you mean 'build'"),
        ("intruder.py", r"write intruder\.py:FUNCTION"),
        ("./nowhere.py:build", r"there is no file nowhere\.py"),
        ("nowhere:build", "cannot import 'nowhere'"),
        ("half:build", r"half\.py, line 2: ModuleNotFoundError: No module named 'not_installed'"),
        ("wrong:build", r"wrong\.py, line 1: SyntaxError"),
    ],
)
def test_errors_of_the_users_module_are_shown_where_they_are(name: str, words: str, here: Path) -> None:
    (here / "half.py").write_text("import torch\nimport not_installed\n")
    (here / "wrong.py").write_text("def build(:\n")
    with pytest.raises(ModelError, match=words):
        run("groups", name, "--size", "32")


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
        {"model_args": {"deep": [{"url": "http://x"}]}},
        {"cfg": {"hf_hub_id": "a/b"}},
        {"ckpt": "x"},
        {"weights_path": "x"},
        {"num_classes": 10**12},
        {"num_classes": 10**5000},
        {"layers": [1] * 100_000},
        {"name": "x" * 100_000},
        {"a": [[[[[[[[[[[1]]]]]]]]]]]},
    ],
)
def test_options_reach_no_file_and_no_size_beyond_all_models(options: Tree) -> None:
    with pytest.raises(ModelError, match=r"would read or download a file|give plain values"):
        check_options("timm:resnet18", options)
    check_options("timm:resnet18", {"drop_path_rate": 0.1, "num_classes": 21_841, "img_size": [224, 224]})


@pytest.mark.parametrize(
    ("builder", "options"),
    [
        ("adasap:digits_net", {"widths": [1_000_000, 1_000_000]}),
        ("adasap:cifar_resnet20", {"num_classes": 10_000_000, "width": 100_000}),
        ("torchvision:vit_b_16", {"image_size": 1_600_000}),
        ("timm:vit_tiny_patch16_224", {"depth": 100_000}),
        ("timm:resnet18", {"num_classes": 10_000_000}),
    ],
)
def test_a_model_beyond_the_machine_is_refused_before_it_is_made(
    builder: str, options: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adasap.models.size_guard.free_bytes", lambda: 2**30)
    with pytest.raises(AdasapError, match=r"numbers|could not build"):
        open_model(ModelSpec(builder, options))
