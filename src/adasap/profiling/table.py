"""Milliseconds as a cost: a table of measured layers, interpolated between the widths that were measured."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError, BudgetError
from adasap.groups.group import ChannelGroup, widths
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.stand_ins import Removed, is_within
from adasap.io import parse_json, read_text
from adasap.profiling.engines import ENGINES
from adasap.profiling.layers import LayerCall
from adasap.profiling.reading import layer_calls
from adasap.pruning.plan import modules_absent
from adasap.sealed import sealed_json, unsealed

FORMAT = "adasap-latency-table-1"
PRECISIONS = ("float32", "bf16", "fp16")


@dataclass
class LatencyTable:
    """What single layers took on one device, under one setting.

    Attributes:
        settings: Device, threads, batch, precision, layout, and the machine's description.
        points: Key of a layer -> widths -> milliseconds.
        alignment: A layer with c output channels takes as long as one with c rounded up to a multiple of it.
        scale: What a layer's time within the network is to its time by itself.
        call_ms: What every call costs beside its operator.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    points: dict[str, dict[tuple[int, ...], float]] = field(default_factory=dict)
    alignment: int = 1
    scale: float = 1.0
    call_ms: float = 0.0

    @property
    def engine(self) -> str:
        """What ran the layers, by its name in `adasap.profiling.ENGINES`."""
        return str(self.settings.get("engine", "torch"))

    @property
    def fuses(self) -> bool:
        """Whether its layers are those that `layer_calls(..., fused=True)` reads."""
        return bool(ENGINES.get(self.engine).fuses)  # type: ignore[attr-defined]

    @property
    def step(self) -> int:
        """Number of channels whose multiples have times apart from those of other numbers."""
        return int(ENGINES.get(self.engine).step)  # type: ignore[attr-defined]

    @property
    def stated(self) -> str:
        """What was measured, and where, for a reader.

        Example:
            >>> LatencyTable({"engine": "onnxruntime", "engine_version": "1.23", "int8": True, "threads": 2}).stated
            'onnxruntime 1.23, INT8, batch 1, 2 threads'
        """
        found = self.settings
        version = found.get("torch" if self.engine == "torch" else "engine_version", "")
        runtime = f"{self.engine} {version}".strip()
        numbers = "INT8" if found.get("int8") else found.get("precision", "float32")
        eager = "" if self.engine != "torch" else ", compiled" if found.get("compiled") else ", eager"
        where = f", {found['processor']}" if "processor" in found else ""
        return (
            f"{runtime}{eager}, {numbers}, batch {found.get('batch', 1)}, {found.get('threads', 'all')} threads{where}"
        )

    def missing(self, calls: Sequence[LayerCall]) -> list[tuple[LayerCall, tuple[int, ...]]]:
        """What is still to be measured for a model, each layer once."""
        return [
            (call, point)
            for key, call in {call.key: call for call in calls}.items()
            for point in grid_widths(call, self.step)
            if point not in self.points.get(key, {})
        ]

    def to_json(self) -> str:
        """Everything as one JSON object, with the digest of all that."""
        points = {key: [[*at, ms] for at, ms in found.items()] for key, found in self.points.items()}
        fitted = {"alignment": self.alignment, "scale": self.scale, "call_ms": self.call_ms}
        return sealed_json({"format": FORMAT, "settings": self.settings, **fitted, "points": points})

    @classmethod
    def from_json(cls, text: str, *, where: str = "the latency table") -> Self:
        """Reads what `to_json` wrote; one without a digest, as earlier versions wrote it, is taken, too.

        Args:
            text: The JSON.
            where: The file, which begins every message.
        Raises:
            BudgetError: If it is not a latency table, or was altered.
        """
        data = parse_json(text, where=where, error=BudgetError)
        try:
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"wanted an object of format {FORMAT!r}")
            plain = unsealed(data, where=where, error=BudgetError, remedy=_REMEDY, needs_digest=False)
            if odd := plain.keys() ^ {"format", "settings", "alignment", "scale", "call_ms", "points"}:
                raise ValueError(f"the key {min(odd)[:40]!r} is missing or unknown")
            points = {key: _read_points(key, rows) for key, rows in _mapping("points", plain["points"]).items()}
            return cls(
                _read_settings(_mapping("settings", plain["settings"])),
                points,
                _whole("alignment", plain["alignment"], 1024),
                _number("scale", plain["scale"]),
                _number("call_ms", plain["call_ms"]),
            )
        except ValueError as error:
            if isinstance(error, BudgetError):
                raise
            raise BudgetError(f"{where} is not a latency table ({error}); {_REMEDY}") from error


_REMEDY = "make one with `adasap profile MODEL --latency-table FILE`"
MOST_WIDE = 1_000_000
"""Channels of a layer that a table may name."""
MOST_IMAGES = 4096
"""The largest batch that a table may be made for."""


