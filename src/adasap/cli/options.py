"""What several verbs take: a model by its name with all that is said about it, data options, seeds, trust."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option
from typer.core import TyperCommand

from adasap.checks import MOST_PIXELS, MOST_SEED
from adasap.experiments import help_texts as text
from adasap.experiments.export_options import Int8Options, int8_options
from adasap.experiments.known_names import complete_model, complete_path
from adasap.experiments.terminal import open_console
from adasap.experiments.words import PerChannel, joined_numbers, numbers_of

if TYPE_CHECKING:
    from adasap.experiments.name_models import ModelName

Verb = Callable[..., None]
Named = Callable[[str], "ModelName"]
"""From a model's text to the model, with what the options of a verb say about it."""
Int8Given = Int8Options | None

ModelArgument = Annotated[str, Argument(metavar="MODEL", help=text.MODEL, autocompletion=complete_model)]
Models = Annotated[list[str], Argument(metavar="MODEL...", help=text.MODELS, autocompletion=complete_model)]
DataOptions = Annotated[list[str] | None, Option("--data-option", metavar="KEY=VALUE", help=text.DATA)]
SplitOption = Annotated[str | None, Option(help="Part of --data, such as val; `.` reads a folder itself.")]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Print errors and warnings alone.")]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object a line, for programs.")]
SeedOption = Annotated[int, Option(min=0, max=MOST_SEED, help="Of every random draw.")]
TrustOption = Annotated[bool, Option("--trust-builder", help=text.TRUST)]


def _model(
    size: Annotated[int | None, Option(min=1, max=MOST_PIXELS, help=text.SIZE, show_default=text.KIND)] = None,
    channels: Annotated[int | None, Option(min=1, help=text.INPUTS, show_default="its first convolution's")] = None,
    weights: Annotated[Path | None, Option(help=text.WEIGHTS, autocompletion=complete_path)] = None,
    mean: Annotated[PerChannel | None, Option(parser=numbers_of, metavar="NUMBER...", help=text.CHANNELS)] = None,
    std: Annotated[PerChannel | None, Option(parser=numbers_of, metavar="NUMBER...", help=text.CHANNELS)] = None,
    model_option: Annotated[
        list[str] | None, Option(help="KEY=VALUE for a named model's builder, value in YAML; may be repeated.")
    ] = None,
    trust_builder: TrustOption = False,
) -> Named:
    """What the files of weights hold is told on stderr."""
    from adasap.experiments.name_models import ModelName

    def named(name: str) -> ModelName:
        return ModelName(
            name=name,
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


_SHARED: dict[str, Callable[..., Any]] = {"named": _model, "int8": int8_options}
"""Parameter of a verb -> the function whose parameters are options in its place."""


def with_model_options(verb: Verb) -> Verb:
    """The verb with the options of `_SHARED` in place of the parameters that it is called with."""
    own = inspect.signature(verb, eval_str=True)
    shared = {n: inspect.signature(_SHARED[n], eval_str=True).parameters for n in own.parameters if n in _SHARED}

    def call(**given: Any) -> None:
        made = {name: _SHARED[name](**{key: given.pop(key) for key in keys}) for name, keys in shared.items()}
        verb(**made, **given)

    parameters = [
        one.replace(kind=one.KEYWORD_ONLY)
        for parameter in own.parameters.values()
        for one in shared.get(parameter.name, {parameter.name: parameter}).values()
    ]
    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


class VerbWithNumbers(TyperCommand):
    """A verb whose `--mean` and `--std` take as many numbers as there are: `--mean .5`, `--mean .5 .5 .5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined_numbers(args))
