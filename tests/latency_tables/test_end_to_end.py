"""From encoded images to answers."""

import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from latency_tables import Device, Graph, LatencyError, Protocol, measure
from latency_tables.graphs.graph import build_model
from latency_tables.measuring.end_to_end import Preprocessing, end_to_end, measure_end_to_end
from latency_tables.measuring.sessions import Loaded
from search_spaces import Layer

PLAIN = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def encoded(colour, size=(20, 12), kind="PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(out, kind)
    return out.getvalue()


def pool(channels: int, batch: int | None) -> Graph:
    layers = [Layer("pool", "global_pool", ("input",), (channels, 8, 8), (channels, 1, 1))]
    return Graph("pool", build_model(layers, batch=batch).SerializeToString())


@pytest.fixture
def answers(monkeypatch):
    """What the graph gave for each run."""
    found, plain = [], Loaded.infer
    monkeypatch.setattr(Loaded, "infer", lambda self, feeds: found.append(plain(self, feeds)) or found[-1])
    return found


def test_images_are_decoded_resized_and_normalised(answers):
    run = end_to_end([encoded((255, 0, 51))], PLAIN)(pool(3, 1), Device("here"))
    assert run() > 0
    np.testing.assert_allclose(answers[-1][0].ravel(), [2.0, -2.0, -1.2], atol=1e-5)


def test_runs_take_turns_with_the_images_and_a_batch_takes_several(answers):
    images = [encoded(colour) for colour in (0, 51, 102)]
    run = end_to_end(images, Preprocessing((0.0,), (1.0,)))(pool(1, None), Device("here", batch=2))
    for _ in range(2):
        run()
    found = [outputs[0].ravel().round(2).astype(float).round(2).tolist() for outputs in answers]
    assert found == [[0.0, 0.2], [0.2, 0.4], [0.4, 0.0]]


def test_the_middle_of_a_wide_image_is_taken(answers):
    wide = Image.new("L", (300, 100), 0)
    wide.paste(255, (100, 0, 200, 100))
    out = BytesIO()
    wide.save(out, "PNG")
    end_to_end([out.getvalue()], Preprocessing((0.0,), (1.0,)))(pool(1, 1), Device("here"))
    np.testing.assert_allclose(answers[-1][0].ravel(), [1.0], atol=0.05)


def test_it_is_measured_like_any_graph():
    quick = Protocol(min_rounds=2, max_rounds=2, warm_up_s=0.05)
    images = [encoded((9, 9, 9), (640, 480), kind="JPEG")]
    whole = measure_end_to_end([pool(3, 1)], Device("here"), images, PLAIN, protocol=quick)["pool"]
    assert whole.median_us > measure([pool(3, 1)], Device("here"), protocol=quick)["pool"].median_us


@pytest.mark.parametrize("broken", [b"", b"no image", encoded((1, 2, 3))[:60]])
def test_an_image_that_cannot_be_decoded_is_named(broken):
    with pytest.raises(LatencyError, match="image 1 cannot be decoded"):
        end_to_end([encoded((1, 2, 3)), broken], PLAIN)(pool(3, 2), Device("here", batch=2))


def test_graphs_and_preprocessing_that_do_not_fit_are_refused():
    with pytest.raises(LatencyError, match=r"input 'input' must be \(batch, 3, height, width\)"):
        end_to_end([encoded(1)], PLAIN)(pool(1, 1), Device("here"))
    with pytest.raises(LatencyError, match="at least one"):
        end_to_end([], PLAIN)
    for mean, std in (((0.0,), (0.0,)), ((0.0, 0.0), (1.0, 1.0)), ((0.0,), (1.0, 1.0, 1.0))):
        with pytest.raises(LatencyError, match="mean and std"):
            Preprocessing(mean, std)


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(LatencyError, match="pip install pillow"):
        end_to_end([b""], PLAIN)
