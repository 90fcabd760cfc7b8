"""What an exported file says of its model: how images are prepared, what its outputs mean, what comes after them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from adasap import __version__
from adasap.errors import ExportError
from adasap.io import parse_json
from adasap.models import ModelSpec
from adasap.models.preparation import preparation_of
from adasap.schema import checked

ABOUT, INT8 = "adasap.model", "adasap.int8"
"""Under these names a file holds JSON: of its model (`About`), and of INT8 how it was made."""


@dataclass(frozen=True)
class About:
    """What a file says of its model; nothing of it is needed to run the file.

    Attributes:
        task: `classification`, `detection`, `segmentation`; empty where nobody knows.
        input_size: Channels, height, width.
        mean, std: Per channel: (x / 255 - mean) / std of images with red first; empty where nobody knows.
        resize: Of published weights: the shorter side before the central crop to `input_size`, in pixels.
        interpolation: How that computes pixels.
        classes: Names of the outputs 0, 1, ..., of a detector of the labels 1, 2, ...; empty where nobody knows.
        outputs: What the outputs are called, in their order.
        post_processing: What makes answers of them; plain JSON values, `kind` first.
        builder, options: How the model was built before anything was cut (`ModelSpec`); empty where nobody knows.
        adasap: Version that wrote it.
    """

    task: str = ""
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | None = None
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    post_processing: dict[str, Any] = field(default_factory=dict)
    builder: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    adasap: str = __version__

    @classmethod
    def of(cls, spec: ModelSpec | None, *, classes: Sequence[str] | None = None, task: str = "") -> About:
        """What a spec and a data set know.

        Example:
            >>> About.of(ModelSpec("adasap:digits_net"), task="classification").mean
            (0.485, 0.456, 0.406)
        """
        names = tuple(classes or ())
        if spec is None:
            return cls(task, classes=names)
        prepared = preparation_of(spec)
        resize = prepared.resize if prepared.said_by else None
        says: dict[str, Any] = {"mean": spec.mean, "std": spec.std, "builder": spec.builder, "options": spec.options}
        return cls(task, spec.input_size, resize=resize, interpolation=prepared.interpolation, classes=names, **says)

    def filled(self, model: nn.Module, images: Tensor, outputs: Any) -> About:
        """With what one answer of the model shows.

        Args:
            model: It.
            images: What it was given, float [N, C, H, W].
            outputs: What it answered.
        """
        names = tuple(outputs) if isinstance(outputs, dict) else ()
        first = next(iter(outputs.values())) if names else outputs
        while isinstance(first, list | tuple) and first:
            first = first[0]
        axes, size = first.ndim if isinstance(first, Tensor) else 0, tuple(images.shape[1:])
        task = "detection" if hasattr(model, "computed_by") else {2: "classification", 4: "segmentation"}.get(axes, "")
        then: dict[str, Any] = {"kind": "argmax", "axis": 1} if axes in (2, 4) else {}
        if task == "detection":
            then = model.post_processing()  # type: ignore[operator]
        elif task == "segmentation":
            then["before"] = "bilinear resizing to the size of the mask, corners not aligned"
        return replace(
            self,
            task=self.task or task,
            input_size=(size[0], size[1], size[2]) if len(size) == 3 else None,
            outputs=names or ("output",),
            post_processing=then,
        )

    @property
    def spec(self) -> ModelSpec | None:
        """How the model was built, without weights."""
        return ModelSpec(self.builder, self.options, self.input_size, self.mean, self.std) if self.builder else None

    @property
    def text(self) -> str:
        """As it stands in a file."""
        try:
            return json.dumps({**asdict(self), "pixels": "(x / 255 - mean) / std, red first"}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"what the file is to say of its model cannot be written as JSON ({error}); give plain values"
            ) from error

    @classmethod
    def read(cls, text: str) -> About:
        """From a file of anybody's.

        Raises:
            ExportError: If it is no such text.
            DataError: Likewise.
        """
        return checked(cls, parse_json(text, where=ABOUT, error=ExportError), where=ABOUT)
