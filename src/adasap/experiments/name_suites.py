"""Suites and data by name: `NAME` or `NAME=PLACE` of a suite, `KIND:PATH` of a data set or a path, a recipe or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from adasap.data import SOURCES, DataSource, Resizing
from adasap.data.decoding import Reading
from adasap.data.items import is_indexed
from adasap.errors import DataError, suggestion
from adasap.evaluation import Suite, SuiteSource, open_own_suite, open_suite
from adasap.experiments.find_data import find_test_part, kind_at
from adasap.experiments.name_models import ModelName
from adasap.experiments.recipe import DEFAULT_TASK, Recipe, read_recipe
from adasap.io import parse_yaml
from adasap.tasks import BaseTask


@dataclass(frozen=True)
class SuiteOptions:
    """What the command line says about all suites.

    Attributes:
        data: Place of suites that name none: `KIND:PATH` of a data set, or the path of a published set; a `DataSource`,
            or a data set that is open already.
        first: Index of the first image of a data set.
        count: Number of its images.
        resizing: Brings images to the model's size.
        corruptions: Which corruptions; all of the suite if None.
        severities: Which severities; all if None.
        classes: Of a data set with boxes: only objects of these; all if None.
        options: Further keys of the data source, KEY=VALUE.
        split: Part of a data set; by default its test data.
        recipe: Its test data stand for `clean` and for suites that name none, with its resizing; its suites are known
            by their names.
    """

    data: Any = None
    first: int = 0
    count: int | None = None
    resizing: Resizing = Resizing()  # noqa: RUF009 - frozen
    corruptions: Sequence[str] | None = None
    severities: Sequence[int] | None = None
    classes: Sequence[str] | None = None
    options: Sequence[str] = ()
    split: str | None = None
    recipe: Recipe | None = None

    def sources(self, suites: Sequence[str] | None) -> dict[str, SuiteSource]:
        """Suite name -> where it comes from.

        Args:
            suites: `NAME` or `NAME=PLACE`; None is all of the recipe, else `clean`.
        Raises:
            DataError: If a suite is unknown, named twice, or has no place.
        """
        sources: dict[str, SuiteSource] = {}
        own = ["clean", *(self.recipe.data.suites if self.recipe else ())]
        for text in own if suites is None else suites:
            name, _, place = text.partition("=")
            if name in sources:
                raise DataError(f"--suite {name} is given twice; evaluate the second place by a command of its own")
            if not place and self.recipe is not None:
                sources[name] = self._chosen(self._of_recipe(name, self.recipe))
            else:
                sources[name] = self._source(name, place or self.data)
        return sources

    def _of_recipe(self, name: str, recipe: Recipe) -> SuiteSource:
        """A suite of the recipe, or another one of its test data."""
        source = recipe.data.suites.get(name) or SuiteSource(name)
        if source.data is not None or source.row.on_disk:
            return source
        keys: dict[str, Any] = {"first": self.first or None, "count": self.count, "split": self.split}
        keys |= {"classes": tuple(self.classes) if self.classes else None}
        keys |= vars(self.resizing) if self.resizing else {}
        given = {key: value for key, value in keys.items() if value is not None} | data_options(self.options)
        return replace(source, data=replace(recipe.data.test, **given))

    def _source(self, name: str, place: Any) -> SuiteSource:
        source = SuiteSource(name, resizing=self.resizing)
        if place is None or (source.row.on_disk and not isinstance(place, str)):
            wanted = source.row.on_disk or "a data set, KIND:PATH"
            raise DataError(f"--suite {name} wants {wanted}; give --data or --suite {name}=PLACE")
        if source.row.on_disk:
            kind, colon, path = place.partition(":")
            path = path if colon and kind == source.row.images else place
            split = [] if self.split is None else [f"split={self.split}"]
            source = replace(source, path=path, reading=_reading([*self.options, *split]))
        elif isinstance(place, str | DataSource):
            source = replace(source, data=self.data_source(place) if isinstance(place, str) else place)
        return self._chosen(source)

    def _chosen(self, source: SuiteSource) -> SuiteSource:
        """The suite with the corruptions and severities that are asked for."""
        if self.corruptions:
            source = replace(source, corruptions=tuple(self.corruptions))
        return source if not self.severities else replace(source, severities=tuple(self.severities))

    def data_source(self, text: str) -> DataSource:
        """The data set that `KIND:PATH` names, or that lies at a path."""
        split: str | dict[str, str] | None = self.split
        if ":" not in text and Path(text).exists():
            kind = kind_at(Path(text))
            if split is None and (found := find_test_part(text, kind)) is not None:
                text, split = str(found.path), found.split
            text = f"{kind}:{text}"
        kind, colon, path = text.partition(":")
        if not colon or (kind not in SOURCES and not path.isidentifier()):
            raise DataError(
                f"{text!r} is no data set: give a folder or file that is there, or write KIND:PATH with one of "
                f"the kinds {', '.join(SOURCES)}"
            )
        own = kind not in SOURCES  # package.module:function
        resizing = self.resizing
        source = DataSource(
            text if own else kind,
            None if own else path or None,
            split=split,
            first=self.first,
            count=self.count,
            resize=resizing.resize,
            center_crop=resizing.center_crop,
            interpolation=resizing.interpolation,
            classes=tuple(self.classes) if self.classes else None,
        )
        return replace(source, **data_options(self.options))


def sources_of(
    data: Any,
    suites: str | Sequence[str] | Mapping[str, SuiteSource] | None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    *,
    split: str | None = None,
    recipe: Recipe | None = None,
) -> dict[str, SuiteSource]:
    """Suite name -> where it comes from; its data are None where it takes a data set that is open already.

    Args:
        data: As for `adasap.evaluate`.
        suites: Names, `NAME=PLACE`, or sources.
        corruptions: Of suites that are named.
        severities: Likewise.
        split: Of data that are named.
        recipe: Whose data are taken (`recipe_named`); its test data, also by sources without data.
    Raises:
        DataError: If a suite is unknown, named twice, or has no place, or there is none.
    """
    if isinstance(suites, Mapping):
        named = data if recipe is None else recipe.data.test
        found = {name: _with_data(one, named) for name, one in suites.items()}
    else:
        if split is not None and isinstance(data, DataSource):
            data = replace(data, split=split)
        options = SuiteOptions(data, corruptions=corruptions, severities=severities, split=split, recipe=recipe)
        found = options.sources([suites] if isinstance(suites, str) else suites)
    if not found:
        raise DataError("no suite is named; give one such as `clean`")
    return found


def _with_data(source: SuiteSource, data: Any) -> SuiteSource:
    """A suite of named data, if it names none itself."""
    if source.data is not None or source.row.on_disk or not isinstance(data, str | DataSource):
        return source
    return replace(source, data=source_named(data) if isinstance(data, str) else data)


def recipe_named(data: Any, model: Any) -> Recipe | None:
    """The recipe that data are taken from: of a recipe or run that is named as data, or, without data, as the model.

    Args:
        data: As for `adasap.evaluate`.
        model: Likewise.
    """
    name = data if data is not None else model.name if isinstance(model, ModelName) else model
    if not isinstance(name, str | Path):
        return None
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_recipe(path)
    return read_recipe(path / "recipe.yaml") if (path / "recipe.yaml").is_file() else None


def own_suites(sources: Mapping[str, SuiteSource], test: Any, task: BaseTask[Any]) -> list[Suite]:
    """Suites of any data set, its items put together by a task of the user's.

    Raises:
        DataError: If a suite has no data.
    """
    for name, source in sources.items():
        if source.data is None and test is None:
            raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    return [open_own_suite(name, source, test, task) for name, source in sources.items()]


def side_of(sources: Mapping[str, SuiteSource]) -> int | None:
    """Side of the labelled images of the first suite, where these have a size of their own."""
    first = next(iter(sources.values()), None)
    if task_of(sources.values()) != DEFAULT_TASK:
        return None
    if first is None or not (first.data is not None or first.row.on_disk) or not has_one_size(first):
        return None
    return open_suite("", first).image_shape[-1]


def source_named(text: str, options: Sequence[str] = ()) -> DataSource:
    """The data set that `KIND:PATH` names.

    Args:
        text: The name.
        options: Further keys, KEY=VALUE.
    Raises:
        DataError: If it names none.
    Example:
        >>> source_named("npz:test.npz").path
        'test.npz'
    """
    return SuiteOptions(options=options).data_source(text)


def require_indexed(data: Any) -> None:
    """Checks that somebody gave a map-style data set.

    Raises:
        DataError: If not.
    """
    if not is_indexed(data):
        raise DataError(
            f"the data are a {type(data).__name__}; give `KIND:PATH`, a DataSource, or a map-style data set with "
            "`__len__` and `__getitem__` (batches are made here)"
        )


def data_options(texts: Sequence[str]) -> dict[str, Any]:
    """Keys of a data source that say how its files are read.

    Raises:
        DataError: For another key, or a value of another kind.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in _KINDS:
            raise DataError(f"--data-option {text!r}: there is no option {key!r}; {suggestion(key, _KINDS)}")
        parsed = parse_yaml(value, where=f"--data-option {text!r}", error=DataError)
        if type(parsed) not in _KINDS[key]:
            raise DataError(f"--data-option {text!r}: give {_WANTED[_KINDS[key][0]]}, as in {key}={_EXAMPLES[key]}")
        if key in _OPTIONS:
            found.setdefault("options", {})[key] = parsed
        else:
            found[key] = parsed
    return found


