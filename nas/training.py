"""Training by several workers: Ray starts them, and torch adds up what they find.

Each worker is a Ray actor, on whichever machine, with its share of the images of every step. This process tells them how many
steps to take and hears how it goes; checkpoints come to it, and it alone writes files. What ends it ends them, and where one
of them dies it ends the others.

Ray Train has a trainer for this, which is not used: importing it wants pandas and pyarrow, and its checkpoints are files that
workers write to a place which all machines reach.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch

from nas.errors import FaultError
from nas.ray_session import CHECK_S, RaySession
from search_spaces import Space
from supernets import checkpoint
from supernets.checkpoint import Checkpoint
from supernets.dataset import Dataset
from supernets.errors import SupernetError, TrainError
from supernets.group import join, meeting_point
from supernets.layout import device_of
from supernets.settings import TrainSettings
from supernets.state import (
    TrainState,
    agreed_layout,
    fresh_state,
    identity_of,
    layout_of,
    own_checkpoint,
    restored,
    snapshot,
)
from supernets.supernet import Supernet
from supernets.train import Progress, checked_length, line_of, steps

# How long a call to the workers should take: Ray adds some milliseconds to each, and progress is shown after it.
CALL_S = 0.5

# How long the death of a worker may be in coming to light after the errors that it gives the others.
DEATH_S = 10.0


def train_on_ray(
    space: Space,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    path: Path | None = None,
    checkpoint_s: float = 60.0,
    progress: Progress = lambda done, total, text: None,
    address: str | None = None,
) -> TrainState:
    """Like `supernets.train.train`, by `settings.workers` workers on a Ray of its own or the one at `address`.

    A training may go on with another number of workers than it began with; with the same on a CPU, it ends with the same
    weights as one that was not interrupted. `FaultError` where a worker dies, or Ray.
    """
    total = checked_length(dataset, settings)
    begun = _begun(space, dataset, settings, path)
    if begun.notes["step"] < total:
        progress(begun.notes["step"], total, f"waiting for {settings.workers} workers on Ray")
        # On a cluster nobody knows how many cores the machines have that it finds.
        threads = settings.threads or (1 if address else max(1, torch.get_num_threads() // settings.workers))
        with (
            RaySession(address, settings.workers * threads) as session,
            _Workers(session, settings, dataset, begun, threads) as workers,
        ):
            begun = _trained(workers, begun, total, path, checkpoint_s, progress)
    settings = replace(settings, layout=begun.notes["layout"])
    return restored(begun, Supernet(space), settings, path or Path())


def _begun(space: Space, dataset: Dataset, settings: TrainSettings, path: Path | None) -> Checkpoint:
    """Where the training stands: the workers' machines need not have the files that say so."""
    if path is not None and path.exists():
        return own_checkpoint(space, settings, dataset, path)
    fresh = fresh_state(space, replace(settings, device="cpu", layout="fp32"))
    found = snapshot(fresh, identity_of(settings, dataset))
    return replace(found, notes={**found.notes, "layout": settings.layout})


def _trained(
    workers: _Workers,
    begun: Checkpoint,
    total: int,
    path: Path | None,
    checkpoint_s: float,
    progress: Progress,
) -> Checkpoint:
    """All steps that are left; the training after the last of them."""
    done, count, saved_at = begun.notes["step"], 1, time.perf_counter()
    while done < total:
        called_at = time.perf_counter()
        done, said = workers.call("advance", count)[0]
        share = CALL_S / max(time.perf_counter() - called_at, 1e-6)
        count = max(1, min(2 * count, int(count * share)))
        if done == total or (path and time.perf_counter() - saved_at > checkpoint_s):
            begun = workers.first("snapshot")
            if path:
                checkpoint.write(path, begun)
            saved_at = time.perf_counter()
        progress(done, total, said)
    return begun


