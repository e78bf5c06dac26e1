"""Networks made shallower for a device: runs of convolutions merged into one each, until a limit of the latency is met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_tables.device import Device
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.measurement import Measurement
from nas.errors import JobError
from nas.profiling import protocol_of
from nas.searching.evaluator import THREADS
from nas.searching.truth import with_measured
from nas.specialising.checks import Checked, check
from nas.specialising.depth import UNITS, Option, choices
from nas.specialising.merger_table import WHOLE, BySlot, measured_together, shares, told
from nas.specialising.numbers import Network
from nas.specialising.specialise import specialise, supernet_weights, tuned_weights
from nas.specialising.workshop import Workshop
from search_spaces import Arch, Space, arch_cost, fixed_space, float_arch, network, network_by_slot, precision_of
from search_spaces.mergers import Merger, convolutions, merged, mergers
from supernets.batches import Batches
from supernets.calibrate import calibrate
from supernets.finetune import Tuned
from supernets.merging import Plain, fitted, merged_supernet, refitted, rises
from supernets.supernet import Stats
from supernets.threads import torch_threads

Json = Any
Waiting = Callable[[str], None]

LOSS_IMAGES = 512
"""Validation images on which the loss of each merger is seen."""
ROUNDS = 6
"""Attempts at a limit, each with what the one before missed it by."""
MERGED = "merged"


@dataclass(frozen=True, eq=False)
class Shallow:
    """A network with mergers made, trained and checked. `space` is the one of this network alone; `convolutions`: how many the
    network that it was made of has, and how many it has."""

    made_of: Arch
    space: Space
    checked: Checked
    mergers: tuple[Merger, ...]
    convolutions: tuple[int, int]
    limit: float
    tuned: Tuned

    def row(self, row: Mapping[str, Json]) -> dict[str, Json]:
        """As a row of the front, from that of the network that it was made of; nothing predicts its latency."""
        cost, arch = arch_cost(self.space, self.checked.arch), self.checked.arch
        return {
            **row,
            "arch_id": arch.id,
            "macs": cost.macs,
            "params": cost.params,
            "val_accuracy": self.tuned.after,
            "test_accuracy": self.checked.test_accuracy,
            **dict.fromkeys(("latency_ms_predicted", "latency_ms_low", "latency_ms_high")),
            "values": {},
            "constraints": [],
        }

    def to_json(self, before: Mapping[str, Json], after: Mapping[str, Json]) -> dict[str, Json]:
        """What is told of it, from the measured rows of the network that it was made of and of itself."""
        return {
            "made_of": self.made_of.id,
            "limit": self.limit,
            "latency": after["latency_ms_measured"] / before["latency_ms_measured"],
            "latency_ms": {"before": before["latency_ms_measured"], "after": after["latency_ms_measured"]},
            "convolutions": {"before": self.convolutions[0], "after": self.convolutions[1]},
            "segments": [
                {**told(each), "layers": each.end - each.start, "channels": each.conv.out_shape[0]}
                for each in self.mergers
            ],
            "val_accuracy": {"before": before["val_accuracy"], "merged": self.tuned.before, "after": self.tuned.after},
            "test_accuracy": {"before": before["test_accuracy"], "after": after["test_accuracy"]},
        }


def check_mergeable(archs: Iterable[Arch]) -> None:
    """A `JobError` for a network in integers, of which nothing is merged."""
    for arch in archs:
        if precision_of(arch) != "fp32":
            raise JobError(
                f"architecture {arch.id} computes in {precision_of(arch)}, and only networks in fp32 are made shallower: pick "
                "another, or drop export.merge"
            )


def made_shallow(workshop: Workshop, arch: Arch, device: Device, machine: Machine, waiting: Waiting) -> Shallow:
    """An architecture of the searched space, made to take at most `export.merge` of its own latency on a device.

    `JobError` says the closest where no mergers do.
    """
    trained, limit = workshop.trained, workshop.trained.job.export.merge
    assert limit is not None, "the job asks for it"
    with torch_threads(THREADS):
        given = _given(workshop, float_arch(trained.searched, arch), device, machine, waiting)
        chosen = _chosen(given, limit)
        waiting(f"merging {len(chosen)} parts of {arch.id}")
        kernels = refitted(given.plain, chosen, workshop.calibration, seed=trained.job.seed)
        net = merged_supernet(trained.net, given.arch, given.stats, kernels, workshop.calibration)
    own = net.space.largest()
    waiting(f"training {own.id}, merged from {arch.id}")
    tuned = workshop.trained_alone(net, own, own.id, teacher=trained.net)
    weights = tuned_weights(net.space, tuned, supernet_weights(net, net.space, own, workshop.calibration))
    checked = check(specialise(own, weights, trained.job.export, device.batch), workshop.test, workshop.largest)
    counted = convolutions(given.plain.layers), convolutions(network(net.space, own))
    return Shallow(arch, net.space, checked, chosen, counted, limit, tuned)


def shallow_network(
    device: Device, row: Mapping[str, Json], found: Shallow, measured: Measurement, shift: float
) -> Network:
    """As it is exported; `row` is the front's, measured, of the network that it was made of."""
    own = with_measured(found.row(row), measured)
    return Network(device, own, found.checked, measured, shift, {}, found.to_json(row, own), found.space)


