"""The ranges of a network's activations, seen on images: what a graph of integers is built for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from latency_tables.device import Device
from latency_tables.graphs.graph import build_model
from latency_tables.graphs.nodes import INPUT, OUTPUT
from latency_tables.graphs.weights import F32, Weights
from latency_tables.measuring.sessions import Graph, load_graph
from search_spaces import Layer, in_precision

CLIPPED = 0.01
"""Percent of the activations cut off at each end: one outlier would coarsen all others."""


def observed_ranges(
    layers: Sequence[Layer], weights: Weights | None, batches: Iterable[F32], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Layer name, and "input" -> the lowest and the highest activation over all `batches` (n, channels, height, width).

    In each batch the outermost `CLIPPED` percent are cut off.
    """
    model = build_model(in_precision(layers, "fp32"), weights, batch=None, seed=seed)
    model.graph.output.extend(model.graph.output[0].__class__(name=layer.name) for layer in layers[:-1])
    # Fused operations would hide the activations between them.
    device = Device("ranges", graph_optimization="disabled")
    loaded = load_graph(Graph("ranges", model.SerializeToString()), device)
    found: dict[str, tuple[float, float]] = {}
    for batch in batches:
        outputs = dict(zip(loaded.outputs, loaded.infer({INPUT: batch}), strict=True))
        outputs[layers[-1].name] = outputs.pop(OUTPUT)
        for name, values in {INPUT: batch, **outputs}.items():
            low, high = np.percentile(values, (CLIPPED, 100 - CLIPPED))
            before = found.get(name, (low, high))
            found[name] = (float(min(low, before[0])), float(max(high, before[1])))
    return found
