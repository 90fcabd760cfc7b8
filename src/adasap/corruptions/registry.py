"""The corruptions by name. Imports no torch, so that the command line can name them."""

from __future__ import annotations

from collections.abc import Sequence

from adasap.corruptions.protocol import Corruption, is_of_colour
from adasap.errors import DataError
from adasap.registry import Registry

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions that are reported."""

VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four kept apart, on which choices may be made."""

CORRUPTIONS: Registry[Corruption] = Registry(
    "corruption",
    {
        "gaussian_noise": "adasap.corruptions.noise:gaussian_noise",
        "shot_noise": "adasap.corruptions.noise:shot_noise",
        "impulse_noise": "adasap.corruptions.noise:impulse_noise",
        "speckle_noise": "adasap.corruptions.noise:speckle_noise",
        "defocus_blur": "adasap.corruptions.blur:defocus_blur",
        "glass_blur": "adasap.corruptions.glass:glass_blur",
        "motion_blur": "adasap.corruptions.motion:motion_blur",
        "zoom_blur": "adasap.corruptions.zoom:zoom_blur",
        "gaussian_blur": "adasap.corruptions.blur:gaussian_blur",
        "contrast": "adasap.corruptions.digital:contrast",
        "snow": "adasap.corruptions.weather:snow",
        "frost": "adasap.corruptions.weather:frost",
        "fog": "adasap.corruptions.weather:fog",
        "spatter": "adasap.corruptions.spatter:spatter",
        "brightness": "adasap.corruptions.digital:brightness",
        "elastic_transform": "adasap.corruptions.elastic:elastic_transform",
        "pixelate": "adasap.corruptions.digital:pixelate",
        "jpeg_compression": "adasap.corruptions.digital:jpeg_compression",
        "saturate": "adasap.corruptions.digital:saturate",
    },
    at="adasap.corruptions.CORRUPTIONS",
    error=DataError,
)
"""Name -> corruption; open to your own."""


def require_channels(names: Sequence[str], channels: int) -> None:
    """Checks that images of so many channels can be corrupted.

    Raises:
        DataError: Names all corruptions that cannot be computed, and those that can.

    Example:
        >>> require_channels(["fog", "snow"], 4)
        Traceback (most recent call last):
        ...
        adasap.errors.DataError: images have 4 channels, and snow is defined for grey (1) and colour (3); leave it out,
        and name those that are wanted with `corruptions`, such as fog
    """
    wrong = [] if channels in (1, 3) else [name for name in names if is_of_colour(CORRUPTIONS.get(name))]
    if wrong or channels < 1:
        others = [n for n in names if n not in wrong] or [n for n in BENCHMARK if not is_of_colour(CORRUPTIONS.get(n))]
        are, them = ("is", "it") if len(wrong) == 1 else ("are", "them")
        raise DataError(
            f"images have {channels} channels, and {', '.join(wrong)} {are} defined for grey (1) and colour (3); leave "
            f"{them} out, and name those that are wanted with `corruptions`, such as {', '.join(others)}"
        )
