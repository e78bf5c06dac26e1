"""All that training changes, and its way to a file and back."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Arch, Space
from supernets import checkpoint
from supernets.checkpoint import Checkpoint
from supernets.dataset import Dataset
from supernets.errors import TrainError
from supernets.group import Alone, Group
from supernets.layout import LAYOUTS, Layout, device_of, layout_named, layouts_on
from supernets.loss_gap import LossGap
from supernets.muon import Muon
from supernets.recipes import RECIPES
from supernets.settings import TrainSettings
from supernets.start import load_start
from supernets.supernet import Supernet

LAYOUT_BATCH = 64

Forward = Callable[[Supernet, Tensor, Arch], Tensor]
"""Logits (B, K) of an architecture for images (B, C, H, W) of its resolution."""

# Of Muon, relative to the settings. `tiny` on CIFAR-10 at a rate of 0.25, mean accuracy of ten networks. 1,056 steps of 128, at
# 16-24 px: `sgd` 64.2%; Muon at 0.08 of the rate 67.8, 0.24 70.3, 0.5 71.4, 1.0 71.1%; at 0.5 without decay 69.2, with 600
# times 68.3%. 7,040 steps at 24-32 px: `sgd` 81.1%; Muon at 0.25 of the rate 81.8, 0.5 81.2%; of these the largest network
# alone 86.1, 86.4, 85.3%.
MUON_RATE = 0.25
MUON_DECAY = 100.0


@dataclass
class TrainState:
    """What a checkpoint holds. `average` is the mean of the weights over time, the result; `teacher` a frozen one.

    `optimiser` moves all weights but those that `muon` does, where there is one. Where a recipe keeps momenta apart, it has the
    gradients of labels alone, and `distilling` those of distillation. `gap` is what attentive picks go by. `parts`: into how
    many a batch is cut to fit into memory. `loss` is smoothed over about ten steps. No checkpoint tells of `group`, the workers
    that train it together, of `class_weights`, what an image of each class counts, as `supernets.tasks` has them, and of what a
    fine-tuning puts in place of the usual: `forward`, how the net is run in a step, and `tutor`, whose logits it learns from.
    """

    net: Supernet
    average: Supernet
    teacher: Supernet | None
    optimiser: torch.optim.SGD
    muon: Muon | None
    distilling: torch.optim.SGD | None
    scaler: torch.amp.GradScaler
    gap: LossGap | None
    layout: str
    step: int = 0
    parts: int = 1
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    group: Group = field(default_factory=Alone)
    class_weights: Tensor | None = None
    forward: Forward | None = None
    tutor: Callable[[Tensor], Tensor] | None = None

    @property
    def how(self) -> Layout:
        """The layout itself."""
        return LAYOUTS[self.layout]

    @property
    def nets(self) -> tuple[Supernet, ...]:
        """Those that there are."""
        return tuple(net for net in (self.net, self.average, self.teacher) if net is not None)

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name that their momenta have in a file."""
        all_three = {"momentum.": self.optimiser, "muon.": self.muon, "distilled_momentum.": self.distilling}
        return {name: each for name, each in all_three.items() if each is not None}

    def momenta(self) -> dict[str, dict[str, Tensor]]:
        """By the same names, the momentum of each parameter that has one."""
        return {
            prefix: {
                name: optimiser.state[parameter]["momentum_buffer"]
                for name, parameter in self.net.named_parameters()
                if optimiser.state[parameter].get("momentum_buffer") is not None
            }
            for prefix, optimiser in self.optimisers.items()
        }


def fresh_state(space: Space, settings: TrainSettings) -> TrainState:
    """Before the first step: weights drawn from the seed, or those of `settings.start`."""
    net = Supernet(space, settings.seed).to(device_of(settings.device))
    recipe = RECIPES[settings.recipe]
    whole = load_start(net, Path(settings.start)) if settings.start is not None else False
    state = begin(net, settings, layout_named(settings.layout, net, min(settings.batch, LAYOUT_BATCH)))
    if whole and any(phase.teacher == "frozen" for phase in recipe):
        state.teacher = copy.deepcopy(state.average).eval()
    return state


