"""Milliseconds as a cost: layers measured one by one, a table of them, and how it is fitted to whole models."""

from adasap.pruning.latency.layers import LayerCall
from adasap.pruning.latency.reading import layer_calls
from adasap.pruning.latency.table import Latency, LatencyTable, latency_cost
from adasap.pruning.latency.timing import Setting, TimingOptions, measure_layers_, time_models_ms

__all__ = [
    "Latency",
    "LatencyTable",
    "LayerCall",
    "Setting",
    "TimingOptions",
    "latency_cost",
    "layer_calls",
    "measure_layers_",
    "time_models_ms",
]
