"""MobileNets with TensorFlow's padding: the function that the stock layers have on flipped images and weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from adasap.cli import app
from adasap.models import ModelSpec, open_model
from adasap.models.mobilenet import EndPaddedConv2d


@pytest.mark.parametrize("side", [7, 8])
def test_the_odd_zero_is_at_the_end(side: int) -> None:
    """padding=1 on even sides begins one pixel early, so flipping image and weight makes the two alike."""
    torch.manual_seed(0)
    conv = EndPaddedConv2d(2, 3, 3, 2)
    images = torch.randn(1, 2, side, side)
    flipped = torch.nn.functional.conv2d(images.flip(-1, -2), conv.weight.flip(-1, -2), conv.bias, 2, 1).flip(-1, -2)
    ours = conv(images)
    assert ours.shape[-1] == -(-side // 2)
    assert torch.allclose(ours, flipped, atol=1e-6)


def test_v2_is_the_stock_network_on_flipped_images_and_weights() -> None:
    torch.manual_seed(0)
    ours = open_model(ModelSpec("adasap:mobilenet_v2_tf")).eval()
    stock = open_model(ModelSpec("torchvision:mobilenet_v2")).eval()
    state = {name: t.flip(-1, -2) if t.ndim == 4 else t for name, t in ours.state_dict().items()}
    stock.load_state_dict(state)  # the names are torchvision's
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(images), stock(images.flip(-1, -2)), rtol=1e-4, atol=1e-7)
        assert not torch.allclose(ours(images), stock(images), rtol=1e-2, atol=1e-7)


def test_v1_has_the_names_of_timm() -> None:
    ours = open_model(ModelSpec("adasap:mobilenet_v1_tf")).state_dict()
    timm = open_model(ModelSpec("timm:mobilenetv1_100")).state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in timm.items()}


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "weights", "percent", "allowed"),  # one image: ties in the last bit differ between machines
    [
        (("adasap:mobilenet_v2_tf", "--limit", "300"), "mobilenet_v2_1.0_imagenet", 86.9, 5.9),  # three standard errors
        (("adasap:mobilenet_v1_tf", "--model-option", "width=0.75"), "mobilenet_v1_0.75_imagenet", 84.4, 0.11),
    ],
)
def test_pretrained_mobilenets_reach_the_accuracy_stated_with_them(
    shared_data: Path, tmp_path: Path, model: tuple[str, ...], weights: str, percent: float, allowed: float
) -> None:
    file = shared_data / "weights" / f"{weights}.safetensors"
    colours = ["--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]
    data = ["--data", f"csv:{shared_data / 'imagenet_sample'}", "--center-crop", "224", "--out", str(tmp_path / "out")]
    command = ["evaluate", *model, "--weights", str(file), *colours, *data]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    mean = json.loads((tmp_path / "out" / "evaluation.json").read_text())["suites"]["clean"]["mean"]
    assert 100 * mean == pytest.approx(percent, abs=allowed)
