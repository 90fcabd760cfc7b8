"""What the demos compress: a digit classifier, a detector and a U-Net of drawn shapes; models, data and epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adasap.experiments.known_names import DemoTask

PLAIN = {"sharpness": {"kind": "plain"}}


@dataclass(frozen=True)
class Demo:
    """One demo.

    Attributes:
        tree: Model, data and training of all its runs, without names and seeds.
        dense_epochs: Of the dense model's own training.
        epochs: Of the three steps; the equal-compute baseline gets twice as many of each.
        pruning: Budget and events of step 2.
        rho: Largest radius of step 3.
        loss_budget: What each perturbation may raise the loss by.
        data: The test set as the command line names it.
        score: What the clean score is called.
    """

    tree: Mapping[str, Any]
    dense_epochs: float
    epochs: Mapping[str, float]
    pruning: Mapping[str, Any]
    rho: float
    data: str
    score: str
    loss_budget: float = 0.1

    def recipe(self, seed: int) -> dict[str, Any]:
        """Plain training from a random start: no budget is spent and nothing is perturbed."""
        return {
            "name": "dense",
            "seed": seed,
            **self.tree,
            "warm_up": {"epochs": 0, **PLAIN},
            "pruning": {"epochs": 0, "budget": {"macs": 1.0}, "schedule": "one_shot", "recalibration_batches": 0},
            "fine_tune": {"epochs": self.dense_epochs, **PLAIN},
        }


def _drawn(*, task: Any, model: dict[str, Any], data: str) -> dict[str, Any]:
    """What the demos on drawn shapes have in common: 100 test images, their corruptions, how they are trained."""
    corrupted = {"kind": "corrupted", "corruptions": ["gaussian_noise", "defocus_blur", "contrast"]}
    return {
        "task": task,
        "model": {**model, "mean": [0.5] * 3, "std": [0.5] * 3},
        "data": {
            "train": {"kind": data},
            "test": {"kind": data, "count": 100},
            "suites": {"corrupted": {**corrupted, "severities": [2, 4]}},
            "augmentation": {"horizontal_flip": True},
        },
        "training": {
            "batch_size": 16,
            "optimizer": {"name": "AdamW", "learning_rate": 0.003, "weight_decay": 0.01},
            "schedule": {"warm_up_epochs": 1},
            "runtime": {"precision": "float32"},  # the README's numbers on every machine
            "clip_norm": 10.0,
        },
    }


DEMOS: dict[DemoTask, Demo] = {
    "classification": Demo(
        tree={
            "model": {"builder": "adasap:digits_net", "mean": [0.5] * 3, "std": [0.5] * 3},
            "data": {
                "train": {"kind": "digits"},
                "test": {"kind": "digits"},
                "suites": {"corrupted": {"kind": "corrupted", "severities": [3]}},
            },
            "training": {
                "batch_size": 64,
                "keep_stages": True,
                "optimizer": {"learning_rate": 0.05},
                "schedule": {"warm_up_epochs": 1},
                "runtime": {"precision": "float32"},  # the README's numbers on every machine
            },
        },
        dense_epochs=12,
        epochs={"warm_up": 2.0, "pruning": 3.0, "fine_tune": 9.0},
        pruning={"budget": {"macs": 0.25}, "events": 6, "every": 10},
        rho=0.5,
        data="digits:",
        score="clean (%)",
    ),
    "detection": Demo(
        tree=_drawn(
            task="detection",
            model={
                "builder": "adasap:ssd_mobilenet_v1",
                "options": {"num_classes": 4, "image_size": 128, "width": 0.25, "smallest_box": 0.35},
                "input_size": [3, 128, 128],
            },
            data="shapes",
        ),
        dense_epochs=24,
        epochs={"warm_up": 1.0, "pruning": 2.0, "fine_tune": 4.0},
        pruning={"budget": {"macs": 0.4}, "events": 6, "every": 8},
        rho=0.5,
        data="shapes:",
        score="AP50 (%)",
    ),
    "segmentation": Demo(
        tree=_drawn(
            task={"kind": "segmentation", "dice": 0.5},
            model={
                "builder": "adasap:unet",
                "options": {"num_classes": 4, "width": 10, "depth": 4, "stride": 2},
                "input_size": [3, 96, 96],
            },
            data="shape-masks",
        ),
        dense_epochs=10,
        epochs={"warm_up": 1.0, "pruning": 2.0, "fine_tune": 4.0},
        # ranked over the model, one layer would keep a channel or two, and fine-tuning does not bring the network back
        pruning={"budget": {"macs": 0.4}, "events": 6, "every": 8, "ranking": "uniform"},
        rho=0.2,
        data="shape-masks:",
        score="mIoU (%)",
    ),
}