def begin(net: Supernet, settings: TrainSettings, layout: str) -> TrainState:
    """A training of these weights that has taken no step."""
    recipe = RECIPES[settings.recipe]
    LAYOUTS[layout].hold(net)
    return TrainState(
        net,
        copy.deepcopy(net),
        None,
        _momentum(net, settings, settings.weight_decay),
        _muon(net, settings) if settings.muon else None,
        # Weight decay goes with the labels.
        _momentum(net, settings, 0.0) if any(phase.momentum_gap for phase in recipe) else None,
        LAYOUTS[layout].scaler(net.device),
        LossGap.empty(net.space) if any(phase.attentive for phase in recipe) else None,
        layout,
    )


def save_state(state: TrainState, settings: TrainSettings, dataset: Dataset, path: Path) -> None:
    """Replace the checkpoint at `path`; `TrainError` instead where a weight is no number: the last good one stays."""
    checkpoint.write(path, snapshot(state, identity_of(settings, dataset)))


def snapshot(state: TrainState, identity: Mapping[str, Any]) -> Checkpoint:
    """All of a training, to go on from; `TrainError` where a weight is no number."""
    for name, weights in state.net.named_parameters():
        if not bool(weights.isfinite().all()):
            raise TrainError(f"{name} is not finite after step {state.step - 1}; lower train.learning_rate")
    tensors = {checkpoint.WEIGHTS + name: t for name, t in state.net.state_dict().items()}
    tensors |= {checkpoint.AVERAGE + name: t for name, t in state.average.state_dict().items()}
    if state.teacher is not None:
        tensors |= {f"teacher.{name}": t for name, t in state.teacher.state_dict().items()}
    for prefix, momenta in state.momenta().items():
        tensors |= {prefix + name: buffer for name, buffer in momenta.items()}
    if state.gap is not None:
        tensors |= {"gap.gram": torch.from_numpy(state.gap.gram), "gap.moment": torch.from_numpy(state.gap.moment)}
    notes = {
        "step": state.step,
        "loss": state.loss,
        "seconds": state.seconds,
        "layout": state.layout,
        "history": list(state.history),
        "parts": state.parts,
        "scaler": state.scaler.state_dict(),
        "identity": identity,
    }
    return Checkpoint(state.net.space, tensors, notes)


def resumed_state(space: Space, settings: TrainSettings, dataset: Dataset, path: Path) -> TrainState:
    """What `save_state` wrote; `TrainError` where it belongs to other settings or data."""
    return continued(own_checkpoint(space, settings, dataset, path), settings, path)


def continued(found: Checkpoint, settings: TrainSettings, path: Path) -> TrainState:
    """The training of a checkpoint on the device of `settings`, in the layout that it began in."""
    net = Supernet(found.space).to(device_of(settings.device))
    layout = layout_named(layout_of(found, net, settings), net, min(settings.batch, LAYOUT_BATCH))
    return restored(found, net, replace(settings, layout=layout), path)


def layout_of(found: Checkpoint, net: Supernet, settings: TrainSettings) -> str:
    """The layout in which a training goes on: as before, or as asked for where this device has no such layout."""
    before: str = found.notes["layout"]
    return before if before == "auto" or before in layouts_on(net.device) else settings.layout


