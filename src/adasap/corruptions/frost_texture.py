"""Textures of ice on a pane, for frost: generated, not photographed.

The benchmark blends a random crop of a photograph of ice: one of five files, two of which are the same picture. Here
the four pictures are generated, once per process and size. Each takes over from its photograph the mean colour, the
two main directions of the colours with their deviations, the quantiles of the brightness, and the radial spectrum: the
powers were set so that the finished picture, and crops of it, have about the spectrum of the photograph. So mean,
deviation, histogram and roughness agree at every size. What differs is the shapes: ours are small ferns of ice in
random directions, evenly spread, where the photographs have wrinkles, facets and streaks, denser here than there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.corruptions.draws import normal, uniform
from adasap.corruptions.protocol import Constants

SCALE = {"224": 1.1, "64": 0.3, "32": 0.2}
"""How the texture is resized before a crop is taken; more where the image would not fit in."""

HEIGHT, WIDTH = 480, 640
"""Pixels of a texture at scale 1; the photographs have 315 to 600 rows and 527 to 900 columns."""

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Ice:
    """What a picture of ice has in common with its photograph.

    Attributes:
        mean: Mean red, green and blue, 0 to 255.
        main: One deviation along the main direction of the colours (the first principal component).
        second: The same along the second direction.
        quantiles: Of the main component divided by its deviation, at `LEVELS`.
        log_power: log10 of the power density that it is given at 2^-8, 2^-7, ... 2^-1 cycles per pixel.
    """

    mean: tuple[float, float, float]
    main: tuple[float, float, float]
    second: tuple[float, float, float]
    quantiles: tuple[float, ...]
    log_power: tuple[float, ...]


TEAL = Ice(
    (77.7, 149.1, 165.7),
    (25.8, 15.6, 12.0),
    (-7.5, 5.1, 9.6),
    (-2.52, -1.79, -1.44, -0.75, -0.12, 0.63, 1.84, 2.65, 4.82),
    (3.00, 2.43, 1.90, 0.95, 0.26, 0.04, -0.14, -1.10),
)
WHITE = Ice(
    (200.8, 205.4, 214.5),
    (21.3, 22.1, 22.5),
    (-1.5, -0.2, 1.6),
    (-6.83, -2.99, -1.86, -0.54, 0.16, 0.70, 1.34, 1.73, 2.12),
    (3.20, 1.96, 1.77, 1.38, 1.04, 0.32, -0.09, -1.26),
)
GREY = Ice(
    (137.6, 152.8, 165.2),
    (28.4, 28.5, 29.8),
    (-1.4, -1.0, 2.3),
    (-4.45, -2.42, -1.66, -0.62, 0.01, 0.59, 1.62, 2.83, 3.52),
    (3.30, 1.37, 1.54, 1.28, 0.91, 0.50, 0.13, -0.91),
)
DARK = Ice(
    (112.4, 123.4, 134.8),
    (44.4, 43.3, 41.6),
    (-1.4, -0.1, 1.5),
    (-2.27, -1.82, -1.47, -0.74, -0.10, 0.63, 1.85, 2.65, 3.05),
    (3.40, 2.06, 1.86, 1.38, 0.76, 0.18, -0.36, -0.88),
)
PICTURES = (TEAL, WHITE, WHITE, GREY, DARK)
"""Drawn with equal chances; the white one stands twice because its photograph does."""


def crops(size: Sequence[int], seeds: Tensor, constants: Constants) -> Tensor:
    """Random crops of random pictures, float [N, 3, H, W] in [0, 1]."""
    height, width = size
    bank = textures(max(SCALE[constants], 1.1 * height / HEIGHT, 1.1 * width / WIDTH), seeds.device)
    bounds = torch.tensor([len(PICTURES), bank.shape[2] - height, bank.shape[3] - width], device=seeds.device)
    draws = (uniform(seeds, "ice", (3,)) * bounds).int().tolist()
    cut = [
        bank[_DISTINCT.index(PICTURES[picture]), :, top : top + height, left : left + width]
        for picture, top, left in draws
    ]
    return torch.stack(cut).float().div_(255)


_DISTINCT = tuple(dict.fromkeys(PICTURES))


@lru_cache(maxsize=4)
def textures(scale: float, device: torch.device) -> Tensor:
    """The distinct pictures, resized: uint8 [4, 3, ceil(480 scale), ceil(640 scale)], the same in every process.

    Example:
        >>> textures(0.2, torch.device("cpu")).shape
        torch.Size([4, 3, 96, 128])
    """
    size = (math.ceil(HEIGHT * scale), math.ceil(WIDTH * scale))
    mode = "bicubic" if scale > 1 else "bilinear"  # as the benchmark's two versions do; neither smooths before it skips
    resized = F.interpolate(_full_size(), size=size, mode=mode, align_corners=False)
    return resized.round_().clamp_(0, 255).byte().to(device)


@lru_cache(maxsize=1)
def _full_size() -> Tensor:
    """float [4, 3, 480, 640], 0 to 255; always made on the CPU, so that every device gets the same."""
    return torch.stack([paint(ice, seed) for seed, ice in enumerate(_DISTINCT)])


def paint(ice: Ice, seed: int) -> Tensor:
    """A picture of ice, float [3, 480, 640], 0 to 255: crystals, then the photograph's spectrum, histogram, colours."""
    main = crystals(seed)
    for _ in range(2):  # each of the two steps moves what the other has set, less every time
        main = with_quantiles(with_spectrum(main, ice.log_power), ice.quantiles)
    # The same turned by half a circle is as good as another one for the faint second direction of colour.
    second = main.flip(0, 1)
    second = second - (second * main).mean() * main
    second /= second.std()
    colours = torch.tensor([ice.main, ice.second])
    picture: Tensor = torch.tensordot(colours, torch.stack([main, second]), dims=([0], [0]))
    return picture.add_(torch.tensor(ice.mean)[:, None, None]).round_().clamp_(0, 255)


