"""AdaSAP in Lightning's Trainer: the numbers of the library's own loop, with accumulation, fp16 and two processes."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adasap.errors import ArgumentError, CheckpointError
from loop_library import Batch, LibraryRun, without_norms
from parallel_nets import no_norms
from test_readme import ROOT, blocks

pytest.importorskip("lightning")

import lightning.pytorch as pl
import torchmetrics
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision

from adasap.integrations.lightning import AdaSAP
from ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Lightning's own, of its and torch's


class Module(pl.LightningModule):
    """As a user writes it; it knows nothing of AdaSAP."""

    def __init__(self, library: LibraryRun, micro: int = 1) -> None:
        super().__init__()
        self.net, self.library, self.micro = library.model(), library, micro
        self.seen = torchmetrics.MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def train_dataloader(self) -> DataLoader[Batch]:
        """Another one for each epoch of two steps."""
        first = 2 * self.trainer.current_epoch
        batches = self.library.batches[first : first + 2]
        parts = [zip(x.chunk(self.micro), y.chunk(self.micro), strict=True) for x, y in batches]
        return DataLoader([part for batch in parts for part in batch], batch_size=None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.seen.update(loss.detach())
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.library.optimizer(self)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.library.schedule(optimizer), "interval": "step"},
        }


def adasap_of(library: LibraryRun) -> AdaSAP:
    return AdaSAP(library.config, lengths="steps", example_inputs=library.first[0][0][:1], batches=library.first)


def fit(
    library: LibraryRun,
    folder: Path,
    *,
    module: Module | None = None,
    micro: int = 1,
    ckpt: Path | None = None,
    callback: AdaSAP | None = None,
    **options: Any,
) -> tuple[Module, pl.Trainer]:
    module = module or Module(library, micro)
    callbacks = [callback or adasap_of(library), *options.pop("callbacks", [])]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=len(library.batches) // 2,
        reload_dataloaders_every_n_epochs=1,
        accumulate_grad_batches=micro,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **({"enable_checkpointing": False} | options),
    )
    trainer.fit(module, ckpt_path=ckpt)
    return module, trainer


def test_lightning_makes_the_numbers_of_the_library(library: LibraryRun, tmp_path: Path) -> None:
    averaging = WeightAveraging()
    module, trainer = fit(library, tmp_path, callbacks=[averaging])
    compression = trainer.callbacks[0].compression
    assert compression.state.counters.passes == sum(step.passes for step in library.steps)
    assert trainer.callback_metrics["adasap/gap"].item() == pytest.approx(library.steps[-1].gap, abs=1e-5)
    assert trainer.callback_metrics["adasap/kept"].item() <= 0.5
    clean = sum(step.loss for step in library.steps) / len(library.steps)
    assert module.seen.compute().item() == pytest.approx(clean, abs=1e-5)  # the second pass is not seen by metrics
    clean = sum(step.loss for step in library.steps[-2:]) / 2
    assert trainer.callback_metrics["loss_epoch"].item() == pytest.approx(clean, abs=1e-5)  # or loggers
    assert "optimizer_step" not in vars(trainer.strategy)
    assert {n: p.shape for n, p in module.net.named_parameters()} == {
        n: library.weights[n].shape for n, _ in module.net.named_parameters()
    }


def test_micro_batches_share_one_perturbation_and_fp16_is_unscaled(library: LibraryRun, tmp_path: Path) -> None:
    """A scaler that is forced on, and four micro-batches, change rounding alone in a net without batch statistics."""
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled.forward_context = torch.enable_grad  # float32 all the same: what is seen is the scale
    plain = without_norms(library)
    whole, _ = fit(plain, tmp_path)
    divided, trainer = fit(plain, tmp_path, micro=4, plugins=[scaled])
    assert {n: p.shape for n, p in divided.state_dict().items()} == {n: p.shape for n, p in whole.state_dict().items()}
    torch.testing.assert_close(divided.net.state_dict(), whole.net.state_dict(), rtol=1e-3, atol=1e-4)
    assert trainer.precision_plugin.scaler.get_scale() == 1024.0
    assert trainer.callbacks[0].compression.state.counters.step == len(plain.batches)


@pytest.mark.parametrize("overflowing", [1, 2])
def test_an_overflow_from_a_pass_on_leaves_the_weights(library: LibraryRun, tmp_path: Path, overflowing: int) -> None:
    """Then the scale is halved, and the next step is made."""
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled.forward_context = torch.enable_grad
    module, kept = Overflowing(plain := without_norms(library), overflowing), Weights()
    _, trainer = fit(plain, tmp_path, module=module, plugins=[scaled], callbacks=[kept])
    assert module.calls >= overflowing
    moved = [not torch.equal(before, after) for before, after in pairwise(kept.seen)]
    assert moved == [False, True]
    assert kept.scales == [1024.0, 512.0, 512.0]
    assert trainer.callbacks[0].compression.state.counters.skipped == 1
    assert all(tensor.isfinite().all() for tensor in module.net.state_dict().values())
    assert count(module.net) < count(plain.dense)


class Overflowing(Module):
    """Its loss is infinite in one pass of the first step."""

    def __init__(self, library: LibraryRun, overflowing: int) -> None:
        super().__init__(library)
        self.overflowing, self.calls = overflowing, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step != 0:
            return loss
        self.calls += 1
        return loss * float("inf") if self.calls >= self.overflowing else loss


class Weights(pl.Callback):
    """Of the first layer before the first three steps."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.scales: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Module, batch: Batch, batch_idx: int) -> None:
        if len(self.seen) < 3:
            self.seen.append(next(pl_module.net.parameters()).detach().clone())
            self.scales.append(trainer.precision_plugin.scaler.get_scale())


