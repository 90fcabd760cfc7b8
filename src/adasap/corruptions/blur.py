"""Corruptions that smear the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adasap.corruptions.protocol import Constants
from adasap.corruptions.shifts import beyond_border, shifted_sum

GAUSSIAN_SIGMA = {
    "224": (1.0, 2.0, 3.0, 4.0, 6.0),
    "64": (0.5, 0.75, 1.0, 1.25, 1.5),
    "32": (0.4, 0.6, 0.7, 0.8, 1.0),
}

DISK_RADIUS_AND_ALIAS_SIGMA = {
    "224": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "64": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "32": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
}
MAX_DIRECT_WEIGHTS = 40  # a sum of more shifted images is slower than two Fourier transforms


def gaussian_kernel(sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Normalised 1-d Gaussian, float [2r + 1], cut off at r = truncate sigma as in SciPy's `gaussian_filter`."""
    radius = math.floor(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).float()


def blur_axes(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur with the border pixel repeated (`mode="nearest"`)."""
    return _along_axes(images, gaussian_kernel(sigma), border="repeated")


def gaussian_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Blurs each colour with a Gaussian (a validation corruption of the benchmark)."""
    return blur_axes(images, GAUSSIAN_SIGMA[constants][severity - 1]).clamp_(0, 1)


def disk_kernel(radius: float, alias_sigma: float) -> Tensor:
    """A disk with a softened rim, float [2r + 1, 2r + 1]: what a lens out of focus makes of a point.

    A disk of sum one is softened within a square of half-side max(8, radius), mirrored at its border, as the benchmark
    does with OpenCV. So disks of radius 8 and 10, which touch that border, end with sums of 1.0130 and 1.0108 and
    brighten the image a little. Rows and columns that hold nothing are left out.
    """
    half, alias_radius = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).double()
    kernel = gaussian_kernel(alias_sigma, truncate=alias_radius / alias_sigma)
    disk = _along_axes(disk / disk.sum(), kernel, border="mirrored")
    reach = int(offsets.abs()[disk.amax(dim=0) > 1e-9].max())
    return disk[half - reach : half + reach + 1, half - reach : half + reach + 1].float()


def defocus_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Convolves each colour with a disk; the image is mirrored at its border."""
    kernel = disk_kernel(*DISK_RADIUS_AND_ALIAS_SIGMA[constants][severity - 1])
    places = (kernel > 1e-9).nonzero()
    if len(places) > MAX_DIRECT_WEIGHTS:
        return _fourier_correlation(images, kernel.to(images)).clamp_(0, 1)
    offsets = [(down, right) for down, right in (places - len(kernel) // 2).tolist()]
    weights = dict(zip(offsets, kernel[kernel > 1e-9].tolist(), strict=True))
    return shifted_sum(images, weights, border="mirrored").clamp_(0, 1)


def _along_axes(images: Tensor, kernel: Tensor, *, border: str) -> Tensor:
    """Correlation with a 1-d kernel of odd length along rows, then along columns."""
    weights = list(enumerate(kernel.tolist(), start=-(len(kernel) // 2)))
    images = shifted_sum(images, {(0, right): weight for right, weight in weights}, border=border)
    return shifted_sum(images, {(down, 0): weight for down, weight in weights}, border=border)


def _fourier_correlation(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlation with a symmetric kernel; of the circular one, the part that does not wrap around."""
    radius = len(kernel) // 2
    padded = beyond_border(images, (radius, radius), (radius, radius), border="mirrored")
    sides = [_fast_length(side) for side in padded.shape[-2:]]
    # Rounding errors grow with the values, so these are centred; `add` puts back what the kernel makes of the centre.
    spectrum = torch.fft.rfft2(padded.sub_(0.5), s=sides).mul_(torch.fft.rfft2(kernel, s=sides))
    height, width = images.shape[-2:]
    whole: Tensor = torch.fft.irfft2(spectrum, s=sides)
    return whole[..., 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width].add(kernel.sum() / 2)


def _fast_length(length: int) -> int:
    """The next length without prime factors above 5."""
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return length if rest == 1 else _fast_length(length + 1)