_OPTIONS = ("image", "label", "mask", "objects", "box_format", "mask_suffix")
"""`options` of the kinds of shards, of sets of `datasets`, and of folders of masks."""
_KINDS: dict[str, tuple[type, ...]] = {
    "exif_orientation": (bool,),
    "white": (float, int),
    "most_pixels": (int,),
    "skip_broken": (bool,),
    "follow_links": (bool,),
    "split": (str,),
    "image": (str,),
    "label": (str,),
    "mask": (str,),
    "objects": (str,),
    "box_format": (str,),
    "mask_suffix": (str,),
}
_WANTED = {bool: "true or false", float: "a number", int: "a whole number", str: "a name"}
_EXAMPLES = {"exif_orientation": "false", "white": "4095", "most_pixels": "200000000", "skip_broken": "true"} | {
    "follow_links": "true",
    "split": "val",
    "image": "img",
    "label": "fine_label",
    "mask": "annotation",
    "objects": "annotations",
    "box_format": "xyxy",
    "mask_suffix": "_mask",
}


def _reading(options: Sequence[str]) -> Reading:
    """How the files of a published set are read."""
    given, keys = data_options(options), {field.name for field in fields(Reading)}
    if others := sorted(given.keys() - keys):
        raise DataError(f"--data-option {others[0]} is for data sets; a published suite is evaluated whole, drop it")
    return Reading(**given)


def has_one_size(source: SuiteSource) -> bool:
    """Whether the images of a suite have a size of their own, which a named model is built for."""
    kind = source.row.images if source.data is None else source.data.kind
    resizing = source.resizing if source.data is None else source.data.resizing
    return bool(resizing) or kind is None or not (":" in kind or SOURCES.get(kind).any_size)


def task_of(sources: Iterable[SuiteSource]) -> str:
    """The task that suites are evaluated by: that of the first data set that is for one."""
    tasks = [source.data.row.task for source in sources if source.data is not None]
    return next((task for task in tasks if task and task != DEFAULT_TASK), DEFAULT_TASK)
