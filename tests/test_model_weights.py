"""Weights come in as people have them: any usual file, any wrapping; never code, never a wrong number."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adasap.errors import ModelError
from adasap.models import ModelSpec, load_weights_, open_model
from adasap.models.published import is_published

State = dict[str, Tensor]


def _network(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Conv2d(4, num_classes, 1)))


def _under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _plus_one(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, r"w\.pth: 9 tensors$"),
    "torchvision reference": (
        lambda s: {
            "model": _plus_one(s),
            "model_ema": _under("module.", s) | {"n_averaged": torch.tensor(7)},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 3,
        },
        r"\['model_ema'\]: 9 tensors, without the prefix 'module\.'$",
    ),
    "timm": (
        lambda s: {
            "state_dict": _plus_one(s),
            "state_dict_ema": s,
            "args": argparse.Namespace(lr=0.1, model="resnet"),
            "metric": 0.7,
        },
        r"\['state_dict_ema'\]: 9 tensors$",
    ),
    "lightning": (
        lambda s: {
            "state_dict": _under("model.", s) | {"criterion.weight": torch.ones(5)},
            "hyper_parameters": {"lr": 0.1},
            "pytorch-lightning_version": "2.4.0",
        },
        r"\['state_dict'\]: 9 tensors, without the prefix 'model\.'; 1 others left: criterion\.weight$",
    ),
    "compiled in data parallel": (
        lambda s: _under("module._orig_mod.", s),
        r"9 tensors, without the prefix 'module\.', without '_orig_mod\.'$",
    ),
    "compiled inside": (
        lambda s: {name.replace("norm.", "norm._orig_mod."): tensor for name, tensor in s.items()},
        r"without '_orig_mod\.'$",
    ),
    "an average that is none": (lambda s: {"ema": None, "model": s, "ema_decay": 0.99}, r"\['model'\]: 9 tensors$"),
    "nested three deep": (
        lambda s: {"checkpoint": 1, "net": {"state_dict": _under("net.module.model.", s)}},
        r"\['net'\]\['state_dict'\]: 9 tensors, without the prefix 'net\.module\.model\.'$",
    ),
    "an average under its shadow": (
        lambda s: {"model": _plus_one(s), "ema": {"decay": 0.99, "shadow": _under("module.", s)}},
        r"\['ema'\]\['shadow'\]: 9 tensors, without the prefix 'module\.'$",
    ),
    "a key of one's own": (
        lambda s: {"checkpoint": {"model": s}, "optimizer": {"exp_avg": torch.ones(2)}, "epoch": 3},
        r"\['checkpoint'\]\['model'\]: 9 tensors$",
    ),
    "a prefix of one's own": (
        lambda s: _under("classifier_net.", s) | {"loss.weight": torch.ones(2)},
        r"9 tensors, without the prefix 'classifier_net\.'; 1 others left: loss\.weight$",
    ),
    "sharded": (lambda s: _under("_fsdp_wrapped_module.", s), r"without '_fsdp_wrapped_module\.'$"),
    "checkpointed activations": (
        lambda s: {name.replace("norm.", "norm._checkpoint_wrapped_module."): tensor for name, tensor in s.items()},
        r"without '_checkpoint_wrapped_module\.'$",
    ),
    "half precision": (
        lambda s: {n: t.bfloat16() if t.is_floating_point() else t for n, t in s.items()},
        r"9 tensors$",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
@pytest.mark.parametrize("name", ["w.pth", "w.ckpt"])
def test_every_usual_wrapping_gives_the_weights_and_says_so(case: str, name: str, tmp_path: Path) -> None:
    wrap, words = WRAPPED[case]
    source, model = _network(), _network()
    torch.save(wrap(source.state_dict()), tmp_path / name, _use_new_zipfile_serialization=name == "w.pth")
    line = load_weights_(model, tmp_path / name)
    wanted = source.bfloat16().float() if case == "half precision" else source
    assert all(torch.equal(t, wanted.state_dict()[n].to(t.dtype)) for n, t in model.state_dict().items())
    assert all(t.dtype in (torch.float32, torch.int64) for t in model.state_dict().values())
    if name == "w.pth":
        assert re.search(words, line), line


def test_an_averaged_model_gives_its_weights(tmp_path: Path) -> None:
    source, model = _network(), _network()
    torch.save(AveragedModel(source).state_dict(), tmp_path / "swa.pt")
    load_weights_(model, tmp_path / "swa.pt")
    assert torch.equal(model.get_parameter("conv.weight"), source.get_parameter("conv.weight"))


def test_prefixed_safetensors(tmp_path: Path) -> None:
    source, model = _network(), _network()
    save_file(_under("model.", source.state_dict()), tmp_path / "w.safetensors")
    assert "without the prefix 'model.'" in load_weights_(model, tmp_path / "w.safetensors")
    assert torch.equal(model.get_parameter("fc.weight"), source.get_parameter("fc.weight"))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('was_here', 'w').close()",)


def _pickled_model(path: Path) -> None:
    torch.save(_network(), path)


def _evil(path: Path) -> None:
    torch.save({"state_dict": _network().state_dict(), "extra": _Evil()}, path)


def _evil_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Evil()))


def _script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/data.pkl", b"\x80\x02).")


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02).")
        archive.writestr("m/data/0", bytes(50_000_000))


def _expanded(path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1).expand(10**12)}, path)


def _cut_short(path: Path) -> None:
    torch.save(_network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])


def _text(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _meta(path: Path) -> None:
    torch.save(_network().to("meta").state_dict(), path)


def _saved(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pickled model": (_pickled_model, r"would run the code of .torch\.nn\.modules\S*"),
    "code beside the weights": (_evil, "holds more than weights"),
    "a bare pickle": (_evil_pickle, "holds more than weights|cut short or damaged"),
    "a TorchScript program": (_script, r"is a TorchScript program.*torch\.jit\.load"),
    "an archive that unfolds": (_bomb, "unfolds to 50,000"),
    "a tensor of one number spread over 10^12": (_expanded, r"conv\.weight is \[1000000000000\] in the file"),
    "cut short": (_cut_short, "cut short or damaged"),
    "no numbers": (_meta, "without weights|holds more"),
    "a web page": (_text(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "a pointer": (_text(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    "empty": (_text(b""), "cut short"),
    "a list": (_saved([torch.zeros(2)]), "holds a list, but no weights by name"),
    "a number": (_saved({"epoch": 3, "lr": 0.1}), "holds a mapping of 'epoch', 'lr', but no weights"),
    "weights under two keys of one's own": (
        _saved({"left": _network().state_dict(), "right": _network().state_dict()}),
        r"holds weights under 'left', 'right'; .*save the one that is meant",
    ),
    "two prefixes of one's own": (
        _saved(_under("left.", _network().state_dict()) | _under("right.", _network().state_dict())),
        r"its names begin with 'left\.', 'right\.'; save one of them without it",
    ),
    "complex": (_saved({n: t.to(torch.complex64) for n, t in _network().state_dict().items()}), "without weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_weights_is_refused_and_runs_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, words = REFUSED[case]
    write(tmp_path / "w.pth")
    model = _network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        load_weights_(model, tmp_path / "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not (tmp_path / "was_here").exists()


def test_weights_that_are_no_numbers_are_pointed_out(tmp_path: Path) -> None:
    source, model = _network(), _network()
    source.get_parameter("fc.weight").data[0] = float("nan")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert load_weights_(model, tmp_path / "w.pth").endswith("; NaN or infinity in 1 of them: fc.weight")


def test_what_torch_saved_under_the_name_safetensors_is_told(tmp_path: Path) -> None:
    torch.save(_network().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors is what torch\.save writes; name it \.pth"):
        load_weights_(_network(), tmp_path / "w.safetensors")


def test_one_part_of_several_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model-00002-of-00003.safetensors"
    save_file(_network().state_dict(), path)
    with pytest.raises(ModelError, match="part 2 of weights in 3 files"):
        load_weights_(_network(), path)


def test_a_head_of_another_size_is_named_with_its_cure(tmp_path: Path) -> None:
    torch.save({"state_dict": _network(1000).state_dict()}, tmp_path / "w.pth")
    words = r"fc\.weight is \[1000, 4, 1, 1\] in the file, \[10, 4, 1, 1\] in the model.*head of 1000 outputs: set num"
    with pytest.raises(ModelError, match=words):
        load_weights_(_network(10), tmp_path / "w.pth")


def test_open_model_says_what_it_found(tmp_path: Path) -> None:
    spec = ModelSpec("adasap:digits_net", {"widths": [4]})
    torch.save({"model": open_model(spec).state_dict()}, tmp_path / "w.pth")
    said: list[str] = []
    open_model(ModelSpec("adasap:digits_net", {"widths": [4]}, weights=str(tmp_path / "w.pth")), say=said.append)
    assert len(said) == 1
    assert "w.pth['model']: " in said[0]


def test_published_weights_are_asked_for_by_name_and_not_by_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    wanted = ModelSpec("torchvision:resnet18", weights="DEFAULT")
    with pytest.raises(ModelError, match=r"'DEFAULT' of torchvision:resnet18 cannot be had .*no route.*connect"):
        open_model(wanted)
    with pytest.raises(ModelError, match=r"comes from a file, which may not download"):
        open_model(wanted, download=False)
    with pytest.raises(ModelError, match=r"no weights 'IMAGENET1K_V9'; did you mean 'IMAGENET1K_V1'"):
        open_model(ModelSpec("torchvision:resnet18", weights="IMAGENET1K_V9"))
    assert not is_published("adasap:digits_net", "DEFAULT")


def test_published_weights_fill_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import mobilenet_v3_small

    published = mobilenet_v3_small().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    model = open_model(ModelSpec("torchvision:mobilenet_v3_small", weights="IMAGENET1K_V1"))
    assert torch.equal(model.state_dict()["classifier.3.weight"], published["classifier.3.weight"])
    with pytest.raises(ModelError, match=r"classifier\.3\.weight is \[1000, 1024\] in the file, \[10, 1024\]"):
        open_model(ModelSpec("torchvision:mobilenet_v3_small", {"num_classes": 10}, weights="DEFAULT"))
