"""The three steps in a Lightning `Trainer`: a callback; the user's module, loggers and checkpoints stay theirs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from adasap.errors import ArgumentError, CheckpointError, RecipeError
from adasap.groups.bare import unwrap
from adasap.groups.inputs import ExampleInputs
from adasap.groups.serialization import groups_from_json
from adasap.integrations.loop import LoopCompression
from adasap.integrations.micro_batches import MicroBatches
from adasap.pruning import PruningPlan, apply_plan_
from adasap.report.records import Record, StepRecord
from adasap.training import Compression
from adasap.training.processes import Processes

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
    from lightning.pytorch.utilities.seed import isolate_rng
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ArgumentError("this callback needs Lightning; install it: pip install 'adasap[lightning]'") from error

KEY = "adasap"
"""Where a checkpoint keeps the plan."""


class AdaSAP(Callback):  # type: ignore[misc]  # untyped where Lightning is not installed
    """Warm-up, pruning and fine-tuning in `Trainer.fit`, with automatic optimisation.

    Each optimizer step runs `training_step` on its batches twice, at the weights and at the perturbed ones; what
    the second pass logs, or adds to metrics of torchmetrics, is left out. With `accumulate_grad_batches` one
    perturbation, of their common gradient, serves all micro-batches, which are kept until the step. After the step in
    which an event is due, model, optimizer state and averages (`WeightAveraging`, `EMAWeightAveraging`) are cut, and
    DistributedDataParallel is made anew. Logged: `adasap/gap`, `adasap/strength`, `adasap/passes` (cost in plain
    steps so far), `adasap/kept` (what is left of the cost that the budget limits).

    Checkpoints hold the plan: `Trainer.fit(module, ckpt_path=...)` goes on across cuts from a module that was built
    anew, and `AdaSAP.load_from_checkpoint` gives the cut one.

    Args:
        config: The three steps; also a recipe. Fine-tuning lasts until the trainer stops. Of `training` only
            `sync_perturbation` and `max_skipped` count.
        lengths: What `epochs` of the configuration count: `epochs`, or optimizer `steps`.
        model: Name of the network inside the module, such as `backbone`; by default its only child with weights, or,
            if there are several, the module itself by its `forward`.
        example_inputs: What that network is called with; by default the module's `example_input_array`.
        batches: As for `LoopCompression`; by default some that are drawn from the training set by `config.seed`, if
            anything needs them.
        loss: As for `LoopCompression`.
    Raises:
        AdasapError: At the start of training, for what cannot work.
    """

    def __init__(
        self,
        config: Compression,
        *,
        lengths: Literal["epochs", "steps"] = "epochs",
        model: str | None = None,
        example_inputs: ExampleInputs | None = None,
        batches: Iterable[Any] = (),
        loss: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        if not isinstance(config, Compression):
            raise ArgumentError(f"config is a {type(config).__name__}; give adasap.Compression(...) or a recipe")
        if lengths not in ("epochs", "steps"):
            raise ArgumentError(f"lengths is {lengths!r}; give epochs or steps")
        self.config, self.lengths, self.name = config, lengths, model
        self.example_inputs, self.batches, self.loss = example_inputs, list(batches), loss
        self.compression: LoopCompression | None = None
        self._micro: MicroBatches
        self._last: StepRecord | None = None
        self._clean_step: Callable[..., Any]
        self._restore: list[tuple[Any, str]] = []

    @staticmethod
    def load_from_checkpoint(module_class: type[LightningModule], checkpoint_path: Any, **kwargs: Any) -> Any:
        """`module_class.load_from_checkpoint` for checkpoints of cut networks: built, cut, filled.

        Args:
            module_class: The class of the module.
            checkpoint_path: The file.
            **kwargs: As for `LightningModule.load_from_checkpoint`.
        """

        def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
            cut_to(self, checkpoint)
            module_class.on_load_checkpoint(self, checkpoint)

        own = {"on_load_checkpoint": on_load_checkpoint, "__module__": module_class.__module__}
        kind: Any = type(module_class.__name__, (module_class,), own)
        module = kind.load_from_checkpoint(checkpoint_path, **kwargs)
        module.__class__ = module_class
        return module

    # Hooks of Lightning

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the module cut itself before a checkpoint's weights are loaded, and keep the plan in checkpoints."""
        load, save = pl_module.on_load_checkpoint, pl_module.on_save_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            if stage == "fit" and KEY in checkpoint:
                compression = self._open(trainer, pl_module)
                compression.load_state_dict(checkpoint[KEY])
            else:
                cut_to(pl_module, checkpoint)
            load(checkpoint)

        def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:  # also where weights alone are saved
            self.on_save_checkpoint(trainer, pl_module, checkpoint)
            save(checkpoint)

        self._replace(pl_module, "on_load_checkpoint", on_load_checkpoint)
        self._replace(pl_module, "on_save_checkpoint", on_save_checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the plan; after the end of training, too."""
        if self.compression is not None and KEY not in checkpoint:
            self.compression.agree()
            checkpoint[KEY] = {"model": name_of(pl_module, self.compression.model), **self.compression.state_dict()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is there: weights, optimizer and data, fresh or from a checkpoint."""
        strategy = trainer.strategy
        if not pl_module.automatic_optimization:
            raise ArgumentError(
                "the module optimises by hand (automatic_optimization=False), where no hook can make a second pass; "
                "call adasap.integrations.LoopCompression in its training_step"
            )
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ArgumentError(
                f"{type(strategy).__name__} divides the weights, so that they have no channels; use one device or ddp"
            )
        network = network_of(pl_module, self.name)
        if self.compression is None or self.compression.model is not network:
            self._open(trainer, pl_module)
        assert self.compression is not None
        compression, accumulated = self.compression, trainer.accumulate_grad_batches
        if accumulated > 1 and not all(sharpness.first_pass for sharpness in self.config.sharpnesses):
            raise RecipeError(
                "variants of a single pass cannot move weights before the first micro-batch; leave out "
                "accumulate_grad_batches, or stale and removal"
            )
        compression.wrapped = strategy.model
        compression.batches = self.batches or self._drawn(trainer)
        epoch = -(-trainer.num_training_batches // accumulated)
        total = trainer.estimated_stepping_batches
        endless = total in (float("inf"), -1)
        if self.lengths == "epochs" and epoch == float("inf"):
            raise RecipeError("the training data have no length; give AdaSAP(config, lengths='steps')")
        event = compression.begin(
            trainer.optimizers[0],
            steps_per_epoch=int(epoch) if self.lengths == "epochs" else None,
            num_steps=None if endless else compression.state.counters.step - trainer.global_step + int(total),
            averaged=averages_of(trainer, pl_module, network),
        )
        if event is not None:
            self._wrap_anew(trainer, pl_module)
        self._clean_step, self._micro = strategy.training_step, MicroBatches(pl_module)
        self._replace(strategy, "optimizer_step", partial(self._optimizer_step, trainer, strategy.optimizer_step))
        self._replace(strategy, "training_step", partial(self._training_step, trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step and its learning rate: counts it, cuts where an event is due."""
        if self._last is None:
            return
        assert self.compression is not None
        compression, record, self._last = self.compression, self._last, None
        if compression.step() is not None:
            self._wrap_anew(trainer, pl_module)
        seen = {"gap": record.gap, "strength": record.radius_factor}
        counted = {"passes": compression.state.counters.passes, "kept": compression.kept_fraction}
        values = {f"adasap/{name}": float(value) for name, value in (seen | counted).items() if value is not None}
        self.log_dict(values, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The strategy steps as before."""
        self._put_back(trainer.strategy)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The module saves and loads as before, but that the checkpoints of a cut one hold its plan from now on."""
        self._put_back(trainer.strategy)
        self._put_back(pl_module)
        compression = self.compression
        if compression is not None and not compression.plan.keeps_all:
            whole = {"model": name_of(pl_module, compression.model), **compression.state_dict()}
            kept = {key: whole[key] for key in ("model", "plan", "groups")}
            pl_module.on_save_checkpoint = partial(save_with_plan, pl_module, kept)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As after the end."""
        self.teardown(trainer, pl_module, "fit")

    # One step

    def _training_step(self, trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        """The clean pass of a micro-batch, remembered for the second one."""
        losses: list[Tensor] = []
        with self._micro.recording(lambda is_last: self._again(trainer, is_last, args, kwargs), losses):
            output = self._clean_step(*args, **kwargs)
            if (loss := loss_of(output)) is not None:
                losses.append(loss.detach() / trainer.accumulate_grad_batches)
        return output

    def _again(self, trainer: Trainer, is_last: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The second pass of a micro-batch, unseen by loggers and metrics."""
        strategy = trainer.strategy
        waits = isinstance(strategy, DDPStrategy) and not is_last
        with strategy.block_backward_sync() if waits else nullcontext(), unseen(trainer.lightning_module):
            loss = loss_of(self._clean_step(*args, **kwargs))
            if loss is None:
                raise ArgumentError(
                    "training_step gave a loss, and none for the same batch; it must not depend on calls"
                )
            loss = loss / int(trainer.accumulate_grad_batches)
            strategy.backward(loss, trainer.optimizers[0])
        return loss.detach()

    def _optimizer_step(
        self,
        trainer: Trainer,
        original: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Lightning's step of the optimizer, with a closure of two passes."""
        return original(optimizer, partial(self._two_passes, trainer, closure), *args, **kwargs)

    @torch.enable_grad()
    def _two_passes(self, trainer: Trainer, closure: Callable[[], Any]) -> Any:
        """Lightning's closure, whose gradient then is that at the perturbed weights; it answers with the first."""
        assert self.compression is not None
        answers: list[Any] = []
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        self._micro.gradients(self.compression, lambda: answers.append(closure()), loss_scale=scale)
        return answers[0]

    # Small helpers

    def _open(self, trainer: Trainer, pl_module: LightningModule) -> LoopCompression:
        """Traces the dense network."""
        network = network_of(pl_module, self.name)
        inputs = pl_module.example_input_array if self.example_inputs is None else self.example_inputs
        if inputs is None:
            raise ArgumentError(
                "the network has to be traced once; pass example_inputs=<images, float [1, C, H, W]>, or set the "
                "module's example_input_array"
            )
        processes = Processes(trainer.precision_plugin.forward_context)
        self.compression = LoopCompression(
            network, inputs, self.config, loss=self.loss, processes=processes, observe=self._observe
        )
        self.compression.state.companions = averages_of(trainer, pl_module, network)
        return self.compression

    def _observe(self, record: Record) -> None:
        if isinstance(record, StepRecord):
            self._last = record

    def _wrap_anew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Data parallelism has to learn the new shapes."""
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            strategy.model = pl_module
            strategy.configure_ddp()
        assert self.compression is not None
        self.compression.wrapped = strategy.model

    def _drawn(self, trainer: Trainer) -> list[Any]:
        """Batches of the training set, drawn by the seed: the same on every process and in a resumed run."""
        assert self.compression is not None
        count = self.compression.num_batches
        loader = trainer.train_dataloader
        if not count or not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__getitem__"):
            return []
        import numpy

        with isolate_rng():
            seed = self.config.seed
            torch.manual_seed(seed)
            random.seed(seed)
            numpy.random.seed(seed % 2**32)  # noqa: NPY002  # what augmentations of the user's draw from
            sampler = RandomSampler(cast(Sized, loader.dataset), generator=torch.Generator().manual_seed(seed))
            size = loader.batch_size or 1
            drawn = DataLoader(loader.dataset, size, sampler=sampler, collate_fn=loader.collate_fn)
            batches = [batch for _, batch in zip(range(count), drawn, strict=False)]
        return [trainer.strategy.batch_to_device(batch) for batch in batches]

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Hangs a function on one object, over its class's, until `_put_back`."""
        self._restore.append((owner, name))
        setattr(owner, name, function)

    def _put_back(self, owner: Any) -> None:
        for held, name in self._restore:
            if held is owner:
                vars(owner).pop(name, None)
        self._restore = [item for item in self._restore if item[0] is not owner]


def save_with_plan(module: LightningModule, kept: Mapping[str, Any], checkpoint: dict[str, Any]) -> None:
    """A cut module's `on_save_checkpoint`: weights alone are saved without asking callbacks."""
    checkpoint.setdefault(KEY, dict(kept))
    type(module).on_save_checkpoint(module, checkpoint)


def loss_of(output: Any) -> Tensor | None:
    """The loss in what `training_step` returned."""
    loss: Tensor | None = output.get("loss") if isinstance(output, Mapping) else output
    return loss


def network_of(module: nn.Module, name: str | None) -> nn.Module:
    """The network inside a module: by its name, else the only child with weights, else the module itself.

    Raises:
        ArgumentError: If there is none of that name.
    """
    if name is not None:
        try:
            return unwrap(module.get_submodule(name))
        except AttributeError as error:
            known = ", ".join(child for child, _ in module.named_children())
            raise ArgumentError(f"the module has no {name!r}; it has {known or 'no children'}") from error
    weighted = [child for child in module.children() if next(child.parameters(), None) is not None]
    return unwrap(weighted[0]) if len(weighted) == 1 and not module._parameters else module


def name_of(module: nn.Module, network: nn.Module) -> str:
    """The name of a network inside a module."""
    names: list[str] = [name for name, child in module.named_modules() if child is network]
    return names[0]


def averages_of(trainer: Trainer, module: nn.Module, network: nn.Module) -> list[nn.Module]:
    """The copies of the network that averaging callbacks keep."""
    name = name_of(module, network)
    copies = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]
    return [unwrap(copy).get_submodule(name) for copy in copies if isinstance(copy, nn.Module)]


def cut_to(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Cuts a module that was built anew as the checkpoint's was; one without a plan changes nothing.

    Raises:
        CheckpointError: If the module is not that of the checkpoint, or was cut otherwise.
    """
    if KEY not in checkpoint:
        return
    try:
        saved = checkpoint[KEY]
        network = unwrap(module.get_submodule(saved["model"]))
        state, prefix = checkpoint["state_dict"], f"{saved['model']}." if saved["model"] else ""
        weights = dict(network.named_parameters())
        if all(weight.shape == state[prefix + name].shape for name, weight in weights.items()):
            return  # it was cut so before
        apply_plan_(network, groups_from_json(saved["groups"], network), PruningPlan.from_json(saved["plan"]))
    except (KeyError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's plan does not fit this module ({error}); build the module anew, as it was before it was "
            "cut, then load"
        ) from error


@contextmanager
def unseen(module: nn.Module) -> Iterator[None]:
    """What the module logs inside is left out, and its metrics forget what they saw there."""
    metrics = [child for child in module.modules() if isinstance(child, Metric)]
    kept = [{name: _copied(value) for name, value in vars(metric).items()} for metric in metrics]
    hidden = vars(module).get("log")
    vars(module)["log"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        if hidden is None:
            del vars(module)["log"]
        else:
            vars(module)["log"] = hidden
        for metric, values in zip(metrics, kept, strict=True):
            vars(metric).update(values)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value
