"""How far each channel is perturbed, the two passes of a sharpness-aware step, and the care of norm
statistics."""

from adasap.sharpness.batchnorm import recalibrate_
from adasap.sharpness.budget import LossBudget, Strength
from adasap.sharpness.options import PerturbationOptions, StepForm
from adasap.sharpness.perturbation import (
    AdaptivePerturbation,
    CombiningPerturbation,
    Perturbation,
    SinglePassPerturbation,
    UniformPerturbation,
)
from adasap.sharpness.phase import VARIANTS, Moment, SharpnessOptions, Variant
from adasap.sharpness.radius import adaptive_radius, even_radii
from adasap.sharpness.step import StepLoss, sharpness_aware_gradients
from adasap.sharpness.swap import perturbed

__all__ = [
    "VARIANTS",
    "AdaptivePerturbation",
    "CombiningPerturbation",
    "LossBudget",
    "Moment",
    "Perturbation",
    "PerturbationOptions",
    "SharpnessOptions",
    "SinglePassPerturbation",
    "StepForm",
    "StepLoss",
    "Strength",
    "UniformPerturbation",
    "Variant",
    "adaptive_radius",
    "even_radii",
    "perturbed",
    "recalibrate_",
    "sharpness_aware_gradients",
]
