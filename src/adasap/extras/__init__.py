"""What is kept for comparison and used by no recipe of the paper: soft masks, growing penalties, a search over
candidates, rare forms of the step. The core finds them by name; each is imported when it is first asked for."""

from adasap.pruning.protocols import PREPARATIONS, SELECTIONS
from adasap.sharpness.phase import VARIANTS

VARIANTS.register("gsam", "adasap.extras.gsam:GSAM")
VARIANTS.register("norm_only", "adasap.extras.norm_only:NormOnly")
VARIANTS.register("pruned", "adasap.extras.pruned_point:Pruned")
VARIANTS.register("removal", "adasap.extras.removal:Removal")
VARIANTS.register("stale", "adasap.extras.stale:Stale")

SELECTIONS.register("candidates", "adasap.extras.candidates:Candidates")
SELECTIONS.register("least_damage", "adasap.extras.least_damage:LeastDamage")

PREPARATIONS.register("growing_l2", "adasap.extras.growing_penalty:GrowingPenalty")
PREPARATIONS.register("soft_masks", "adasap.extras.soft_mask:SoftMasks")
