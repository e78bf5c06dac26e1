"""Workers of one training as threads of this process, and a training of them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from supernets.checkpoint import Checkpoint
from supernets.dataset import Dataset
from supernets.group import Group
from supernets.settings import TrainSettings
from supernets.state import TrainState, restored, snapshot
from supernets.supernet import Supernet
from supernets.train import steps

T = TypeVar("T")
PATIENCE_S = 60.0


@dataclass
class Table:
    """Where threads lay down what they say to each other."""

    size: int
    places: list[Tensor | None] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.places = [None] * self.size
        self.barrier = threading.Barrier(self.size, timeout=PATIENCE_S)


@dataclass
class AtTable:
    """One thread's side of it: a `Group`."""

    rank: int
    table: Table

    @property
    def size(self) -> int:
        return self.table.size

    def gather(self, tensor: Tensor) -> Tensor:
        self.table.places[self.rank] = tensor.detach().clone()
        self.table.barrier.wait()
        found = torch.stack([each for each in self.table.places if each is not None])
        self.table.barrier.wait()
        return found

    def add(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.gather(tensor).sum(0))


def together(size: int, work: Callable[[Group], T]) -> list[T]:
    """What the work gives to each of so many workers; the first error of one of them ends all."""
    table = Table(size)

    def one(rank: int) -> T:
        try:
            return work(AtTable(rank, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        wait(futures)
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


class Doubles:
    """A layout of 64-bit numbers, in which a training of a few steps is no matter of rounding."""

    dtype = torch.float64
    reduced = False
    memory_format = torch.contiguous_format

    def autocast(self, device: str = "cpu") -> nullcontext[None]:
        return nullcontext()

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, enabled=False)

    def hold(self, net: Supernet) -> Supernet:
        return net.double()

    def place(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.double()


def worker(begun: Checkpoint, settings: TrainSettings, group: Group) -> TrainState:
    """A training as one of several workers has it."""
    state = restored(begun, Supernet(begun.space), settings, Path("begun"))
    state.group = group
    return state


def continued(dataset: Dataset, settings: TrainSettings, begun: Checkpoint, until: Sequence[int] = ()) -> Checkpoint:
    """A training by `settings.workers` threads up to one of these steps, or to its end; all of them end with the same."""

    def work(group: Group) -> TrainState:
        state = worker(begun, settings, group)
        for done in steps(state, dataset, settings):
            if done in until:
                break
        return state

    first, *others = together(settings.workers, work)
    found = snapshot(first, begun.notes["identity"])
    for other in others:
        for name, tensor in snapshot(other, {}).tensors.items():
            assert torch.equal(tensor, found.tensors[name]), name
    return replace(found, tensors={name: tensor.clone() for name, tensor in found.tensors.items()})
