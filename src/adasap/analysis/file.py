"""Where an analysis is kept: one JSON file, written after every part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adasap.analysis.schema import check_analysis
from adasap.errors import AdasapError, DataError
from adasap.sealed import finite, read_sealed_json, write_sealed_json

FORMAT = "adasap-analysis-1"
NAME = "analysis.json"

Json = dict[str, Any]


class AnalysisFile:
    """The parts that are known, each with the options it was computed under.

    `models` holds model -> instrument -> part; a part has its numbers and `options`, `seconds`. A part that was
    computed under other options is computed again; another model, or other data, under the same name is refused.

    Args:
        path: The file, or None to keep nothing.
        identity: `data`, and for each model under its name, a digest of what the numbers depend on; ready for JSON.
    Raises:
        DataError: If the file holds an analysis of another model or other data, or is damaged.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.content: Json = {"format": FORMAT, "identity": dict(identity), "models": {}}
        if path is not None and path.is_file():
            self.content = _merged(path, read_analysis(path), identity)

    def part(self, model: str, instrument: str, part: str, options: Json) -> Json | None:
        """A part computed under these options, or None."""
        found: Json | None = self.content["models"].get(model, {}).get(instrument, {}).get(part)
        return found if found is not None and found.get("options") == plain(options) else None

    def keep(self, model: str, instrument: str, part: str, value: Json) -> None:
        """Keeps a part, at once."""
        self.content["models"].setdefault(model, {}).setdefault(instrument, {})[part] = plain(value)
        self.write()

    def set(self, **values: Any) -> None:
        """What is said about the whole analysis, such as `command`."""
        self.content.update(plain(values))
        self.write()

    def write(self) -> None:
        """Replaces the file."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed_json(self.path, self.content)


def read_analysis(path: Path) -> Json:
    """What an analysis left.

    Raises:
        DataError: If the file is missing, damaged or something else.
    """
    try:
        content = read_sealed_json(path, what="an analysis", error=DataError, remedy="analyze again")
        if content.get("format") != FORMAT:
            raise DataError(f"its format is not {FORMAT}")
        check_analysis(content, where=path.name)
    except AdasapError as error:
        raise DataError(f"{path} holds no analysis: {error}; give a file of `adasap analyze`, or remove it") from error
    return content


def plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists, keys are text, numbers that are not finite are None."""
    return json.loads(json.dumps(finite(value)))


def _merged(path: Path, there: Json, identity: Mapping[str, Any]) -> Json:
    """The content with models that it does not hold yet added to its identity."""
    wanted, known = plain(dict(identity)), there["identity"]
    differing = sorted(name for name in wanted if name in known and known[name] != wanted[name])
    if differing:
        raise DataError(
            f"{path} holds an analysis with another {', '.join(differing)}; give another --out, or remove the file"
        )
    return {**there, "identity": {**known, **wanted}}
