"""A YOLO of Ultralytics that is cut stays cut in Ultralytics' own trainer; our part of it by a network of our own."""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError, BudgetError
from adasap.integrations.ultralytics import prune_, raw_outputs, trainer_of
from test_readme import ROOT, blocks


class Head(nn.Module):
    """Raw maps in training; in evaluation mode it writes anchors on itself and looks at numbers."""

    def __init__(self, nc: int) -> None:
        super().__init__()
        self.nc, self.stride, self.anchors = nc, torch.tensor([2.0]), torch.empty(0)
        self.boxes, self.scores = nn.Conv2d(12, 4, 1), nn.Sequential(nn.Conv2d(12, 8, 1), nn.Conv2d(8, nc, 1))

    def forward(self, maps: Tensor) -> Any:
        raw = {"boxes": self.boxes(maps).flatten(2), "scores": self.scores(maps).flatten(2), "feats": [maps]}
        if self.training:
            return raw
        self.anchors = maps.new_full((maps.shape[-1],), self.stride[0])
        return raw["boxes"] * self.anchors.mean(), raw


class Net(nn.Module):
    """As a network of Ultralytics is called: images, or a batch for its loss."""

    def __init__(self, nc: int = 3) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3, 1, 1)]
        self.model, self.fused = nn.Sequential(*layers, Head(nc)), False

    def forward(self, images: Any) -> Any:
        return self.loss(images) if isinstance(images, dict) else self.model(images)

    def loss(self, batch: dict[str, Tensor], preds: Any = None) -> Any:
        preds = self.forward(batch["img"]) if preds is None else preds
        assert len(preds["feats"]) == 1
        return preds["scores"].square().mean(), preds

    def is_fused(self) -> bool:
        return self.fused


class DetectionTrainer:
    """Builds the dense model anew."""

    world_size, data = 1, {"nc": 3}

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        return Net()


def yolo_like(model: nn.Module) -> Any:
    return SimpleNamespace(model=model, task="detect", task_map={"detect": {"trainer": DetectionTrainer}})


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_network_that_writes_on_itself_is_cut_by_its_raw_outputs() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    image, yolo = torch.randn(1, 3, 16, 16), yolo_like(net)
    pruned = prune_(yolo, "l2", {"macs": 0.5}, image_size=16)
    cut = yolo.model
    assert pruned.cost_after <= 0.5 * pruned.cost_before
    assert pruned.mask_error < 1e-5
    assert {group.name for group in pruned.dense_groups if not group.frozen} == {
        "model.0",
        "model.3",
        "model.4.scores.0",
    }
    assert type(cut) is Net
    assert not any(module.training for module in (*cut.modules(), *net.modules()))
    assert cut(image)[1]["scores"].shape == net(image)[1]["scores"].shape
    assert size(cut) < size(net)
    file = io.BytesIO()
    torch.save(cut, file)
    assert b"adasap" not in file.getvalue() + pickle.dumps(cut)  # opens where adasap is not installed
    batch = {"img": image}
    again = prune_(
        yolo_like(Net()),
        "taylor",
        {"macs": 0.7},
        image_size=16,
        batches=[batch],
        loss=lambda model, b: model.loss(b)[0],
    )
    assert again.cost_after <= 0.7 * again.cost_before


def test_a_network_that_cannot_be_cut_so_far_is_left_as_it_was() -> None:
    net = Net().eval()
    yolo = yolo_like(net)
    with pytest.raises(BudgetError):
        prune_(yolo, "l2", {"macs": 0.001}, image_size=16)
    assert yolo.model is net
    assert type(net) is Net
    assert not net.model[-1].training
    with raw_outputs(net):
        assert net.train(False)(torch.zeros(1, 3, 16, 16)).keys() == {"boxes", "scores"}
        assert not net.model[1].training


def test_the_trainer_keeps_the_cut_model() -> None:
    yolo = yolo_like(Net())
    prune_(yolo, "l2", {"macs": 0.5}, image_size=16)
    kind = trainer_of(yolo)
    assert issubclass(kind, DetectionTrainer)
    assert kind().get_model(cfg={}, weights=None) is yolo.model
    resumed = copy.deepcopy(yolo.model)
    assert kind().get_model(cfg={}, weights=resumed) is resumed
    trainer = kind()
    trainer.data = {"nc": 80}
    with pytest.raises(ArgumentError, match="tells 3 classes apart and the data have 80"):
        trainer.get_model()
    trainer.world_size = 2
    with pytest.raises(ArgumentError, match="give one device"):
        trainer.get_model()


