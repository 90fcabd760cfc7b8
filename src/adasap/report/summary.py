"""A run's numbers as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import bootstrap_mean
from adasap.metric import Metric
from adasap.profiling.profile import Profile
from adasap.report.format import score_number
from adasap.report.table import Table

Stages = Mapping[str, Mapping[str, SuiteResult]]
"""Stage -> suite -> scores."""


def stage_table(stages: Stages, metric: Metric) -> Table:
    """Mean score per stage and suite, and its ratio to the first suite; the last stage with 95 % intervals.

    A ratio rises when the clean score falls, so both its terms stand beside it.
    """
    first, *others = next(iter(stages.values()))
    rows = []
    for place, (stage, results) in enumerate(stages.items(), start=1):
        last = place == len(stages)
        row = [stage, *(_score(results[suite], metric, interval=last) for suite in (first, *others))]
        clean = results[first].mean
        rows.append([*row, *(f"{results[suite].mean / clean:.3f}" if clean else "" for suite in others)])
    return Table(["stage", first, *others, *(f"{suite} / {first}" for suite in others)], rows)


def corruption_table(stages: Stages, metric: Metric) -> Table | None:
    """Per corruption the dense model's mean score, the last stage's, and that by severity; None without any."""
    before, *_, after = stages.values()
    rows = []
    for suite, result in after.items():
        for corruption, cells in result.by_corruption().items():
            if not corruption:
                continue
            dense, small = ([of.cells[cell].mean().item() for cell in cells] for of in (before[suite], result))
            pairs = zip(cells, small, strict=True)
            severities = ", ".join(f"{cell.severity}: {score_number(score, metric)}" for cell, score in pairs)
            means = (score_number(sum(scores) / len(scores), metric, 2) for scores in (dense, small))
            rows.append([corruption, *means, severities])
    return Table(["corruption", "dense", "compressed", "compressed, by severity"], rows) if rows else None


def gap_table(steps: Sequence[Mapping[str, Any]]) -> Table | None:
    """The one-step sharpness L(w + eps) - L(w) at the start and the end of each phase; None if nothing was perturbed.

    Args:
        steps: Step records as they are kept, in order. The mean is over a tenth of a phase's steps, at least one.
    """
    rows = []
    for phase in dict.fromkeys(step["phase"] for step in steps):
        gaps = [step["gap"] for step in steps if step["phase"] == phase and step["gap"] is not None]
        if gaps:
            some = max(1, len(gaps) // 10)
            rows.append([phase, f"{sum(gaps[:some]) / some:.4f}", f"{sum(gaps[-some:]) / some:.4f}"])
    return Table(["phase", "loss gap at its start", "at its end"], rows) if rows else None


def _score(result: SuiteResult, metric: Metric, *, interval: bool) -> str:
    if not interval:
        return score_number(result.mean, metric, 2)
    bounds = bootstrap_mean(result.per_image(), resamples=2000)
    low, high = (score_number(end, metric) for end in (bounds.low, bounds.high))
    return f"{score_number(bounds.value, metric, 2)} ({low} to {high})"


def profile_table(profiles: Mapping[str, Profile]) -> Table:
    """Models side by side; every model after the first also as a fraction of the first."""
    names = list(profiles)
    first = profiles[names[0]]
    quantities = {
        "parameters": {name: (float(p.parameters), f"{p.parameters:,}") for name, p in profiles.items()},
        "MACs": {name: (float(p.macs), f"{p.macs:,}") for name, p in profiles.items()},
        "peak memory (MB)": {name: (p.peak_memory_mb, f"{p.peak_memory_mb:.1f}") for name, p in profiles.items()},
    }
    for what, times in first.timed.items():
        for index, latency in enumerate(times):
            measured = {name: profile.timed[what][index] for name, profile in profiles.items()}
            quantities[f"{what} p50 / p95 (ms), batch {latency.batch_size}"] = {
                name: (t.p50_ms, f"{t.p50_ms:.2f} / {t.p95_ms:.2f}") for name, t in measured.items()
            }
    rows = []
    for label, values in quantities.items():
        base = values[names[0]][0]
        rows.append([label, values[names[0]][1], *(f"{values[n][1]} ({values[n][0] / base:.2f}x)" for n in names[1:])])
    return Table(["", *names], rows)
