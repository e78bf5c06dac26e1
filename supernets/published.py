"""Published once-for-all checkpoints, read as supernets of ours.

The layout is that of the state dicts which the code of Cai et al., "Once-for-All", ICLR 2020, writes. It has two spellings: a
module that is wrapped is named once in some files and twice in others (`bn.weight`, `bn.bn.weight`). Both are read.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from search_spaces import Space, slots
from supernets.errors import CheckpointError
from supernets.supernet import Supernet

# What the published weights were trained on: ImageNet scaled to [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What torch.load raises for files that are broken in one way or another.
BROKEN = (
    *(RuntimeError, EOFError, OSError, MemoryError, OverflowError, struct.error),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which module of the published network holds the weight of each layer of a family.

    `layers` has those outside of stages. Blocks are counted through all stages from `first_block` on; `parts` has the
    layers of one, after `prefix` and its number. `mark` is a tensor that no other family has.
    """

    layers: Mapping[str, str]
    prefix: str
    first_block: int
    parts: Mapping[str, str]
    mark: str


MOBILE_PARTS = {
    "expand": "conv.inverted_bottleneck.conv",
    "depthwise": "conv.depth_conv.conv",
    "se.reduce": "conv.depth_conv.se.fc.reduce",
    "se.expand": "conv.depth_conv.se.fc.expand",
    "project": "conv.point_linear.conv",
}
MOBILE_STEM = {
    "stem.conv": "first_conv.conv",
    "stem.depthwise": "blocks.0.conv.depth_conv.conv",
    "stem.project": "blocks.0.conv.point_linear.conv",
}
HEAD = {"head.features": "feature_mix_layer.conv", "head.classifier": "classifier.linear"}

LAYOUTS = {
    "mobilenet_v3": Layout(
        {**MOBILE_STEM, **HEAD, "head.expand": "final_expand_layer.conv"},
        "blocks",
        1,
        MOBILE_PARTS,
        "final_expand_layer.conv.weight",
    ),
    "proxyless": Layout({**MOBILE_STEM, **HEAD}, "blocks", 1, MOBILE_PARTS, "feature_mix_layer.bn.weight"),
    "resnet50": Layout(
        {
            "stem.conv1": "input_stem.0.conv",
            "stem.conv2": "input_stem.1.conv.conv",
            "stem.conv3": "input_stem.2.conv",
            "head.classifier": "classifier.linear",
        },
        "blocks",
        0,
        {"conv1": "conv1.conv", "conv2": "conv2.conv", "conv3": "conv3.conv", "shortcut": "downsample.conv"},
        "input_stem.0.conv.weight",
    ),
}


def import_supernet(path: Path, space: Space, name: str) -> tuple[Supernet, dict[str, Any]]:
    """The supernet of a published checkpoint in evaluation mode, and notes on where it came from (`name` is what `space` is
    called); `CheckpointError` where the file is none, or one of another space."""
    if space.family not in LAYOUTS:
        raise CheckpointError(f"no published checkpoint has family {space.family}; known are {', '.join(LAYOUTS)}")
    found = published_tensors(path)
    looks = [family for family, layout in LAYOUTS.items() if layout.mark in found]
    if looks and space.family not in looks:
        raise CheckpointError(f"{path}: looks like a checkpoint of {looks[0]}, not of {space.family} ({name})")
    net = Supernet(space)
    wanted = net.state_dict()
    sources = source_names(space, wanted)
    _check(path, name, {sources[key]: tensor for key, tensor in wanted.items()}, found)
    with torch.no_grad():
        for key, target in wanted.items():
            target.copy_(found[sources[key]])
    origin = {"name": name, "file": path.name, "sha256": _sha256(path)}
    return net.eval(), {"published": origin, "mean": list(MEAN), "std": list(STD)}


def source_names(space: Space, names: Mapping[str, Any]) -> dict[str, str]:
    """The published name, spelled plainly, of each tensor in a supernet's state dict."""
    layout = LAYOUTS[space.family]
    blocks = [slot.name for slot in slots(space) if re.fullmatch(r"s\d+\.b\d+", slot.name)]
    numbers = {name: number for number, name in enumerate(blocks, start=layout.first_block)}

    def module(layer: str) -> str:
        if layer in layout.layers:
            return layout.layers[layer]
        block = ".".join(layer.split(".")[:2])
        return f"{layout.prefix}.{numbers[block]}.{layout.parts[layer.removeprefix(f'{block}.')]}"

    def source(name: str) -> str:
        if ".transforms." in name:
            layer, _, sizes = name.partition(".transforms.")
            return plain(f"{module(layer)}.{sizes}_matrix")
        layer, _, part = name.rpartition(".")
        if layer.endswith("_norm"):
            beside = module(layer.removesuffix("_norm")).rpartition(".")[0]
            return plain(f"{beside}.bn.{part}")
        return plain(f"{module(layer)}.{part}")

    return {name: source(name) for name in names}


def plain(name: str) -> str:
    """A published tensor's name in one spelling: what is repeated is said once."""
    parts = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.").split(".")
    return ".".join(part for part, _ in groupby(parts))


def published_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file by their plain names: a pickle of torch's (zip or older), or safetensors.

    No code in a pickle is run: one that holds more than tensors, numbers and text is refused.
    """
    content = _safetensors(path) if _begins(path)[8:9] == b"{" else _pickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: wanted a state dict, found {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: wanted a state dict of tensors, found {type(value).__name__} at {key!r:.60}"
            )
    return {plain(key): tensor for key, tensor in content.items() if not key.endswith("num_batches_tracked")}


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise CheckpointError(f"{path}: neither a checkpoint of torch nor a safetensors file") from error
        raise CheckpointError(
            f"{path}: holds {code[1]} beside tensors, which would have to be run to be read; save its state dict alone"
        ) from error
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint of torch ({reason})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, name: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """One line about tensors that are not those of the space, by their published names."""
    wrong = [f"{key} is missing" for key in wanted if key not in found]
    wrong += [f"{key} is not of this network" for key in found if key not in wanted]
    for key, tensor in found.items():
        if key in wanted and tensor.shape != wanted[key].shape:
            if key == "classifier.linear.weight" and tensor.dim() == 2 and tensor.shape[1] == wanted[key].shape[1]:
                raise CheckpointError(_other_classes(path, len(tensor), len(wanted[key])))
            wrong.append(f"{key} has shape {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        raise CheckpointError(f"{path}: is no checkpoint of {name}: {'; '.join(wrong[:3])}{more}")


def _other_classes(path: Path, found: int, wanted: int) -> str:
    return (
        f"{path}: its classifier has {found} classes, the space asks for {wanted}; import it with num_classes={found}. "
        "A training that starts from it draws a classifier for its own classes"
    )
