"""Files beside an exported model: they say what the model says, from other inputs and in another format."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from nas.folder import RunFolder
from nas.specialising import companions
from supernets.dataset import load

ALSO = ("--also", "image", "--also", "fp16", "--also", "ort", "--set", "export.opset=18")


def opened(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("free", [True, False])
def test_files_beside_a_model_say_what_it_says(nas, copied, free):
    said = nas("export", copied, "--again", *ALSO, "--pick", "fastest", "--set", f"export.dynamic_batch={free}")
    assert said.code == 0, said.err
    run = RunFolder.open(copied)
    images = load(run.job.source, cache=run.cache).test
    for folder in sorted(copied.glob("models/*-fastest")):
        document = json.loads((folder / "numbers.json").read_text())
        assert list(document["also"]) == ["image", "fp16", "ort"]
        for found in document["also"].values():
            assert (folder / found["name"]).stat().st_size == found["bytes"]
            assert found["top1_agreement"] >= 0.99
        assert "takes images as decoders give them" in (folder / "card.md").read_text()
        whole = opened(folder / "image.onnx")
        batch = whole.get_inputs()[0].shape[0]
        images_BHWC = np.ascontiguousarray(
            images.pixels[: batch if isinstance(batch, int) else 32].transpose(0, 2, 3, 1)
        )
        classes = whole.run(None, {"image": images_BHWC})[0].argmax(1)
        # Every pixel four times, so that it is another size and the same picture.
        larger = images_BHWC.repeat(2, axis=1).repeat(2, axis=2)
        assert (whole.run(None, {"image": larger})[0].argmax(1) == classes).mean() > 0.9
        half = onnx.load(folder / "model.fp16.onnx")
        assert {each.data_type for each in half.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}
        assert {each.key: each.value for each in half.metadata_props}["nas.precision"] == "fp16"
        assert document["also"]["fp16"]["bytes"] < document["file"]["bytes"]
        assert 0 < document["also"]["fp16"]["max_abs_diff"] < 0.1
        size = opened(folder / "model.ort").get_inputs()[0].shape[-1]
        assert size == opened(folder / "model.onnx").get_inputs()[0].shape[-1]


def test_a_file_that_says_something_else_is_not_handed_over(nas, copied, monkeypatch):
    before = {path: path.read_bytes() for path in copied.glob("models/*/*")}
    monkeypatch.setattr(companions, "LEAST_AGREEMENT", 1.01)
    said = nas("export", copied, "--again", *ALSO, "--pick", "fastest")
    assert "image.onnx of" in said.complaint
    assert "at least 101% is wanted: leave image out of export.also" in said.complaint
    assert {path: path.read_bytes() for path in copied.glob("models/*/*")} == before


def test_images_inside_take_a_later_opset(nas, copied):
    complaint = nas("export", copied, "--again", "--also", "image", "--set", "export.opset=17").complaint
    assert "takes export.opset 18 or later, not 17" in complaint
    assert "export.also" in nas("export", copied, "--again", "--also", "coreml").complaint
