"""What an export works with: the supernet with its images, and networks that are made and checked once for all devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from latency_tables.device import Device
from latency_tables.measuring.machine import Machine
from nas.progress import Display
from nas.specialising.checks import Answers, Checked, check, deployed_answers, supernet_answers
from nas.specialising.numbers import Told
from nas.specialising.specialise import specialise, supernet_weights
from nas.trained import Trained
from search_spaces import Arch


class Workshop:
    """Makes networks of one supernet deployable and checks them, each once, however many devices pick it."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.calibration = trained.calibration()
        self.test = trained.images("test")
        self.largest = supernet_answers(trained.net, trained.space.largest(), self.calibration, self.test)
        self._validated: dict[str, Answers] = {}
        self._made: dict[tuple[str, int | None], Checked] = {}

    def checked(self, arch: Arch, batch: int) -> Checked:
        settings = self.trained.job.export
        key = (arch.id, None if settings.dynamic_batch else batch)
        if key not in self._made:
            weights = supernet_weights(self.trained.net, self.trained.searched, arch, self.calibration)
            made = specialise(arch, weights, settings, batch)
            self._made[key] = check(made, self.test, self.largest)
        return self._made[key]

    def validated(self, arch: Arch) -> Answers:
        """What an architecture says of the validation images."""
        if arch.id not in self._validated:
            weights = supernet_weights(self.trained.net, self.trained.searched, arch, self.calibration)
            made = specialise(arch, weights, replace(self.trained.job.export, dynamic_batch=True), 1)
            self._validated[arch.id] = deployed_answers(made, self.trained.images("validation"))[0]
        return self._validated[arch.id]


@dataclass(frozen=True)
class Exporting:
    """An export under way. `into`: where its folders go; `machine` gives the one that measures a device."""

    workshop: Workshop
    told: Told
    into: Path
    machine: Callable[[Device], Machine]
    display: Display

    @property
    def trained(self) -> Trained:
        return self.workshop.trained

    def shown(self, path: Path) -> str:
        """A path of an export as it is recorded: within the run's folder, or in full."""
        root = self.trained.folder.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