def test_what_cannot_be_cut_is_said() -> None:
    net = Net()
    net.fused = True
    with pytest.raises(ArgumentError, match="open it anew"):
        prune_(yolo_like(net), "l2", {"macs": 0.5})
    for wrong in (net, "yolo11n.pt", SimpleNamespace(model="yolo11n.onnx", task_map={})):
        with pytest.raises(ArgumentError, match="give a YOLO of Ultralytics"):
            trainer_of(wrong)


# Ultralytics itself

WITHOUT = "Ultralytics (AGPL-3.0) is not installed here; it is no dependency: pip install ultralytics"
TINY = """
nc: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2f, [32, True]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""
SCRIPT = """
import os, sys
import torch
from ultralytics import YOLO, settings
from adasap.integrations.ultralytics import prune_, trainer_of
settings.update({"sync": False, "runs_dir": os.getcwd()})
size = lambda model: sum(p.numel() for p in model.parameters())
common = {"imgsz": 64, "project": os.getcwd(), "plots": False, "workers": 0, "batch": 4, "exist_ok": True}
yolo = YOLO("tiny.yaml")
yolo.train(data="data.yaml", epochs=1, name="dense", **common)
dense = size(yolo.model)
yolo.save("best.pt")
yolo = YOLO("best.pt")
names = {}
exec(sys.argv[1], names)
yolo = names["yolo"]
assert type(yolo.model).__module__.startswith("ultralytics"), type(yolo.model)
cut = {name: tensor.shape for name, tensor in yolo.model.state_dict().items()}
assert size(yolo.model) < 0.8 * dense, (size(yolo.model), dense)
yolo.fuse()
try:
    prune_(yolo, "l2", {"macs": 0.5}, image_size=64)
    raise SystemExit("a fused model was taken")
except Exception as error:
    assert "open it anew" in str(error), error
sys.modules["adasap"] = None  # the file opens without it
loaded = YOLO("cut/weights/last.pt")
assert {name: tensor.shape for name, tensor in loaded.model.state_dict().items()} == names["widths"]
assert loaded.predict(torch.zeros(1, 3, 64, 64), verbose=False)
print("all is well")
"""


def installed() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip(WITHOUT)


def environment(folder: Path) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return known | {"YOLO_CONFIG_DIR": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.slow
def test_the_lines_of_the_page_run_in_ultralytics_own_trainer(tmp_path: Path) -> None:
    installed()
    from PIL import Image

    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: {{0: a, 1: b}}\n")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 0, 90)).save(tmp_path / "images" / f"{number}.jpg")
        (tmp_path / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.5 0.5")
    page = "\n".join(blocks(ROOT / "docs" / "ultralytics.md"))
    for there, here in {"640": "64", "epochs=100": "epochs=1, name='cut', **common"}.items():
        assert there in page
        page = page.replace(there, here)
    line = "widths = {name: tensor.shape for name, tensor in yolo.model.state_dict().items()}\n"
    page = page.replace("yolo.train(", line + "yolo.train(")
    common = f"common = {{'project': {str(tmp_path)!r}, 'plots': False, 'workers': 0, 'batch': 4, 'exist_ok': True}}\n"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, common + page],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.stdout.rstrip().endswith("all is well"), done.stdout[-1500:] + done.stderr[-1500:]


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_example_halves_a_yolo11n_and_trains_it(tmp_path: Path, shared_data: Path) -> None:
    installed()
    assert len((ROOT / "examples" / "ultralytics_yolo.py").read_text().splitlines()) < 80
    command = [
        sys.executable,
        str(ROOT / "examples" / "ultralytics_yolo.py"),
        str(shared_data / "bccd"),
        "4",
        "1",
        "64",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = re.search(r"([\d,]+) parameters, ([\d,]+) after the cut, ([\d,]+) after training", done.stdout)
    assert numbers is not None
    dense, cut, trained = (int(number.replace(",", "")) for number in numbers.groups())
    assert trained == cut < 0.7 * dense
