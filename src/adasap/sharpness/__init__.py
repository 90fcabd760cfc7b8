"""How far each channel is perturbed, the two passes of a sharpness-aware step, and the care of norm
statistics."""

from adasap.sharpness.batchnorm import recalibrate_
from adasap.sharpness.gradients import StepLoss, sharpness_aware_gradients
from adasap.sharpness.options import PerturbationOptions, StepForm
from adasap.sharpness.perturbation import AdaptivePerturbation, Perturbation, UniformPerturbation
from adasap.sharpness.pruned_point import PrunedPoint
from adasap.sharpness.radius import adaptive_radius, even_radii
from adasap.sharpness.single_pass import RemovalPerturbation, SinglePassPerturbation, StalePerturbation
from adasap.sharpness.swap import perturbed

__all__ = [
    "AdaptivePerturbation",
    "Perturbation",
    "PerturbationOptions",
    "PrunedPoint",
    "RemovalPerturbation",
    "SinglePassPerturbation",
    "StalePerturbation",
    "StepForm",
    "StepLoss",
    "UniformPerturbation",
    "adaptive_radius",
    "even_radii",
    "perturbed",
    "recalibrate_",
    "sharpness_aware_gradients",
]
