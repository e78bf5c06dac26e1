"""One architecture of a trained supernet, trained alone for a few epochs: in floats, or as the integers that it will be.

A supernet's weights are a compromise between all its networks (Cai et al., "Once-for-All", ICLR 2020, tune some of theirs for
this reason). One of them goes on from there at a low rate, and learns from labels and from the largest network, which is
frozen. The loop, the step, the optimisers and the losses are those of the supernet's own training: what is trained is a
supernet of one architecture.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from search_spaces import Arch, Space, network, with_exits
from search_spaces.exits import SETTING
from supernets import checkpoint
from supernets.batches import Batches
from supernets.calibrate import calibrate, resize, resolution, scored
from supernets.dataset import Dataset
from supernets.errors import TrainError
from supernets.extract import FoldedWeights, alone, extract, fold
from supernets.fake_quant import FakeQuantisation
from supernets.layout import LAYOUTS, device_of, layout_named
from supernets.recipes import Exits, Phase, schedule
from supernets.settings import TrainSettings
from supernets.state import LAYOUT_BATCH, Forward, TrainState, begin, continued, identified, identity_of, snapshot
from supernets.supernet import Stats, Supernet
from supernets.threads import torch_threads
from supernets.train import Progress, checked_length, epoch_steps, moves

EPOCHS = 5
# Of the rate that the supernet was trained with. Five epochs, validation before and after at 0.1, 0.3 and 1.0 of it: smallest
# network of `tiny` on CIFAR-10 79.1 -> 79.5, 78.8, -; the median one on digits 90.4 -> 94.5, 94.7, 95.2, the smallest
# 96.5 -> 96.3, 96.1, 94.7%.
RATE = 0.1
WARMUP = 0.1
PHASE = Phase("finetune", 1.0, ("largest",), teacher="frozen", label_weight=1.0)
BEST = "best."


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best that a fine-tuning found, by its score on all validation images.

    `net` is a supernet of this architecture alone, on the CPU, with the batch norm that it was scored with. `before`, `after`:
    scores of what came and of what comes back, so `after` is never lower; `epoch` is where it was found, 0 for what came.
    `history`: a row for each epoch. `quantisation`: the integers that it was tuned for, None for floats.
    """

    arch: Arch
    net: Supernet
    epoch: int
    seconds: float
    history: tuple[Mapping[str, float], ...]
    quantisation: FakeQuantisation | None

    @property
    def before(self) -> float:
        return self.history[0]["score"]

    @property
    def after(self) -> float:
        return self.history[self.epoch]["score"]

    @property
    def stats(self) -> Stats:
        """Of its batch norms."""
        layers = with_exits(self.net.space, self.net.space.largest())
        return {layer.name: self.net.norm(layer).running(layer.out_shape[0]) for layer in layers if layer.norm}

    def module(self, *, all_logits: bool = False) -> fx.GraphModule:
        """As `extract` makes it of a supernet."""
        return extract(self.net, self.net.space.largest(), all_logits=all_logits)

    def folded(self) -> FoldedWeights:
        """As `fold` makes them of a supernet; where it was tuned for integers, the weights before they are rounded."""
        return fold(self.net, self.net.space.largest())


