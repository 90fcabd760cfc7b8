"""The model file: it comes back with the same numbers; altered, cut short or foreign, it is refused."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adasap.errors import ModelError, ModelFileError, PlanError
from adasap.export import load, read_header, save
from adasap.groups import ChannelGroup, Slot, prunable, trace_groups
from adasap.models import ModelSpec, load_weights_, open_model
from adasap.pruning.plan import PruningPlan
from adasap.pruning.surgery import apply_plan_
from adasap.sealed import digest

SPEC = ModelSpec("adasap:digits_net", {"widths": [4, 6]}, mean=(0.1, 0.2, 0.3))


def _group(block: int, channels: int) -> ChannelGroup:
    """The channels between the two convolutions of a block, by hand."""
    at, own = f"blocks.{block}", torch.arange(channels)[:, None]
    names = {
        "bn1.weight": "scale",
        "bn1.bias": "shift",
        "bn1.running_mean": "statistic",
        "bn1.running_var": "statistic",
    }
    slots = (
        Slot(f"{at}.conv1.weight", 0, "producer", own),
        *(Slot(f"{at}.{name}", 0, role, own) for name, role in names.items()),  # type: ignore[arg-type]
        Slot(f"{at}.conv2.weight", 1, "consumer", own),
    )
    return ChannelGroup(f"{at}.conv1", channels, slots)


GROUPS = (_group(0, 4), _group(1, 6))
PLAN = PruningPlan.of(GROUPS, {"blocks.0.conv1": [0, 3], "blocks.1.conv1": [1, 2, 5]})


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = open_model(SPEC)
    model(torch.randn(8, 3, 16, 16))  # statistics other than 0 and 1
    return model.eval()


def _cut(seed: int = 0) -> nn.Module:
    model = _model(seed)
    apply_plan_(model, GROUPS, PLAN)
    return model


def _answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cut.safetensors"
    save(path, _cut(), spec=SPEC, plan=PLAN, groups=GROUPS, metadata={"accuracy": 0.5})
    return path


def _rewrite(path: Path, **changes: Any) -> None:
    """What somebody who knows the format could do: other texts under a digest that is right again."""
    tensors = load_file(path)
    with safe_open(path, "pt") as opened:
        texts = dict(opened.metadata())
    for key, value in changes.items():
        texts[key] = value if isinstance(value, str) else json.dumps(value)
    texts["sha256"] = digest(texts, tensors)
    save_file(tensors, path, texts)


def _text(path: Path, key: str) -> Any:
    with safe_open(path, "pt") as opened:
        return json.loads(opened.metadata()[key])


def test_a_cut_model_answers_the_same_bit_for_bit(file: Path) -> None:
    model = load(file)
    assert not model.training
    assert model.get_parameter("blocks.1.conv1.weight").shape[0] == 3
    assert torch.equal(_answer(model), _answer(_cut()))


def test_a_dense_model_answers_the_same_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path / "dense", _model(), spec=SPEC)
    assert torch.equal(_answer(load(tmp_path / "dense")), _answer(_model()))


def test_the_header_says_how_it_was_made(file: Path) -> None:
    header = read_header(file)
    assert header.spec == replace(SPEC, input_size=(3, 32, 32))  # of its kind: the groups were not traced
    assert header.metadata == {"accuracy": 0.5}
    assert header.plan is not None
    assert header.plan.fingerprint == PLAN.fingerprint
    assert header.plan.kept["blocks.1.conv1"].tolist() == [1, 2, 5]


def test_number_types_and_tied_weights_survive(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    model = Tied().bfloat16()
    save(tmp_path / "tied", model, spec=ModelSpec("here:tied"))
    again = load(tmp_path / "tied", builder=Tied)
    assert again.b.weight is again.a.weight
    assert again.a.weight.dtype == torch.bfloat16
    assert torch.equal(again.a.weight, model.a.weight)


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    save(tmp_path / "m", torch.optim.swa_utils.AveragedModel(_model()), spec=SPEC)
    assert torch.equal(_answer(load(tmp_path / "m")), _answer(_model()))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors.*cut short"):
        load(file)


def test_one_flipped_bit_anywhere_is_refused(file: Path) -> None:
    content = file.read_bytes()
    refused = 0
    for place in [*range(0, len(content), 97), len(content) - 1]:
        altered = bytearray(content)
        altered[place] ^= 1
        file.write_bytes(altered)
        with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
            read_header(file)
        refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 500, b"\x80\x02}q\x00." * 40])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ModelFileError, match="another kind"):
        load(tmp_path / "f")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    torch.save(_model(), tmp_path / "model.pth")
    with pytest.raises(ModelFileError, match="another kind"):
        load(tmp_path / "model.pth")


def test_plain_weights_are_refused_with_the_next_move(tmp_path: Path) -> None:
    save_file(_model().state_dict(), tmp_path / "plain")
    with pytest.raises(ModelFileError, match=r"not a model file of this package.*weights"):
        load(tmp_path / "plain")


def test_a_model_file_as_weights_is_refused_with_the_next_move(file: Path) -> None:
    with pytest.raises(ModelError, match=r"open it with adasap\.load"):
        load_weights_(_model(), file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError):
        load(tmp_path)


def test_a_later_format_is_refused(file: Path) -> None:
    _rewrite(file, version="2")
    with pytest.raises(ModelFileError, match=r"version '2'.*update adasap"):
        load(file)


def test_a_strangers_builder_does_not_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(
        "from adasap.models import ModelSpec, open_model\n"
        "def build(widths):\n    return open_model(ModelSpec('adasap:digits_net', {'widths': widths}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _rewrite(file, spec={**_text(file, "spec"), "builder": "evil:build"})
    with pytest.raises(ModelFileError, match="'evil:build', code that is not trusted; pass builder="):
        load(file)
    assert "evil" not in sys.modules
    own = load(file, builder=lambda widths: open_model(SPEC))
    assert "evil" not in sys.modules
    assert torch.equal(_answer(own), _answer(load(file, trust_builder=True)))


@pytest.mark.parametrize(
    "change",
    [
        {"builder": "torchvision:resnet18", "options": {"weights": "DEFAULT"}},
        {"builder": "timm:resnet18", "options": {"pretrained": True}},
        {"builder": "timm:hf-hub:a/b", "options": {}},
        {"builder": "adasap:nothing", "options": {}},
        {"builder": 3},
        {"options": [1]},
        {"options": {"widths": [4, 6], "colour": 1}},
        {"options": {"widths": [4, 7]}},
        {"input_size": [3, 32]},
        {"input_size": [3, 32, 1.5]},
        {"input_size": [3, 10**6, 10**6]},
        {"input_size": [3, True, 32]},
        {"options": {"widths": [4, 6], "num_classes": 10**12}},
        {"options": {"widths": [4, 6], "num_classes": 9_000_000}},
        {"options": {"widths": [4] * 20_000}},
        {"mean": "abc"},
        {"std": [0, 0, 0]},
        {"weights": "/etc/passwd"},
    ],
)
def test_a_hostile_model_description_is_refused(file: Path, change: dict[str, Any]) -> None:
    _rewrite(file, spec={**_text(file, "spec"), **change})
    with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
        load(file)


@pytest.mark.parametrize("key", ["spec", "plan", "groups", "metadata"])
@pytest.mark.parametrize("text", ["", "[", "3", "null", "[[[[", "[" * 100_000, '{"a": 1}'])
def test_nonsense_in_the_header_is_refused(file: Path, key: str, text: str) -> None:
    _rewrite(file, **{key: text})
    if (key, text) == ("metadata", '{"a": 1}'):
        assert read_header(file).metadata == {"a": 1}
        return
    with pytest.raises(ModelFileError):
        load(file)


def test_a_plan_of_another_model_is_refused(file: Path) -> None:
    other = PruningPlan.of(GROUPS[:1], {"blocks.0.conv1": [0]})
    with pytest.raises(PlanError, match="belongs to other groups"):
        save(file, _cut(), spec=SPEC, plan=other, groups=GROUPS)
    _rewrite(file, plan=other.to_json())
    with pytest.raises(ModelFileError, match="belongs to other groups"):
        load(file)


def test_a_plan_for_more_channels_than_there_are_is_refused(file: Path) -> None:
    for channels, words in {
        10**9: "num_channels 1000000000",
        10**6: "1000000 channels, which the model does not",
    }.items():
        plan = json.loads(PLAN.to_json())
        del plan["sha256"]
        plan["groups"]["blocks.0.conv1"] = {"num_channels": channels, "kept": [10**5]}
        _rewrite(file, plan=plan)
        with pytest.raises(ModelFileError, match=words):
            load(file)


def test_groups_that_would_lay_out_more_than_the_model_are_refused(file: Path) -> None:
    groups = _text(file, "groups")
    groups[0]["slots"] = groups[0]["slots"][:1] * 10_000
    _rewrite(file, groups=groups)
    with pytest.raises(ModelFileError, match="is one too many: the groups name the model's channels over 8 times"):
        load(file)


@pytest.mark.parametrize("number", [10**30, -1, 2**63, True, 1.5, "3"])
def test_a_plan_of_impossible_numbers_is_refused(file: Path, number: object) -> None:
    plan = json.loads(PLAN.to_json())
    plan["groups"]["blocks.0.conv1"]["kept"] = [number]
    _rewrite(file, plan=plan)
    with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
        load(file)


def test_another_plan_than_the_weights_is_refused(file: Path) -> None:
    _rewrite(file, plan=PruningPlan.of(GROUPS, {"blocks.0.conv1": [0]}).to_json())
    with pytest.raises(ModelFileError, match=r"of another shape, such as blocks\.0"):
        load(file)


def test_a_plan_without_groups_is_refused(file: Path) -> None:
    with pytest.raises(PlanError, match="pass groups="):
        save(file, _cut(), spec=SPEC, plan=PLAN)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [({"x": float("nan")}, "no NaN"), ({"x": torch.zeros(1)}, "cannot be stored as JSON")],
)
def test_metadata_that_is_no_json_is_refused(file: Path, metadata: dict[str, Any], words: str) -> None:
    before = file.read_bytes()
    with pytest.raises(ModelFileError, match=words):
        save(file, _cut(), spec=SPEC, plan=PLAN, groups=GROUPS, metadata=metadata)
    assert file.read_bytes() == before


def test_options_that_are_no_data_are_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="plain values"):
        save(tmp_path / "m", _model(), spec=ModelSpec("here:build", {"layer": nn.ReLU}))


@contextmanager
def _no_file_beyond(size: int) -> Iterator[None]:
    """A real failure in the middle of a write: the kernel lets no file grow beyond so many bytes.

    For the time of one call only: the file that the test runner reports to is under the limit, too.
    """
    resource = pytest.importorskip("resource", reason="file size limits exist on Linux and macOS only")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_the_old_file(file: Path) -> None:
    before, model = file.read_bytes(), _cut(1)
    with pytest.raises(ModelFileError, match=r"cannot write .*nothing was replaced"), _no_file_beyond(len(before) // 2):
        save(file, model, spec=SPEC, plan=PLAN, groups=GROUPS)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["adasap:digits_net", "adasap:cifar_resnet20"])
def test_traced_groups_with_padded_shortcuts_come_back(tmp_path: Path, builder: str) -> None:
    spec, example = ModelSpec(builder), torch.randn(2, 3, 32, 32)
    model = open_model(spec).eval()
    groups = trace_groups(model, example)
    plan = PruningPlan.of(groups, {group.name: torch.arange(0, group.num_channels, 2) for group in prunable(groups)})
    apply_plan_(model, groups, plan)
    save(tmp_path / "m", model, spec=spec, plan=plan, groups=groups)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "m")(example), model(example))


def test_a_model_that_asks_for_the_version_of_its_state_is_loaded(tmp_path: Path) -> None:
    spec = ModelSpec("torchvision:mnasnet0_5")
    model = open_model(spec)
    save(tmp_path / "mnasnet.safetensors", model, spec=spec)
    loaded = load(tmp_path / "mnasnet.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