def crystals(seed: int, *, count: int = 1600) -> Tensor:
    """Ferns of ice, the brighter over the darker, on a rough ground: float [480, 640], on a torus."""
    seeds = torch.tensor([seed])
    place, turn, size, strength = uniform(seeds, "ferns", (4, count))[0]
    corners = (place * HEIGHT * WIDTH).long().tolist()
    field = 0.1 * normal(seeds, "ground", (HEIGHT, WIDTH))[0]
    for corner, angle, length, force in zip(corners, 2 * math.pi * turn, 8 + 54 * size**3, strength, strict=True):
        stamp = fern(angle, length) * (0.1 + 0.9 * force)
        offsets = torch.arange(len(stamp))
        rows = (corner // WIDTH + offsets) % HEIGHT
        columns = (corner % WIDTH + offsets) % WIDTH
        field[rows[:, None], columns] = torch.maximum(field[rows[:, None], columns], stamp)
    return field


def fern(angle_rad: Tensor, length: Tensor) -> Tensor:
    """A stem with barbs at 60 degrees, as ice grows: float [S, S] in [0, 1], S the length (float []) and a rim."""
    half = math.ceil(length.item() / 2) + 1
    side = torch.arange(-half, half + 1.0)
    along = side[:, None] * angle_rad.sin() + side * angle_rad.cos() + length / 2
    off = (side * angle_rad.sin() - side[:, None] * angle_rad.cos()).abs()
    reach = 0.22 * (length - along)
    blade = (1 - off / reach.clamp_min(1)).clamp_min(0) * (along > 0) * (reach > 0)
    barbs = torch.cos(2 * math.pi / (2.5 + length / 20) * (along - off / math.sqrt(3)))
    return blade * torch.maximum(0.5 + 0.5 * barbs, 1 - off)


def with_spectrum(field: Tensor, log_power: Sequence[float]) -> Tensor:
    """Scales the frequencies so that the radial power density is the stated one, float [H, W], mean 0.

    What the stated bands leave of a variance of 1, or at least 0.12, goes to lower frequencies: the slow change across
    the picture.
    """
    height, width = field.shape
    spectrum = torch.fft.rfft2(field)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    octave = frequency.clamp_min(2.0**-9).log2() + 8
    ring = (8 * (octave + 1)).long()
    power = spectrum.abs().square().flatten()
    own = torch.zeros(80).scatter_reduce_(0, ring.flatten(), power, "mean", include_self=False)
    values = torch.tensor([*log_power, log_power[-1]])
    below = octave.clamp(0, 7).long()
    wanted = 10 ** values[below].lerp(values[below + 1], (octave - below).clamp(0, 1))
    wanted[0, 0] = 0
    slow, both = octave < -0.5, torch.full_like(wanted, 2)
    both[:, 0] = both[:, -1] = 1  # the other columns stand for their mirrored twins too
    left = height * width - (both * wanted)[~slow].sum()
    wanted[slow] *= left.clamp_min(0.12 * height * width) / (both * wanted)[slow].sum()
    shaped = spectrum * torch.sqrt(wanted * height * width / own[ring].clamp_min(1e-12))
    result: Tensor = torch.fft.irfft2(shaped, s=(height, width))
    return result


def with_quantiles(field: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Changes the values, not their order, so that their quantiles at `LEVELS` are these; then mean 0, deviation 1."""
    rank = torch.empty(field.numel())
    rank[field.flatten().argsort(stable=True)] = torch.linspace(0, 1, field.numel())
    levels, values = torch.tensor(LEVELS), torch.tensor(quantiles)
    above = torch.searchsorted(levels, rank).clamp(1, len(levels) - 1)
    share = (rank - levels[above - 1]) / (levels[above] - levels[above - 1])
    mapped = values[above - 1].lerp(values[above], share).view_as(field)
    return (mapped - mapped.mean()) / mapped.std()
