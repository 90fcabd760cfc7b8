"""What the best peer's quick-start call does with a model, for the last column of docs/models.md."""

from __future__ import annotations

import time
from typing import Any

import torch
from models_measure import example_of, opened, run_backward
from torch import nn


def peers_result(name: str) -> dict[str, Any]:
    """Torch-Pruning's quick-start call: half of the channels by L2, the classifier kept; then forward and backward."""
    import torch_pruning

    torch.manual_seed(0)
    model = opened(name)
    images = example_of(name, model)
    start = time.process_time()
    macs, parameters = torch_pruning.utils.count_ops_and_params(model, images)
    classifiers = [module for module in model.modules() if isinstance(module, nn.Linear) and _num_classes(module)]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        images,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=8,
        ignored_layers=classifiers,
    )
    pruner.step()
    run_backward(model, images)
    macs_left, parameters_left = torch_pruning.utils.count_ops_and_params(model, images)
    if not macs_left < macs:
        return {"outcome": "fails: nothing was cut"}
    return {
        "outcome": "works",
        "seconds": round(time.process_time() - start, 1),
        "parameters_kept": round(parameters_left / parameters, 3),
        "macs_kept": round(macs_left / macs, 3),
    }


def _num_classes(layer: nn.Linear) -> bool:
    return layer.out_features == 1000
