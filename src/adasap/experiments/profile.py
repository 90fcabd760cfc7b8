"""What a model needs, the dense one beside it where a model file knows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from adasap.checks import require_within
from adasap.errors import ModelError
from adasap.experiments.name_models import AnyModel, Size, open_any
from adasap.profiling.profile import Profile, profile_models
from adasap.profiling.timing import Setting
from adasap.report import Shown, Table, profile_table


@dataclass(frozen=True, repr=False)
class Profiles(Shown):
    """Models measured side by side; it prints as a table.

    Attributes:
        of: Name -> parameters, MACs, memory and latency: `dense` and `pruned` of a model file, else `model`.
    """

    of: dict[str, Profile]

    def __getitem__(self, name: str) -> Profile:
        return self.of[name]

    def parts(self) -> Iterator[Table | str]:
        """One table, and what its MACs leave out."""
        yield profile_table(self.of)
        for name, measured in self.of.items():
            if measured.uncounted:
                yield f"{name}: MACs do not count {', '.join(measured.uncounted)}"


def profile(
    model: AnyModel,
    *,
    batch: int = 16,
    seconds: float = 4.0,
    setting: Setting | None = None,
    size: Size | None = None,
    trust_builder: bool = False,
) -> Profiles:
    """Measures parameters, MACs, peak memory and latency; the dense model takes turns with a pruned one of a file.

    Args:
        model: A module (copied), a `ModelSpec`, a builder's name, a model file or a recipe.
        batch: The larger batch; batch 1 is always measured.
        seconds: Time for each comparison of whole models, up to an hour.
        setting: Device, threads, number type, engine of the latency; by default float32 in PyTorch on the CPU
            (`adasap.profiling.Setting`).
        size: Of the images, where neither the model nor its kind knows: a side, or channels, height and width.
        trust_builder: Let a file import the module that it names.
    Raises:
        ModelError: If the model cannot be opened, or the device cannot be used.

    Example:
        >>> found = profile(torch.nn.Conv2d(3, 4, 3), size=8, seconds=0.0)
        >>> found["model"].parameters, found["model"].macs
        (112, 3888)
    """
    setting = Setting() if setting is None else setting
    require_usable(setting, seconds)
    opened = open_any(model, size=size, trust_builder=trust_builder)
    models = {"model": opened.model} if opened.dense is None else {"dense": opened.dense, "pruned": opened.model}
    sizes = (1, batch) if batch > 1 else (1,)
    return Profiles(profile_models(models, opened.example_inputs, batch_sizes=sizes, seconds=seconds, setting=setting))


def require_usable(setting: Setting, seconds: float) -> None:
    """Checks a time to measure for, and that device and engine are there.

    Raises:
        ModelError: If not; of an engine ArgumentError.
    """
    require_within(ModelError, 0, 3600, **{"--seconds": seconds})
    setting.opened_engine()
    try:
        torch.zeros(1, device=setting.device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"device {setting.device!r} cannot be used ({first}); give --device cpu, or cuda where there is one"
        ) from None
