"""The one training loop. A recipe says what each step trains; everything random is drawn from (seed, step), so that a run
that continues from a checkpoint ends with the same weights, bit for bit on a CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Arch, Space
from supernets import checkpoint
from supernets.augment import Augmentation, Normalisation
from supernets.batches import Batches, batch_of, calibration_batches, seed_of
from supernets.calibrate import accuracy, calibrate, resize, resolution
from supernets.dataset import Dataset
from supernets.elastic import ElasticBatchNorm2d
from supernets.errors import SupernetError, TrainError
from supernets.layout import LAYOUTS, fastest_layout
from supernets.recipes import RECIPES, Moment, Phase, schedule
from supernets.supernet import Supernet
from supernets.threads import torch_threads

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a line on how it goes."""

LAYOUT_BATCH = 64
# Validation images behind each point of the training curve.
CURVE_IMAGES = 1024


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train. `learning_rate` is the peak; `warmup` a share of the steps; `layout` a name of `LAYOUTS` or `auto`.

    `threads` is how many torch computes with, 0 for as many as there are cores; small networks lose nothing with one, and a
    busy machine slows two down far more than one. `evaluations` is how often the largest and smallest sub-networks are
    scored on validation images on the way.
    """

    recipe: str = "sandwich"
    epochs: int = 10
    batch: int = 256
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    label_smoothing: float = 0.1
    ema_decay: float = 0.99
    augment: Augmentation = field(default_factory=Augmentation)
    layout: str = "auto"
    threads: int = 0
    evaluations: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise SupernetError(f"unknown recipe {self.recipe!r}; known are {', '.join(RECIPES)}")
        if self.layout not in ("auto", *LAYOUTS):
            raise SupernetError(f"unknown layout {self.layout!r}; known are auto, {', '.join(LAYOUTS)}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SupernetError(f"train.{name} must be from {low} to {high}, not {value}")


_RANGES = (
    ("epochs", 1, 100_000),
    ("batch", 2, 65_536),
    ("learning_rate", 1e-8, 100.0),
    ("momentum", 0.0, 0.9999),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 0.9),
    ("label_smoothing", 0.0, 0.9),
    ("ema_decay", 0.0, 0.99999),
    ("threads", 0, 1024),
    ("evaluations", 1, 1000),
)


@dataclass
class TrainState:
    """All that training changes: what a checkpoint holds. `loss` is smoothed over about ten steps."""

    net: Supernet
    average: Supernet
    teacher: Supernet | None
    optimiser: torch.optim.SGD
    step: int
    loss: float
    seconds: float
    layout: str
    history: list[dict[str, float]]


def train(
    space: Space,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    path: Path | None = None,
    checkpoint_s: float = 60.0,
    progress: Progress = lambda done, total, text: None,
) -> TrainState:
    """Train a supernet; its result is the `average` of the weights over time.

    With `path`, the state is saved there every `checkpoint_s` seconds, and training goes on from it where it exists.
    """
    with torch_threads(settings.threads):
        return _train(space, dataset, settings, path, checkpoint_s, progress)


def _train(
    space: Space, dataset: Dataset, settings: TrainSettings, path: Path | None, checkpoint_s: float, progress: Progress
) -> TrainState:
    batch = min(settings.batch, len(dataset.train))
    steps_per_epoch = len(dataset.train) // batch
    moments = schedule(RECIPES[settings.recipe], settings.epochs * steps_per_epoch, settings.warmup)
    state = _resumed(space, settings, dataset, path) if path and path.exists() else _fresh(space, settings)
    layout = LAYOUTS[state.layout]
    for net in (state.net, state.average, state.teacher):
        if net is not None:
            layout.hold(net)
    normalise = Normalisation(dataset.mean, dataset.std)
    evaluate_at = {round(len(moments) * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    started, saved_at = time.perf_counter() - state.seconds, time.perf_counter()
    while state.step < len(moments):
        moment = moments[state.step]
        if moment.phase.teacher == "frozen" and state.teacher is None:
            state.teacher = copy.deepcopy(state.average).eval()
        images, labels = batch_of(dataset.train, batch, state.step, settings.seed)
        augmented = settings.augment(images, torch.Generator().manual_seed(seed_of(settings.seed, 1, state.step)))
        loss = _step(state, moment, layout.place(normalise(augmented)), labels, settings)
        state.loss = loss if state.step == 0 else 0.9 * state.loss + 0.1 * loss
        state.step += 1
        state.seconds = time.perf_counter() - started
        if state.step in evaluate_at:
            scores = validation_scores(state.average, dataset, settings, CURVE_IMAGES)
            epoch = state.step / steps_per_epoch
            row = {"step": state.step, "epoch": epoch, "seconds": state.seconds, "loss": state.loss}
            state.history.append({**row, "learning_rate": moment.learning_rate, **scores})
        if path and (time.perf_counter() - saved_at > checkpoint_s or state.step == len(moments)):
            _save(state, settings, dataset, path)
            saved_at = time.perf_counter()
        progress(state.step, len(moments), _line(state.loss, state.history))
    return state


def validation_scores(net: Supernet, dataset: Dataset, settings: TrainSettings, limit: int) -> dict[str, float]:
    """Validation accuracy of the largest and the smallest sub-network, with statistics of their own."""
    calibration = calibration_batches(dataset, settings.augment, settings.seed, batches=2)
    batches = Batches.of(dataset.validation, dataset, limit)
    ends = {"largest_val_accuracy": net.space.largest(), "smallest_val_accuracy": net.space.smallest()}
    return {name: accuracy(net, arch, calibrate(net, arch, calibration), batches) for name, arch in ends.items()}


def sub_networks(space: Space, phase: Phase, rng: np.random.Generator) -> list[Arch]:
    """The architectures of one step, in the order of the phase's picks."""
    archs = {"largest": space.largest, "smallest": space.smallest}
    draw = iter(space.decode(space.sample(rng, phase.subnets.count("random"), phase.allowed(space))))
    return [next(draw) if pick == "random" else archs[pick]() for pick in phase.subnets]