@dataclass(frozen=True, eq=False)
class _Given:
    """A network of the supernet that is to be made shallower, with its batch norm, and where it is measured."""

    workshop: Workshop
    arch: Arch
    stats: Stats
    plain: Plain
    device: Device
    machine: Machine
    waiting: Waiting

    @property
    def by_slot(self) -> BySlot:
        return network_by_slot(self.workshop.trained.space, self.arch)


def _given(workshop: Workshop, arch: Arch, device: Device, machine: Machine, waiting: Waiting) -> _Given:
    net = workshop.trained.net
    stats = calibrate(net, arch, workshop.calibration)
    return _Given(workshop, arch, stats, Plain.of(net, arch, stats), device, machine, waiting)


def _chosen(given: _Given, limit: float) -> tuple[Merger, ...]:
    """Mergers of least loss with which the network was measured to meet the limit.

    What each saves alone need not add up: a choice that misses the limit is made again, to save as much more as it missed.
    """
    found = _worthwhile(given)
    options = _options(given, found)
    known, wanted, closest = choices(options), 1 - limit, 1.0
    for _ in range(ROUNDS):
        picked = known.saving(min(wanted, known.most))
        assert picked is not None, "no more is asked than there is"
        chosen = tuple(found[i][0] for i in picked)
        closest = min(closest, reached := _latency(given, chosen))
        if reached <= limit:
            return chosen
        if wanted > known.most:
            break
        wanted = sum(options[i].saving for i in picked) + max(reached - limit, 2 / UNITS)
    raise JobError(
        f"{given.device.name}: no mergers of its convolutions bring architecture {given.arch.id} to {limit:.0%} of its "
        f"latency; the closest is {closest:.1%}: raise export.merge, or pick another network"
    )


def _worthwhile(given: _Given) -> list[tuple[Merger, float]]:
    """All mergers that save something on the device, with the share of the network's latency that each saves alone."""
    trained, found = given.workshop.trained, mergers(given.plain.layers)
    path = trained.folder.mergers(given.device.name, given.arch.id)
    given.waiting(f"measuring {len(found)} mergers of {given.arch.id}")
    saved = shares(path, given.by_slot, found, given.device, given.machine, protocol_of(trained.job), given.waiting)
    return [(merger, share) for merger, share in zip(found, saved, strict=True) if share > 0]


def _options(given: _Given, found: Sequence[tuple[Merger, float]]) -> list[Option]:
    """The same with what each adds to the loss on validation images."""
    dataset = given.workshop.trained.dataset
    images = list(Batches.of(dataset.validation, dataset, LOSS_IMAGES))
    given.waiting(f"judging {len(found)} mergers of {given.arch.id}")
    seed = given.workshop.trained.job.seed
    kernels = fitted(given.plain, [merger for merger, _ in found], given.workshop.calibration, seed=seed)
    rise = rises(given.plain, kernels, images)
    return [Option(merger.start, merger.end, share, rise[merger]) for merger, share in found]


def _latency(given: _Given, chosen: Sequence[Merger]) -> float:
    """Of the network with these mergers made, as a share of its own."""
    spaces = {WHOLE: fixed_space(given.by_slot), MERGED: fixed_space(merged(given.by_slot, chosen))}
    protocol = protocol_of(given.workshop.trained.job)
    found = measured_together(spaces, given.device, given.machine, protocol, given.waiting)
    return found[MERGED] / found[WHOLE]
