"""Specialisations: what ONNX Runtime computes is what torch computes, and the file says what it is."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from latency_tables import Device, LatencyError
from latency_tables.graphs.graph import profiling_model
from nas import deployed as deploying
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import ExportSettings
from nas.specialising.checks import MAX_ABS_DIFF, Answers, Checked, check, supernet_answers
from nas.specialising.model_file import write_model
from nas.specialising.specialise import Specialised, Weights, check_versions, specialise, supernet_weights
from search_spaces import Arch, Space, arch_cost
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import accuracy, calibrate, resize, resolution
from supernets.checkpoint import load_supernet
from supernets.dataset import load
from supernets.extract import extract
from supernets.supernet import Supernet

METADATA = {
    *(
        "nas.license",
        "nas.format",
        "nas.arch",
        "nas.arch_id",
        "nas.space",
        "nas.device",
        "nas.pick",
        "nas.precision",
        "nas.metrics",
        "nas.check",
    ),
    *("nas.task", "nas.classes", "nas.preprocessing", "nas.versions", "nas.job"),
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """The supernet of the finished run, with digits to calibrate and to test it on."""

    net: Supernet
    calibration: Sequence[torch.Tensor]
    test: Sequence[tuple[torch.Tensor, torch.Tensor]]

    largest: Answers

    def specialised(self, arch: Arch, batch: int = 1, **settings) -> Specialised:
        weights = supernet_weights(self.net, self.net.space, arch, self.calibration)
        return specialise(arch, weights, ExportSettings(**settings), batch)

    def checked(self, arch: Arch, batch: int = 1, **settings) -> Checked:
        return check(self.specialised(arch, batch, **settings), self.test, self.largest)

    def archs(self, n: int) -> list[Arch]:
        space = self.net.space
        return [space.smallest(), space.largest(), *space.decode(space.sample(np.random.default_rng(0), n - 2))]


@pytest.fixture(scope="module")
def trained(finished) -> Trained:
    folder = RunFolder.open(finished)
    job = folder.job
    dataset = load(job.source, cache=folder.cache)
    net, _ = load_supernet(folder.supernet, folder.space)
    calibration = calibration_batches(dataset, job.train.augment, job.seed, 1)
    test = list(Batches.of(dataset.test, dataset))
    return Trained(net, calibration, test, supernet_answers(net, net.space.largest(), calibration, test))


def opened(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def operators(model: bytes) -> Counter:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


def test_what_onnx_runtime_computes_on_digits_is_what_torch_computes(trained):
    for arch in trained.archs(6):
        checked = trained.checked(arch)
        assert 0 < checked.parity.max_abs_diff <= MAX_ABS_DIFF == 1e-4
        assert checked.parity.top1_agreement == 1.0
        assert checked.evaluation.images == sum(len(y_B) for _, y_B in trained.test) > 300
        stats = calibrate(trained.net, arch, trained.calibration)
        assert checked.test_accuracy == pytest.approx(accuracy(trained.net, arch, stats, trained.test), abs=0.005)


def test_a_free_batch_takes_any_number_of_images(trained):
    arch = trained.archs(3)[2]
    session = opened(trained.specialised(arch).model)
    assert [entry.shape[0] for entry in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
    plain = extract(trained.net, arch, calibrate(trained.net, arch, trained.calibration))
    for batch in (1, 3, 8):
        x_BCHW = resize(trained.test[0][0][:batch], resolution(arch)).contiguous()
        with torch.no_grad():
            wanted = plain(x_BCHW).numpy()
        np.testing.assert_allclose(session.run(None, {"input": x_BCHW.numpy()})[0], wanted, atol=MAX_ABS_DIFF)


def test_a_fixed_batch_takes_that_number_and_no_other(trained):
    arch = trained.net.space.largest()
    checked = trained.checked(arch, batch=4, dynamic_batch=False)
    assert checked.parity.max_abs_diff <= MAX_ABS_DIFF
    assert checked.parity.top1_agreement == 1.0
    session = opened(checked.model)
    assert session.get_inputs()[0].shape == [4, 1, 8, 8]
    assert session.run(None, {"input": np.zeros((4, 1, 8, 8), np.float32)})[0].shape == (4, 10)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        session.run(None, {"input": np.zeros((3, 1, 8, 8), np.float32)})


@pytest.mark.parametrize(("opset", "ir_version"), [(14, 7), (17, 8), (18, 9), (20, 10)])
def test_opset_and_ir_version_are_those_asked_for(trained, opset, ir_version):
    check_versions(ExportSettings(opset=opset, ir_version=ir_version))
    checked = trained.checked(trained.net.space.smallest(), opset=opset, ir_version=ir_version)
    proto = onnx.load_from_string(checked.model)
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", opset)]
    assert proto.ir_version == ir_version
    assert checked.parity.max_abs_diff <= MAX_ABS_DIFF


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 8), (999, 8), (17, 6), (17, 999)])
def test_versions_that_cannot_be_built_are_refused(opset, ir_version):
    with pytest.raises(LatencyError, match=r"opset must be 14|ir_version must be 7"):
        check_versions(ExportSettings(opset=opset, ir_version=ir_version))


def test_versions_that_onnx_runtime_cannot_load_are_refused(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("Unsupported model IR version: 13")

    monkeypatch.setattr(deploying.ort, "InferenceSession", refuse)
    with pytest.raises(JobError, match="ONNX Runtime cannot load the model of opset 17 and IR version 8"):
        check_versions(ExportSettings())


def test_a_model_that_computes_something_else_is_refused(trained):
    arch = trained.net.space.largest()
    weights = supernet_weights(trained.net, trained.net.space, arch, trained.calibration)
    deployed = weights.deployed
    name, (weight, bias) = next(iter(deployed.weights.items()))
    moved = dataclasses.replace(deployed, weights={**deployed.weights, name: (weight + 0.01, bias)})
    off = Weights(weights.plain, moved)
    with pytest.raises(JobError, match=r"differs from torch by 0\.\d+ \(at most 0\.0001 is allowed\)"):
        check(specialise(arch, off, ExportSettings(), 1), trained.test, trained.largest)


def test_what_was_profiled_is_what_is_deployed(trained):
    """The same operators, in the same order, with the same attributes, on tensors of the same shapes."""
    space = trained.net.space
    for arch in trained.archs(5):
        deployed = onnx.load_from_string(trained.specialised(arch, batch=2, dynamic_batch=False).model)
        profiled = onnx.load_from_string(profiling_model(space, arch, 2))
        assert list(deployed.graph.node) == list(profiled.graph.node)
        assert list(deployed.graph.input) == list(profiled.graph.input)
        shapes = [[(each.name, tuple(each.dims)) for each in proto.graph.initializer] for proto in (deployed, profiled)]
        assert shapes[0] == shapes[1]
        free = trained.specialised(arch).model
        assert operators(free) == operators(profiling_model(space, arch, 1))


def test_batch_norm_is_folded(trained):
    assert set(operators(trained.specialised(trained.net.space.largest()).model)) == {
        *("Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm")
    }


def test_a_written_model_is_the_checked_one_with_its_metadata(trained, tmp_path):
    checked = trained.specialised(trained.net.space.smallest())
    sha256 = write_model(tmp_path / "a.onnx", checked.model, {"text": "as it is", "numbers": {"b": [1, 2], "a": None}})
    content = (tmp_path / "a.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    written, model = onnx.load_from_string(content), onnx.load_from_string(checked.model)
    properties = {each.key: each.value for each in written.metadata_props}
    assert properties == {"text": "as it is", "numbers": '{"a":null,"b":[1,2]}'}
    assert written.graph == model.graph
    assert list(tmp_path.iterdir()) == [tmp_path / "a.onnx"]


def test_every_exported_file_says_what_it_is(finished):
    folder = RunFolder.open(finished)
    job, summary = folder.job, folder.read_json("summary.json")
    exports = [(device, made) for device in summary["devices"] for made in device["exports"]]
    assert len(exports) == 6
    for device, made in exports:
        session = opened((finished / made["file"]).read_bytes())
        metadata = session.get_modelmeta().custom_metadata_map
        assert set(metadata) == METADATA
        found = {key: value if key in PLAIN_TEXT else json.loads(value) for key, value in metadata.items()}
        space = Space.from_json(found["nas.space"])
        arch = space.arch_from_json(found["nas.arch"])
        assert space == folder.space
        assert (arch.id, found["nas.pick"], found["nas.job"]) == (made["arch_id"], made["pick"], "little")
        assert Device.from_json(found["nas.device"]) in job.devices
        assert found["nas.device"]["name"] == device["name"]
        row = next(row for row in device["front"] if row["arch_id"] == made["arch_id"])
        assert found["nas.metrics"] == {name: row[name] for name in found["nas.metrics"]}
        assert found["nas.metrics"]["macs"] == arch_cost(space, arch).macs
        assert found["nas.check"] == {
            name: made[name] for name in ("max_abs_diff", "top1_agreement", "in_fp32", "images")
        }
        assert found["nas.task"] == "single_label"
        assert found["nas.classes"] == [str(i) for i in range(10)]
        preprocessing = found["nas.preprocessing"]
        assert session.get_inputs()[0].shape[1:] == [1, preprocessing["size_px"], preprocessing["size_px"]]
        assert len(preprocessing["mean"]) == len(preprocessing["std"]) == 1
        assert found["nas.versions"].keys() >= {"python", "torch", "onnx", "onnxruntime"}


PLAIN_TEXT = ("nas.format", "nas.arch_id", "nas.pick", "nas.precision", "nas.task", "nas.job", "nas.license")
