"""An analysis from beginning to end: what is known already is not computed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from adasap.analysis.file import AnalysisFile, Json
from adasap.analysis.instruments import INSTRUMENTS
from adasap.analysis.options import AnalysisOptions
from adasap.analysis.ranks import channel_summary
from adasap.analysis.subject import Subject

Watch = Callable[[str, str, str, Json | None], None]
"""Model, instrument, part (with how far it is), and its numbers once they are there."""


def analyze(
    subjects: Mapping[str, Subject],
    options: AnalysisOptions | None = None,
    *,
    only: Collection[str] | None = None,
    file: AnalysisFile | None = None,
    watch: Watch | None = None,
) -> Json:
    """Runs the instruments on every model.

    Args:
        subjects: Name -> model; they share their data, or comparing them makes no sense.
        options: Of all instruments.
        only: Names of `INSTRUMENTS`; all by default.
        file: Where parts are looked up and kept.
        watch: Called as work goes on.
    Returns:
        The file's content: `models` holds model -> instrument -> part -> numbers, and model -> `summary`.
    Raises:
        RecipeError: For an unknown instrument, before anything is computed.
    Example:
        >>> import torch
        >>> from adasap.analysis.objective import Objective
        >>> from adasap.groups import trace_groups
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> objective = Objective(net, [torch.ones(4, 2)], lambda model, batch: model(batch).square().mean())
        >>> found = analyze({"net": Subject(objective, trace_groups(net, torch.ones(1, 2)))}, only=["loss", "trace"])
        >>> list(found["models"]["net"])
        ['loss', 'trace']
    """
    options, file = options or AnalysisOptions(), file or AnalysisFile(None, {})
    chosen = list(INSTRUMENTS) if only is None else list(dict.fromkeys(only))
    for name in chosen:
        INSTRUMENTS.get(name)
    for model, subject in subjects.items():
        for instrument in (name for name in INSTRUMENTS if name in chosen):
            _measure(model, subject, instrument, options, file, watch)
        _summarise(model, file)
    return file.content


def _measure(
    model: str, subject: Subject, instrument: str, options: AnalysisOptions, file: AnalysisFile, watch: Watch | None
) -> None:
    used = INSTRUMENTS[instrument].depends_on(options)
    for part, compute in INSTRUMENTS[instrument].parts(subject, options).items():
        found = file.part(model, instrument, part, used)
        if found is None:
            started = time.perf_counter()

            def progress(done: str, part: str = part) -> None:
                if watch is not None:
                    watch(model, instrument, f"{part}, {done}", None)

            if watch is not None:
                watch(model, instrument, part, None)
            numbers = compute(progress)
            found = {**numbers, "options": used, "seconds": time.perf_counter() - started}
            file.keep(model, instrument, part, found)
        if watch is not None:
            watch(model, instrument, part, found)


def _summarise(model: str, file: AnalysisFile) -> None:
    """What the channels say taken together, with their traces where these are known."""
    found = file.content["models"].get(model, {})
    if "channels" not in found:
        return
    traces = found.get("trace", {}).get("trace", {}).get("channels", {})
    rows = [
        {**row, "trace": traces[row["group"]][row["channel"]] if row["group"] in traces else None}
        for row in found["channels"]["channels"]["rows"]
    ]
    found["summary"] = {"channels": channel_summary(rows)}
    file.write()
