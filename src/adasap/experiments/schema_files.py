"""JSON schemas of recipes and sweeps, by which editors complete and check keys; kept as files."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adasap.experiments.keys import (
    NAME,
    fields_of,
    meanings_of,
    options_at,
    parts_of,
    recipe_keys,
    variants,
)
from adasap.experiments.recipe import Recipe
from adasap.experiments.sweep.file import Sweep
from adasap.sharpness.phase import SharpnessOptions
from adasap.tasks.data import DataOptions

FOLDER = Path(__file__).parent / "schemas"
"""`recipe.json` and `sweep.json`, as they are installed."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
Tree = dict[str, Any]


def schemas() -> dict[str, Tree]:
    """File name -> schema. No key is required: a recipe may have its other keys from the one that it extends."""
    recipe, sweep = _Schema(), _Schema()
    keys = recipe.of_class(Recipe)
    keys["properties"] = {"extends": {"type": "string", "description": recipe_keys()[0].meaning}, **keys["properties"]}
    of_sweep = sweep.of_class(Sweep)
    run = of_sweep["properties"]["runs"]
    run["additionalProperties"] = {"anyOf": [run["additionalProperties"], {"type": ["string", "null"]}]}
    grid = of_sweep["properties"]["grid"]
    for place in (of_sweep["properties"]["set"], sweep.defs["Variant"]["properties"]["set"]):
        place["propertyNames"] = {"$ref": "#/$defs/DottedKey"}
    grid["additionalProperties"]["additionalProperties"]["propertyNames"] = {"$ref": "#/$defs/DottedKey"}
    sweep.defs["DottedKey"] = _dotted_keys()
    return {
        "recipe.json": {"$schema": _DIALECT, "title": "A recipe of adasap", **keys, "$defs": recipe.defs},
        "sweep.json": {"$schema": _DIALECT, "title": "A sweep of adasap", **of_sweep, "$defs": sweep.defs},
    }


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def editor_line(kind: str = "recipe") -> str:
    """The first line of a recipe or sweep on this machine, for editors with YAML's language server."""
    return f"# yaml-language-server: $schema={(FOLDER / f'{kind}.json').as_posix()}"


def _dotted_keys() -> Tree:
    """What may stand before `=` of `--set`: every key, and anything below names and options that are open."""
    every = [key for key in recipe_keys(folded=False) if key.name != "extends"]
    plain = [key.name for key in every if NAME not in key.name]
    opened = [key.name.split(f".{NAME}")[0] for key in every if NAME in key.name]
    opened += [key.name for key in every if key.kind == "keys" and not any(n.startswith(f"{key.name}.") for n in plain)]
    opened += ["task", "data.augmentation"]
    pattern = "|".join(name.replace(".", r"\.") for name in dict.fromkeys(opened))
    return {"anyOf": [{"enum": plain}, {"pattern": rf"^({pattern})\..+$"}]}


class _Schema:
    """Schemas of dataclasses, each once under `$defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Tree] = {}

    def of_class(self, option: type, place: str = "") -> Tree:
        """The keys of a dataclass, and no others."""
        meanings, properties = meanings_of(option), dict[str, Tree]()
        for field, hint in fields_of(option):
            name = f"{place}.{field.name}".strip(".")
            key = self.of_field(option, field.name, hint, name)
            about = {"description": meanings[field.name]} if field.name in meanings else {}
            properties[field.name] = {**about, **key, **_default(field)}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def of_field(self, option: type, field: str, hint: Any, name: str) -> Tree:
        """The value of a key; of those whose options depend on a name, all that there are."""
        if (option, field) == (Recipe, "task"):
            own = {"if": {"properties": {"kind": {"pattern": ":"}}, "required": ["kind"]}, "then": {}}
            return {"anyOf": [{"type": "string"}, {**own, "else": self.merged("task", kind=True)}]}
        if (option, field) == (DataOptions, "augmentation"):
            return self.merged("data.augmentation")
        if issubclass(option, SharpnessOptions) and field == "variants":
            known = {key: self.reference(kind) for key, kind in variants().items()}
            return {"type": "object", "properties": known, "additionalProperties": {"type": "object"}}
        if name in ("pruning.selection_options", "pruning.prepare"):
            return {**self.merged(name, kind=name.endswith("prepare")), "additionalProperties": True}
        return self.of(hint, name)

    def merged(self, name: str, *, kind: bool = False) -> Tree:
        """The keys of several dataclasses together."""
        found: dict[str, list[Tree]] = {"kind": [{"type": "string"}]} if kind else {}
        for option, _ in options_at(name):
            for key, value in self.of_class(option, name)["properties"].items():
                value = {part: inner for part, inner in value.items() if part != "default"}
                if value not in found.setdefault(key, []):
                    found[key].append(value)
        keys = {key: values[0] if len(values) == 1 else {"anyOf": values} for key, values in found.items()}
        return {"type": "object", "properties": keys, "additionalProperties": False}

    def of(self, hint: Any, name: str) -> Tree:
        """Any kind of value."""
        if parts_of(hint)[0] is None:
            found = TypeAdapter(hint).json_schema()
            return {key: value for key, value in found.items() if key != "title"}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.reference(hint, name)
        origin, inside = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(part, name) for part in inside]}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(inside[1], name)}
        return {"type": "array", "items": self.of(inside[0], name)}

    def reference(self, option: type, place: str = "") -> Tree:
        """A dataclass by its name."""
        title = option.__name__
        if title not in self.defs:
            self.defs[title] = {}  # a class that holds itself ends here
            self.defs[title] = self.of_class(option, place)
        return {"$ref": f"#/$defs/{title}"}


def _default(field: dataclasses.Field[Any]) -> Tree:
    value = field.default
    if value is dataclasses.MISSING or dataclasses.is_dataclass(value):
        return {}
    return {"default": json.loads(json.dumps(value))}


def write_generated(docs: Path | None = None) -> list[Path]:
    """Writes the schemas, and `options.md` into a folder: `python -m adasap.experiments.schema_files docs`."""
    from adasap.experiments.keys import page

    FOLDER.mkdir(exist_ok=True)
    texts = {FOLDER / name: schema_text(schema) for name, schema in schemas().items()}
    if docs is not None:
        texts[docs / "options.md"] = page()
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


if __name__ == "__main__":
    import sys

    print(*write_generated(Path(sys.argv[1]) if len(sys.argv) > 1 else None), sep="\n")
