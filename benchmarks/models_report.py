"""docs/models.md from the rows of results/models.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """\
# Architectures

`python benchmarks/models.py` writes this page from results/models.json; nothing here is written by hand.

**{works} of {count} models work; the best peer's quick-start call works on {peer_works} of them.**

*Works* means: `trace_groups` follows the model; `select_channels` by L2 keeps 0.45 to 0.50 of the multiply-accumulates
with every group at a quarter of its width or more; `check_cut` proves masked = cut in float64 on re-drawn parameters
(relative error at most 1e-9) and every group's wrong cut moves the output by more than 1e-4; the cut model runs forward
and backward in training and evaluation mode; `adasap.save` and `adasap.load` give the same model; `torch.export` takes
it. Weights are random, images {sizes} pixels wide. *Share* is that of the parameters' entries that go with some
channel of a prunable group. *Trace* is in seconds on {threads} thread(s) ({machine}, torch {torch}), in a run shared
with other work. Groups that are outputs of the model always stay and are not listed.

| model | outcome | share | MACs kept | parameters kept | groups (free) | trace (s) | error | control | peer |
|---|---|---|---|---|---|---|---|---|---|
"""

FROZEN = """
## What is frozen, and why

Tracing lists every frozen group with its reasons before any training starts (`adasap groups MODEL`). In short:

| model | frozen groups | because (number of groups) |
|---|---|---|
"""

NOTES = """
## Notes
- Peer: {peer_about}.
- Attention: whole heads are units. The integers that a module keeps about them (`num_heads`, `attn_dim`) fall with the
  heads. `torch.nn.MultiheadAttention` and `torchvision`'s Swin work out their head width from the width of their input;
  a cut gives them a forward that counts heads by the weights.
- Embedding widths under a LayerNorm or GroupNorm stay: the norm would mix what is cut into what is kept.
- {materialised}
"""


def document(results: Mapping[str, Any], names: Sequence[str], peer: Mapping[str, Any]) -> str:
    """The whole page; models without a row yet are left out."""
    rows = {name: results["models"][name] for name in names if name in results["models"]}
    machine = results["machine"]
    head = HEAD.format(
        works=sum(row["outcome"] == "works" for row in rows.values()),
        count=len(rows),
        peer_works=sum(peer["models"].get(name, {}).get("outcome") == "works" for name in rows),
        sizes=" or ".join(
            str(size) for size in sorted({row["image_size"] for row in rows.values() if "image_size" in row})
        ),
        **{key: machine[key] for key in ("threads", "machine", "torch")},
    )
    lines = [_line(name, row, peer["models"].get(name, {})) for name, row in rows.items()]
    frozen = [_frozen_line(name, row["frozen"]) for name, row in rows.items() if row.get("frozen")]
    notes = NOTES.format(peer_about=peer["about"], materialised=_materialised(rows))
    return head + "\n".join(lines) + "\n" + FROZEN + "\n".join(frozen) + "\n" + notes


def _line(name: str, row: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    cells = [
        name,
        _shortened(row["outcome"], 160),
        _number(row.get("prunable_share"), ".3f"),
        _number(row.get("macs_kept"), ".3f"),
        _number(row.get("parameters_kept"), ".3f"),
        f"{row['groups']} ({row['prunable_groups']})" if "groups" in row else "",
        _number(row.get("trace_s"), ".1f"),
        _number(row.get("proof_error"), ".0e"),
        _number(row.get("smallest_control"), ".0e"),
        _shortened(peer.get("outcome", "not measured"), 60),
    ]
    return f"| {' | '.join(cells)} |"


def _frozen_line(name: str, reasons: Mapping[str, Sequence[str]]) -> str:
    """Reasons without the module they name, so that equal ones count together."""
    groups = {group for names in reasons.values() for group in names}
    counts: Counter[str] = Counter()
    for reason, names in reasons.items():
        counts[re.sub(r" in [\w.]+", "", re.sub(r": .*", "", reason)).replace("aten.", "")] += len(names)
    shown = "; ".join(f"{_shortened(reason, 120)} ({count})" for reason, count in counts.most_common(6))
    return f"| {name} | {len(groups)} | {shown} |"


def _materialised(rows: Mapping[str, Mapping[str, Any]]) -> str:
    layers = [f"`{name}` ({row['materialised']} layers)" for name, row in rows.items() if row.get("materialised")]
    if not layers:
        return "No model computes its weights in forward."
    return (
        f"Weights that forward computes (weight standardisation) are replaced by their values with "
        f"`materialise_weights_` before tracing, in {', '.join(layers)}; a saved file of such a model is loaded with a "
        f"builder that does the same."
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _shortened(text: str, length: int) -> str:
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) <= length else text[: length - 3] + "..."