def test_a_fit_resumed_across_a_cut_ends_with_the_same_bits(library: LibraryRun, tmp_path: Path) -> None:
    assert library.events[1].step < 12 < library.events[2].step
    keeping = ModelCheckpoint(tmp_path, every_n_epochs=6, save_on_train_epoch_end=True, save_top_k=-1)
    module, fitted = fit(library, tmp_path, callbacks=[keeping], enable_checkpointing=True)
    library.assert_same(module.net)
    (path,) = tmp_path.glob("*step=12.ckpt")
    fitted.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    alone = AdaSAP.load_from_checkpoint(Module, tmp_path / "weights.ckpt", library=library)
    for name, tensor in module.net.state_dict().items():
        assert torch.equal(tensor, alone.net.state_dict()[name]), name
    copied = copy.deepcopy(module)
    assert copied.on_save_checkpoint.args[0] is copied
    resumed, trainer = fit(library, tmp_path, ckpt=path)
    assert trainer.global_step == len(library.batches)
    for name, tensor in module.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name
    loaded = AdaSAP.load_from_checkpoint(Module, path, library=library)
    assert type(loaded) is Module
    assert 0 < count(module.net) < count(loaded.net) < count(library.dense)
    with pytest.raises(CheckpointError, match="build the model anew"):
        fit(library, tmp_path, module=module, ckpt=path)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_what_cannot_work_in_lightning_is_said(library: LibraryRun, tmp_path: Path) -> None:
    module = Module(library)
    module.automatic_optimization = False
    with pytest.raises(ArgumentError, match="LoopCompression"):
        fit(library, tmp_path, module=module)
    with pytest.raises(ArgumentError, match="the module has no 'backbone'; it has net, seen"):
        fit(library, tmp_path, callback=AdaSAP(library.config, model="backbone"))
    with pytest.raises(ArgumentError, match="example_input_array"):
        fit(library, tmp_path, callback=AdaSAP(library.config))


WORKER = """
import dataclasses, os, sys
from pathlib import Path
import lightning.pytorch as pl
import torch
from adasap import Compression
from adasap.pruning import BudgetOptions, PruningOptions
from adasap.training import FineTuneOptions, PhaseOptions, TrainingOptions
from adasap.integrations.lightning import AdaSAP
from parallel_nets import no_norms
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.manual_seed(0)
images, labels = torch.randn(96, 3, 16, 16), torch.randint(10, (96,))

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.example_input_array = no_norms(), images[:1]
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

def fit(sync, part, devices, micro):
    budget = BudgetOptions(macs=0.5)
    pruning = PruningOptions(epochs=2, criterion="taylor", events=2, every=1, budget=budget, recalibration_batches=0)
    training = TrainingOptions(sync_perturbation=sync)
    config = Compression(training=training, warm_up=PhaseOptions(epochs=2), pruning=pruning)
    mine = slice(None) if part is None else slice(part, None, 2)
    x, y = (torch.cat(tensor.split(8)[mine]) for tensor in (images, labels))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    strategy = "ddp" if devices == 2 else "auto"
    module = Module()
    pl.Trainer(accelerator="cpu", devices=devices, strategy=strategy, max_epochs=1, accumulate_grad_batches=micro,
        use_distributed_sampler=False, callbacks=[AdaSAP(config, lengths="steps")], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(module, loader)
    return module.net.state_dict()

for sync in (False, True):
    torch.save(fit(sync, rank, 2, 1), folder / f"{sync}.{rank}.pt")
torch.distributed.destroy_process_group()
for name in [name for name in os.environ if "RANK" in name or "WORLD" in name or name.startswith(("MASTER", "TORCHE"))]:
    del os.environ[name]
if rank == 0:
    torch.save(fit(False, None, 1, 2), folder / "whole.pt")
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(library: LibraryRun, tmp_path: Path) -> None:
    """Each perturbs by its half of the batch; with one ascent point they make the numbers of a single process."""
    (tmp_path / "worker.py").write_text(WORKER)
    run_ranks(tmp_path / "worker.py", tmp_path)
    whole = torch.load(tmp_path / "whole.pt")
    for sync in (False, True):
        first, second = (torch.load(tmp_path / f"{sync}.{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        if sync:
            torch.testing.assert_close(first, whole, rtol=1e-3, atol=1e-4)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(10, (64,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    names: dict[str, Any] = {"module": PageModule(), "images": images, "loader": loader}
    for block in blocks(ROOT / "docs" / "lightning.md"):
        exec(block, names)
    assert count(names["small"].net) == count(names["module"].net) < count(no_norms())


class PageModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = no_norms()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)