def _step(state: TrainState, moment: Moment, x_BCHW: Tensor, y_B: Tensor, settings: TrainSettings) -> float:
    """One optimiser step over all sub-networks of the phase; the loss of the first."""
    phase, net = moment.phase, state.net
    net.train()
    largest = net.space.largest()
    target_BK = None
    if phase.teacher == "frozen" and state.teacher is not None:
        with torch.no_grad(), LAYOUTS[state.layout].autocast():
            x_largest = resize(x_BCHW, resolution(largest))
            target_BK = state.teacher.run(x_largest, largest, _by_batch).float().softmax(1)
    first = 0.0
    for i, arch in enumerate(sub_networks(net.space, phase, np.random.default_rng((settings.seed, 3, state.step)))):
        with LAYOUTS[state.layout].autocast():
            logits_BK = net(resize(x_BCHW, resolution(arch)), arch).float()
        if target_BK is None or phase.label_weight > 0:
            loss = F.cross_entropy(logits_BK, y_B, label_smoothing=settings.label_smoothing)
            loss = loss if target_BK is None else phase.label_weight * loss + F.cross_entropy(logits_BK, target_BK)
        else:
            loss = F.cross_entropy(logits_BK, target_BK)
        value = loss.item()
        if not np.isfinite(value):
            raise TrainError(
                f"the loss is {value} at step {state.step} in sub-network {arch.id}; lower train.learning_rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if phase.teacher == "inplace" and i == 0:
            target_BK = logits_BK.detach().softmax(1)
        first = value if i == 0 else first
    for group in state.optimiser.param_groups:
        group["lr"] = settings.learning_rate * moment.learning_rate
    state.optimiser.step()
    state.optimiser.zero_grad()
    _update_average(state, settings.ema_decay)
    return first


def _by_batch(name: str, norm: ElasticBatchNorm2d, x_BCHW: Tensor) -> Tensor:
    """Batch norm of a teacher: its running statistics mix sub-networks, and stay as they are."""
    y_BCHW: Tensor = norm(x_BCHW, None, None, batch=True, momentum=0.0)
    return y_BCHW


def _update_average(state: TrainState, decay: float) -> None:
    """Exponential moving average of the weights, with a decay that grows with the steps so that it forgets the start."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.net.parameters()), 1.0 - decay)
        for target, source in zip(state.average.buffers(), state.net.buffers(), strict=True):
            target.copy_(source)


def _optimiser(net: Supernet, settings: TrainSettings) -> torch.optim.SGD:
    """Nesterov momentum; weight decay on weights alone, not on norms, biases and kernel transforms."""
    named = list(net.named_parameters())
    decayed = [p for name, p in named if p.dim() > 1 and ".transforms." not in name]
    others = [p for name, p in named if p.dim() <= 1 or ".transforms." in name]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _fresh(space: Space, settings: TrainSettings) -> TrainState:
    net = Supernet(space, settings.seed)
    layout = fastest_layout(net, min(settings.batch, LAYOUT_BATCH)) if settings.layout == "auto" else settings.layout
    return TrainState(net, copy.deepcopy(net), None, _optimiser(net, settings), 0, 0.0, 0.0, layout, [])


def _save(state: TrainState, settings: TrainSettings, dataset: Dataset, path: Path) -> None:
    tensors = {f"net.{name}": t for name, t in state.net.state_dict().items()}
    tensors |= {f"average.{name}": t for name, t in state.average.state_dict().items()}
    if state.teacher is not None:
        tensors |= {f"teacher.{name}": t for name, t in state.teacher.state_dict().items()}
    for name, parameter in state.net.named_parameters():
        buffer = state.optimiser.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    notes = {
        "step": state.step,
        "loss": state.loss,
        "seconds": state.seconds,
        "layout": state.layout,
        "history": state.history,
        "identity": _identity(settings, dataset),
    }
    checkpoint.write(path, checkpoint.Checkpoint(state.net.space, tensors, notes))


def _resumed(space: Space, settings: TrainSettings, dataset: Dataset, path: Path) -> TrainState:
    found = checkpoint.read(path, space)
    if found.notes.get("identity") != _identity(settings, dataset):
        raise TrainError(f"{path}: was trained with other settings or data; resume with those, or start a new run")
    state = replace(_fresh(space, replace(settings, layout=found.notes["layout"])), step=found.notes["step"])
    state.loss, state.seconds, state.history = (found.notes[key] for key in ("loss", "seconds", "history"))

    def part(name: str) -> Mapping[str, Tensor]:
        return {key.removeprefix(name): tensor for key, tensor in found.tensors.items() if key.startswith(name)}

    checkpoint.load_weights(state.net, part("net."), path)
    checkpoint.load_weights(state.average, part("average."), path)
    if teacher := part("teacher."):
        state.teacher = copy.deepcopy(state.average).eval()
        checkpoint.load_weights(state.teacher, teacher, path)
    momentum = part("momentum.")
    layout = LAYOUTS[state.layout]
    for name, parameter in state.net.named_parameters():
        if name in momentum:
            buffer = momentum[name]
            placed = layout.place(buffer) if buffer.dim() == 4 else buffer
            state.optimiser.state[parameter]["momentum_buffer"] = placed
    return state


def _identity(settings: TrainSettings, dataset: Dataset) -> dict[str, Any]:
    """What has to be the same for a checkpoint to be continued; as JSON."""
    fixed = asdict(settings)
    del fixed["layout"], fixed["evaluations"]
    return {"settings": fixed, "data": dataset.id}


def _line(loss: float, history: list[dict[str, float]]) -> str:
    if not history:
        return f"loss {loss:.2f}"
    last = history[-1]
    return (
        f"loss {loss:.2f}, validation {100 * last['largest_val_accuracy']:.1f}% largest, "
        f"{100 * last['smallest_val_accuracy']:.1f}% smallest"
    )
