"""Graphs that take 8-bit images do to them what training did."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables import Device, Graph, LatencyError
from latency_tables.graphs.graph import BUILDERS, build_model
from latency_tables.graphs.preprocessing import with_preprocessing
from latency_tables.measuring.end_to_end import Preprocessing
from latency_tables.measuring.sessions import load_graph
from search_spaces import Layer, network
from supernets.augment import Normalisation
from supernets.calibrate import resize
from tests.latency_tables.fakes import tiny_space

RGB = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Preprocessing((0.3,), (0.37,))
OF_CHANNELS = {1: GREY, 3: RGB}
SIZE = 16


def untouched(channels: int = 3, size: int = SIZE, batch: int | None = None, opset: int = 18) -> onnx.ModelProto:
    """A network that puts out what it reads: pooling over windows of one pixel."""
    shape = (channels, size, size)
    return build_model([Layer("same", "avg_pool", ("input",), shape, shape)], batch=batch, opset=opset)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def infer(model: onnx.ModelProto, name: str, array: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    shapes = ((name, array.shape),)
    loaded = load_graph(Graph("a", model.SerializeToString(), shapes=shapes), Device("here", batch=len(array)))
    return loaded.infer({name: array.astype(loaded.feeds[name].dtype)})[0]


def as_trained(x_BHWC: np.ndarray, preprocessing: Preprocessing, size: int = SIZE) -> np.ndarray:
    """The same by what training uses, of the square in the middle."""
    side = min(x_BHWC.shape[1:3])
    top, left = ((extent - side) // 2 for extent in x_BHWC.shape[1:3])
    x_BCHW = torch.from_numpy(x_BHWC[:, top : top + side, left : left + side]).permute(0, 3, 1, 2)
    return resize(Normalisation(preprocessing.mean, preprocessing.std)(x_BCHW), size).numpy()


@pytest.mark.parametrize("channels", OF_CHANNELS)
@pytest.mark.parametrize(("batch", "size_px"), [(None, None), (2, (SIZE, SIZE)), (None, (SIZE, SIZE)), (2, None)])
def test_images_of_the_right_size_are_normalised_as_in_training(channels, batch, size_px):
    model = with_preprocessing(untouched(channels, batch=batch), OF_CHANNELS[channels], size_px)
    x_BHWC = images(2, SIZE, SIZE, channels)
    np.testing.assert_allclose(infer(model, "image", x_BHWC), as_trained(x_BHWC, OF_CHANNELS[channels]), atol=1e-5)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_images_of_any_size_are_cropped_and_resized_as_in_training(height, width, channels):
    model = with_preprocessing(untouched(channels), OF_CHANNELS[channels])
    x_BHWC = images(1, height, width, channels)
    np.testing.assert_allclose(infer(model, "image", x_BHWC), as_trained(x_BHWC, OF_CHANNELS[channels]), atol=1e-4)


@pytest.mark.parametrize("size_px", [None, (480, 640)])
def test_photographs_are_resized_as_in_training(size_px):
    x_BHWC = images(1, 480, 640, 3)
    found = infer(with_preprocessing(untouched(size=224), RGB, size_px), "image", x_BHWC)
    np.testing.assert_allclose(found, as_trained(x_BHWC, RGB, 224), atol=1e-4)


@pytest.mark.parametrize("precision", BUILDERS)
@pytest.mark.parametrize("size", [8, 12])
def test_a_graph_of_any_precision_answers_as_it_does_to_normalised_images(precision, size):
    space = tiny_space()
    model = BUILDERS[precision](network(space, space.largest()), batch=None, opset=18)
    x_BHWC = images(4, size, size, 1)
    found = infer(with_preprocessing(model, GREY), "image", x_BHWC).astype(np.float32)
    wanted = infer(model, "input", as_trained(x_BHWC, GREY, 8)).astype(np.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-4 if precision == "fp32" else 0.05 * wanted.std())


def test_the_model_stays_as_it_was_and_its_metadata_go_along():
    space = tiny_space()
    model = build_model(network(space, space.smallest()), batch=3, opset=18, metadata={"arch": "abc"})
    before = model.SerializeToString()
    made = with_preprocessing(model, GREY)
    assert model.SerializeToString() == before
    assert [(entry.key, entry.value) for entry in made.metadata_props] == [("arch", "abc")]
    assert [each.dim_param or each.dim_value for each in made.graph.input[0].type.tensor_type.shape.dim] == [
        *(3, "height", "width", 1)
    ]
    assert list(made.graph.output) == list(model.graph.output)


def test_only_images_that_are_resized_need_a_newer_opset():
    with pytest.raises(LatencyError, match=r"takes opset 18, not 17: .* fix the images at 16 x 16 px"):
        with_preprocessing(untouched(opset=17), RGB)
    model = with_preprocessing(untouched(opset=17), RGB, (SIZE, SIZE))
    x_BHWC = images(1, SIZE, SIZE, 3)
    np.testing.assert_allclose(infer(model, "image", x_BHWC), as_trained(x_BHWC, RGB), atol=1e-5)


def test_means_of_another_number_of_channels_are_refused():
    with pytest.raises(LatencyError, match="reads 1 channels, and mean and std are of 3"):
        with_preprocessing(untouched(1), RGB)
