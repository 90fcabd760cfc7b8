"""docs/models.md from the rows of results/models.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """\
# Architectures

`python benchmarks/models.py` writes this page from results/models.json; nothing here is written by hand.

**{works} of {count} models work; the best peer's quick-start call works on {peer_works} of the {peer_count} that it was
tried on.**{left}

*Works* means: `trace_groups` follows the model; `select_channels` by L2 keeps 0.45 to 0.50 of the multiply-accumulates
with every group at a quarter of its width or more; `check_cut` proves masked = cut in float64 on re-drawn parameters
(relative error at most 1e-9) and every group's wrong cut moves the output by more than 1e-4; the cut model runs forward
and backward in training and evaluation mode; `adasap.save` and `adasap.load` give the same model; `torch.export` takes
it. Weights are random, images {sizes} pixels wide, clips of 4 to 16 such images.

- *Exact*: the share of the parameters' entries that go with some channel of a prunable group. *Inexact*: the same with
  `allow_inexact=True`, which adds the channels under a norm over them, such as embedding widths.
- *Error* is that of masked = cut, *control* the least change of the output by a wrong cut of one group. A control of 0
  would prove nothing, and is written *not proven*.
- *Trace* is in seconds of processor time on one thread ({machine}, torch {torch}), on a machine with other work. Rows
  with * are of an earlier version and larger images, in seconds by the clock on two threads.
- Groups that are outputs of the model always stay and are not listed.
- `transformers:` models are made from small configurations (benchmarks/models_transformers.py), with all parts of the
  published ones.
"""

FAMILY = """
## {family}

| model | outcome | exact | inexact | MACs kept | parameters kept | groups (free) | trace (s) | error | control | peer |
|---|---|---|---|---|---|---|---|---|---|---|
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


def document(results: Mapping[str, Any], families: Mapping[str, Sequence[str]], peer: Mapping[str, Any]) -> str:
    """The whole page; models without a row yet are left out."""
    names = [name for family in families.values() for name in family]
    rows = {name: results["models"][name] for name in names if name in results["models"]}
    peers, machine = {name: peer["models"][name] for name in rows if name in peer["models"]}, results["machine"]
    head = HEAD.format(
        works=sum(row["outcome"] == "works" for row in rows.values()),
        count=len(rows),
        peer_works=sum(row["outcome"] == "works" for row in peers.values()),
        peer_count=len(peers),
        left=f" {len(names) - len(rows)} more of benchmarks/models.txt are not measured yet."
        if len(names) > len(rows)
        else "",
        sizes=" or ".join(
            str(size) for size in sorted({row["image_size"] for row in rows.values() if "image_size" in row})
        ),
        **{key: machine[key] for key in ("machine", "torch")},
    )
    tables = [
        FAMILY.format(family=family) + "".join(f"{_line(name, rows[name], peers.get(name, {}))}\n" for name in listed)
        for family, members in families.items()
        if (listed := [name for name in members if name in rows])
    ]
    frozen = [_frozen_line(name, row["frozen"]) for name, row in rows.items() if row.get("frozen")]
    notes = NOTES.format(peer_about=peer["about"], materialised=_materialised(rows))
    return head + "".join(tables) + FROZEN + "\n".join(frozen) + "\n" + notes


def _line(name: str, row: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    seconds = _number(row.get("trace_cpu_s", row.get("trace_s")), ".1f")
    cells = [
        name,
        _shortened(row["outcome"], 160),
        _number(row.get("prunable_share"), ".3f"),
        _number(row.get("inexact_share"), ".3f"),
        _number(row.get("macs_kept"), ".3f"),
        _number(row.get("parameters_kept"), ".3f"),
        f"{row['groups']} ({row['prunable_groups']})" if "groups" in row else "",
        seconds if "trace_cpu_s" in row or not seconds else f"{seconds} *",
        _number(row.get("proof_error"), ".0e"),
        _control(row.get("smallest_control")),
        _shortened(peer.get("outcome", "not measured"), 60),
    ]
    return f"| {' | '.join(cells)} |"


def _control(value: float | None) -> str:
    """A control that shows nothing is no number.

    Example:
        >>> _control(0.0), _control(0.02)
        ('not proven', '2e-02')
    """
    return "not proven" if value is not None and value <= 1e-4 else _number(value, ".0e")


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