def finetune(
    net: Supernet,
    arch: Arch,
    dataset: Dataset,
    calibration: Sequence[Tensor],
    settings: TrainSettings,
    *,
    epochs: int = EPOCHS,
    teacher: Supernet | None = None,
    start: Tuned | None = None,
    quantisation: FakeQuantisation | None = None,
    path: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Tuned:
    """Train an architecture of `net` alone; what is best on validation images comes back, if need be what it was before.

    net: the trained supernet, which stays as it is. calibration: normalised images (B, C, H, W) for batch norm. settings:
    those of the supernet. teacher: the supernet whose largest network teaches, `net` by default. start: go on from there.
    quantisation: with ranges of the weights to begin with. With `path`, every epoch is saved there, and the fine-tuning goes
    on from it where it exists. `TrainError` where that is another one, or where a loss is no number: then the last good epoch
    is still there.
    """
    settings = _settings(settings, epochs, quantisation)
    if start is not None and start.arch != arch:
        raise TrainError(f"wanted a start of architecture {arch.id}, not of {start.arch.id}")
    with torch_threads(settings.threads):
        taught_by = net if teacher is None else teacher
        tutor = _calibrated(taught_by, taught_by.space.largest(), calibration)
        given = _calibrated(net, arch, calibration) if start is None else start.net
        run = _Run(
            dataset, calibration, settings, quantisation, _identity(given, tutor, dataset, settings, quantisation)
        )
        state, best = run.begun(given) if path is None or not path.exists() else run.resumed(given.space, path)
        state.forward, state.tutor = quantisation, _tutor(tutor, state)
        try:
            best = run.rest(state, best, path, progress)
        except TrainError as error:
            raise TrainError(f"fine-tuning of {arch.id}: {error}") from error
    return Tuned(arch, best, _best_epoch(state.history), state.seconds, tuple(state.history), quantisation)


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same from the first step to the last."""

    dataset: Dataset
    calibration: Sequence[Tensor]
    settings: TrainSettings
    quantisation: FakeQuantisation | None
    identity: Mapping[str, Any]

    def begun(self, given: Supernet) -> tuple[TrainState, Supernet]:
        """A training of these weights, and the best that is known: they themselves."""
        net = copy.deepcopy(given).to(device_of(self.settings.device))
        layout = layout_named(self.settings.layout, net, min(self.settings.batch, LAYOUT_BATCH))
        state = begin(net, self.settings, layout)
        state.history.append({"epoch": 0, "seconds": 0.0, "score": self._score(given, net.device)})
        return state, given

    def resumed(self, space: Space, path: Path) -> tuple[TrainState, Supernet]:
        """The training at `path`, and the best that it has found; `TrainError` where it is another one."""
        found = identified(checkpoint.read(path, space), self.identity, path)
        best = Supernet(space).eval()
        checkpoint.load_weights(best, found.part(BEST), path)
        return continued(found, self.settings, path), best

    def rest(self, state: TrainState, best: Supernet, path: Path | None, progress: Progress) -> Supernet:
        """Take the steps that are left, an epoch at a time; the best of all."""
        total, epoch = checked_length(self.dataset, self.settings), epoch_steps(self.dataset, self.settings)
        # As integers it is run in a way of its own, which knows no exits.
        exits: Exits = "all" if SETTING in state.net.space.settings and self.quantisation is None else "none"
        moments = schedule((replace(PHASE, exits=exits),), total, self.settings.warmup)
        for done in moves(state, self.dataset, self.settings, moments):
            if done % epoch == 0:
                found = self._result(state)
                score = self._score(found, state.net.device)
                row = {"epoch": done // epoch, "seconds": state.seconds, "loss": state.loss, "score": score}
                state.history.append(row)
                best = found if _best_epoch(state.history) == row["epoch"] else best
                saved = snapshot(state, self.identity)
                if path is not None:
                    own = {BEST + name: tensor for name, tensor in best.state_dict().items()}
                    checkpoint.write(path, replace(saved, tensors={**saved.tensors, **own}))
            progress(done, total, _line_of(state))
        return best

    def _result(self, state: TrainState) -> Supernet:
        """The average of the weights over time, as it would be deployed."""
        arch = state.average.space.largest()
        # Folded weights are trained with the statistics that they have; others were by those of each batch.
        stats = None if self.quantisation is not None else calibrate(state.average, arch, self.calibration)
        return alone(state.average, arch, stats)

    def _score(self, net: Supernet, device: torch.device) -> float:
        """On all validation images."""
        held = copy.deepcopy(net).to(device)
        return scored(
            _answers(held, self.quantisation or _in_floats, Batches.of(self.dataset.validation, self.dataset))
        )


def _settings(settings: TrainSettings, epochs: int, quantisation: FakeQuantisation | None) -> TrainSettings:
    """Of the supernet's training to those of a fine-tuning."""
    layout = settings.layout
    if quantisation is not None and (layout == "auto" or LAYOUTS[layout].reduced):
        layout = "fp32_channels_last"  # 16 bits do not hold 256 levels of an activation
    return replace(
        settings,
        recipe="alone",
        epochs=epochs,
        learning_rate=RATE * settings.learning_rate,
        warmup=WARMUP,
        layout=layout,
        start=None,
        workers=1,
    )


def _calibrated(net: Supernet, arch: Arch, calibration: Sequence[Tensor]) -> Supernet:
    return alone(net, arch, calibrate(net, arch, calibration))


def _tutor(teacher: Supernet, state: TrainState) -> Callable[[Tensor], Tensor]:
    """Logits of a network with its own batch norm, for images (B, C, H, W) of any size."""
    held, arch = state.how.hold(copy.deepcopy(teacher).to(state.net.device)), teacher.space.largest()
    return lambda x_BCHW: _in_floats(held, resize(x_BCHW, resolution(arch)), arch)


def _in_floats(net: Supernet, x_BCHW: Tensor, arch: Arch) -> Tensor:
    logits_BK: Tensor = net(x_BCHW, arch)
    return logits_BK


def _answers(net: Supernet, forward: Forward, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, K) on the CPU, and labels."""
    arch = net.space.largest()
    for x_BCHW, y_B in batches:
        with torch.no_grad():
            logits_BK = forward(net, resize(x_BCHW.to(net.device), resolution(arch)), arch)
        yield logits_BK.cpu(), y_B


def _best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The first of the highest score."""
    return max(range(len(history)), key=lambda epoch: history[epoch]["score"])


def _identity(
    given: Supernet,
    teacher: Supernet,
    dataset: Dataset,
    settings: TrainSettings,
    quantisation: FakeQuantisation | None,
) -> dict[str, Any]:
    """What has to be the same for a fine-tuning to go on; as JSON."""
    found = identity_of(settings, dataset) | {"finetune": _digest(given), "tutor": _digest(teacher)}
    if quantisation is None:
        return found
    layers = network(given.space, given.space.largest())
    names = [layer.name for layer in layers if quantisation.quantised(layer)]
    return found | {"ranges": {name: list(ends) for name, ends in quantisation.ranges.items()}, "quantised": names}


def _digest(net: Supernet) -> str:
    """Of all weights and statistics."""
    found = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _line_of(state: TrainState) -> str:
    scores = [row["score"] for row in state.history]
    return f"loss {state.loss:.2f}, validation {100 * scores[0]:.1f}% before, {100 * max(scores):.1f}% at best"