def agreed_layout(name: str, net: Supernet, settings: TrainSettings, group: Group) -> str:
    """The layout in which all workers train; for `auto` the one that the first of them finds the fastest."""
    own = layout_named(name, net, min(settings.batch // group.size, LAYOUT_BATCH))
    index = list(LAYOUTS).index(own)
    return list(LAYOUTS)[int(group.gather(torch.tensor(index, device=net.device))[0])]


def own_checkpoint(space: Space, settings: TrainSettings, dataset: Dataset, path: Path) -> Checkpoint:
    """The checkpoint of this very training; `TrainError` where it belongs to other settings or data."""
    return identified(checkpoint.read(path, space), identity_of(settings, dataset), path)


def identified(found: Checkpoint, identity: Mapping[str, Any], path: Path) -> Checkpoint:
    """The checkpoint, where it is of the training that has this identity; else `TrainError`."""
    if found.notes.get("identity") != identity:
        raise TrainError(f"{path}: was trained with other settings or data; resume with those, or start a new run")
    return found


def restored(found: Checkpoint, net: Supernet, settings: TrainSettings, path: Path) -> TrainState:
    """The training that `snapshot` took, in this net and the layout of `settings`; `path` is where it lies, for errors."""
    state = begin(net, settings, settings.layout)
    state.step, state.loss, state.seconds = (found.notes[key] for key in ("step", "loss", "seconds"))
    state.history, state.parts = list(found.notes["history"]), found.notes.get("parts", 1)
    state.scaler.load_state_dict(found.notes.get("scaler", {}))

    checkpoint.load_weights(state.net, found.part(checkpoint.WEIGHTS), path)
    checkpoint.load_weights(state.average, found.part(checkpoint.AVERAGE), path)
    if teacher := found.part("teacher."):
        state.teacher = copy.deepcopy(state.average).eval()
        checkpoint.load_weights(state.teacher, teacher, path)
    if state.gap is not None:
        state.gap.gram, state.gap.moment = found.tensors["gap.gram"].numpy(), found.tensors["gap.moment"].numpy()
    parameters = dict(state.net.named_parameters())
    for prefix, optimiser in state.optimisers.items():
        for name, saved in found.part(prefix).items():
            buffer = saved.to(state.net.device, copy=True)
            placed = state.how.place(buffer) if buffer.dim() == 4 else buffer
            optimiser.state[parameters[name]]["momentum_buffer"] = placed
    return state


def _momentum(net: Supernet, settings: TrainSettings, weight_decay: float) -> torch.optim.SGD:
    """Nesterov momentum; weight decay on weights alone, not on norms, biases and kernel transforms."""
    named = [(name, p) for name, p in net.named_parameters() if not (settings.muon and _mixes(p))]
    decayed = [p for name, p in named if p.dim() > 1 and ".transforms." not in name]
    others = [p for name, p in named if p.dim() <= 1 or ".transforms." in name]
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "rate": 1.0},
        {"params": others, "weight_decay": 0.0, "rate": 1.0},
    ]
    nesterov, fused = settings.momentum > 0, net.device.type == "cuda"
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov, fused=fused or None
    )


def _muon(net: Supernet, settings: TrainSettings) -> Muon:
    mixing = [{"params": [p for p in net.parameters() if _mixes(p)], "rate": MUON_RATE}]
    return Muon(mixing, settings.learning_rate, settings.momentum, MUON_DECAY * settings.weight_decay)


def _mixes(parameter: nn.Parameter) -> bool:
    """Whether these are weights of a convolution over several channels: those of a depthwise one are no matrix."""
    return parameter.dim() == 4 and parameter.shape[1] > 1


def identity_of(settings: TrainSettings, dataset: Dataset) -> dict[str, Any]:
    """What has to be the same for a checkpoint to be continued; as JSON."""
    fixed = asdict(settings)
    for name in ("layout", "evaluations", "device", "start", "workers"):
        del fixed[name]
    if fixed["class_weights"] == "none":
        del fixed["class_weights"]
    if fixed["exits"] is None:
        del fixed["exits"]
    # As checkpoints from before there was a choice.
    del fixed["optimiser"]
    if settings.muon:
        fixed["optimiser"] = "muon"
    # Where the weights lay is no matter, and checkpoints from before there were any to start from stay good.
    started = {"start": _digest(Path(settings.start))} if settings.start is not None else {}
    return {"settings": fixed, "data": dataset.id} | started


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainError(f"train.start: cannot read {path} ({error.strerror})") from error
