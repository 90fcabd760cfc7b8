"""A model by its name: the right network, nothing downloaded, no code that was not asked for."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adasap.errors import ModelError
from adasap.experiments.name_models import open_any
from adasap.models import ModelSpec, load_weights_, open_model

BUILDERS = ["adasap:digits_net", "torchvision:mobilenet_v3_small", "timm:resnet10t"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model was to be downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_source_builds_a_classifier(builder: str, no_network: None) -> None:
    model = open_model(ModelSpec(builder, {"num_classes": 7})).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_no_backbone_is_fetched(no_network: None) -> None:
    model = open_model(ModelSpec("torchvision:lraspp_mobilenet_v3_large", {"num_classes": 3}))
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        ("adasap:digit_net", "did you mean 'digits_net'"),
        ("adasap:resnet20", "did you mean .*cifar_resnet20"),
        ("torchvision:resnet19", "did you mean .*resnet"),
        ("timm:resnet-18", "did you mean .*resnet18"),
        ("timm:hf-hub:somebody/model", "timm has no model"),
        ("resnet18", "names no builder"),
        ("torchvision:", "names no builder"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(builder: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        open_model(ModelSpec(builder))


@pytest.mark.parametrize(
    ("builder", "options"),
    [
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "/etc/passwd"}),
        ("timm:resnet18", {"pretrained_cfg": "x"}),
        ("timm:resnet18", {"pretrained_cfg_overlay": {"url": "http://x"}}),
        ("timm:resnet18", {"cache_dir": "/tmp"}),
        ("torchvision:resnet18", {"norm_layer": nn.BatchNorm2d}),
        ("adasap:digits_net", {"widths": [4, 4, float("nan")]}),
        ("adasap:digits_net", {"__class__": 1}),
    ],
)
def test_options_that_fetch_or_are_no_data_are_refused(builder: str, options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"option|keyword"):
        open_model(ModelSpec(builder, options))


def test_options_that_switch_fetching_off_are_allowed(no_network: None) -> None:
    open_model(ModelSpec("torchvision:resnet18", {"weights": None, "num_classes": 2}))
    open_model(ModelSpec("timm:resnet10t", {"pretrained": False, "drop_path_rate": 0.1}))


def test_images_of_a_timm_model_are_prepared_as_timm_says(no_network: None) -> None:
    half = ((0.5,) * 3, (0.5,) * 3)

    def of(model: Any, **options: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        spec = open_any(model, **options).spec
        return spec.mean, spec.std

    spec = ModelSpec("timm:mobilenetv1_100", {"num_classes": 2})
    assert (spec.mean, spec.std) == (spec.of_size((3, 32, 32)).mean, spec.std) == half
    assert of("timm:mobilenetv1_100") == half
    module = open_model(spec)
    assert of(module) == half
    vars(module).pop("_adasap_past")  # as timm itself gives it
    assert of(module) == half
    assert of(module, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert ModelSpec("timm:resnet10t").mean == ModelSpec("torchvision:resnet18").mean == (0.485, 0.456, 0.406)
    assert ModelSpec("timm:mobilenetv1_100", mean=(0.1,) * 3).mean == (0.1,) * 3
    assert ModelSpec("timm:mobilenetv1_100", {"in_chans": 1}).of_size((1, 28, 28)).mean == (0.5,)
    assert ModelSpec("timm:no_such_model").mean == (0.485, 0.456, 0.406)


def test_a_wrong_option_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"could not build a model from the options.*colours"):
        open_model(ModelSpec("adasap:digits_net", {"colours": 3}))
    with pytest.raises(ModelError, match="give numbers of 1 or more"):
        open_model(ModelSpec("adasap:digits_net", {"widths": [4, 0]}))


def test_the_users_own_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\ndef tiny(width=2):\n    return nn.Linear(width, 2)\ndef number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModelSpec("my_nets:tiny", {"width": 5})
    with pytest.raises(ModelError, match="not trusted; pass builder="):
        open_model(spec)
    assert "my_nets" not in sys.modules  # refused before its code ran
    assert open_model(spec, trust_builder=True)(torch.zeros(1, 5)).shape == (1, 2)
    assert open_model(spec, builder=lambda width: nn.Linear(width, 3))(torch.zeros(1, 5)).shape == (1, 3)
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        open_model(ModelSpec("my_nets:tinny"), trust_builder=True)
    with pytest.raises(ModelError, match=r"returned a int; wanted a torch\.nn\.Module"):
        open_model(ModelSpec("my_nets:number"), trust_builder=True)
    with pytest.raises(ModelError, match="cannot import 'my_nots'"):
        open_model(ModelSpec("my_nots:tiny"), trust_builder=True)


@pytest.mark.parametrize(
    "options", [{"std": (1.0, 0.0, 1.0)}, {"input_size": (3, 0, 2)}, {"mean": (0.5,), "std": (0.5, 0.5)}]
)
def test_impossible_inputs_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="give"):
        ModelSpec("adasap:digits_net", **options)


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_without_counters_in_half_precision(tmp_path: Path) -> None:
    source, model = _network(), _network()
    state = {k: v.half() for k, v in source.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    load_weights_(model, tmp_path / "w.safetensors")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, source[0].weight.half().float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("0.bias"), "1 missing: 0.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"0.bias": torch.zeros(9)}), r"0.bias is \[9\] in the file, \[4\] in the model"),
        (lambda s: s.update({"0.weight": s["0.weight"].to(torch.int8)}), r"1 without weights: 0.weight \(torch.int8\)"),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_alone(tmp_path: Path, change: object, words: str) -> None:
    model, state = _network(), _network().state_dict()
    change(state)  # type: ignore[operator]
    save_file(state, tmp_path / "w.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        load_weights_(model, tmp_path / "w.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    save_file(_network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"w\.safetensors cannot be read as safetensors"):
        load_weights_(_network(), path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.safetensors does not exist"):
        open_model(ModelSpec("adasap:digits_net", weights=str(tmp_path / "nowhere.safetensors")))


@pytest.mark.slow
def test_the_demo_network_learns_the_digits() -> None:
    from adasap.data import Augmentation, DataSource, TrainingStream, evaluation_batches, open_dataset

    torch.manual_seed(0)
    model = open_model(ModelSpec("adasap:digits_net"))
    stream = TrainingStream(
        open_dataset(DataSource("digits"), "train"),
        Augmentation(random_crop_padding=2),
        batch_size=64,
        seed=0,
    )
    steps = 15 * stream.steps_per_epoch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _, (images, labels) in zip(range(steps), stream.iterate(), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images / 255 - 0.5), labels).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = [
            (model(images / 255 - 0.5).argmax(1) == labels)
            for images, labels in evaluation_batches(open_dataset(DataSource("digits"), "test"), 128)
        ]
    assert torch.cat(right).float().mean() > 0.97


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        ("adasap:digits_net", {"num_classes": 10**9}, "a number of 30 bits"),
        ("adasap:digits_net", {"widths": [10**5] * 3}, r"GB.; at most"),
        ("torchvision:resnet18", {"num_classes": 10**18}, "a number of 60 bits"),
        ("torchvision:resnet50", {"width_per_group": 20_000, "num_classes": 2}, r"GB.; at most"),
    ],
)
def test_models_that_no_machine_holds_are_refused_before_they_are_built(
    builder: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        open_model(ModelSpec(builder, options))


def test_a_look_at_the_size_changes_no_weights() -> None:
    torch.manual_seed(0)
    small = open_model(ModelSpec("adasap:digits_net"))
    torch.manual_seed(0)
    wide = open_model(ModelSpec("adasap:digits_net", {"num_classes": 6000}))  # looked at first
    first, same = next(small.parameters()), next(wide.parameters())
    assert torch.equal(first, same)
