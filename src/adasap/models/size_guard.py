"""Building what a stranger's options describe without eating the machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from adasap.errors import ModelError
from adasap.machine_memory import free_bytes
from adasap.models.deadline import TooSlowError, deadline

MOST_TENSORS = 10_000
TRIAL_SECONDS = 20
"""Of processor time, for a model without numbers; the largest of timm take two."""


def built_within_bounds(
    build: Callable[..., nn.Module], options: Mapping[str, Any], *, most_numbers: int | None = None
) -> nn.Module:
    """The model, after a trial without memory has shown that it fits.

    Args:
        build: A builder of this package, torchvision or timm.
        options: Its keyword arguments.
        most_numbers: Parameters and buffers may have so many numbers; None: half of what free memory holds.
    Raises:
        ModelError: If there are more, or more than `MOST_TENSORS` tensors, or the trial takes over `TRIAL_SECONDS`.
    """
    with _counted(free_bytes() // 8 if most_numbers is None else most_numbers):
        try:
            with deadline(TRIAL_SECONDS):
                _on_meta(build, options)
        except ModelError:
            raise
        except TooSlowError:
            raise ModelError(
                f"the options describe a model that is not put together within {TRIAL_SECONDS} s, and that without "
                "its numbers; correct them"
            ) from None
        except Exception:
            return build(**options)  # it reads numbers, which the trial has not, or has something to say
        return build(**options)


def skeleton(build: Callable[..., nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """The model on the meta device, which has shapes only; with numbers if its builder cannot do without."""
    try:
        return _on_meta(build, options)
    except ModelError:
        raise
    except Exception:
        return build(**options)


def _on_meta(build: Callable[..., nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """Draws no random numbers and gives no warnings."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        warnings.simplefilter("ignore")
        return build(**options)


@contextmanager
def _counted(limit: int) -> Iterator[None]:
    """Ends a builder at the tensor that is one too many, or that brings the numbers beyond the limit."""
    counts: dict[str, list[int]] = {"meta": [0, 0], "real": [0, 0]}

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        seen = counts["meta" if tensor.is_meta else "real"]
        seen[0] += 1
        seen[1] += tensor.numel()
        if seen[0] > MOST_TENSORS or seen[1] > limit:
            raise ModelError(
                f"the options describe a model of over {seen[0] - 1:,} tensors and {seen[1]:,} numbers "
                f"({4 * seen[1] / 1e9:,.1f} GB); at most {MOST_TENSORS:,} tensors and {limit:,} numbers are built "
                "here; correct them"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
