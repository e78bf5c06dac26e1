"""Extracted sub-networks exported by torch: what our own graphs are compared with."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from search_spaces import Arch, Space
from supernets.calibrate import calibrate, resolution
from supernets.extract import extract
from supernets.supernet import Stats, Supernet

Export = Callable[[nn.Module, Tensor], bytes]


def legacy(module: nn.Module, x_BCHW: Tensor) -> bytes:
    """By TorchScript, with a dynamic batch."""
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # In a Sequential, since the exporter takes any module with a `graph` for a scripted one.
        torch.onnx.export(
            nn.Sequential(module).eval(),
            (x_BCHW,),
            file,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
        return file.getvalue()


def dynamo(module: nn.Module, x_BCHW: Tensor) -> bytes:
    """By torch.export, torch's default, with a dynamic batch."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # An example of one image would fix the batch.
    x_BCHW = x_BCHW.repeat(2, 1, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (x_BCHW,),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None, "dynamo returns its program"
    proto: onnx.ModelProto = program.model_proto
    content: bytes = proto.SerializeToString()
    return content


EXPORTS: dict[str, Export] = {"legacy": legacy}
if importlib.util.find_spec("onnxscript"):
    EXPORTS["dynamo"] = dynamo


class PublishedHardSwish(nn.Module):
    """h-swish in the operations that published once-for-all code spells it with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(x + 3.0) / 6.0


class PublishedHardSigmoid(nn.Module):
    """h-sigmoid, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3.0) / 6.0


PUBLISHED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Hardswish: PublishedHardSwish,
    nn.Hardsigmoid: PublishedHardSigmoid,
}


def spelled_out(module: fx.GraphModule) -> fx.GraphModule:
    """The same network, activations as published once-for-all code has them."""
    module = copy.deepcopy(module)
    for name, child in list(module.named_modules()):
        if type(child) in PUBLISHED:
            module.set_submodule(name, PUBLISHED[type(child)]())
    return module


def images(space: Space, arch: Arch, batch: int) -> Tensor:
    size = resolution(arch)
    return torch.randn(batch, space.settings["in_channels"], size, size, generator=torch.Generator().manual_seed(0))


def calibrated(net: Supernet, arch: Arch) -> tuple[fx.GraphModule, Stats]:
    """The extracted module and the statistics that it was given."""
    stats = calibrate(net, arch, [images(net.space, arch, 8)])
    return extract(net, arch, stats), stats
