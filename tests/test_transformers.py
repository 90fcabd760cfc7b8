"""AdaSAP in the Trainer of Transformers: the numbers of the library's own loop, and folders that load again."""

from __future__ import annotations

import json
import re
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.errors import ModelFileError, RecipeError
from adasap.models.digits import DigitsNet
from loop_library import LibraryRun, without_norms
from test_readme import ROOT, blocks

pytest.importorskip("transformers")

import datasets
import transformers
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from adasap.integrations.transformers import AdaSAPTrainer, load_pretrained, save_pretrained

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Transformers' own, of its and torch's


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class NetConfig(PretrainedConfig):
    model_type = "loop_net"


class Net(PreTrainedModel):
    """The library's network as Transformers has its own."""

    config_class = NetConfig

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        self.net = DigitsNet(10, [4, 8, 16])
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def trainer_of(library: LibraryRun, folder: Path, *, micro: int = 1, **options: Any) -> AdaSAPTrainer:
    model = Net(NetConfig())
    model.net = library.model()
    optimizer = library.optimizer(model)
    images, labels = (torch.cat(parts) for parts in zip(*library.batches, strict=True))
    arguments = {
        "per_device_train_batch_size": len(library.batches[0][0]) // micro,
        "gradient_accumulation_steps": micro,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return AdaSAPTrainer(
        model,
        TrainingArguments(str(folder), **(arguments | options)),
        train_dataset=[{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)],
        optimizers=(optimizer, library.schedule(optimizer)),
        config=library.config,
        lengths="steps",
        example_inputs={"pixel_values": library.first[0][0][:1]},
        batches=[{"pixel_values": x, "labels": y} for x, y in library.first],
    )


def test_transformers_make_the_numbers_of_the_library_and_resume_across_a_cut(
    library: LibraryRun, tmp_path: Path
) -> None:
    stop = library.events[1].step + 1
    trainer = trainer_of(library, tmp_path, save_strategy="steps", save_steps=stop)
    trainer.train()
    library.assert_same(trainer.model.net)
    seen = [log for log in trainer.state.log_history if "adasap/gap" in log]
    assert seen[-1]["adasap/gap"] == pytest.approx(library.steps[-1].gap, abs=1e-5)
    assert seen[-1]["loss"] == pytest.approx(library.steps[-1].loss, abs=1e-4)
    assert seen[-1]["adasap/passes"] == sum(step.passes for step in library.steps)
    resumed = trainer_of(library, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    loaded = load_pretrained(tmp_path / f"checkpoint-{stop}", Net)
    assert type(loaded) is Net
    assert trainer.model.num_parameters() < loaded.num_parameters() < Net(NetConfig()).num_parameters()


def test_micro_batches_of_transformers_share_one_perturbation(library: LibraryRun, tmp_path: Path) -> None:
    plain = without_norms(library)
    whole, divided = trainer_of(plain, tmp_path), trainer_of(plain, tmp_path, micro=4)
    divided.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for trainer in (whole, divided):
        trainer.train()
    assert divided.compression.state.counters.step == len(plain.batches)
    torch.testing.assert_close(divided.model.state_dict(), whole.model.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("overflowing", [1, 2])
def test_an_overflow_from_either_pass_on_leaves_the_weights_of_transformers(
    library: LibraryRun, tmp_path: Path, overflowing: int
) -> None:
    """Then the scale is halved, and the next step is made."""
    trainer = trainer_of(plain := without_norms(library), tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.add_callback(kept := Overflowing(trainer.model, overflowing))
    trainer.train()
    assert kept.calls >= overflowing
    moved = [not torch.equal(before, after) for before, after in pairwise(kept.seen[:3])]
    assert moved == [False, True]
    assert trainer.accelerator.scaler.get_scale() == 512.0
    assert trainer.compression.state.counters.skipped == 1
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    assert trainer.model.num_parameters() < sum(parameter.numel() for parameter in plain.dense.parameters())


class Overflowing(transformers.TrainerCallback):
    """Makes the logits infinite in one pass of the first step, and keeps the first layer's weights of each."""

    def __init__(self, model: Net, overflowing: int) -> None:
        self.overflowing, self.calls, self.active, self.model = overflowing, 0, False, model
        self.seen: list[Tensor] = []
        model.net.register_forward_hook(self.hook)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(next(self.model.parameters()).detach().clone())
        self.active = state.global_step == 0

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.calls += self.active
        return output * float("inf") if self.active and self.calls >= self.overflowing else output


def test_what_cannot_work_in_transformers_is_said(library: LibraryRun, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="load_best_model_at_end"):
        trainer_of(library, tmp_path, load_best_model_at_end=True)


def test_a_cut_vit_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=4, **TINY)).eval()
    images = torch.randn(2, 3, 16, 16)
    cut = adasap.prune(model, {"pixel_values": images}, "l2", {"macs": 0.6}).model
    save_pretrained(cut, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded, transformers.ViTForImageClassification)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, cut(images).logits)
    content = json.loads((tmp_path / "adasap.json").read_text())
    content["plan"]["groups"].popitem()
    (tmp_path / "adasap.json").write_text(json.dumps(content))
    with pytest.raises(Exception, match="altered"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        load_pretrained(tmp_path)


def test_the_page_and_the_example_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "transformers_images.py"), run_name="__main__")
    sizes = re.findall(r"(\w+): accuracy [\d.]+, ([\d,]+) of ([\d,]+) parameters", capsys.readouterr().out)
    assert [name for name, *_ in sizes] == ["ViTForImageClassification", "ResNetForImageClassification"]
    assert all(int(after.replace(",", "")) < int(before.replace(",", "")) for _, after, before in sizes)


def test_the_ten_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = transformers.ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=4, **TINY))
    data = datasets.Dataset.from_dict({"pixel_values": torch.randn(32, 3, 16, 16).tolist(), "labels": [0, 1, 2, 3] * 8})
    arguments = TrainingArguments(
        "out", num_train_epochs=3, per_device_train_batch_size=8, report_to=[], use_cpu=True, save_strategy="no"
    )
    names = {"model": model, "dataset": data.with_format("torch"), "arguments": arguments}
    for block in blocks(ROOT / "docs" / "transformers.md"):
        exec(block, names)
    assert names["small"].num_parameters() == model.num_parameters()
