"""The one training loop. A recipe says what each step trains; everything random is drawn from (seed, step), so that a run
that continues from a checkpoint ends with the same weights, bit for bit on a CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from search_spaces import Space
from supernets.augment import Normalisation
from supernets.batches import Batches, calibration_batches, training_batch
from supernets.calibrate import accuracy, calibrate
from supernets.channels import channel_orders, reorder
from supernets.dataset import Dataset
from supernets.errors import TrainError
from supernets.recipes import RECIPES, Moment, schedule
from supernets.settings import TrainSettings
from supernets.state import TrainState, fresh_state, resumed_state, save_state
from supernets.step import fewest_images, share_of, train_step
from supernets.supernet import Supernet
from supernets.tasks import TASKS
from supernets.threads import torch_threads

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a line on how it goes."""

# Validation images behind each point of the training curve.
CURVE_IMAGES = 1024


def train(
    space: Space,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    path: Path | None = None,
    checkpoint_s: float = 60.0,
    progress: Progress = lambda done, total, text: None,
) -> TrainState:
    """Train a supernet; its result is the `average` of the weights over time, on the CPU.

    With `path`, the state is saved there every `checkpoint_s` seconds, and training goes on from it where it exists.
    """
    with torch_threads(settings.threads):
        return _train(space, dataset, settings, path, checkpoint_s, progress)


def _train(
    space: Space, dataset: Dataset, settings: TrainSettings, path: Path | None, checkpoint_s: float, progress: Progress
) -> TrainState:
    total, saved_at = checked_length(dataset, settings), time.perf_counter()
    state = resumed_state(space, settings, dataset, path) if path and path.exists() else fresh_state(space, settings)
    for done in steps(state, dataset, settings):
        if path and (time.perf_counter() - saved_at > checkpoint_s or done == total):
            save_state(state, settings, dataset, path)
            saved_at = time.perf_counter()
        progress(done, total, line_of(state))
    for net in state.nets:
        net.cpu()
    return state


def steps(state: TrainState, dataset: Dataset, settings: TrainSettings) -> Iterator[int]:
    """Take the steps that are left, one whenever the next is asked for: how many are done."""
    moments = schedule(settings.recipe_for(state.net.space), checked_length(dataset, settings), settings.warmup)
    evaluate_at = {round(len(moments) * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    for done in moves(state, dataset, settings, moments):
        if done in evaluate_at and state.group.rank == 0:
            scores = validation_scores(state.average, dataset, settings, CURVE_IMAGES)
            epoch = done / epoch_steps(dataset, settings)
            row = {"step": done, "epoch": epoch, "seconds": state.seconds, "loss": state.loss}
            state.history.append({**row, "learning_rate": moments[done - 1].learning_rate, **scores})
        yield done


def moves(state: TrainState, dataset: Dataset, settings: TrainSettings, moments: Sequence[Moment]) -> Iterator[int]:
    """Take the steps that are left of these moments: as `steps`, but nothing is scored."""
    settings = replace(settings, batch=min(settings.batch, len(dataset.train)))
    normalise = Normalisation(dataset.mean, dataset.std)
    if settings.class_weights == "balanced":
        weights = TASKS[dataset.task].class_weights(dataset.train.labels, len(dataset.classes))
        state.class_weights = weights.to(state.net.device)
    started = time.perf_counter() - state.seconds
    while state.step < len(moments):
        moment = moments[state.step]
        _prepare(state, moment)
        x_BCHW, y_B = _batch(state, dataset, settings, normalise)
        loss = train_step(state, moment, x_BCHW, y_B, settings)
        state.loss = loss if state.step == 0 else 0.9 * state.loss + 0.1 * loss
        state.step += 1
        state.seconds = time.perf_counter() - started
        yield state.step


def checked_length(dataset: Dataset, settings: TrainSettings) -> int:
    """The number of steps of a training; `TrainError` where these images can teach nothing."""
    _check(dataset, settings)
    return settings.epochs * epoch_steps(dataset, settings)


def epoch_steps(dataset: Dataset, settings: TrainSettings) -> int:
    """Steps in which every training image is seen once, but for those that fill no batch."""
    return len(dataset.train) // min(settings.batch, len(dataset.train))


def validation_scores(net: Supernet, dataset: Dataset, settings: TrainSettings, limit: int) -> dict[str, float]:
    """Validation accuracy of the largest and the smallest sub-network, with statistics of their own."""
    calibration = calibration_batches(dataset, settings.augment, settings.seed, batches=2)
    batches = Batches.of(dataset.validation, dataset, limit)
    ends = {"largest_val_accuracy": net.space.largest(), "smallest_val_accuracy": net.space.smallest()}
    return {name: accuracy(net, arch, calibrate(net, arch, calibration), batches) for name, arch in ends.items()}


def _check(dataset: Dataset, settings: TrainSettings) -> None:
    """What no training can learn from; `TrainError` in one line."""
    if len(dataset.train) < 2:
        raise TrainError(f"wanted at least 2 training images, for batch norm, not {len(dataset.train)}; give more")
    labels = dataset.train.labels
    if not (labels != labels[0]).any():
        same = f"of class {dataset.classes[labels[0]]!r}" if labels.ndim == 1 else "labelled alike"
        raise TrainError(f"all {len(labels)} training images are {same}; give images of the others")
    images = fewest_images(min(settings.batch, len(dataset.train)), RECIPES[settings.recipe])
    if images < settings.workers:
        raise TrainError(
            f"wanted an image for each of {settings.workers} train.workers, but sub-networks see {images} a step; "
            "take fewer workers or a larger train.batch"
        )


def _prepare(state: TrainState, moment: Moment) -> None:
    """What a phase wants before its first step."""
    if moment.phase.teacher == "frozen" and state.teacher is None and state.tutor is None:
        state.teacher = copy.deepcopy(state.average).eval()
    if moment.first and moment.phase.sort_channels:
        orders = channel_orders(state.average)
        for tensors in (state.net.state_dict(), state.average.state_dict(), *state.momenta().values()):
            reorder(tensors, orders)
    if moment.first and moment.phase.exits == "heads":
        # What stays as it is from here on is the result of what was trained so far.
        state.net.load_state_dict(state.average.state_dict())


def _batch(
    state: TrainState, dataset: Dataset, settings: TrainSettings, normalise: Normalisation
) -> tuple[Tensor, Tensor]:
    """This worker's images (B, C, H, W) and labels (B,) of the step at hand, augmented, normalised and where the weights are.

    They are drawn as a whole, so that the number of workers changes none of them.
    """
    images, labels = training_batch(
        dataset, settings.augment, settings.batch, state.step, settings.seed, state.net.device
    )
    return state.how.place(normalise(share_of(images, state.group))), share_of(labels, state.group)


def line_of(state: TrainState) -> str:
    """How the training goes."""
    said = f"loss {state.loss:.2f}"
    if state.history:
        last = state.history[-1]
        said += f", validation {100 * last['largest_val_accuracy']:.1f}% largest, "
        said += f"{100 * last['smallest_val_accuracy']:.1f}% smallest"
    if state.parts > 1:
        said += f" (batches in {state.parts} parts, since the GPU's memory holds no whole one)"
    return said
