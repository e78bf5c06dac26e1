"""One step of training: the gradients of all its sub-networks, added up where the weights lie, and one move of the weights.

Each of several workers has its own images of the batch. What makes a step theirs together: batch norm goes by all images, each
mean over images counts by its share of them, and losses and gradients are added up over the workers.

Shapes: B images, K classes, N sub-networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from search_spaces import Arch
from search_spaces.exits import PREFIX
from supernets.calibrate import resize, resolution
from supernets.elastic import ElasticBatchNorm2d
from supernets.errors import TrainError
from supernets.group import Group
from supernets.picks import sub_networks
from supernets.recipes import Exits, Moment, Phase, Recipe
from supernets.settings import TrainSettings
from supernets.shared_norm import by_all_images
from supernets.state import TrainState
from supernets.supernet import Normalise
from supernets.tasks import Task, task_of

Gradients = list[Tensor | None]
"""Of all parameters in order."""

# Batch norm by the batch needs two.
FEWEST_IMAGES = 2
EXIT_WEIGHT = 1.0
"""Of the losses of each early exit, beside those of the network. As much costs the network little: CIFAR-10, 2,106 steps,
`joint`, six random networks of `tiny` 74.4%, without exits 74.5%."""


def train_step(state: TrainState, moment: Moment, x_BCHW: Tensor, y_B: Tensor, settings: TrainSettings) -> float:
    """One optimiser step over all sub-networks of the phase; the loss of the first.

    `TrainError`, before any weight has moved, where a loss is not finite or a batch cannot be cut to fit into memory.
    """
    state.net.train()
    space, rng = state.net.space, np.random.default_rng((settings.seed, 3, state.step))
    archs = sub_networks(space, moment.phase, rng, state.gap)
    apart: Gradients | None = None if state.distilling is None else [None for _ in state.net.parameters()]
    while True:
        try:
            losses_2N = _gradients(state, moment, archs, x_BCHW, y_B, settings, apart)
            break
        except torch.OutOfMemoryError as error:
            apart = None if apart is None else [None for _ in apart]
            _cut_finer(state, len(y_B), error)
    for arch, loss in zip(archs, losses_2N[0], strict=True):
        if not np.isfinite(loss):
            raise TrainError(
                f"the loss is {loss} at step {state.step} in sub-network {arch.id}; lower train.learning_rate"
            )
    if state.gap is not None and moment.phase.subnets[0] == "largest":
        smaller = [i for i, pick in enumerate(moment.phase.subnets) if pick != "largest"]
        gaps = np.array([losses_2N[1][i] - losses_2N[1][0] for i in smaller])
        state.gap.observe(space.encode(archs[i] for i in smaller), gaps)
    _move(state, moment, settings, apart)
    return float(losses_2N[0][0])


def share_of(images: Tensor, group: Group) -> Tensor:
    """Those of a batch that are a worker's: one in so many, so that neighbours are spread evenly."""
    return images[group.rank :: group.size]


def fewest_images(batch: int, recipe: Recipe) -> int:
    """That any sub-network sees of a batch."""
    return min(_count(batch, phase.images) for phase in recipe)


def _cut_finer(state: TrainState, batch: int, error: Exception) -> None:
    """Let go of what was computed, and cut batches into twice as many parts from here on."""
    if state.group.size > 1:  # the others are in the middle of a step with this one
        raise TrainError(
            f"the GPU's memory does not hold a worker's {batch} images of a step; take more train.workers, "
            "or a smaller train.batch"
        ) from error
    state.net.zero_grad()
    torch.cuda.empty_cache()
    state.parts *= 2
    if batch < FEWEST_IMAGES * state.parts:
        raise TrainError(
            f"the GPU's memory holds no step of {FEWEST_IMAGES} images; take a smaller space or smaller resolutions, "
            "or set train.device to cpu"
        ) from error


def _gradients(
    state: TrainState,
    moment: Moment,
    archs: list[Arch],
    x_BCHW: Tensor,
    y_B: Tensor,
    settings: TrainSettings,
    apart: Gradients | None,
) -> list[list[float]]:
    """Gradients of a whole batch, part by part; its losses, and its losses on labels alone where attentive picks want them."""
    losses_2N = torch.zeros(2, len(archs), device=x_BCHW.device)
    for x_part, y_part in zip(x_BCHW.tensor_split(state.parts), y_B.tensor_split(state.parts), strict=True):
        share = len(y_part) / len(y_B)
        losses_2N += share * _backward(state, moment, archs, x_part, y_part, settings, share, apart)
    found: list[list[float]] = state.group.add(losses_2N).tolist()
    return found