def read_latency_table(path: Path) -> LatencyTable:
    """The table in a file.

    Raises:
        BudgetError: If there is no such file, or it is not a latency table.
    """
    if not path.is_file():
        raise BudgetError(
            f"there is no latency table {str(path)!r}; make it on the device that is meant with "
            f"`adasap profile MODEL --latency-table {path}`"
        )
    return LatencyTable.from_json(read_text(path, what="a latency table", error=BudgetError), where=str(path))


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {type(value).__name__} instead of an object")
    return value


def _number(name: str, value: Any) -> float:
    """A finite number from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"{name} is {str(value)[:20]!r} instead of a number from 0 to 1e12")
    return float(value)


def _whole(name: str, value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} is {str(value)[:20]!r} instead of a whole number from 1 to {most:,}")
    return value


def _read_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose values can be compared and measured under."""
    for name, value in settings.items():
        if name in ("batch", "threads", "pixels"):
            _whole(name, value, MOST_IMAGES if name == "batch" else MOST_WIDE)
        elif name == "error":
            for part, error in _mapping(name, value).items():
                _number(f"error.{part}", error)
        elif not isinstance(value, str | bool):
            raise ValueError(f"settings.{name[:40]} is {type(value).__name__} instead of text or yes and no")
    if settings.get("precision", "float32") not in PRECISIONS:
        raise ValueError(f"settings.precision is {settings['precision'][:20]!r}; {', '.join(PRECISIONS)} are known")
    return settings


def _read_points(key: str, rows: Any) -> dict[tuple[int, ...], float]:
    """The times of one layer, by its widths."""
    found: dict[tuple[int, ...], float] = {}
    layer = key[:40]
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, list) or not row:
            raise ValueError(f"a point of layer {layer!r} is {str(row)[:20]!r} instead of widths and milliseconds")
        at = tuple(_whole(f"a width of layer {layer!r}", width, MOST_WIDE) for width in row[:-1])
        if at in found or any(len(at) != len(other) for other in found):
            raise ValueError(f"layer {layer!r} has two points at widths {list(at)}, or points of unequal length")
        found[at] = _number(f"the milliseconds of layer {layer!r}", row[-1])
    return found


