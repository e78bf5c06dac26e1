"""Models in ORT format compute what the ONNX models compute, on any processor."""

import numpy as np
import pytest

from latency_tables import Device, Graph, LatencyError
from latency_tables.graphs.graph import BUILDERS, build_model
from latency_tables.graphs.ort_format import ort_model
from latency_tables.measuring.sessions import load_graph
from search_spaces import define_space, network

SETTINGS = {"stem": "small", "resolutions": [32], "width": 0.5, "depths": [1], "num_classes": 10}
SPACES = {family: define_space(family, **SETTINGS) for family in ("mobilenet_v3", "proxyless")}
IDENTIFIER = slice(4, 8)


def infer(model: bytes, x_BCHW: np.ndarray) -> np.ndarray:
    loaded = load_graph(Graph("a", model), Device("here", batch=len(x_BCHW)))
    return loaded.infer({"input": x_BCHW.astype(loaded.feeds["input"].dtype)})[0].astype(np.float32)


@pytest.mark.parametrize("precision", BUILDERS)
@pytest.mark.parametrize("name", SPACES)
def test_it_loads_and_computes_the_same(name, precision):
    space = SPACES[name]
    layers = network(space, space.largest())
    model = BUILDERS[precision](layers, batch=None).SerializeToString()
    small = ort_model(model)
    assert small[IDENTIFIER] == b"ORTM"
    x_BCHW = np.random.default_rng(0).standard_normal((3, *layers[0].in_shape)).astype(np.float32)
    wanted = infer(model, x_BCHW)
    np.testing.assert_allclose(infer(small, x_BCHW), wanted, atol=1e-4 if precision == "fp32" else 0.1 * wanted.std())


@pytest.mark.parametrize("level", ["all", "extended", "basic"])
def test_nothing_in_it_is_of_this_machine_alone(level):
    space = SPACES["mobilenet_v3"]
    model = build_model(network(space, space.smallest()), batch=1).SerializeToString()
    # The runtime puts these around convolutions in the layout of one processor's vectors.
    assert b"Reorder" not in ort_model(model, level)


def test_one_for_this_machine_computes_the_same():
    space = SPACES["mobilenet_v3"]
    layers = network(space, space.smallest())
    model = build_model(layers, batch=2).SerializeToString()
    x_BCHW = np.random.default_rng(0).standard_normal((2, *layers[0].in_shape)).astype(np.float32)
    np.testing.assert_allclose(infer(ort_model(model, portable=False), x_BCHW), infer(model, x_BCHW), atol=1e-4)


def test_basic_keeps_to_operators_of_onnx():
    space = SPACES["mobilenet_v3"]
    model = build_model(network(space, space.smallest()), batch=1).SerializeToString()
    assert b"FusedConv" in ort_model(model, "extended")
    assert b"FusedConv" not in ort_model(model, "basic")


def test_metadata_stay_in_it():
    space = SPACES["mobilenet_v3"]
    model = build_model(network(space, space.smallest()), batch=1, metadata={"arch": "abc"}).SerializeToString()
    loaded = load_graph(Graph("a", ort_model(model)), Device("here"))
    assert loaded.session.get_modelmeta().custom_metadata_map == {"arch": "abc"}


def test_what_is_no_model_and_what_is_no_level_is_refused():
    with pytest.raises(LatencyError, match="cannot be put into ORT format: "):
        ort_model(b"not a model")
    with pytest.raises(LatencyError, match="level must be one of all, extended, basic, disabled, not 'most'"):
        ort_model(b"", "most")
