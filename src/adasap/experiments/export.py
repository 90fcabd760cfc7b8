"""A model by its name as a file for a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adasap.experiments.name_models import AnyModel, OpenedModel, open_any
from adasap.export import ExportedFile, Safetensors, Target, export_model, state_bytes
from adasap.groups.serialization import groups_from_json
from adasap.report import Shown, Table


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """A file that was written, and how far its runtime is from the model."""

    file: ExportedFile
    opened: OpenedModel

    def parts(self) -> Iterator[Table | str]:
        """Sizes, what the file takes, the largest differences."""
        file, opened = self.file, self.opened
        dense = "" if opened.dense is None else f", those of the dense model {_weights_mb(opened.dense):.2f} MB"
        yield f"{file.path}: {file.size_mb:.2f} MB; weights {_weights_mb(opened.model):.2f} MB{dense}"
        batches = "any batch size" if file.fixed_batch is None else f"batch size {file.fixed_batch} only"
        yield f"{file.target}, images {' x '.join(map(str, opened.input_size))}, {batches}"
        for size, difference in file.differences.items():
            yield f"largest difference from the model at batch size {size}: {difference:.1e} of the largest output"


def export_named(model: AnyModel, out: str | Path, *, to: str, fixed_batch: int | None = None) -> Exported:
    """Writes a model, opened as in `adasap.evaluate`, for a runtime and compares it there (`adasap.export_model`)."""
    opened = open_any(model)
    target = _model_file(opened) if to == "safetensors" else to
    file = export_model(opened.model, opened.example_inputs, Path(out), to=target, fixed_batch=fixed_batch)
    return Exported(file, opened)


def _model_file(opened: OpenedModel) -> Target:
    header = opened.header
    if header is None or header.plan is None or header.groups is None or opened.dense is None:
        return Safetensors(opened.spec, metadata=None if header is None else header.metadata)
    groups = groups_from_json(header.groups, opened.dense)
    return Safetensors(opened.spec, header.plan, groups, header.metadata)


def _weights_mb(model: nn.Module) -> float:
    return state_bytes(model) / 1e6
