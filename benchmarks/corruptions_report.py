"""Writes the tables of docs/corruptions.md from results/corruptions_parity.json and results/corruptions_speed.json.

python benchmarks/corruptions_report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from files import write_section

from adasap.corruptions import BENCHMARK, VALIDATION
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "corruptions.md"


def main() -> None:
    found, speed = (json.loads((ROOT / "results" / f"corruptions_{name}.json").read_text()) for name in TABLES)
    write_section(PAGE, "parity", str(parity_table(found)))
    write_section(PAGE, "speed", str(speed_table(speed["by_side"])))


TABLES = ("parity", "speed")


def parity_table(found: dict[str, dict[str, Any]]) -> Table:
    """The worst severity of each comparison, and the accuracies."""
    rows = []
    for name in (*BENCHMARK, *VALIDATION):
        row = found[name]
        accuracy = row["accuracy"]
        cells = [cell for side in ("at_32", "at_224") for cell in compared(row[side])]
        gap = f"{accuracy['ours']:.1f} / {accuracy['theirs']:.1f} ({accuracy['ours'] - accuracy['theirs']:+.1f})"
        rows.append([name, *cells, gap])
    gaps = [row["accuracy"]["ours"] - row["accuracy"]["theirs"] for row in found.values()]
    rows.append([f"mean over the {len(gaps)}", *[""] * 6, f"{sum(gaps) / len(gaps):+.2f}"])
    header = [f"{what}, {side} px" for side in (32, 224) for what in ("difference or mean", "std ratio", "spectrum")]
    return Table(["corruption", *header, "accuracy, ours / theirs"], rows)


def compared(severities: list[dict[str, float]]) -> list[str]:
    """Of the severity that is furthest off: pixels or mean of the change, ratio of standard deviations, spectrum."""
    pixels = max(part["mean_absolute_difference"] for part in severities)
    means = [(part["mean_of_change"] - part["mean_of_change_theirs"], part["mean_error"]) for part in severities]
    mean, error = max(means, key=lambda pair: abs(pair[0]))
    ratios = [part["std_of_change"] / part["std_of_change_theirs"] for part in severities]
    worst_ratio = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
    spectrum = max(part["spectrum_decades_apart"] for part in severities)
    return [f"{pixels:.2f} / {mean:+.2f} ± {error:.2f}", f"{worst_ratio:.2f}", f"{spectrum:.2f}"]


def speed_table(by_side: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Images per second, ours and the peer's, at both sizes."""
    rows = []
    for name in (*BENCHMARK, *VALIDATION):
        row = [name]
        for side in ("224", "32"):
            at = by_side[side][name]
            row += [f"{at['adasap_images_per_s']:,.0f}", f"{at['peer_images_per_s']:,.0f}", f"{at['ratio']:.2f}"]
        rows.append(row)
    return Table(["corruption", *(f"{what}, {s} px" for s in (224, 32) for what in ("adasap", "peer", "ratio"))], rows)


if __name__ == "__main__":
    main()
