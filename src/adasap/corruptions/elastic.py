"""Elastic distortion: a smooth random displacement of pixels, at small sizes after a random affine map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.corruptions.blur import gaussian_kernel
from adasap.corruptions.draws import uniform
from adasap.corruptions.protocol import Constants
from adasap.corruptions.shifts import beyond_border, shifted_sum

AMPLITUDE_224 = (12.5, 16.25, 21.25, 25.0, 30.0)
AMPLITUDE_SIGMA_AND_SHIFT = {
    "64": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "32": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
}
"""Shares of the image's shorter side."""


def elastic_transform(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Moves the pixels by two smoothed fields of uniform numbers.

    At 224 no affine map comes first, as in imagecorruptions: its version for any size has fields of half a percent of
    the height, smoothed over one percent of each side. At 32 and 64 the corners of a square are shifted before, as in
    the generators of CIFAR-10-C and Tiny-ImageNet-C.
    """
    height, width = images.shape[-2:]
    fields = uniform(seeds, "elastic", (2, height, width)).mul_(2).sub_(1)
    if constants == "224":
        smooth = smooth_fields(fields, 0.01 * height, 0.01 * width)
        return displaced(images, smooth.mul_(0.005 * height * AMPLITUDE_224[severity - 1])).clamp_(0, 1)
    shares = AMPLITUDE_SIGMA_AND_SHIFT[constants][severity - 1]
    amplitude, sigma, shift = (share * min(height, width) for share in shares)
    images = randomly_mapped(images, seeds, shift)
    if amplitude > 0:
        images = displaced(images, smooth_fields(fields, sigma, sigma).mul_(amplitude))
    return images.clamp_(0, 1)


def smooth_fields(fields: Tensor, sigma_rows: float, sigma_columns: float) -> Tensor:
    """Gaussian blur down the rows and along the columns of [N, 2, H, W], cut off at three sigma.

    Beyond the border the field is reflected, border pixel included (`mode="reflect"` of SciPy).
    """
    for dim, sigma in ((-2, sigma_rows), (-1, sigma_columns)):
        kernel = gaussian_kernel(sigma, truncate=3.0)
        reach, size = len(kernel) // 2, fields.shape[dim]
        margins = [(reach, reach) if axis == dim else (0, 0) for axis in (-2, -1)]
        padded = beyond_border(fields, *margins, border="reflected")
        offsets = [(place, 0) if dim == -2 else (0, place) for place in range(-reach, reach + 1)]
        weights = dict(zip(offsets, kernel.tolist(), strict=True))
        fields = shifted_sum(padded, weights, border="repeated").narrow(dim, reach, size)
    return fields.contiguous()


def displaced(images: Tensor, displacement: Tensor) -> Tensor:
    """out[y, x] = image[y + dy, x + dx], bilinear, reflected with the border pixel included.

    Args:
        images: float [N, 3, H, W].
        displacement: dx and dy in pixels, float [N, 2, H, W].

    Example:
        >>> displaced(torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[[1.5000, 3.0000, 4.0000]]]])
    """
    height, width = images.shape[-2:]
    columns = (torch.arange(width, device=images.device) + displacement[:, 0]).add_(0.5).mul_(2 / width).sub_(1)
    rows = torch.arange(height, device=images.device)[:, None] + displacement[:, 1]
    grid = torch.stack([columns, rows.add_(0.5).mul_(2 / height).sub_(1)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def randomly_mapped(images: Tensor, seeds: Tensor, shift: float) -> Tensor:
    """The affine map that moves three corners of a centred square by up to `shift` pixels in x and in y.

    The image is mirrored about its border pixels. (OpenCV, which the benchmark calls, rounds positions to 1/32 pixel.)
    """
    height, width = images.shape[-2:]
    half = max(1, min(height, width) // 3)
    corners = torch.tensor([[half, half], [half, -half], [-half, -half]], dtype=torch.float64, device=images.device)
    corners += torch.tensor([width // 2, height // 2], device=images.device)
    moved = corners + uniform(seeds, "affine", (3, 2)).double().mul_(2).sub_(1).mul_(shift)
    # Pixels are pulled from where the inverse map sends them: [moved, 1] @ inverse = corners.
    inverse = torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), corners.expand_as(moved)).float()
    columns = torch.arange(width, device=images.device).expand(height, width)
    rows = torch.arange(height, device=images.device)[:, None].expand(height, width)
    a, b, offset = inverse[:, :, None, None, :].unbind(dim=1)
    places = columns[..., None] * a + rows[..., None] * b + offset
    spans = torch.tensor([width - 1, height - 1], device=images.device).clamp_(min=1)
    grid = places * 2 / spans - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
