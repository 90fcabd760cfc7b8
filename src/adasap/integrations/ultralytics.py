"""A YOLO of Ultralytics, cut, and kept as it is by Ultralytics' own trainer. Nothing here imports Ultralytics.

Its networks write anchors and strides on themselves in evaluation mode, and its trainer builds them anew from their
YAML file: the first cannot be traced, the second would undo a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from adasap.errors import ArgumentError
from adasap.groups.inputs import ExampleInputs
from adasap.groups.past import forget
from adasap.pruning import BudgetOptions
from adasap.pruning.one_shot import Pruned, prune


def prune_(
    yolo: Any,
    criterion: Any,
    budget: BudgetOptions | Mapping[str, Any],
    *,
    image_size: int = 640,
    example_inputs: ExampleInputs | None = None,
    **options: Any,
) -> Pruned:
    """Cuts `yolo.model`: what is traced and proven are the raw outputs of its heads, which the losses read.

    Afterwards fine-tune it with `yolo.train(trainer=trainer_of(yolo), ...)`. What Ultralytics saves then is the cut
    model, which opens without adasap.

    Args:
        yolo: A `YOLO`, not fused; its `model` is replaced by the cut one.
        criterion: As for `adasap.prune`, as are budget and options.
        budget: Such as `{"macs": 0.5}`, counted at this image size.
        image_size: Side of a square image.
        example_inputs: In place of that, for other shapes or numbers of colours, such as float [1, 3, 384, 640].
        **options: `keep`, `multiple_of`, `batches`, `loss` and others of `adasap.prune`. A `loss(model, batch)` gets
            a model that returns raw outputs.
    Returns:
        What was done; its model is `yolo.model`.
    Raises:
        AdasapError: For a model that is fused or none of Ultralytics', and as for `adasap.prune`.
    """
    model = model_of(yolo)
    mode = model.training
    if example_inputs is None:
        example_inputs = torch.zeros(1, 3, image_size, image_size)
    with raw_outputs(model):
        pruned = prune(model, example_inputs, criterion, budget, **options)
    pruned.model.__class__ = type(model)
    forget(pruned.model)  # the past; so that Ultralytics' files hold nothing of adasap's
    yolo.model = pruned.model.train(mode).requires_grad_(True)  # as Ultralytics makes it anyway, with a line for each
    return pruned


def trainer_of(yolo: Any) -> type[Any]:
    """The trainer of the YOLO's task, which trains `yolo.model` as it is, for `yolo.train(trainer=...)`.

    Args:
        yolo: A `YOLO` that was cut, or opened from a checkpoint of a cut one; for `resume=True`, too.
    Returns:
        A class, for one device; `ArgumentError` is raised in training on several, or of other classes than the model
        has.
    """
    model_of(yolo)
    base: type[Any] = yolo.task_map[yolo.task]["trainer"]

    def get_model(self: Any, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        model: nn.Module = weights if isinstance(weights, nn.Module) else yolo.model
        if getattr(self, "world_size", 1) > 1:
            raise ArgumentError(
                "Ultralytics starts its other processes with a model that is built from its YAML file; give one device"
            )
        has, wanted = getattr(_head(model), "nc", None), self.data.get("nc")
        if has is not None and wanted is not None and has != wanted:
            raise ArgumentError(
                f"the model tells {has} classes apart and the data have {wanted}; train the dense model on them for a "
                "while, then cut it"
            )
        return model

    return type(f"Cut{base.__name__}", (base,), {"get_model": get_model, "__module__": __name__})


def model_of(yolo: Any) -> nn.Module:
    """The network inside.

    Raises:
        ArgumentError: If there is none with a head, or its norms are merged into its convolutions.
    """
    model = getattr(yolo, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(yolo, "task_map") or _head(model) is None:
        raise ArgumentError(f"got a {type(yolo).__name__}; give a YOLO of Ultralytics: YOLO('best.pt')")
    if getattr(model, "is_fused", bool)():
        raise ArgumentError(
            "the model is fused: its norms are merged into its convolutions, so that it cannot be trained; open it "
            "anew: YOLO('best.pt')"
        )
    return model


@contextmanager
def raw_outputs(model: nn.Module) -> Iterator[None]:
    """Inside, forward gives what the heads give in training, and the head writes nothing on itself.

    Maps that only tell the losses their sizes (`feats`) are left out: their channels are no output.
    """
    kind, head = type(model), _head(model)
    assert head is not None
    flag = head.training

    def train(self: Any, mode: bool = True) -> Any:
        nn.Module.train(self, mode)
        _head(self).training = True  # type: ignore[union-attr]  # its layers stay in the mode
        return self

    def forward(self: Any, images: Any) -> Any:
        outputs = kind.forward(self, images)
        if not isinstance(outputs, dict):
            return outputs
        return {name: _without_maps(output) for name, output in outputs.items() if name != "feats"}

    def loss(self: Any, batch: Any, preds: Any = None) -> Any:
        outputs = kind.forward(self, batch["img"]) if preds is None else preds  # with the maps
        return kind.loss(self, batch, outputs)  # type: ignore[attr-defined]

    own = {"train": train, "forward": forward, "loss": loss, "__module__": kind.__module__}
    model.__class__ = type(kind.__name__, (kind,), own)
    try:
        yield
    finally:
        model.__class__ = kind
        head.training = flag


def _without_maps(output: Any) -> Any:
    """For heads of two branches, each of which is a dictionary of its own."""
    return {k: v for k, v in output.items() if k != "feats"} if isinstance(output, dict) else output


def _head(model: Any) -> nn.Module | None:
    layers = getattr(model, "model", None)
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
