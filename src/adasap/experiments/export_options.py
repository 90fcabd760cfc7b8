"""Options of `adasap export --int8`; no part of the library is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from typer import Option

from adasap.checks import MOST_SEED
from adasap.errors import ExportError
from adasap.experiments.known_names import complete_data

Processor = Literal["here", "avx2", "vnni", "arm"]


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """INT8 by names, as `Calibration` has it opened.

    Attributes:
        calibrate: Training images: a path, `KIND:PATH`; splits are found by their usual names.
        check: What the INT8 file is compared by; by default the test images of `calibrate`.
        images: Training images to calibrate with, drawn by the seed; fewer where there are no more.
        limit: Images of `check`, a sample drawn by the seed; None takes all.
        severity: Of the corruptions, 1 to 5.
        per_channel, processor, tolerance, force: As of `Calibration`.
        seed: Of both samples.
    """

    calibrate: str
    check: str | None = None
    images: int = 256
    limit: int | None = 500
    severity: int = 3
    per_channel: bool = True
    processor: Processor = "here"
    tolerance: float = 0.01
    force: bool = False
    seed: int = 0


def int8_options(
    int8: Annotated[
        bool, Option("--int8", help="Weights and activations of 8 bits; onnx, openvino and executorch.")
    ] = False,
    calibrate: Annotated[
        str | None,
        Option(metavar="DATA", help="Training images for --int8: a path, or KIND:PATH.", autocompletion=complete_data),
    ] = None,
    images: Annotated[int, Option(min=1, max=100_000, help="Of --calibrate.")] = 256,
    check: Annotated[
        str | None,
        Option(
            metavar="DATA",
            help="Images by which INT8 is compared with float, clean and under 15 corruptions.",
            show_default="test images of --calibrate",
            autocompletion=complete_data,
        ),
    ] = None,
    limit: Annotated[int, Option(min=2, help="Of --check, a sample of so many images.")] = 500,
    severity: Annotated[int, Option(min=1, max=5, help="Of the corruptions of --check.")] = 3,
    tolerance: Annotated[
        float, Option(min=0, max=1, help="Largest loss of a score for which the INT8 file is kept, a fraction.")
    ] = 0.01,
    processor: Annotated[
        Processor,
        Option("--target", help="Processor of the INT8 file: avx2 (x86 without VNNI) halves the range of weights."),
    ] = "here",
    per_tensor: Annotated[bool, Option("--per-tensor", help="One scale for all channels of a weight.")] = False,
    force: Annotated[bool, Option("--force", help="Keep the INT8 file whatever it loses.")] = False,
    seed: Annotated[int, Option(min=0, max=MOST_SEED, help="Of the samples of images.")] = 0,
) -> Int8Options | None:
    """None without `--int8`."""
    if not int8:
        for name, given in (("--calibrate", calibrate), ("--check", check)):
            if given is not None:
                raise ExportError(f"{name} {given} is for INT8; add --int8, or leave it out")
        return None
    if calibrate is None:
        raise ExportError("--int8 wants training images: give --calibrate DATA, a folder or KIND:PATH")
    return Int8Options(
        calibrate=calibrate,
        check=check,
        images=images,
        limit=limit,
        severity=severity,
        per_channel=not per_tensor,
        processor=processor,
        tolerance=tolerance,
        force=force,
        seed=seed,
    )
