"""Workers that train one supernet together: what one of them says to the others.

Gradients are sums over images, and so are the statistics of batch norm: workers that share out the images of a step have but
such sums to exchange (Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

# A worker that is scored on its way keeps the others waiting; one that dies is noticed by its closed connection.
PATIENCE = timedelta(hours=1)


class Group(Protocol):
    """One worker of `size`, the one of number `rank`. All of them make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all workers, in place; the same numbers at every one."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all workers by rank, along a new first dimension."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A group of one."""

    rank: int = 0
    size: int = 1

    def add(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor[None]


@dataclass(frozen=True, slots=True)
class Processes:
    """One process of each worker, in torch's default process group; see `join`."""

    rank: int
    size: int

    def add(self, tensor: Tensor) -> Tensor:
        distributed.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor)
        return torch.stack(found)


def meeting_point(host: str) -> tuple[TCPStore, str]:
    """Where workers find each other, kept by the first of them, and its address. It listens at `host` alone, not on all
    interfaces, since whoever reaches it can disturb the training."""
    family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.bind(place)
    listening.listen(socket.SOMAXCONN)
    port = listening.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), timeout=PATIENCE
    )
    return store, f"{host}:{port}"


def join(rank: int, size: int, address: str, device: torch.device, store: TCPStore | None) -> Processes:
    """Enter the group that meets at `address`; the first worker brings the store there. Returns when all have come."""
    host, _, port = address.rpartition(":")
    if host.startswith("127."):  # else gloo listens where the name of this machine leads to
        os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    if store is None:
        store = TCPStore(host, int(port), is_master=False, timeout=PATIENCE)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return Processes(rank, size)