class _Workers:
    """The workers of one training, as actors on Ray; used as a context manager, so that they end with it."""

    def __init__(
        self, session: RaySession, settings: TrainSettings, dataset: Dataset, begun: Checkpoint, threads: int
    ) -> None:
        self._session = session
        self._settings = settings
        self._dataset = dataset
        self._begun = begun
        self._threads = threads
        self._actors: list[Any] = []

    def __enter__(self) -> _Workers:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """What all of them answer, by rank."""
        return self._answers({getattr(actor, method).remote(*arguments): i for i, actor in enumerate(self._actors)})

    def first(self, method: str) -> Any:
        """What the first of them answers."""
        return self._answers({getattr(self._actors[0], method).remote(): 0})[0]

    def _start(self) -> None:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        size = self._settings.workers
        each = {"CPU": self._threads, "GPU": self._gpus()}
        # All at once or none: two trainings with half of their workers each would wait for each other.
        group = placement_group([{name: count for name, count in each.items() if count}] * size)
        while not group.wait(CHECK_S):
            self._session.check()
        where = PlacementGroupSchedulingStrategy(group)
        new = ray.remote(num_cpus=each["CPU"], num_gpus=each["GPU"], scheduling_strategy=where)(_Worker).remote
        shared = ray.put((self._settings, self._dataset, self._begun))
        self._actors = [new(rank, self._threads, shared) for rank in range(size)]
        self.call("join", self.first("listen"))

    def _gpus(self) -> int:
        """One for each worker, or none."""
        import ray

        there, wanted = int(ray.cluster_resources().get("GPU", 0)), self._settings.device
        if wanted == "cpu" or (wanted == "auto" and there == 0):
            return 0
        if there < self._settings.workers:
            raise TrainError(
                f"train.workers is {self._settings.workers}, but Ray has {there} GPUs; take no more workers than that, or set "
                "train.device to cpu"
            )
        return 1

    def _answers(self, waiting: dict[Any, int]) -> list[Any]:
        import ray

        found = {}
        while waiting:
            reference = self._session.answered(list(waiting))
            rank = waiting.pop(reference)
            try:
                found[rank] = ray.get(reference)
            except ray.exceptions.RayError as error:
                _fail(error, list(waiting))
        return [found[rank] for rank in sorted(found)]


def _fail(error: Any, others: list[Any]) -> NoReturn:
    """One error for all workers: a worker that dies makes the others fail as well, for want of a connection to it."""
    import ray

    if not isinstance(error, ray.exceptions.RayTaskError):
        raise FaultError(
            "a worker of the training died, most likely for want of memory; go on with --resume, "
            "if need be with fewer train.workers"
        ) from error
    if not isinstance(error.cause, SupernetError):
        for other in ray.wait(others, num_returns=len(others), timeout=DEATH_S)[0] if others else []:
            try:
                ray.get(other)
            except ray.exceptions.RayTaskError:
                continue
            except ray.exceptions.RayError as death:
                _fail(death, [])
    raise error.cause from error


class _Worker:
    """Runs in a Ray worker."""

    def __init__(self, rank: int, threads: int, shared: tuple[TrainSettings, Dataset, Checkpoint]) -> None:
        torch.set_num_threads(threads)
        self._rank = rank
        self._settings, self._dataset, self._begun = shared
        self._store: Any = None

    def listen(self) -> str:
        """Where the others find this one."""
        import ray

        self._store, address = meeting_point(ray.util.get_node_ip_address())
        return address

    def join(self, address: str) -> None:
        """Meet the others, and take up the training."""
        settings = self._settings
        net = Supernet(self._begun.space).to(device_of(settings.device))
        group = join(self._rank, settings.workers, address, net.device, self._store)
        layout = layout_of(self._begun, net, settings)
        settings = replace(settings, layout=agreed_layout(layout, net, settings, group))
        self._state = restored(self._begun, net, settings, Path("the checkpoint"))
        # Each has fewer images than one alone would have, so its memory is tried anew.
        self._state.group, self._state.parts = group, 1
        self._steps = steps(self._state, self._dataset, settings)

    def advance(self, count: int) -> tuple[int, str]:
        """Take so many steps, or those that are left: how many are done, and how it goes."""
        for _ in islice(self._steps, count):
            pass
        return self._state.step, line_of(self._state)

    def snapshot(self) -> Checkpoint:
        """All of the training, on the CPU."""
        found = snapshot(self._state, self._begun.notes["identity"])
        return replace(found, tensors={name: tensor.cpu() for name, tensor in found.tensors.items()})
