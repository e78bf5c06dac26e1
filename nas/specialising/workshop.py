"""What an export works with: the supernet with its images, and networks that are made and checked once for all devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from latency_tables.device import Device
from latency_tables.measuring.machine import Machine
from nas.errors import JobError
from nas.progress import Display
from nas.specialising.checks import Answers, Checked, check, model_answers, supernet_answers
from nas.specialising.numbers import Told
from nas.specialising.specialise import Weights, specialise, supernet_weights, tuned_weights
from nas.trained import Trained
from search_spaces import Arch, Layer, float_arch, lifted, network, precision_of
from supernets.fake_quant import FakeQuantisation
from supernets.finetune import EPOCHS, Tuned, finetune
from supernets.supernet import Supernet

Note = Callable[[str], None]


class Workshop:
    """Makes networks of one supernet deployable and checks them, each once, however many devices pick it."""

    def __init__(self, trained: Trained, note: Note = lambda line: None) -> None:
        self.trained = trained
        self._note = note
        self.calibration = trained.calibration()
        self.test = trained.images("test")
        self.largest = supernet_answers(trained.net, trained.space.largest(), self.calibration, self.test)
        self._tuned: dict[Arch, Tuned] = {}
        self._floats: dict[Arch, Weights] = {}
        self._weights: dict[Arch, Weights] = {}
        self._validated: dict[Arch, Answers] = {}
        self._made: dict[tuple[Arch, int | None], Checked] = {}

    def checked(self, arch: Arch, batch: int) -> Checked:
        settings = self.trained.job.export
        key = (arch, None if settings.dynamic_batch else batch)
        if key not in self._made:
            self._made[key] = check(specialise(arch, self.weights(arch), settings, batch), self.test, self.largest)
        return self._made[key]

    def validated(self, arch: Arch) -> Answers:
        """What an architecture says of the validation images, as it is deployed."""
        if arch not in self._validated:
            self._validated[arch] = self._answers(arch, self.weights(arch))
        return self._validated[arch]

    def weights(self, arch: Arch) -> Weights:
        """Those that it is deployed with: fine-tuned where the job asks for it, trained as integers where these lose too much.

        `JobError` where they still do then.
        """
        if arch not in self._weights:
            given = self._in_floats(arch)
            most = self.trained.job.export.max_drop
            self._weights[arch] = given if most is None else self._within(arch, given, most)
        return self._weights[arch]

    def trained_alone(
        self,
        net: Supernet,
        arch: Arch,
        name: str,
        *,
        teacher: Supernet | None = None,
        start: Tuned | None = None,
        quantisation: FakeQuantisation | None = None,
    ) -> Tuned:
        """An architecture of a supernet, fine-tuned for as long as the job says; one that was interrupted under this name goes
        on."""
        trained, epochs = self.trained, self.trained.job.export.finetune or EPOCHS
        return finetune(
            net,
            arch,
            trained.dataset,
            self.calibration,
            trained.job.train,
            epochs=epochs,
            teacher=teacher,
            start=start,
            quantisation=quantisation,
            path=trained.folder.root / f"finetune-{name}-{epochs}.safetensors",
        )

    def done(self) -> None:
        """Remove what only an interrupted export needs."""
        for path in self.trained.folder.root.glob("finetune-*.safetensors"):
            path.unlink()

    def _in_floats(self, arch: Arch) -> Weights:
        """Those of the network in fp32, which are the same for all its precisions."""
        space, plain = self.trained.searched, float_arch(self.trained.searched, arch)
        if plain not in self._floats:
            given = supernet_weights(self.trained.net, space, arch, self.calibration)
            settings = self.trained.job.export
            if settings.finetune and settings.merge is None:  # merging trains what it makes, not what it begins with
                self._tuned[plain] = self._finetune(plain, None)
                given = tuned_weights(space, self._tuned[plain], given)
            self._floats[plain] = given
        return self._floats[plain]

    def _within(self, arch: Arch, given: Weights, most: float) -> Weights:
        """Weights with which integers lose no more than this on validation images, against the same network in fp32."""
        space = self.trained.searched
        if precision_of(arch) == "fp32":
            return given
        in_fp32 = self._score(lifted(space, float_arch(space, arch)), given)
        drop = in_fp32 - self._score(arch, given)
        if drop <= most:
            return given
        integers = {layer.name for layer in network(space, arch) if layer.precision == "int8"}

        def quantised(layer: Layer) -> bool:
            return layer.name in integers

        found = self._finetune(arch, FakeQuantisation(given.deployed.ranges, quantised))
        tuned = tuned_weights(space, found, given)
        left = in_fp32 - self._score(arch, tuned)
        if left > most:
            raise JobError(
                f"architecture {arch.id} loses {100 * drop:.2f} points of accuracy on validation images in integers, and "
                f"{100 * left:.2f} after it was trained for them; export.max_drop allows {100 * most:.2f}: allow that much, "
                "give it more epochs with export.finetune, or pick another network"
            )
        return tuned

    def _finetune(self, arch: Arch, quantisation: FakeQuantisation | None) -> Tuned:
        plain = arch if quantisation is None else float_arch(self.trained.searched, arch)
        start = self._tuned.get(plain) if quantisation is not None else None
        found = self.trained_alone(self.trained.net, plain, arch.id, start=start, quantisation=quantisation)
        how = "in floats" if quantisation is None else "as integers"
        self._note(
            f"{arch.id} trained alone {how}: {100 * found.before:.1f}% of the validation images before, "
            f"{100 * found.after:.1f}% after, {found.seconds:.0f} s"
        )
        return found

    def _score(self, arch: Arch, weights: Weights) -> float:
        return self._answers(arch, weights).evaluated().accuracy

    def _answers(self, arch: Arch, weights: Weights) -> Answers:
        settings = replace(self.trained.job.export, dynamic_batch=True)
        return model_answers(specialise(arch, weights, settings, 1).model, arch, self.trained.images("validation"))


@dataclass(frozen=True)
class Exporting:
    """An export under way. `into`: where its folders go; `machine` gives the one that measures a device; `fronts`: whether
    fronts are measured whole."""

    workshop: Workshop
    told: Told
    into: Path
    machine: Callable[[Device], Machine]
    display: Display
    fronts: bool

    @property
    def trained(self) -> Trained:
        return self.workshop.trained

    def shown(self, path: Path) -> str:
        """A path of an export as it is recorded: within the run's folder, or in full."""
        root = self.trained.folder.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
