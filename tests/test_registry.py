"""One registry for every name: lazy entries, a user's own, and the nearest name in the message."""

import pytest

from adasap.data import SOURCES, DataSource, SourceKind, open_dataset, open_source
from adasap.errors import AdasapError, DataError, RecipeError
from adasap.evaluation import SUITES
from adasap.experiments.recipe import parse_recipe
from adasap.registry import Registry
from adasap.tasks import TASKS, BaseTask


def test_a_name_stands_for_one_thing() -> None:
    numbers: Registry[object] = Registry("number", {"one": 1})
    numbers.register("one", 1)
    with pytest.raises(AdasapError, match="there is a number 'one' already"):
        numbers.register("one", 2)


def test_an_entry_is_imported_when_it_is_asked_for() -> None:
    lazy: Registry[object] = Registry("thing", {"there": "math:pi", "gone": "no_such_module:x"})
    assert list(lazy) == ["there", "gone"]
    assert lazy.get("there") == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(ModuleNotFoundError):
        lazy.get("gone")


@pytest.mark.parametrize("registry", [TASKS, SOURCES, SUITES], ids=["tasks", "data", "suites"])
def test_every_entry_of_ours_is_there(registry: Registry[object]) -> None:
    assert all(registry.get(name) is registry.get(name) for name in registry)


def test_every_task_says_what_it_is() -> None:
    for name in TASKS:
        task = TASKS.get(name)
        assert issubclass(task, BaseTask)
        assert task.name == name
        assert task.options_type() == task.options_type()
        assert task.primary_metric.label
    with pytest.raises(RecipeError, match="there is no task 'detectoin'; did you mean 'detection'"):
        parse_recipe({"task": "detectoin"})


@pytest.mark.usefixtures("registered_for_a_test")
def test_a_kind_of_data_of_ones_own() -> None:
    SOURCES.register("numbers", SourceKind(lambda source, split, channels: list(range(5)), needs_path=False))
    assert open_source(DataSource("numbers"), "train") == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="this wants images with labels"):
        open_dataset(DataSource("numbers"))
    with pytest.raises(DataError, match="there is no kind of data 'number'; did you mean 'numbers'"):
        DataSource("number")
