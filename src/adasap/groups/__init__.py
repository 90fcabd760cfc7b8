"""What moves together: channel groups, how they are found and cut, and the proof of a cut."""

from adasap.groups.check import CutProof, check_cut, cut_matches_mask
from adasap.groups.cutting import cut_
from adasap.groups.exported import evaluating
from adasap.groups.group import (
    ChannelGroup,
    Extent,
    Radii,
    Role,
    Scores,
    Slot,
    fingerprint,
    prunable,
    widths,
)
from adasap.groups.masking import ChannelMask, mask_, masked
from adasap.groups.materialise import materialise_weights_
from adasap.groups.operators import register_operator
from adasap.groups.past import Groups
from adasap.groups.stand_ins import Branch
from adasap.groups.trace import trace_groups

__all__ = [
    "Branch",
    "ChannelGroup",
    "ChannelMask",
    "CutProof",
    "Extent",
    "Groups",
    "Radii",
    "Role",
    "Scores",
    "Slot",
    "check_cut",
    "cut_",
    "cut_matches_mask",
    "evaluating",
    "fingerprint",
    "mask_",
    "masked",
    "materialise_weights_",
    "prunable",
    "register_operator",
    "trace_groups",
    "widths",
]
