"""The three steps in the Trainer of Transformers, and folders of cut networks that load again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError, CheckpointError, ModelFileError, RecipeError
from adasap.groups import prunable
from adasap.groups.bare import unwrap
from adasap.groups.group import fingerprint
from adasap.groups.inputs import ExampleInputs
from adasap.groups.past import past_of
from adasap.groups.serialization import groups_from_json, groups_to_json
from adasap.integrations.loop import LoopCompression
from adasap.integrations.micro_batches import MicroBatches
from adasap.io import atomic_write, parse_json, read_text
from adasap.pruning import PruningPlan, apply_plan_
from adasap.report.records import PruneRecord, Record, StepRecord
from adasap.training import Compression
from adasap.training.processes import Processes

try:
    import transformers
    from transformers import PreTrainedModel, Trainer, TrainerCallback
except ModuleNotFoundError as error:
    raise ArgumentError("this trainer needs Transformers; install it: pip install 'adasap[transformers]'") from error

PLAN = "adasap.json"
"""What a folder of a cut network holds beside Transformers' own files."""
STATE = "adasap.pt"
"""What a checkpoint holds beside that: counters and evidence."""


class AdaSAPTrainer(Trainer):  # type: ignore[misc]  # untyped where Transformers is not installed
    """`transformers.Trainer` with warm-up, pruning and fine-tuning: two more arguments, everything else as it is.

    Each optimizer step runs its batches twice, at the weights and at the perturbed ones. With
    `gradient_accumulation_steps` one perturbation, of their common gradient, serves all micro-batches. After the step
    in which an event is due, model and optimizer state are cut, and DistributedDataParallel is made anew. Logged:
    `adasap/gap`, `adasap/strength`, `adasap/passes` (cost in plain steps so far), `adasap/kept` (what is left of the
    cost that the budget limits).

    Checkpoints and `save_model` hold the plan, so `train(resume_from_checkpoint=...)` goes on across cuts from the
    dense model, and `load_pretrained` opens the folder; `from_pretrained` cannot: a configuration knows no cuts.

    Args:
        *args: As for `transformers.Trainer`.
        config: The three steps; also a recipe. Fine-tuning lasts until the trainer stops. Of `training` only
            `sync_perturbation` and `max_skipped` count.
        example_inputs: What the model is called with, such as `{"pixel_values": images}`.
        lengths: What `epochs` of the configuration count: `epochs`, or optimizer `steps`.
        batches: As for `LoopCompression`; each a dictionary, labels included. By default the first ones of the training
            set's loader, if anything needs them.
        **kwargs: As for `transformers.Trainer`.
    Raises:
        AdasapError: At the start of training, for what cannot work.
    """

    model_wrapped: Any

    def __init__(
        self,
        *args: Any,
        config: Compression,
        example_inputs: ExampleInputs,
        lengths: Literal["epochs", "steps"] = "epochs",
        batches: Iterable[Any] = (),
        **kwargs: Any,
    ) -> None:
        if not isinstance(config, Compression):
            raise ArgumentError(f"config is a {type(config).__name__}; give adasap.Compression(...) or a recipe")
        if lengths not in ("epochs", "steps"):
            raise ArgumentError(f"lengths is {lengths!r}; give epochs or steps")
        super().__init__(*args, **kwargs)
        if self.args.load_best_model_at_end:
            raise RecipeError(
                "load_best_model_at_end may want weights from before a cut; leave it out, and load the checkpoint that "
                "you choose by adasap.integrations.transformers.load_pretrained"
            )
        self.config, self.lengths, self.example_inputs = config, lengths, example_inputs
        self.batches = list(batches)
        self.compression: LoopCompression | None = None
        self._micro = MicroBatches(self.model)
        self._last: StepRecord | None = None
        self._open()
        self.add_callback(_Moments(self))

    # Methods of Trainer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A micro-batch; in the last one of a step its gradient becomes that at the perturbed weights."""
        assert self.compression is not None
        losses: list[Tensor] = []

        def clean() -> None:
            waits = not self.accelerator.sync_gradients
            with self._recording(inputs, num_items_in_batch, losses):
                losses.append(self._pass(inputs, num_items_in_batch, waits=waits))

        if not self.accelerator.sync_gradients:
            clean()
        else:
            scaler = self.accelerator.scaler
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            self._micro.gradients(self.compression, clean, loss_scale=scale)
        return losses[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the last step saw."""
        if self._last is not None and self.compression is not None and "loss" in logs:
            seen = {"gap": self._last.gap, "strength": self._last.radius_factor}
            counted = {"passes": self.compression.state.counters.passes, "kept": self.compression.kept_fraction}
            logs = logs | {f"adasap/{name}": v for name, v in (seen | counted).items() if v is not None}
        super().log(logs, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Cuts the dense model to the checkpoint's plan first."""
        path = Path(resume_from_checkpoint) / STATE
        if path.is_file():
            self._open().load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Transformers' files, and the plan."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        write_plan(folder, self.model)
        if self.compression is not None:
            with atomic_write(folder / STATE) as file:
                torch.save(self.compression.state_dict(), file)

    # Small helpers

    def _recording(self, inputs: dict[str, Any], number: Any, losses: list[Tensor]) -> Any:
        def again(is_last: bool) -> Tensor:
            return self._pass(inputs, number, waits=not is_last)

        return self._micro.recording(again, losses)

    def _pass(self, inputs: dict[str, Any], number: Any, *, waits: bool) -> Tensor:
        """Forward and backward as Transformers makes them; after a cut the loop still holds the wrapper from before."""
        wrapped = self.model_wrapped
        with wrapped.no_sync() if waits and hasattr(wrapped, "no_sync") else nullcontext():
            loss: Tensor = super().training_step(wrapped, dict(inputs), number)
        return loss

    def _open(self) -> LoopCompression:
        """Traces the dense model."""
        self.compression = LoopCompression(
            self.model,
            self.example_inputs,
            self.config,
            loss=self._loss,
            processes=Processes(self.accelerator.autocast),
            observe=self._observe,
        )
        return self.compression

    def _loss(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        """For criteria and norms."""
        output = model(**batch)
        return output.loss if "labels" in batch else output

    def _observe(self, record: Record) -> None:
        if isinstance(record, StepRecord):
            self._last = record

    def begin(self, loader: Any, optimizer: torch.optim.Optimizer) -> None:
        """When weights, optimizer and data are there; a callback calls it."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ArgumentError("sharded weights have no channels; use one device or data parallelism (DDP)")
        accumulated = self.args.gradient_accumulation_steps
        if accumulated > 1 and not all(sharpness.first_pass for sharpness in self.config.sharpnesses):
            raise RecipeError(
                "variants of a single pass cannot move weights before the first micro-batch; leave out "
                "gradient_accumulation_steps, or stale and removal"
            )
        compression = self.compression
        if compression is None or compression.model is not unwrap(self.model):
            compression = self._open()
        compression.wrapped, self._micro = self.model_wrapped, MicroBatches(self.model)
        compression.batches = self.batches or self._first(compression.num_batches)
        step = compression.state.counters.step
        event = compression.begin(
            getattr(optimizer, "optimizer", optimizer),
            steps_per_epoch=-(-len(loader) // accumulated) if self.lengths == "epochs" else None,
            num_steps=step - self.state.global_step + self.state.max_steps,
        )
        self._after(event)

    def end_step(self) -> None:
        """After an optimizer step and its learning rate; a callback calls it."""
        assert self.compression is not None
        self._after(self.compression.step())
        if self.control.should_save:
            self.compression.agree()

    def _after(self, event: PruneRecord | None) -> None:
        if event is not None and self.model_wrapped is not self.model:
            self.model_wrapped = self.accelerator.prepare_model(self.model)
            assert self.compression is not None
            self.compression.wrapped = self.model_wrapped

    def _first(self, count: int) -> list[Any]:
        """Batches of the training set, drawn by the seed: the same on every process and in a resumed run."""
        if not count or self.train_dataset is None:
            return []
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            rows = torch.randperm(len(self.train_dataset))[: count * self.args.train_batch_size].tolist()
            parts = [rows[i : i + self.args.train_batch_size] for i in range(0, len(rows), self.args.train_batch_size)]
            batches = [self.data_collator([self.train_dataset[row] for row in part]) for part in parts]
        return [dict(self._prepare_inputs(batch)) for batch in batches]


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Tells the trainer when its own loop begins, and when a step is over."""

    def __init__(self, trainer: AdaSAPTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin(kwargs["train_dataloader"], kwargs["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """`model.save_pretrained` of a cut network, with its plan beside it, for `load_pretrained`.

    Args:
        model: A model of Transformers that adasap cut, by a trainer, `prune` or `apply_plan_`.
        folder: Where to.
    """
    bare: Any = unwrap(model)
    bare.save_pretrained(folder)
    write_plan(Path(folder), bare)


def load_pretrained(folder: str | Path, model_class: type[Any] | None = None, **kwargs: Any) -> Any:
    """The model of a folder that `save_pretrained` or `AdaSAPTrainer` wrote, in evaluation mode: built, cut, filled.

    Args:
        folder: With Transformers' files and, if the network is cut, `adasap.json`.
        model_class: The class of the dense model; by default the one of Transformers that the configuration names. No
            other code is run.
        **kwargs: As for `model_class.from_pretrained`, such as `dtype`.
    Raises:
        ModelFileError: If a file is missing, was altered, or does not fit the others.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelFileError(f"{folder} has no config.json; give a folder that save_pretrained wrote")
    model_class = model_class or _class_of(folder)

    def build(self: Any, config: Any, *args: Any, **options: Any) -> None:
        model_class.__init__(self, config, *args, **options)
        if (folder / PLAN).is_file():
            with torch.device("cpu"):  # weights are made without numbers here, the plan needs some
                cut_to(self, folder)

    own = {"__init__": build, "__module__": model_class.__module__}
    kind: Any = type(model_class.__name__, (model_class,), own)  # so that Transformers fills what is cut already
    model = kind.from_pretrained(folder, local_files_only=True, **kwargs)
    model.__class__ = model_class
    return model.eval()


def _class_of(folder: Path) -> type[Any]:
    """The class of Transformers that a configuration names."""
    text = read_text(folder / "config.json", what="a configuration", error=ModelFileError)
    config = parse_json(text, where=str(folder / "config.json"), error=ModelFileError)
    names = config.get("architectures") if isinstance(config, dict) else None
    name = names[0] if isinstance(names, list) and names else "none"
    found = getattr(transformers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ModelFileError(f"{folder} is of class {name!r:.80}, which Transformers has not; pass model_class")
    return found


def write_plan(folder: Path, model: nn.Module) -> None:
    """Writes down what was cut from the model so far; nothing for a dense one."""
    past = past_of(model)
    if not past.is_cut:
        return
    if past.lost:
        raise CheckpointError(f"the cuts cannot be told in the dense model's indices: {past.lost}")
    whole = {group.name for group in prunable(past.dense)}
    plan = PruningPlan.of(past.dense, {name: kept for name, kept in past.kept.items() if name in whole}, past.removed)
    content = {"plan": json.loads(plan.to_json()), "groups": json.loads(groups_to_json(past.dense))}
    with atomic_write(folder / PLAN) as file:
        file.write(json.dumps(content).encode())


def cut_to(model: nn.Module, folder: Path) -> None:
    """Cuts a dense model by the folder's plan."""
    text = read_text(folder / PLAN, what="a plan", error=ModelFileError)
    content = parse_json(text, where=str(folder / PLAN), error=ModelFileError)
    if not isinstance(content, dict) or content.keys() != {"plan", "groups"}:
        raise ModelFileError(f"{folder / PLAN} is not a plan of adasap; save the model again")
    groups = groups_from_json(json.dumps(content["groups"]), model)
    plan = PruningPlan.from_json(content["plan"])
    if plan.fingerprint != fingerprint(groups):
        raise ModelFileError(f"{folder / PLAN} was altered: its plan belongs to other groups; save the model again")
    apply_plan_(model, groups, plan)
