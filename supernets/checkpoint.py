"""Supernets on disk: one safetensors file with the tensors, and the rest as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from search_spaces import Space, SpaceError
from search_spaces.files import write_bytes
from supernets.errors import CheckpointError
from supernets.supernet import Supernet

FORMAT = "nas.supernet/1"
WEIGHTS, AVERAGE = "net.", "average."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, the space they belong to, and whatever JSON the writer put beside them."""

    space: Space
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by what follows."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def result(self) -> dict[str, Tensor]:
        """What training gives: the average of the weights over time where it is kept, as in a training's own checkpoint."""
        return self.part(AVERAGE) or self.part(WEIGHTS)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at once: it is the old one or the new one, whatever happens on the way."""
    header = {
        "format": FORMAT,
        "space": json.dumps(checkpoint.space.to_json()),
        "notes": json.dumps(dict(checkpoint.notes)),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_bytes(path, save(tensors, metadata=header))


def read(path: Path, space: Space | None = None) -> Checkpoint:
    """Read what `write` wrote; `CheckpointError` where it is none, or belongs to another space than `space`."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: wanted format {FORMAT!r}, found {header.get('format')!r}")
    try:
        found = Space.from_json(json.loads(header["space"]))
        notes = json.loads(header["notes"])
    except (KeyError, json.JSONDecodeError, SpaceError) as error:
        raise CheckpointError(f"{path}: broken header ({error})") from error
    if not isinstance(notes, dict):
        raise CheckpointError(f"{path}: broken header (its notes are a {type(notes).__name__}, not an object)")
    if space is not None and found != space:
        raise CheckpointError(f"{path}: is a supernet of space {found.id} ({found.family}), not of {space.id}")
    return Checkpoint(found, tensors, notes)


def save_supernet(path: Path, net: Supernet, notes: Mapping[str, Any]) -> None:
    """Weights and running statistics of a supernet, with notes (JSON) such as its data and settings."""
    write(path, Checkpoint(net.space, {WEIGHTS + name: t for name, t in net.state_dict().items()}, notes))


def load_supernet(path: Path, space: Space | None = None) -> tuple[Supernet, Mapping[str, Any]]:
    """A supernet in evaluation mode, and its notes."""
    checkpoint = read(path, space)
    net = Supernet(checkpoint.space)
    load_weights(net, checkpoint.part(WEIGHTS), path)
    return net.eval(), checkpoint.notes


def load_weights(net: Supernet, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a supernet, refusing missing, extra or mis-shaped ones by name."""
    wanted = net.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is not of this network" for name in tensors if name not in wanted]
    wrong += [
        f"{name} has shape {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{path}: {'; '.join(wrong[:3])}" + (f" and {len(wrong) - 3} more" if wrong[3:] else ""))
    with torch.no_grad():
        for name, target in wanted.items():
            target.copy_(tensors[name])
