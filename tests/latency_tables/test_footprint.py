"""Memory, bytes and loading, in a child process."""

import json

import numpy as np
import pytest

from latency_tables import Device, Graph, LatencyError
from latency_tables.graphs.graph import build_model
from latency_tables.measuring.footprint import Footprint, measure_footprints
from search_spaces import Layer

MIB = 2**20
DEVICE = Device("here")


def heavy(key: str, weight_mib: int) -> Graph:
    """A linear layer whose weights take so much."""
    inputs, outputs = 1024, weight_mib * MIB // 4 // 1024
    layers = [Layer("fc", "linear", ("input",), (inputs, 1, 1), (outputs, 1, 1), bias=True)]
    weights = {"fc": (np.ones((outputs, inputs), np.float32), np.zeros(outputs, np.float32))}
    return Graph(key, build_model(layers, weights, batch=1).SerializeToString())


def test_memory_is_that_of_each_graph_whichever_came_before():
    sizes = {"first": 8, "large": 64, "small": 8, "again": 64}
    found = measure_footprints([heavy(key, mib) for key, mib in sizes.items()], DEVICE)
    for key, mib in sizes.items():
        assert found[key].model_bytes == pytest.approx(mib * MIB, rel=0.01)
        assert found[key].load_ms > 0
        assert found[key].first_run_ms > 0
        if found[key].peak_bytes is not None:
            assert mib * MIB <= found[key].peak_bytes <= 4 * mib * MIB + 8 * MIB
    if found["small"].peak_bytes is not None:
        assert found["small"].peak_bytes == pytest.approx(found["first"].peak_bytes, rel=0.2, abs=2 * MIB)
        assert found["again"].peak_bytes == pytest.approx(found["large"].peak_bytes, rel=0.1)


def test_a_graph_that_does_not_load_is_named():
    with pytest.raises(LatencyError, match="graph 'broken' does not load"):
        measure_footprints([heavy("fine", 1), Graph("broken", b"x")], DEVICE)


def test_a_graph_that_kills_its_process_is_named(monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.footprint.CHILD", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(LatencyError, match=r"graph 'a': .* ended with status -9"):
        measure_footprints([heavy("a", 1)], DEVICE)


def test_a_child_that_takes_too_long_is_ended():
    with pytest.raises(LatencyError, match="took over"):
        measure_footprints([heavy("a", 1)], DEVICE, timeout_s=0.01)


def test_nothing_to_weigh_starts_no_child():
    assert measure_footprints([], Device("x", provider="None")) == {}


@pytest.mark.parametrize("peak_bytes", [None, 5])
def test_a_footprint_equals_its_own_json(peak_bytes):
    one = Footprint(1, 2.0, 3.0, peak_bytes)
    assert Footprint.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("wrong", [{"model_bytes": None}, {"load_ms": -1}, {"peak_bytes": "1"}, {"x": 1}], ids=str)
def test_a_document_that_is_no_footprint_is_refused(wrong):
    with pytest.raises(LatencyError, match="footprint"):
        Footprint.from_json({**Footprint(1, 2.0, 3.0).to_json(), **wrong})
