"""A model by its name as a file for a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adasap.experiments.classes import classes_of
from adasap.experiments.export_options import Int8Options
from adasap.experiments.int8 import open_calibration
from adasap.experiments.name_models import AnyModel, OpenedModel, open_any, without_weights
from adasap.export import About, ExportedFile, Safetensors, Target, export_model, state_bytes
from adasap.groups.serialization import groups_from_json
from adasap.report import Shown, Table


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """A file that was written, and how far its runtime is from the model."""

    file: ExportedFile
    opened: OpenedModel
    remarks: tuple[str, ...] = ()

    def parts(self) -> Iterator[Table | str]:
        """Sizes, what the file takes, the largest differences; of INT8 what it loses and gains."""
        file, opened = self.file, self.opened
        yield from self.remarks
        dense = "" if opened.dense is None else f", those of the dense model {_weights_mb(opened.dense):.2f} MB"
        yield f"{file.path}: {file.size_mb:.2f} MB; weights {_weights_mb(opened.model):.2f} MB{dense}"
        batches = "any batch size" if file.fixed_batch is None else f"batch size {file.fixed_batch} only"
        yield f"{file.target}, images {' x '.join(map(str, opened.input_size))}, {batches}"
        for size, difference in file.differences.items():
            of = "the model" if file.int8 is None else "the model before INT8"
            yield f"largest difference from {of} at batch size {size}: {difference:.1e} of the largest output"
        if hasattr(opened.model, "post_processing"):
            kind = opened.model.post_processing()["kind"]  # type: ignore[operator]
            yield f"the file computes the traced part, raw outputs of the heads; what finds boxes in them: {kind}"
        if file.int8 is not None:
            yield from file.int8.parts()


def export_named(
    model: AnyModel, out: str | Path, *, to: str, fixed_batch: int | None = None, int8: Int8Options | None = None
) -> Exported:
    """Writes a model, opened as in `adasap.evaluate`, for a runtime and compares it there (`adasap.export_model`).

    Args:
        model: As for `adasap.evaluate`.
        out: As of `adasap.export_model`.
        to: A name of `adasap.export.TARGETS`.
        fixed_batch: As of `adasap.export_model`.
        int8: Weights and activations of 8 bits, by images that are named.
    """
    opened = open_any(model)
    target, calibration, remarks = _model_file(opened) if to == "safetensors" else to, None, list[str]()
    if int8 is not None:
        calibration, remarks = open_calibration(opened, int8)
    example = opened.example_inputs
    about = About.of(opened.spec, classes=classes_of(opened))
    asked: dict[str, Any] = {"fixed_batch": fixed_batch, "int8": calibration, "about": about}
    file = export_model(opened.model, example, Path(out), to=target, **asked)
    return Exported(file, opened, (*without_weights(opened), *remarks) if int8 else ())


def _model_file(opened: OpenedModel) -> Target:
    header = opened.header
    if header is None or header.plan is None or header.groups is None or opened.dense is None:
        return Safetensors(opened.spec, metadata=None if header is None else header.metadata)
    groups = groups_from_json(header.groups, opened.dense)
    return Safetensors(opened.spec, header.plan, groups, header.metadata)


def _weights_mb(model: nn.Module) -> float:
    return state_bytes(model) / 1e6