def _backward(
    state: TrainState,
    moment: Moment,
    archs: list[Arch],
    x_BCHW: Tensor,
    y_B: Tensor,
    settings: TrainSettings,
    share: float,
    apart: Gradients | None,
) -> Tensor:
    """Add the gradients of all sub-networks to those of the parameters; losses (2, N) as in `_gradients`."""
    phase, task = moment.phase, task_of(y_B)
    # Workers share out whole batches, and one alone may have a part of a batch.
    batch = len(y_B) if state.group.size == 1 else settings.batch
    frozen = phase.teacher == "frozen" and (state.teacher is not None or state.tutor is not None)
    target_BK = _frozen_target(state, x_BCHW, task) if frozen else None
    losses = []
    for i, (arch, pick) in enumerate(zip(archs, phase.subnets, strict=True)):
        images = 1.0 if pick == "largest" else phase.images
        own = _own_images(i, batch, images, state.group)
        labels_B = y_B[own]
        part = len(labels_B) / _count(batch, images)
        *exits_BK, logits_BK = _logits(state, x_BCHW[own], arch, phase.exits)
        target = None if target_BK is None else target_BK[own]
        terms = [(EXIT_WEIGHT, _losses(state, phase, each_BK, labels_B, target, settings)) for each_BK in exits_BK]
        if phase.exits != "heads":
            terms.append((1.0, _losses(state, phase, logits_BK, labels_B, target, settings)))
        labels, distilled = (_weighted([(w, loss[kind]) for w, loss in terms]) for kind in (0, 1))
        _descend(state, labels, distilled, share * part * (1.0 if pick == "largest" else moment.weight), apart)
        total = _sum(labels, distilled).detach()
        plain = total if state.gap is None else task.label_loss(logits_BK.detach(), labels_B, 0.0, None)
        losses.append(part * torch.stack([total, plain]))
        if phase.teacher == "inplace" and i == 0:
            target_BK = task.probabilities(logits_BK.detach())
    return torch.stack(losses, 1)


def _losses(
    state: TrainState,
    phase: Phase,
    logits_BK: Tensor,
    labels_B: Tensor,
    target_BK: Tensor | None,
    settings: TrainSettings,
) -> tuple[Tensor | None, Tensor | None]:
    """Of labels and of distillation."""
    task = task_of(labels_B)
    labels = distilled = None
    if target_BK is None or phase.label_weight > 0:
        labels = task.label_loss(logits_BK, labels_B, settings.label_smoothing, state.class_weights)
    if target_BK is not None:
        labels = None if labels is None else phase.label_weight * labels
        distilled = task.distillations[phase.distillation](logits_BK, target_BK)
    return labels, distilled


def _weighted(terms: Sequence[tuple[float, Tensor | None]]) -> Tensor | None:
    """The sum of those that there are."""
    found = [loss if weight == 1.0 else weight * loss for weight, loss in terms if loss is not None]
    return sum(found[1:], found[0]) if found else None


def _logits(state: TrainState, x_BCHW: Tensor, arch: Arch, exits: Exits) -> tuple[Tensor, ...]:
    """Of a sub-network in training, and before them those of its exits where these are trained, (B, K) each; batch norm by
    the images of all workers."""
    with state.how.autocast(x_BCHW.device.type):
        x_BCHW = resize(x_BCHW, resolution(arch))
        found: tuple[Tensor, ...]
        if state.forward is not None:
            found = (state.forward(state.net, x_BCHW, arch),)
        elif exits != "none":
            found = state.net.run_all(x_BCHW, arch, _normalise(state, exits), heads_alone=exits == "heads")
        elif state.group.size == 1:
            found = (state.net(x_BCHW, arch),)
        else:
            found = (state.net.run(x_BCHW, arch, by_all_images(state.group, keep=True)),)
        return tuple(logits.float() for logits in found)


