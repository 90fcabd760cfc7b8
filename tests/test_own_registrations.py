"""What a user registers is known wherever a name of ours is: in recipes, on the command line, in Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import adasap
from adasap import registry
from adasap.analysis import INSTRUMENTS, AnalysisOptions, Instrument, Subject
from adasap.analysis.instruments import Part
from adasap.cli import app
from adasap.corruptions import CORRUPTIONS, corrupt, of_colour
from adasap.criteria import CRITERIA, build_criterion
from adasap.data import InMemoryImages
from adasap.errors import AdasapError, DataError
from adasap.evaluation import SuiteSource, open_suite
from adasap.evaluation.suite_readers import kept_suite
from adasap.export import TARGETS
from adasap.export.targets import TorchExport
from adasap.groups import ChannelGroup
from adasap.pruning import PRUNING_SCHEDULES, EventWindow, PruningOptions
from adasap.registry import Registry
from adasap.training import LEARNING_RATES, ScheduleOptions, learning_rate_factor

EVERY: tuple[Registry[Any], ...] = (CORRUPTIONS, CRITERIA, INSTRUMENTS, LEARNING_RATES, PRUNING_SCHEDULES, TARGETS)
NET = ["adasap:digits_net", "--model-option", "widths=[4, 8, 16]", "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]


pytestmark = pytest.mark.usefixtures("registered_for_a_test")


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("names", EVERY, ids=lambda names: names.what)
def test_an_unknown_name_is_told_the_known_ones_and_how_to_register(names: Registry[Any]) -> None:
    first = next(iter(names))
    with pytest.raises(AdasapError, match=rf"there is no {names.what} '{first}x'; did you mean .*'{first}'") as found:
        names.get(f"{first}x")
    package, _, attribute = names.at.rpartition(".")
    assert f"{names.at}.register(name, ...)" in str(found.value)
    assert getattr(sys.modules[package], attribute) is names


def darker(images: Tensor, severity: int, seeds: Tensor, constants: str) -> Tensor:
    return images * (1 - severity / 5)


def test_a_corruption_is_in_a_suite_and_on_the_command_line(tmp_path: Path) -> None:
    CORRUPTIONS.register("darker", darker)
    images = InMemoryImages(torch.full((2, 3, 32, 32), 100, dtype=torch.uint8), torch.tensor([0, 1]))
    suite = open_suite("corrupted", SuiteSource("corrupted", corruptions=("darker",), severities=(2, 5)), images)
    assert corrupt(images.images, "darker", 2).unique().tolist() == [60]
    assert list(map(str, suite.cells)) == ["darker/2", "darker/5"]
    assert kept_suite(suite, tmp_path).images_of == suite.images_of  # its code may change: nothing is kept of it
    assert not list(tmp_path.iterdir())
    words = ["--data", "digits:", "--suite", "corrupted", "--corruptions", "darker,fog", "--severities", "3"]
    told = call("evaluate", *NET, *words, "--out", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "darker" in told
    assert "darker/3" in json.dumps(found)


def test_a_corruption_that_gives_something_else_is_refused() -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    CORRUPTIONS.register("cropped", lambda images, severity, seeds, constants: images[..., 1:])
    with pytest.raises(DataError, match=r"'cropped' gave torch.float32 \[1, 3, 8, 7\] for torch.float32 \["):
        corrupt(images, "cropped", 1)
    CORRUPTIONS.register("tinted", of_colour(lambda images, severity, seeds, constants: images))
    with pytest.raises(DataError, match="tinted is defined for grey"):
        corrupt(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "tinted", 1)


def largest_weight(subject: Subject, options: AnalysisOptions) -> Mapping[str, Part]:
    return {"weights": lambda progress: {"largest": max(w.abs().max().item() for w in subject.objective.weights)}}


def test_an_instrument_is_on_the_command_line(tmp_path: Path) -> None:
    INSTRUMENTS.register("largest_weight", Instrument(largest_weight, settings={"version": 1}))
    words = ["--data", "digits:", "--images", "16", "--batch", "8", "--only", "largest_weight", "--device", "cpu"]
    told = call("analyze", *NET, *words, "--out", str(tmp_path))
    part = json.loads((tmp_path / "analysis.json").read_text())["models"]["digits_net"]["largest_weight"]["weights"]
    assert part["largest"] > 0
    assert part["options"] == {"seed": 0, "version": 1}
    assert "largest_weight, weights: largest" in told
    assert "largest_weight, weights: largest" in (tmp_path / "analysis.html").read_text()


class Halves(EventWindow):
    def kept_after(self, event: int, events: int, kept: float) -> float:
        return 1 - (1 - kept) * (event / events) ** 0.5


def ones(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    return {group.name: torch.ones(group.num_channels) for group in groups}


def test_a_criterion_and_schedules_are_in_a_recipe() -> None:
    CRITERIA.register("ones", lambda: build_criterion(ones))
    PRUNING_SCHEDULES.register("halves", Halves)
    LEARNING_RATES.register("falling", lambda progress, options: 1 - progress)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    cost = adasap.MACs(net, adasap.trace_groups(net, torch.zeros(1, 3, 8, 8)), torch.zeros(1, 3, 8, 8))
    options = PruningOptions(criterion="ones", schedule="halves", budget=adasap.BudgetOptions(macs=0.5))
    assert options.limits(cost, 4) == [cost.dense * (1 - 0.5 * part**0.5) for part in (0.25, 0.5, 0.75, 1)]
    assert [learning_rate_factor(s, 4, ScheduleOptions("falling")) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert adasap.prune(net, torch.zeros(1, 3, 8, 8), "ones", {"macs": 0.5}).cost_after <= cost.dense / 2


class Archive(TorchExport):
    name = "archive"


def test_an_export_target_is_on_the_command_line(tmp_path: Path) -> None:
    TARGETS.register("archive", Archive)
    out = tmp_path / "net.pt2"
    assert "archive, images" in call("export", *NET, str(out), "--to", "archive")
    assert out.is_file()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that names a module under the entry points of plugins."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[adasap.plugins]\nmine = mine_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._load_plugins.cache_clear()
    yield tmp_path / "mine_plugin.py"
    registry._load_plugins.cache_clear()
    sys.modules.pop("mine_plugin", None)


def test_installed_packages_register_theirs(plugin: Path) -> None:
    plugin.write_text("from adasap.criteria import CRITERIA\nCRITERIA.register('theirs', 'adasap.criteria.l1:L1')\n")
    assert type(adasap.build_criterion("theirs")).__name__ == "L1"


def test_a_package_that_cannot_be_imported_is_named(plugin: Path) -> None:
    plugin.write_text("import no_such_module\n")
    with pytest.raises(AdasapError, match="plugin 'mine' of mine cannot be imported: ModuleNotFoundError"):
        adasap.build_criterion("theirs")
