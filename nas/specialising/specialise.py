"""One architecture made deployable: weights of its own, and the ONNX graph that has to compute what they compute in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latency_tables.graphs.graph import build_model
from nas.deployed import Deployed, open_model
from nas.job import ExportSettings
from nas.searching.evaluator import THREADS
from search_spaces import NETWORK_INPUT, Arch, Layer, Space, exits, float_arch
from supernets.calibrate import calibrate
from supernets.extract import extract
from supernets.finetune import Tuned
from supernets.supernet import Supernet
from supernets.threads import torch_threads

LAYOUT = torch.channels_last
"""Of modules that are run: `mobilenet_v3` took 1.4 times as long without, `tiny` 1.1 times."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What training a network alone brought: its score on validation images before and after, the epoch of which it is (0: it
    stayed as it was) of how many, and whether it was trained as the integers that it is deployed in."""

    before: float
    after: float
    epoch: int
    epochs: int
    seconds: float
    integers: bool


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one architecture alone: as a torch module in evaluation mode, and as its graphs take them. `all_logits`:
    the module that also puts out what early exits say, where the space has them."""

    plain: nn.Module
    deployed: Deployed
    tunings: tuple[Tuning, ...] = ()
    all_logits: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Specialised:
    """One architecture as an ONNX model, beside the module in fp32 that it has to agree with."""

    arch: Arch
    plain: nn.Module
    model: bytes
    tunings: tuple[Tuning, ...] = ()


def check_versions(settings: ExportSettings) -> None:
    """Refuse an opset or IR version that cannot be built or loaded here, before a supernet is trained for it."""
    layer = Layer("act", "hswish", (NETWORK_INPUT,), (1, 1, 1), (1, 1, 1))
    proto = build_model([layer], batch=1, opset=settings.opset, ir_version=settings.ir_version)
    open_model(proto.SerializeToString(), f"opset {settings.opset} and IR version {settings.ir_version}")


def supernet_weights(net: Supernet, space: Space, arch: Arch, calibration: Sequence[Tensor]) -> Weights:
    """Those that an architecture of `space` has in the supernet of it without precision, with batch norm calibrated on
    normalised images (B, C, H, W)."""
    with torch_threads(THREADS):
        plain = float_arch(space, arch)
        stats = calibrate(net, plain, calibration)
        deployed = Deployed.of(net, space, arch, stats, calibration)
        all_logits = extract(net, plain, stats, all_logits=True) if exits(net.space, plain) else None
        return Weights(extract(net, plain, stats), deployed, (), all_logits)


def tuned_weights(space: Space, found: Tuned, given: Weights) -> Weights:
    """Those that a fine-tuning made of `given`."""
    integers = found.quantisation is not None
    tuning = Tuning(found.before, found.after, found.epoch, len(found.history) - 1, found.seconds, integers)
    ranges = given.deployed.ranges if integers else None
    deployed = Deployed(space, given.deployed.arch, found.folded(), given.deployed.images, ranges)
    all_logits = None if given.all_logits is None else found.module(all_logits=True)
    return Weights(found.module(), deployed, (*given.tunings, tuning), all_logits)


def specialise(arch: Arch, weights: Weights, settings: ExportSettings, batch: int) -> Specialised:
    """The graph of an architecture with these weights. `batch`: of the graph, unless the settings leave it free."""
    free = None if settings.dynamic_batch else batch
    with torch_threads(THREADS):
        proto = weights.deployed.model(arch, batch=free, opset=settings.opset, ir_version=settings.ir_version)
    weights.plain.to(memory_format=LAYOUT)  # type: ignore[call-overload]
    return Specialised(arch, weights.plain, proto.SerializeToString(), weights.tunings)
