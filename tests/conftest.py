"""Fixtures that several rooms share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real data, of weights and of a browser say what they miss instead of failing on a stranger's machine."""
    items.sort(key=lambda item: item.path.name != "test_training_resume.py")  # the longest first: nobody waits for them
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))
    if SHARED.is_dir():
        return
    absent = pytest.mark.skip(reason=f"needs the CIFAR-10 data and pretrained weights in {SHARED}, which is absent")
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(absent)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and pretrained weights."""
    return SHARED


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; tests that take it are marked `browser`."""
    assert CHROMIUM is not None
    return CHROMIUM


Tree = dict[str, Any]


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Tree]:
    """A recipe that compresses a small digits network in about two seconds; keyword arguments replace sections."""

    def build(**sections: Any) -> Tree:
        tree: Tree = {
            "name": "tiny",
            "model": {
                "builder": "adasap:digits_net",
                "options": {"widths": [4, 8, 16]},
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
            },
            "data": {
                "train": {"kind": "digits", "count": 256},
                "test": {"kind": "digits", "count": 100},
                "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast"], "severities": [3]}},
            },
            "training": {"batch_size": 32, "checkpoint_every": 5, "optimizer": {"learning_rate": 0.02}},
            "warm_up": {"epochs": 1},
            "pruning": {"epochs": 1, "budget": {"macs": 0.5}, "events": 3, "every": 2, "recalibration_batches": 2},
            "fine_tune": {"epochs": 1, "sharpness": {"kind": "uniform", "rho": 0.5}},
        }
        for key, value in sections.items():
            both = isinstance(value, dict) and isinstance(tree.get(key), dict)
            tree[key] = {**tree[key], **value} if both else value
        return tree

    return build
