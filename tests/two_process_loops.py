"""The same training in one process and in two (`python -m torch.distributed.run`), by loops that are not adasap's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from adasap import Compression
from adasap.integrations import LoopCompression
from adasap.integrations.transformers import AdaSAPTrainer
from adasap.pruning import BudgetOptions, PruningOptions
from adasap.training import PhaseOptions, TrainingOptions
from parallel_nets import no_norms

State = dict[str, Tensor]
BATCH, STEPS = 16, 6


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = BATCH * STEPS
    return torch.randn(count, 3, 16, 16, generator=generator), torch.randint(10, (count,), generator=generator)


def config_of(sync: bool) -> Compression:
    budget = BudgetOptions(macs=0.5)
    pruning = PruningOptions(epochs=2, criterion="taylor", events=2, every=1, budget=budget, recalibration_batches=0)
    return Compression(
        training=TrainingOptions(sync_perturbation=sync), warm_up=PhaseOptions(epochs=2), pruning=pruning
    )


def plain(sync: bool, rank: int | None = None) -> State:
    """A loop as users write it; each of two ranks has its half of a batch."""
    images, labels = images_and_labels()
    model = no_norms()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = model if rank is None else DistributedDataParallel(model)
    compression = LoopCompression(wrapped, images[:1], config_of(sync), optimizer)
    for batch in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        x, y = batch if rank is None else (part.chunk(2)[rank] for part in batch)

        def loss_and_backward(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = nn.functional.cross_entropy(compression.wrapped(x), y)
            loss.backward()
            return loss

        compression.gradients(loss_and_backward)
        optimizer.step()
        optimizer.zero_grad()
        if compression.step() and rank is not None:
            compression.wrapped = DistributedDataParallel(compression.model)
    return model.state_dict()


class Net(PreTrainedModel):
    """A network as Transformers has them."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.net = no_norms()
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def transformers(sync: bool, rank: int | None = None, *, folder: Path) -> State:
    """Transformers' Trainer, which finds out about other processes by itself."""
    images, labels = images_and_labels()
    model = Net(PretrainedConfig())
    model.net.load_state_dict(no_norms().state_dict())
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH if rank is None else BATCH // 2,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = AdaSAPTrainer(
        model,
        arguments,
        train_dataset=[{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)],
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), None),
        config=config_of(sync),
        lengths="steps",
        example_inputs={"pixel_values": images[:1]},
    )
    assert arguments.world_size == (1 if rank is None else 2)
    trainer.train()
    state: State = model.net.state_dict()
    return state


if __name__ == "__main__":
    place, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group("gloo")
    for sync in (False, True):
        torch.save(plain(sync, rank), place / f"plain.{sync}.{rank}.pt")
        torch.save(transformers(sync, rank, folder=place), place / f"transformers.{sync}.{rank}.pt")
    dist.destroy_process_group()
