"""Per operator: how channels pass through it, how its MACs count, and how it is timed; by family of operators."""

from adasap.groups.operators.attention import attention, product
from adasap.groups.operators.call import LabelledCall, Labels, ShapedCall, TensorRef
from adasap.groups.operators.convolutions import convolution, embedding, linear, transposed_convolution
from adasap.groups.operators.einsum import einsum
from adasap.groups.operators.elementwise import elementwise, mixing, reduction, unary
from adasap.groups.operators.movement import movement, spatial
from adasap.groups.operators.norms import channel_norm, group_norm, layer_norm
from adasap.groups.operators.operator import (
    FREE,
    CountMACs,
    LatencyView,
    Operator,
    Product,
    Rule,
    no_macs,
    operator_of,
    register_operator,
)
from adasap.groups.operators.picking import gathered, ordered, resampled
from adasap.groups.operators.shapes import bounded, parts, reshaped

__all__ = [
    "FREE",
    "CountMACs",
    "LabelledCall",
    "Labels",
    "LatencyView",
    "Operator",
    "Product",
    "Rule",
    "ShapedCall",
    "TensorRef",
    "attention",
    "bounded",
    "channel_norm",
    "convolution",
    "einsum",
    "elementwise",
    "embedding",
    "gathered",
    "group_norm",
    "layer_norm",
    "linear",
    "mixing",
    "movement",
    "no_macs",
    "operator_of",
    "ordered",
    "parts",
    "product",
    "reduction",
    "register_operator",
    "resampled",
    "reshaped",
    "spatial",
    "transposed_convolution",
    "unary",
]
