"""What runs a model while it is timed: PyTorch, or the runtime of an exported file; each times layers and models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from adasap.errors import ArgumentError
from adasap.groups.inputs import Arguments
from adasap.profiling.layers import LayerCall
from adasap.registry import Registry

if TYPE_CHECKING:
    from adasap.profiling.timing import Setting, TimingOptions

TimeLayer = Callable[[LayerCall, Sequence[float]], float]
"""A layer and its widths -> median milliseconds of one call."""


class Engine(Protocol):
    """Runs layers and models under a setting, which its constructor takes; nothing is imported or checked by that.

    Attributes:
        fuses: A layer is timed together with what follows it element by element, as this engine computes it.
        step: Convolutions of a number of input channels that is not a multiple of it take another kernel, and so have
            times of their own; 1 if all take the same.
    """

    fuses: bool
    step: int

    def require(self) -> None:
        """Raises ArgumentError, before any work, if it is not installed or cannot run under the setting."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a table records of it beside the setting, such as its version."""
        ...

    def ready(self, model: nn.Module, inputs: Arguments) -> Callable[..., Any]:
        """The model, to be called with inputs that `Setting.batch` placed, of the batch size of these."""
        ...

    def layer_timer(self, calls: Sequence[LayerCall], options: TimingOptions, *, weight_bytes: int) -> TimeLayer:
        """What times these layers, inside `Setting.applied`.

        Args:
            calls: All that will be timed.
            options: How long.
            weight_bytes: What lies between two uses of a layer's weights in the network.
        """
        ...


ENGINES: Registry[Callable[[Setting], Engine]] = Registry(
    "engine",
    {
        "torch": "adasap.profiling.torch_engine:TorchEngine",
        "onnxruntime": "adasap.export.onnxruntime_engine:OnnxRuntimeEngine",
        "openvino": "adasap.export.openvino_engine:OpenVinoEngine",
    },
    at="adasap.profiling.ENGINES",
    error=ArgumentError,
)
"""Name, as `adasap profile --engine` and `Setting(engine=...)` take it -> what makes an engine for a setting."""
