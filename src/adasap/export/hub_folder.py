"""A folder as model hubs have them: `config.json`, `model.safetensors`, and a card that says how good the model is."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from adasap.errors import ExportError, ModelFileError
from adasap.export.model_file import load, save
from adasap.export.model_file_reader import ModelFile, read_header
from adasap.groups.group import ChannelGroup
from adasap.io import atomic_write, parse_json, read_text
from adasap.models.open import ModelSpec
from adasap.pruning.plan import PruningPlan
from adasap.sealed import read_sealed_json

MODEL, CONFIG, CARD, RESULT = "model.safetensors", "config.json", "README.md", "result.json"
LIBRARY = "adasap"


def save_pretrained(
    folder: str | Path,
    model: nn.Module | str | Path,
    *,
    spec: ModelSpec | None = None,
    plan: PruningPlan | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    metadata: Mapping[str, Any] | None = None,
    license: str | None = None,
    trust_builder: bool = False,
) -> Path:
    """Writes a folder that `from_pretrained` opens, here or from a hub: three files, none of which is code.

    `model.safetensors` is the whole model (see `save`). `config.json` repeats for readers what its header says: spec,
    channels kept, preprocessing, classes, metrics, and its digest. `README.md` is the card.

    Args:
        folder: Made if it is not there; a file of the same name in it is replaced.
        model: A module; or a model file; or the folder of a finished run, whose sizes, latencies and scores the card
            then shows.
        spec: As for `save`, of a module.
        plan: Likewise.
        groups: Likewise.
        metadata: Likewise; `classes`, a list of names, and `scores`, suite -> fraction, go into config and card.
        license: Identifier for the card, such as `apache-2.0`.
        trust_builder: As for `save`.
    Returns:
        The folder.
    Raises:
        ModelFileError: For a place that holds no model.
        AdasapError: As for `save`; or if `huggingface_hub` is not installed (`pip install 'adasap[hub]'`).

    Example:
        >>> import adasap, tempfile, torch
        >>> net = adasap.open_model(adasap.ModelSpec("adasap:digits_net"))
        >>> pruned = adasap.prune(net, torch.zeros(1, 3, 32, 32), "l2", {"macs": 0.5})
        >>> with tempfile.TemporaryDirectory() as place:
        ...     here = save_pretrained(place, pruned.model, groups=pruned.groups)
        ...     again = from_pretrained(here)
        >>> sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in pruned.model.parameters())
        True
    """
    _require_hub("a model card")
    folder, run = Path(folder), None
    if isinstance(model, nn.Module):
        folder.mkdir(parents=True, exist_ok=True)
        save(
            folder / MODEL,
            model,
            spec=spec,
            plan=plan,
            groups=groups,
            metadata=metadata,
            trust_builder=trust_builder,
        )
    else:
        source = Path(model)
        if source.is_dir():
            run, source = _result_of(source), source / MODEL
        read_header(source)  # refuses what is no model before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        if source.resolve() != (folder / MODEL).resolve():
            with atomic_write(folder / MODEL) as file, source.open("rb") as whole:
                shutil.copyfileobj(whole, file)
    header = read_header(folder / MODEL)
    texts = {CONFIG: json.dumps(_config(header), indent=2) + "\n", CARD: _card(folder.name, header, run, license)}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return folder


def from_pretrained(
    place: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
) -> nn.Module:
    """The model of a folder that `save_pretrained` wrote, or of such a folder on the Hugging Face Hub; see `load`.

    Args:
        place: A folder here, or `USER/NAME` on the hub; what is there under both names is taken from here.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where hub folders are kept; by default where `huggingface_hub` keeps them.
        local_files_only: Take a hub folder from the cache alone.
        builder: As for `load`.
        trust_builder: As for `load`.
    Raises:
        ModelFileError: If there is no such folder, its two files do not belong together, or as for `load`.
    """
    folder = Path(place)
    if not folder.is_dir():
        folder = _fetched(str(place), revision, cache_dir, local_files_only)
    if not (folder / MODEL).is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise ModelFileError(f"{place} has no {MODEL}, there is {there}; write the folder by adasap.save_pretrained")
    if (folder / CONFIG).is_file():
        config = parse_json(
            read_text(folder / CONFIG, what="a config", error=ModelFileError),
            where=str(folder / CONFIG),
            error=ModelFileError,
        )
        said = config.get("sha256") if isinstance(config, dict) else None
        if said is not None and said != read_header(folder / MODEL).sha256:
            raise ModelFileError(
                f"{folder / CONFIG} was written for another {MODEL}; fetch both files again, or remove {CONFIG}"
            )
    return load(folder / MODEL, builder=builder, trust_builder=trust_builder)


def _require_hub(what: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ExportError(f"{what} needs huggingface_hub; install it: pip install 'adasap[hub]'")


def _fetched(name: str, revision: str | None, cache_dir: str | Path | None, local: bool) -> Path:
    _require_hub(f"{name!r}, which is no folder here,")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local,
            allow_patterns=[MODEL, CONFIG],
        )
    except Exception as error:  # of the network, the name, the cache: the hub's own words say which
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(f"{name!r} is no folder here, and the hub gave none: {reason}") from error
    return Path(found)


def _result_of(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    if not path.is_file() or not (folder / MODEL).is_file():
        raise ModelFileError(
            f"{folder} is not the folder of a finished run: {RESULT} or {MODEL} is missing; give a run's folder, a "
            "model file or a module"
        )
    remedy = "run its command again, or give its model file"
    return read_sealed_json(path, what="a result", error=ModelFileError, remedy=remedy)


def _config(header: ModelFile) -> dict[str, Any]:
    spec = header.spec
    widths = None if header.plan is None else {name: len(kept) for name, kept in header.plan.kept.items()}
    return {
        "library_name": LIBRARY,
        "sha256": header.sha256,
        "model": {"builder": spec.builder, "options": spec.options},
        "preprocessing": {
            "input_size": None if spec.input_size is None else list(spec.input_size),
            "formula": "(x / 255 - mean) / std",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "channels_kept": widths,
        **{key: header.metadata[key] for key in ("classes", "scores", "recipe") if key in header.metadata},
    }


def _card(name: str, header: ModelFile, run: Mapping[str, Any] | None, license: str | None) -> str:
    """The card's text: how good, how large, how made, what to mind, how to open it."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(library_name=LIBRARY, license=license, tags=["pruning", "robustness"])
    spec = header.spec
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        f"`{spec.builder}`, channels removed by adasap. The file holds a plain network of fewer channels, no masks.",
        "## How good it is\n\n" + _scores(header, run),
        *([sizes] if (sizes := _sizes(run)) else []),
        "## How it was made\n\n" + _made(header, run),
        "## Limits\n\nThe scores are of the test images of the run that made the model, and of one seed; corrupted "
        "means synthetic noise, blur, weather and digital damage, which are not the shifts of your own data. Measure "
        "on those before you deploy it.",
        '## How to open it\n\n```python\nimport adasap\n\nmodel = adasap.from_pretrained("FOLDER or USER/NAME")'
        "  # a plain nn.Module in evaluation mode\n```\n\n"
        + _input(spec)
        + "`from_pretrained` of timm and transformers build the dense network and "
        "cannot take weights of fewer channels: the two lines above do, and need neither.",
    ]
    return str(ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=True))


