"""Fixtures that several rooms share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import durations
from crashes import Memory, Slim, place, stacks_go_there_again, stacks_go_to

SHARED = Path(__file__).parents[2] / "shared" / "data"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
MEMORY = None if IS_WORKER else Memory()
SLIM = Slim()


@pytest.hookimpl(trylast=True)  # pytest's own look-out for signals writes to where nobody reads
def pytest_configure() -> None:
    """Garbage is looked for less often: with torch and its like there are millions of objects that never become any."""
    gc.set_threshold(50_000, 20, 20)
    if IS_WORKER:
        stacks_go_to(place(os.environ["PYTEST_XDIST_WORKER"], os.environ["PYTEST_XDIST_TESTRUNUID"]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whatever the last test did, the next one's death is explained."""
    stacks_go_there_again()
    durations.begin(item)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Three processes share the machine's memory."""
    SLIM()
    durations.end(item)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Here or in a worker."""
    durations.take(report)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any) -> None:
    """The cause of a worker's death stands in the report of its test."""
    worker = report.node.gateway.id
    stacks = place(worker, report.node.workerinput["testrunuid"])
    found = stacks.read_text() if stacks.is_file() else ""
    report.longrepr = f"{report.longrepr}\n{found or 'no signal was caught: it was ended from outside'}\n{MEMORY}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test-all` gives it."""
    parser.addoption("--long", action="store_true", help="run the long tests also on a processor without AVX-512")
    parser.addoption("--write-long", action="store_true", help="write tests/long.txt anew, of what this run takes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real data, of weights and of a browser say what they miss instead of failing on a stranger's machine.

    A processor without AVX-512 takes two to three times as long; there the longest tests are left to `make test-all`.
    """
    items.sort(key=lambda item: item.path.name != "test_training_resume.py")  # the longest first: nobody waits for them
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))
    from adasap import processor

    if not config.getoption("--long") and processor.has("avx512") is False:
        listed = durations.long_tests()
        for item in items:
            if item.nodeid in listed:
                item.add_marker(pytest.mark.skip(reason=durations.REASON))
    if SHARED.is_dir():
        return
    absent = pytest.mark.skip(reason=f"needs the CIFAR-10 data and pretrained weights in {SHARED}, which is absent")
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(absent)


@pytest.fixture(autouse=True, scope="session")
def quick_timings() -> Iterator[None]:
    """Runs are timed by ten calls, not for two seconds a batch size: no test is about how fast this machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adasap.experiments.compress.LATENCY_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and pretrained weights."""
    return SHARED


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; tests that take it are marked `browser`."""
    assert CHROMIUM is not None
    return CHROMIUM


@pytest.fixture
def registered_for_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is unknown after it."""
    from adasap.analysis import INSTRUMENTS
    from adasap.corruptions import CORRUPTIONS
    from adasap.criteria import CRITERIA
    from adasap.data import SOURCES
    from adasap.evaluation import SUITES
    from adasap.export import RUNTIMES, TARGETS
    from adasap.pruning import COST_MODELS, PREPARATIONS, PRUNING_SCHEDULES, SELECTIONS
    from adasap.sharpness.phase import VARIANTS
    from adasap.tasks import TASKS
    from adasap.training import LEARNING_RATES

    some: tuple[Any, ...] = (CORRUPTIONS, CRITERIA, INSTRUMENTS, RUNTIMES, TARGETS, TASKS, SOURCES, SUITES)
    pruning = (COST_MODELS, PREPARATIONS, PRUNING_SCHEDULES, SELECTIONS)
    for registry in (*some, *pruning, LEARNING_RATES, VARIANTS):
        assert list(registry)  # whatever is registered at the first look-up is there
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The line that tells whether the machine is large enough."""
    if config.getoption("--write-long"):
        durations.write()
    if MEMORY:
        terminalreporter.write_line(f"memory: {MEMORY}")


Tree = dict[str, Any]


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Tree]:
    """A recipe that compresses a small digits network in about two seconds; keyword arguments replace sections.

    It computes in float32, so that the numbers are those of every machine; `auto` is bf16 on some.
    """

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
        tree["training"]["runtime"] = {"precision": "float32", **tree["training"].get("runtime", {})}
        return tree

    return build


@pytest.fixture(scope="session")
def library(tiny_recipe: Callable[..., Tree]) -> Any:
    """A run of the library's own loop, to be repeated by other loops (`loop_library`)."""
    from loop_library import library_run

    return library_run(tiny_recipe(pruning={"criterion": "taylor"}))
