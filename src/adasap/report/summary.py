"""A run's numbers as tables."""

from __future__ import annotations

from collections.abc import Mapping

from adasap.report.profile import Profile
from adasap.report.table import Table
from adasap.robustness import SuiteResult, bootstrap_mean


def stage_table(stages: Mapping[str, Mapping[str, SuiteResult]]) -> Table:
    """Mean score per stage and suite in percent; the last stage with its 95 % interval."""
    suites = list(next(iter(stages.values())))
    rows = []
    for place, (stage, results) in enumerate(stages.items(), start=1):
        last = place == len(stages)
        rows.append([stage, *(_score(results[suite], interval=last) for suite in suites)])
    return Table(["stage", *suites], rows)


def _score(result: SuiteResult, *, interval: bool) -> str:
    if not interval:
        return f"{100 * result.mean:.2f}"
    bounds = bootstrap_mean(result.per_image(), resamples=2000)
    return f"{100 * bounds.value:.2f} ({100 * bounds.low:.1f} to {100 * bounds.high:.1f})"


def profile_table(profiles: Mapping[str, Profile]) -> Table:
    """Models side by side; every model after the first also as a fraction of the first."""
    names = list(profiles)
    first = profiles[names[0]]
    quantities = {
        "parameters": {name: (float(p.parameters), f"{p.parameters:,}") for name, p in profiles.items()},
        "MACs": {name: (float(p.macs), f"{p.macs:,}") for name, p in profiles.items()},
        "peak memory (MB)": {name: (p.peak_memory_mb, f"{p.peak_memory_mb:.1f}") for name, p in profiles.items()},
    }
    for index, latency in enumerate(first.latency):
        label = f"latency p50 / p95 (ms), batch {latency.batch_size}"
        quantities[label] = {
            name: (p.latency[index].p50_ms, f"{p.latency[index].p50_ms:.2f} / {p.latency[index].p95_ms:.2f}")
            for name, p in profiles.items()
        }
    rows = []
    for label, values in quantities.items():
        base = values[names[0]][0]
        rows.append([label, values[names[0]][1], *(f"{values[n][1]} ({values[n][0] / base:.2f}x)" for n in names[1:])])
    return Table(["", *names], rows)
