"""Starting weights: a trained largest network whose sub-networks are trained from there on.

After Sridhar et al., "InstaTune: Instantaneous Neural Architecture Search During Fine-Tuning", ICCV workshops 2023: whoever has
trained weights need not train the largest network again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from search_spaces import Space, network
from search_spaces.exits import PREFIX, SETTING
from supernets import checkpoint
from supernets.errors import CheckpointError
from supernets.supernet import Supernet


def load_start(net: Supernet, path: Path) -> bool:
    """Copy weights from a supernet of the same space, or from a plain largest network (the state dict of `extract`, as
    safetensors). Whether the classifier was among them: one for another number of classes is left as it is.

    `CheckpointError` where tensors are missing, extra or of other shapes.
    """
    tensors = _tensors(net.space, path)
    own = net.state_dict()
    head = network(net.space, net.space.largest())[-1].name
    names = [f"{head}.weight", f"{head}.bias"]
    whole = all(name not in tensors or tensors[name].shape[:1] == own[name].shape[:1] for name in names)
    if not whole:
        tensors = tensors | {name: own[name] for name in names if _of_other_classes(tensors, own, name)}
    checkpoint.load_weights(net, tensors | _untold(own, tensors), path)
    return whole


def _tensors(space: Space, path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names in a supernet."""
    try:
        with safe_open(path, framework="pt") as file:
            ours = (file.metadata() or {}).get("format") == checkpoint.FORMAT
            plain = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"train.start: there is no file {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"train.start: {path} is not a readable safetensors file ({error})") from error
    if not ours:
        return {name: tensor for name, tensor in plain.items() if not name.endswith("num_batches_tracked")}
    found = checkpoint.read(path)
    if _comparable(found.space) != _comparable(space):
        raise CheckpointError(
            f"train.start: {path} is a supernet of another space, {found.space.id} ({found.space.family}), not of {space.id}; "
            "only the number of classes and exits may differ"
        )
    return found.result


def _comparable(space: Space) -> Any:
    """All that has to be the same."""
    document = space.to_json()
    return document | {"settings": {k: v for k, v in document["settings"].items() if k not in ("num_classes", SETTING)}}


def _of_other_classes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in tensors and tensors[name].shape[1:] == own[name].shape[1:]


def _untold(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a plain network does not have: its kernels are the largest, so the transforms to smaller ones stay as they are,
    and so do exits."""
    untold = (name for name in own if ".transforms." in name or name.startswith(PREFIX))
    return {name: own[name] for name in untold if name not in tensors}
