"""What several verbs take: a model by its name with all that is said about it, data options, seeds, trust."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Option
from typer.core import TyperCommand

from adasap.checks import MOST_PIXELS, MOST_SEED
from adasap.experiments.known_names import complete_model, complete_path
from adasap.experiments.terminal import open_console

if TYPE_CHECKING:
    from adasap.experiments.name_models import ModelName

Verb = Callable[..., None]
Named = Callable[[str], "ModelName"]
"""From a model's text to the model, with what the options of a verb say about it."""

_MODEL = (
    "A model file (model.safetensors), the folder of a run, torchvision:NAME, timm:NAME, smp:NAME, adasap:NAME, "
    "module:function, or a recipe (its dense model)."
)
_DATA = "Of --data: exif_orientation=false, white=4095, skip_broken=true, follow_links=true, split=val; repeat."
_CHANNELS = "Of a named model's inputs, a number per channel; a model file knows its own."
_WEIGHTS = "File (.safetensors, .pth, .pt, .ckpt) that fills a named model, or DEFAULT: published ones."
_INPUTS = "Of a named model's inputs; a model file knows its own."
_SIZE = "Image side in pixels; a model file knows its own."
_KIND = "what its kind is made for"
_TRUST = "Let a file (model, recipe, run) import the module that it names."

ModelArgument = Annotated[str, Argument(metavar="MODEL", help=_MODEL, autocompletion=complete_model)]
DataOptions = Annotated[list[str] | None, Option("--data-option", metavar="KEY=VALUE", help=_DATA)]
SplitOption = Annotated[str | None, Option(help="Part of --data, such as val; `.` reads a folder itself.")]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Print errors and warnings alone.")]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object a line, for programs.")]
SeedOption = Annotated[int, Option(min=0, max=MOST_SEED, help="Of every random draw.")]
TrustOption = Annotated[bool, Option("--trust-builder", help=_TRUST)]


class PerChannel(tuple[float, ...]):
    """A number for each channel; a class of its own, since Typer takes `tuple[...]` for a fixed number of words."""


def _numbers(text: str) -> PerChannel:
    try:
        numbers = PerChannel(float(number) for number in text.split(","))
    except ValueError as error:
        raise BadParameter(f"{text!r} is not numbers; give one per channel, such as .5 .5 .5") from error
    if not all(map(math.isfinite, numbers)):
        raise BadParameter(f"{text!r}: give finite numbers, one per channel")
    return numbers


def _model(
    size: Annotated[int | None, Option(min=1, max=MOST_PIXELS, help=_SIZE, show_default=_KIND)] = None,
    channels: Annotated[int | None, Option(min=1, help=_INPUTS, show_default="its first convolution's")] = None,
    weights: Annotated[Path | None, Option(help=_WEIGHTS, autocompletion=complete_path)] = None,
    mean: Annotated[PerChannel | None, Option(parser=_numbers, metavar="NUMBER...", help=_CHANNELS)] = None,
    std: Annotated[PerChannel | None, Option(parser=_numbers, metavar="NUMBER...", help=_CHANNELS)] = None,
    model_option: Annotated[
        list[str] | None, Option(help="KEY=VALUE for a named model's builder, value in YAML; may be repeated.")
    ] = None,
    trust_builder: TrustOption = False,
) -> Named:
    """What the files of weights hold is told on stderr."""
    from adasap.experiments.name_models import ModelName

    def named(text: str) -> ModelName:
        return ModelName(
            name=text,
            size=size,
            channels=channels,
            weights=None if weights is None else str(weights),
            mean=mean or (),
            std=std or (),
            options=model_option or (),
            trust_builder=trust_builder,
            say=lambda line: open_console(stderr=True).print(line, soft_wrap=True),
        )

    return named


def with_model_options(verb: Verb) -> Verb:
    """The verb with the options of `_model` in place of its parameter `named`, which it is called with."""
    own, shared = inspect.signature(verb, eval_str=True), inspect.signature(_model, eval_str=True)

    def call(**given: Any) -> None:
        verb(named=_model(**{name: given.pop(name) for name in shared.parameters}), **given)

    parameters = [
        one.replace(kind=one.KEYWORD_ONLY)
        for parameter in own.parameters.values()
        for one in (shared.parameters.values() if parameter.name == "named" else [parameter])
    ]
    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


class VerbWithNumbers(TyperCommand):
    """A verb whose `--mean` and `--std` take as many numbers as there are: `--mean .5`, `--mean .5 .5 .5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined_numbers(args))


def joined_numbers(args: Sequence[str]) -> list[str]:
    """The words of a command line, numbers after `--mean` and `--std` joined to one word.

    Example:
        >>> joined_numbers(["--mean", ".5", ".4", "net.safetensors", "--std", "1"])
        ['--mean', '.5,.4', 'net.safetensors', '--std', '1']
    """
    joined: list[str] = []
    option = ""
    for word in args:
        if option in ("--mean", "--std") and _is_number(word) and _is_number(joined[-1].rpartition(",")[2]):
            joined[-1] += f",{word}"
            continue
        option = word if word.startswith("--") else option if _is_number(word) else ""
        joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def listed(texts: Sequence[str] | None) -> list[str] | None:
    """What an option that takes a list was given: repeated, with commas, or both.

    Example:
        >>> listed(["fog,frost", "snow"])
        ['fog', 'frost', 'snow']
    """
    return None if texts is None else [name.strip() for text in texts for name in text.split(",") if name.strip()]
