"""Keys of recipes that have another name now: read for one version more, with a warning that names the new key."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from adasap.errors import AdasapWarning

PENALTY_KEYS = ("score", "growth", "every", "ceiling")
"""What `pruning.prepare` also held where its kind took no options."""


def renamed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys as they are called now; what said nothing beyond a default is left out without a word.

    Example:
        >>> with warnings.catch_warnings(action="ignore"):
        ...     renamed({"warm_up": {"sharpness": {"form": {"direction": "stale", "window": 0.5}}}})
        {'warm_up': {'sharpness': {'form': {'window': 0.5}, 'variants': {'stale': {}}}}}
    """
    found = dict(tree)
    for phase in ("warm_up", "fine_tune"):
        if isinstance(found.get(phase), Mapping) and isinstance(found[phase].get("sharpness"), Mapping):
            place = f"{phase}.sharpness"
            found[phase] = {**found[phase], "sharpness": _sharpness(found[phase]["sharpness"], place)}
    if isinstance(found.get("pruning_sharpness"), Mapping):
        found["pruning_sharpness"] = _sharpness(found["pruning_sharpness"], "pruning_sharpness")
    if isinstance(found.get("pruning"), Mapping):
        found["pruning"] = _pruning(found["pruning"])
    return found


def _sharpness(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`form.direction`, `pruned` and `perturbation.norm_only` are variants."""
    found = dict(given)
    variants: dict[str, dict[str, Any]] = {}
    if isinstance(found.get("perturbation"), Mapping) and "norm_only" in found["perturbation"]:
        norm_only, found["perturbation"] = _without(found["perturbation"], "norm_only")
        if norm_only["norm_only"]:
            variants["norm_only"] = {}
            _warn(f"{place}.perturbation.norm_only", f"{place}.variants.norm_only")
    if isinstance(found.get("form"), Mapping):
        form, found["form"] = _without(found["form"], "direction", "removal", "share")
        direction = str(form.get("direction", "gradient"))
        if direction != "gradient":
            how = {"how": form["removal"]} if "removal" in form else {}
            share = {"share": form["share"]} if "share" in form else {}
            variants[direction] = how | share if direction == "removal" else {}
            _warn(f"{place}.form.direction", f"{place}.variants.{direction}")
    fractions = found.pop("pruned", None)
    if fractions:
        variants["pruned"] = {"fractions": fractions}
        _warn(f"{place}.pruned", f"{place}.variants.pruned.fractions")
    if variants:
        more = found.get("variants", {})
        found["variants"] = {**variants, **more} if isinstance(more, Mapping) else more
    return found


def _pruning(given: Mapping[str, Any]) -> dict[str, Any]:
    """`candidates` are the options of that selection; `prepare` holds the options of its kind alone."""
    candidates, found = _without(given, "candidates")
    if candidates and found.get("selection") == "candidates":
        found["selection_options"] = candidates["candidates"]
        _warn("pruning.candidates", "pruning.selection_options")
    prepare = found.get("prepare")
    if isinstance(prepare, Mapping) and prepare.get("kind", "none") in ("none", "soft_masks"):
        found["prepare"] = _without(prepare, *PENALTY_KEYS)[1]
    return found


def _without(tree: Mapping[str, Any], *keys: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """These keys of a mapping, and the others."""
    return {k: v for k, v in tree.items() if k in keys}, {k: v for k, v in tree.items() if k not in keys}


def _warn(old: str, new: str) -> None:
    warnings.warn(f"the recipe's key {old} is called {new} now; the old one goes in the next version", AdasapWarning, 3)