class Latency:
    """Milliseconds of one forward pass over a batch: scale x sum of its layers' times + call_ms x their number.

    Args:
        table: Measured on the device that is meant, see `adasap.profiling.timing`.
        model: Left as it is.
        groups: Its channel groups.
        example_inputs: A batch as the table was made for.
    Raises:
        BudgetError: If a layer of the model was not measured.
    """

    unit = "ms"

    def __init__(
        self, table: LatencyTable, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs
    ) -> None:
        self._whole = widths(groups)
        self._calls = layer_calls(model, groups, example_inputs, fused=table.fuses)
        self.stated = table.stated
        self._scale, self._call_ms = table.scale, table.call_ms
        if missing := table.missing(self._calls):
            moved = {name for call, _ in missing for width in call.widths for name, _ in width.per_channel}
            if norms := [group.name for group in groups if group.inexact and group.name in moved]:
                raise BudgetError(
                    f"the latency table was measured without cuts under norms, and so lacks widths of {norms[0]}: "
                    "`adasap profile MODEL --latency-table FILE --allow-inexact` adds them; or do without these cuts"
                )
            raise BudgetError(
                f"the latency table lacks {len(missing)} points of this model's layers, such as {missing[0][0].where} "
                f"({missing[0][0].key[:40]}...) at {missing[0][1]}: it is unfinished, or was made for another model, "
                "image size or batch; `adasap profile MODEL --latency-table FILE` goes on from there"
            )
        grids = {
            call.key: _Grid.of(table.points[call.key], grid_widths(call, table.step), table.alignment, table.step)
            for call in self._calls
        }
        self._grids = [grids[call.key] for call in self._calls]
        self._touched: dict[str, list[int]] = {name: [] for name in self._whole}
        for place, call in enumerate(self._calls):
            for name in {name for width in call.widths for name, _ in width.per_channel}:
                self._touched[name].append(place)
        self.dense = self.total({})

    @property
    def num_calls(self) -> int:
        """Operators that take time."""
        return len(self._calls)

    def total(self, widths: Mapping[str, float]) -> float:
        """Milliseconds at these widths (group name -> channels); a group that is not named is whole."""
        widths, gone = modules_absent(widths)
        made = self._made(range(len(self._calls)), gone)
        return self._call_ms * len(made) + self._sum(self._at(widths), made)

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The times where one group takes each of these widths and the others stay, float64 [choices]."""
        whole = self.total(widths)
        widths, gone = modules_absent(widths)
        here, touched = self._at(widths), self._made(self._touched[group], gone)
        rest = whole - self._sum(here, touched)
        times = [rest + self._sum({**here, group: choice}, touched) for choice in choices]
        return torch.tensor(times, dtype=torch.float64)

    def _made(self, places: Iterable[int], gone: Removed) -> list[int]:
        """The calls that are still made where modules are taken out."""
        return [place for place in places if not is_within(self._calls[place].where, gone)]

    def _at(self, widths: Mapping[str, float]) -> dict[str, float]:
        if unknown := widths.keys() - self._whole.keys():
            raise ArgumentError(f"no channel group is called {min(unknown)!r}: the cost was built on other groups")
        return {**self._whole, **widths}

    def _sum(self, widths: Mapping[str, float], places: Iterable[int]) -> float:
        return self._scale * sum(
            self._grids[i].at([width.at(widths) for width in self._calls[i].widths]) for i in places
        )


def latency_cost(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs, *, table: str | Path
) -> Latency:
    """The cost model of a table's file, for the batch that the table was made for.

    Args:
        model: Left as it is.
        groups: Its channel groups.
        example_inputs: One preprocessed image, [1, ...], or a batch of which the first is taken.
        table: The file.
    Raises:
        BudgetError: If there is no such file, or it is no table of this model's layers.
    """
    measured = read_latency_table(Path(table))
    size = int(measured.settings.get("batch", 1))
    return Latency(measured, model, groups, as_arguments(example_inputs).rows(1).rows(size))


@dataclass(frozen=True)
class _Grid:
    """Times over a grid of up to two widths; linear between its points.

    Attributes:
        axes: The widths that were measured.
        times: At each point.
        alignment: As of the table.
        step: Of the table: on the first axis, multiples of it lie among themselves, and so do other numbers.
    """

    axes: tuple[tuple[int, ...], ...]
    times: Mapping[tuple[int, ...], float]
    alignment: int
    step: int = 1

    @classmethod
    def of(
        cls, times: Mapping[tuple[int, ...], float], points: Sequence[tuple[int, ...]], alignment: int, step: int = 1
    ) -> _Grid:
        axes = tuple(tuple(sorted(set(values))) for values in zip(*points, strict=True))
        return cls(axes, times, alignment if len(axes) == 2 else 1, step)

    def at(self, widths: Sequence[float]) -> float:
        """Milliseconds; beyond the smallest measured width the time stays what it is there."""
        corners: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        for place, (axis, width) in enumerate(zip(self.axes, widths, strict=True)):
            if place == len(self.axes) - 1 and self.alignment > 1:
                width = math.ceil(width / self.alignment - 1e-9) * self.alignment
            if place == 0 and self.step > 1:
                axis = alike(axis, width, self.step)
            corners = [
                ((*at, value), weight * part) for at, weight in corners for value, part in _neighbours(axis, width)
            ]
        return sum(weight * self.times[at] for at, weight in corners)


def alike(axis: tuple[int, ...], width: float, step: int) -> tuple[int, ...]:
    """The measured widths that are multiples of a step if this one is, else those that are not; all if none is.

    Example:
        >>> alike((7, 8, 15, 16), 12, 4), alike((7, 8, 15, 16), 13, 4)
        ((8, 16), (7, 15))
    """
    return tuple(value for value in axis if (value % step == 0) == (width % step == 0)) or axis


def _neighbours(axis: tuple[int, ...], width: float) -> list[tuple[int, float]]:
    """The measured widths around one, with their weights."""
    if width <= axis[0]:
        return [(axis[0], 1.0)]
    if width >= axis[-1]:
        return [(axis[-1], 1.0)]
    place = bisect.bisect_right(axis, width)
    low, high = axis[place - 1], axis[place]
    part = (width - low) / (high - low)
    return [(low, 1.0 - part), (high, part)] if part else [(low, 1.0)]


def grid_widths(call: LayerCall, step: int = 1) -> list[tuple[int, ...]]:
    """The widths at which a layer is measured: from a share of each dense width up to all of it.

    Multiples of 16, where kernels are at their best, or of 8 below 128 channels; any where a layer is narrow.

    Args:
        call: The layer.
        step: Of the table; above 1, a few numbers of input channels that are not multiples of it are added.
    """
    parts = (0.125, 0.25, 0.5, 0.75, 1.0) if len(call.dense) > 1 else (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    axes = []
    for dense in call.dense:
        wanted = {max(1, round(part * dense)) for part in parts} | {round(dense)}
        multiple = 16 if dense >= 128 else 8
        axes.append(_rounded(wanted, dense, multiple))
    in_groups = any(not one.parts_of and one.dense != call.dense[one.place] for one in call.counts)  # go whole
    if step > 1 and axes and call.dense[0] > 16 and not in_groups:
        beside = {width - 1 for width in axes[0] if width % step == 0}
        axes[0] = sorted({*axes[0], *sorted(beside)[::2], max(beside, default=axes[0][-1])})
    points: list[tuple[int, ...]] = [()]
    for axis in axes:
        points = [(*point, width) for point in points for width in axis]
    return points


def _rounded(wanted: Iterable[int], dense: float, step: int) -> list[int]:
    """Widths of a layer, as multiples of a step unless it is narrow."""
    return sorted({min(round(dense), max(step, round(w / step) * step)) if dense > 16 else w for w in wanted})
