"""The three steps in a loop of somebody else's: the numbers of the library's own loop."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from adasap.errors import AdasapWarning, CheckpointError, RecipeError
from adasap.integrations import LoopCompression
from adasap.training import Compression, PhaseOptions, TrainingOptions
from loop_library import Batch, LibraryRun, without_norms

pytestmark = pytest.mark.slow


class Loop:
    """A plain loop, as a user would write it."""

    def __init__(
        self,
        library: LibraryRun,
        *,
        accumulated: int = 1,
        averaged: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.library, self.accumulated, self.scaler = library, accumulated, scaler
        self.model = library.model()
        self.average = AveragedModel(self.model) if averaged else None
        self.optimizer = library.optimizer(self.model)
        self.scheduler = library.schedule(self.optimizer)
        self.records: list[Any] = []
        self.compression = LoopCompression(
            self.model,
            library.first[0][0][:1],
            library.config,
            self.optimizer,
            averaged=[] if self.average is None else [self.average],
            batches=library.first,
            observe=self.records.append,
        )

    def train(self, start: int, stop: int) -> None:
        for batch in self.library.batches[start:stop]:
            self.model.train()
            scale = 1.0 if self.scaler is None else self.scaler.get_scale()
            result = self.compression.gradients(lambda batch=batch: self.backward(batch), loss_scale=scale)
            if self.scaler is not None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            elif result.finite:
                self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.compression.step()

    def backward(self, batch: Batch) -> torch.Tensor:
        losses = []
        for images, labels in zip(*(part.chunk(self.accumulated) for part in batch), strict=True):
            loss = nn.functional.cross_entropy(self.model(images), labels) / self.accumulated
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def saved(self) -> dict[str, Any]:
        file = io.BytesIO()
        parts = ("compression", "model", "optimizer", "scheduler")
        torch.save({part: getattr(self, part).state_dict() for part in parts}, file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
        return loaded

    def load(self, saved: dict[str, Any]) -> None:
        for part in ("compression", "model", "optimizer", "scheduler"):  # the cut comes before the weights
            getattr(self, part).load_state_dict(saved[part])


def test_a_plain_loop_makes_the_numbers_of_the_library(library: LibraryRun) -> None:
    loop = Loop(library, averaged=True)
    loop.train(0, len(library.batches))
    library.assert_same(loop.model)
    steps = [record for record in loop.records if record.kind == "step"]
    for ours, theirs in zip(steps, library.steps, strict=True):
        assert (ours.phase, ours.passes, ours.gap is None) == (theirs.phase, theirs.passes, theirs.gap is None)
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.gap is None or ours.gap == pytest.approx(theirs.gap, abs=1e-5)
    events = [record for record in loop.records if record.kind == "prune"]
    assert [(e.step, e.cost, e.removed) for e in events] == [(e.step, e.cost, e.removed) for e in library.events]
    assert loop.average is not None
    assert loop.average.module(library.batches[0][0]).isfinite().all()  # it was cut, too


def test_micro_batches_and_a_loss_scale_change_rounding_alone(library: LibraryRun) -> None:
    plain, scaler = without_norms(library), torch.amp.GradScaler("cpu", init_scale=1024.0)
    whole, divided = Loop(plain), Loop(plain, accumulated=4, scaler=scaler)
    for loop in (whole, divided):
        loop.train(0, 6)
    assert divided.compression.kept_fraction <= 0.5
    torch.testing.assert_close(divided.model.state_dict(), whole.model.state_dict(), rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(divided.records, whole.records, strict=True):
        assert ours.kind == theirs.kind
        if ours.kind == "step":
            assert (ours.loss, ours.gap) == pytest.approx((theirs.loss, theirs.gap), abs=1e-4)
            assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the optimizer made no step, as it should
@pytest.mark.parametrize("overflowing", [1, 2])
def test_an_overflow_from_either_pass_on_leaves_the_weights_of_a_loop(library: LibraryRun, overflowing: int) -> None:
    """Then the scale is halved, and the next step is made."""
    loop = Loop(without_norms(library), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    before, calls = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}, 0

    def overflow(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * float("inf") if calls >= overflowing else output

    hook = loop.model.register_forward_hook(overflow)
    loop.train(0, 1)
    hook.remove()
    assert calls >= overflowing
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items())
    assert (loop.scaler.get_scale(), loop.compression.state.counters.skipped) == (512.0, 1)
    loop.train(1, 2)
    assert not torch.equal(next(loop.model.parameters()), next(iter(before.values())))
    loop.train(2, 6)
    assert loop.compression.kept_fraction <= 0.5
    assert all(tensor.isfinite().all() for tensor in loop.model.state_dict().values())


def test_a_loop_resumed_across_cuts_ends_with_the_same_bits(library: LibraryRun) -> None:
    stop, end = library.events[1].step + 1, len(library.batches)
    whole, first, second = Loop(library), Loop(library), Loop(library)
    whole.train(0, end)
    first.train(0, stop)
    second.load(first.saved())
    second.train(stop, end)
    assert first.compression.plan.widths() != whole.compression.plan.widths()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    for ours, theirs in zip(whole.optimizer.state.values(), second.optimizer.state.values(), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])


def test_what_cannot_work_is_said_before_the_first_step(library: LibraryRun) -> None:
    model, image = library.model(), library.first[0][0][:1]
    optimizer = library.optimizer(model)
    with pytest.raises(RecipeError, match="batches are missing for norm statistics"):
        LoopCompression(model, image, library.config, optimizer)
    with pytest.raises(RecipeError, match="the loop makes 3 steps, and warm_up and pruning take 16"):
        LoopCompression(model, image, library.config, optimizer, num_steps=3, batches=library.first)
    lbfgs = torch.optim.LBFGS(model.parameters())
    with pytest.raises(RecipeError, match="LBFGS cannot step in this loop"):
        LoopCompression(model, image, library.config, lbfgs, batches=library.first)
    other = Compression(warm_up=PhaseOptions(epochs=1), pruning=library.config.pruning)
    loop = LoopCompression(model, image, other, optimizer, batches=library.first)
    with pytest.raises(CheckpointError, match="other lengths"):
        loop.load_state_dict(Loop(library).compression.state_dict())
    with pytest.warns(AdasapWarning, match=r"training\.clip_norm of the configuration do not count here"):
        LoopCompression(model, image, Compression(training=TrainingOptions(clip_norm=1.0)))
