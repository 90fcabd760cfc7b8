"""The list of long tests names tests that there are, and is made of what a run took."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import durations

ROOT = Path(__file__).parents[1]


def test_what_is_listed_is_there() -> None:
    """A test that was renamed would come back into every run unseen."""
    for name in durations.long_tests():
        path, *_, test = name.split("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text(), name


def test_the_list_is_made_of_what_tests_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "LIST", tmp_path / "long.txt")
    monkeypatch.setattr(durations, "_seconds", {})
    durations.LIST.write_text("# head\na.py::was_long\na.py::did_not_run\n")
    for name, seconds in {
        "a.py::was_long": 2.0,
        "a.py::is_long[1.5-x y]": 10.0,
        f"{durations.ALWAYS[0]}::t": 99.0,
    }.items():
        for when in ("call", "teardown"):
            report = SimpleNamespace(nodeid=name, when=when, user_properties=[(durations.NAME, seconds)])
            durations.take(cast(Any, report))
    durations.write()
    assert durations.long_tests() == {"a.py::did_not_run", "a.py::is_long[1.5-x y]"}


def test_a_test_is_timed_with_the_processes_that_it_waited_for() -> None:
    item: Any = SimpleNamespace(nodeid="x", user_properties=[])
    durations.begin(item)
    end = durations._busy() + 0.05
    while durations._busy() < end:
        pass
    durations.end(item)
    ((name, seconds),) = item.user_properties
    assert name == durations.NAME
    assert 0.04 < seconds < 5