def _normalise(state: TrainState, exits: Exits) -> Normalise:
    """By the images of all workers; what is not trained keeps its running statistics."""
    alone = state.group.size == 1
    moving = _by_batch_kept if alone else by_all_images(state.group, keep=True)
    still = _by_batch if alone else by_all_images(state.group, keep=False)

    def normalise(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
        trained = exits == "all" or name.startswith(PREFIX)
        return (moving if trained else still)(name, norm, y_BCHW)

    return normalise


def _by_batch_kept(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
    normed: Tensor = norm(y_BCHW, *norm.running(y_BCHW.shape[1]), batch=True, momentum=norm.momentum)
    return normed


def _by_batch(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
    normed: Tensor = norm(y_BCHW, None, None, batch=True, momentum=0.0)
    return normed


def _frozen_target(state: TrainState, x_BCHW: Tensor, task: Task) -> Tensor:
    """What the frozen teacher says (B, K). Its running statistics mix sub-networks, so its batch norm goes by the batch."""
    if state.tutor is not None:
        with torch.no_grad(), state.how.autocast(x_BCHW.device.type):
            return task.probabilities(state.tutor(x_BCHW).float())
    assert state.teacher is not None, "asked for where there is one"
    largest = state.net.space.largest()
    normalise = _by_batch if state.group.size == 1 else by_all_images(state.group, keep=False)
    with torch.no_grad(), state.how.autocast(x_BCHW.device.type):
        logits_BK = state.teacher.run(resize(x_BCHW, resolution(largest)), largest, normalise)
        return task.probabilities(logits_BK.float())


def _count(batch: int, share: float) -> int:
    """How many images of a batch a sub-network sees that sees this share of it."""
    return min(batch, max(FEWEST_IMAGES, round(share * batch)))


def _own_images(turn: int, batch: int, share: float, group: Group) -> slice | list[int]:
    """Which of a worker's images the sub-network of this turn sees. Of the whole batch these are the share of it that begins
    where the one before it ended; a worker has one in `group.size` of them."""
    count = _count(batch, share)
    if count == batch:
        return slice(None)
    whole = [(turn * count + i) % batch for i in range(count)]
    return [i // group.size for i in whole if i % group.size == group.rank]


def _descend(
    state: TrainState, labels: Tensor | None, distilled: Tensor | None, weight: float, apart: Gradients | None
) -> None:
    """Add the gradients of a loss, those of distillation in `apart` where there is such a list."""
    if apart is None or distilled is None:
        _backward_scaled(state, weight * _sum(labels, distilled))
        return
    if labels is not None:
        _backward_scaled(state, weight * labels, keep=True)
    _swap(state, apart)
    _backward_scaled(state, weight * distilled)
    _swap(state, apart)


def _backward_scaled(state: TrainState, loss: Tensor, *, keep: bool = False) -> None:
    state.scaler.scale(loss).backward(retain_graph=keep)  # type: ignore[no-untyped-call]


def _sum(labels: Tensor | None, distilled: Tensor | None) -> Tensor:
    assert labels is not None or distilled is not None, "every sub-network learns from something"
    if labels is None or distilled is None:
        return labels if distilled is None else distilled  # type: ignore[return-value]
    return labels + distilled


def _swap(state: TrainState, apart: Gradients) -> None:
    for i, parameter in enumerate(state.net.parameters()):
        parameter.grad, apart[i] = apart[i], parameter.grad


def _fill(state: TrainState, apart: Gradients) -> None:
    """A momentum goes on where a weight has a gradient of the other kind alone."""
    for i, parameter in enumerate(state.net.parameters()):
        if parameter.grad is None and apart[i] is not None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad is not None and apart[i] is None:
            apart[i] = torch.zeros_like(parameter)


def _add_up(state: TrainState, apart: Gradients | None) -> None:
    """The gradients of all workers, at every one of them; all at once, since each sum waits for the slowest."""
    if state.group.size == 1:
        return
    own = [parameter.grad for parameter in state.net.parameters()] + (apart or [])
    there = [gradient for gradient in own if gradient is not None]
    flat = state.group.add(torch.cat([gradient.flatten() for gradient in there]))
    for gradient, found in zip(there, torch.split(flat, [gradient.numel() for gradient in there]), strict=True):
        gradient.copy_(found.view_as(gradient))


def _move(state: TrainState, moment: Moment, settings: TrainSettings, apart: Gradients | None) -> None:
    """Move the weights, and their average after them."""
    if apart is not None:
        _fill(state, apart)
    _add_up(state, apart)
    for optimiser in state.optimisers.values():
        sign = 1.0 if optimiser is state.distilling else -1.0
        if optimiser is state.distilling and apart is not None:
            _swap(state, apart)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * moment.learning_rate * group["rate"]
            group["momentum"] = settings.momentum + sign * moment.phase.momentum_gap
        state.scaler.step(optimiser)
        optimiser.zero_grad()
    state.scaler.update()
    _update_average(state, settings.ema_decay)


def _update_average(state: TrainState, decay: float) -> None:
    """Exponential moving average of the weights, with a decay that grows with the steps so that it forgets the start."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.net.parameters()), 1.0 - decay)
        for target, source in zip(state.average.buffers(), state.net.buffers(), strict=True):
            target.copy_(source)
