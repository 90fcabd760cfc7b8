"""Milliseconds as a cost: layers measured one by one, a table of them, and how it is fitted to whole models."""

from adasap.profiling.engines import ENGINES, Engine
from adasap.profiling.layers import LayerCall
from adasap.profiling.reading import layer_calls
from adasap.profiling.table import Latency, LatencyTable, latency_cost, read_latency_table
from adasap.profiling.timing import Setting, TimingOptions, measure_layers_, time_models_ms

__all__ = [
    "ENGINES",
    "Engine",
    "Latency",
    "LatencyTable",
    "LayerCall",
    "Setting",
    "TimingOptions",
    "latency_cost",
    "layer_calls",
    "measure_layers_",
    "read_latency_table",
    "time_models_ms",
]