def _scores(header: ModelFile, run: Mapping[str, Any] | None) -> str:
    if run is not None and isinstance(run.get("scores"), dict) and run["scores"]:
        stages: dict[str, dict[str, float]] = run["scores"]
        (first, *_), (*_, last) = list(stages), list(stages)
        metric = run.get("task", {}).get("metric", {})
        rows = [
            f"| {suite} | {_number(stages[first].get(suite), metric)} | {_number(value, metric)} |"
            for suite, value in stages[last].items()
        ]
        head = f"| {metric.get('label', 'score')} | dense | this model |\n|---|---:|---:|"
        return "\n".join([head, *rows])
    scores = header.metadata.get("scores")
    if isinstance(scores, dict) and scores:
        return "\n".join(
            ["| suite | score |", "|---|---:|", *(f"| {s} | {_number(v, {})} |" for s, v in scores.items())]
        )
    return "Nobody has measured it yet: `adasap evaluate` does, clean and corrupted."


def _number(value: Any, metric: Mapping[str, Any]) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{100 * value:.2f} %" if metric.get("unit", "%") == "%" else f"{value:.4g} {metric['unit']}".rstrip()


def _sizes(run: Mapping[str, Any] | None) -> str:
    profiles = {} if run is None else run.get("profiles", {})
    if not {"dense", "compressed"} <= set(profiles):
        return ""
    dense, small = profiles["dense"], profiles["compressed"]
    rows = [
        f"| {label} | {dense[key]:,} | {small[key]:,} |"
        for label, key in (("parameters", "parameters"), ("MACs", "macs"))
    ]
    for before, after in zip(dense["latency"], small["latency"], strict=True):
        rows.append(
            f"| latency, batch {before['batch_size']}, median (ms) | {before['p50_ms']:.2f} | {after['p50_ms']:.2f} |"
        )
    processor = run.get("environment", {}).get("processor") if run is not None else None
    where = f"\n\nTimed in PyTorch on {processor}." if processor else ""
    return "## How large and fast\n\n" + "\n".join(["| | dense | this model |", "|---|---:|---:|", *rows]) + where


def _made(header: ModelFile, run: Mapping[str, Any] | None) -> str:
    plan = header.plan
    cut = "Nothing was removed." if plan is None else f"{len(plan.kept)} groups of channels were cut."
    if plan is not None and plan.removed:
        cut += f" Residual branches were taken out whole; in place of modules: {dict(plan.removed)}."
    if run is None:
        return cut
    versions = run.get("environment", {}).get("packages", {})
    return (
        f"{cut} Recipe `{run.get('name', '')}`, {run.get('counters', {}).get('step', 0):,} steps, adasap "
        f"{versions.get('adasap')}, torch {versions.get('torch')}.\n\n```json\n"
        f"{json.dumps(run.get('recipe', {}), indent=1)}\n```"
    )


def _input(spec: ModelSpec) -> str:
    size = "" if spec.input_size is None else f" of {' x '.join(map(str, spec.input_size))} (channels, height, width)"
    return f"Images{size} go in as (x / 255 - mean) / std with mean {list(spec.mean)} and std {list(spec.std)}. "
