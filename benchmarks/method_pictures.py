"""Draws the pictures of docs/method.md: the three steps, the radius rule, perturbations in a plane.

    python benchmarks/method_pictures.py

Radii and perturbations are computed by the library; the file is SVG without a drawing library.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from adasap import AdaptivePerturbation, PerturbationOptions, UniformPerturbation, adaptive_radius, trace_groups
from adasap.io import atomic_write

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
INK, SOFT, TEAL, ORANGE, BLUE = "#777777", "#bbbbbb", "#00897b", "#e65100", "#1e88e5"


def main() -> None:
    for name, picture in (("steps", steps()), ("radius", radius()), ("ellipsoid", ellipsoid())):
        with atomic_write(IMAGES / f"method-{name}.svg") as file:
            file.write(picture.encode())


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """A picture that scales, with a title for those who cannot see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"'
    style = f'font-family="sans-serif" font-size="13" fill="{INK}"'
    return "\n".join([f"{head} {style}>", f"<title>{title}</title>", *parts, "</svg>", ""])


def text(x: float, y: float, words: str, *, color: str = INK, anchor: str = "middle", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}">{words}</text>'


def line(points: list[tuple[float, float]], color: str, width: float = 2, dashes: str = "none") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    stroke = f'stroke="{color}" stroke-width="{width}" stroke-dasharray="{dashes}"'
    return f'<polyline points="{path}" fill="none" {stroke}/>'


def dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>'


def steps() -> str:
    """Channels as bars, their radii as circles, over the three steps."""
    scores = torch.tensor([5.0, 1.2, 4.2, 2.0, 3.4, 0.6])
    radii = adaptive_radius({"g": scores}, rho_min=0.01, rho_max=2.0)["g"]
    kept = scores >= scores.sort(descending=True).values[2]
    titles = ("1. warm-up", "2. pruning", "3. fine-tuning")
    captions = ("a radius per channel", "the least important go", "one radius for all")
    parts = []
    for column, (title, caption) in enumerate(zip(titles, captions, strict=True)):
        left = 20 + column * 225
        parts += [text(left + 95, 22, title, weight="bold"), text(left + 95, 206, caption)]
        for channel, score in enumerate(scores.tolist()):
            x, top = left + 12 + channel * 33, 170 - score * 22
            gone = column > 0 and not kept[channel]
            if gone and column == 2:
                continue
            shown = 4 + 11 * radii[channel].item() / 2 if column < 2 else 4 + 11 * 0.5 / 2
            stroke = f'stroke="{SOFT}" stroke-dasharray="3 3"' if gone else f'stroke="{TEAL}"'
            fill = "none" if gone else TEAL
            parts.append(f'<rect x="{x}" y="{top:.1f}" width="14" height="{170 - top:.1f}" fill="{fill}" {stroke}/>')
            if not gone:
                circle = f'<circle cx="{x + 7}" cy="{top - 18:.1f}" r="{shown:.1f}" fill="none" stroke="{ORANGE}"/>'
                parts.append(circle)
        parts.append(line([(left, 170), (left + 200, 170)], INK, 1))
    parts.append(text(340, 232, "bars: importance of each channel; circles: its perturbation radius"))
    return svg(690, 245, "Six channels with their importance and radius in the three steps", parts)


def radius() -> str:
    """rho_i over s_i of channels with importances spread evenly."""
    scores = torch.linspace(0, 1, 9)
    radii = adaptive_radius({"g": scores}, rho_min=0.01, rho_max=2.0)["g"]
    points = [(70 + s * 330, 180 - r * 70) for s, r in zip(scores.tolist(), radii.tolist(), strict=True)]
    parts = [line([(70, 20), (70, 180), (420, 180)], INK, 1), line(points, TEAL), *(dot(*p, TEAL) for p in points)]
    parts += [text(62, 44, "rho_max", anchor="end"), text(62, 180, "rho_min", anchor="end")]
    parts += [text(70, 200, "least important"), text(400, 200, "most important"), text(235, 222, "channel of a group")]
    return svg(460, 235, "The radius falls linearly from rho_max to rho_min with importance", parts)


def ellipsoid() -> str:
    """A network of two channels with one weight each; the gradient is the same for all three perturbations."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    groups = trace_groups(net, torch.zeros(1, 1, 2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.5, 2.0]).view(2, 1, 1, 1))
    radii = {group.name: torch.tensor([1.4, 0.5])[: group.num_channels] for group in groups}
    uniform = {geometry: PerturbationOptions(geometry=geometry) for geometry in ("euclidean", "elementwise")}
    shown = [
        ("SAM", BLUE, UniformPerturbation(0.9, uniform["euclidean"], groups), (0.9, 0.9)),
        ("ASAM", SOFT, UniformPerturbation(0.9, uniform["elementwise"], groups), (0.9 * 0.51, 0.9 * 2.01)),
        ("AdaSAP", TEAL, AdaptivePerturbation(groups, radii, uniform["euclidean"]), (1.4, 0.5)),
    ]
    center, scale = (230, 150), 65
    parts = [line([(20, 150), (440, 150)], SOFT, 1), line([(230, 10), (230, 290)], SOFT, 1)]
    parts.append(text(436, 168, "less important channel", anchor="end"))
    parts.append(text(238, 22, "more important channel", anchor="start"))
    for place, (name, color, perturbation, half_axes) in enumerate(shown):
        net[0].weight.grad = torch.tensor([0.8, 0.6]).view(2, 1, 1, 1)
        x, y = (value * scale for value in perturbation.epsilon(net)["0.weight"].flatten().tolist())
        rx, ry = (half * scale for half in half_axes)
        ring = f'<ellipse cx="{center[0]}" cy="{center[1]}" rx="{rx:.1f}" ry="{ry:.1f}" fill="none" stroke="{color}"/>'
        tip = (center[0] + x, center[1] - y)
        parts += [ring, line([center, tip], color), dot(*tip, color)]
        parts += [dot(40, 222 + 24 * place, color), text(54, 227 + 24 * place, name, color=color, anchor="start")]
    return svg(460, 300, "From one gradient: SAM on a circle, ASAM and AdaSAP on ellipses", parts)


if __name__ == "__main__":
    main()
