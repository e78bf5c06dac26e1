"""`numbers.json`: every number of one export, for programs; the card tells the same to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latency_tables.device import Device
from latency_tables.measuring.measurement import Measurement
from nas.folder import RunFolder, versions
from nas.job import Job
from nas.specialising.checks import Checked, Compared
from nas.specialising.model_file import check_json
from nas.specialising.picks import Row, met
from search_spaces import Space, precision_of
from supernets.evaluation import Evaluation

Json = Any

FORMAT = "nas.numbers/1"
_SEARCH = ("sampler", "objectives", "constraints", "images", "evaluations", "proposals")
_SUPERNET = ("recipe", "layout", "train_seconds", "params", "largest_test_accuracy", "smallest_test_accuracy")
_PREDICTOR = ("kind", "mape", "coverage", "noise_floor", "n_train", "n_test")


@dataclass(frozen=True, slots=True)
class Told:
    """What the stages before the export wrote of a run, and what every export of it repeats."""

    trained: Mapping[str, Json]
    profiled: Mapping[str, Json]
    searched: Mapping[str, Json]

    @staticmethod
    def of(folder: RunFolder) -> Told:
        return Told(*(folder.result(stage) for stage in ("train", "profile", "search")))

    def profile(self, device: str) -> Mapping[str, Json]:
        return _named(self.profiled["devices"], device)

    def search(self, device: str) -> Mapping[str, Json]:
        return _named(self.searched["devices"], device)


@dataclass(frozen=True, eq=False)
class Network:
    """One network of a device's front, picked, made deployable and measured.

    `shift`: of the canary since the profile. `in_floats`: operations of layers in int8 that the device has no integer kernel
    for, with how many there are. `merged`: how it was made of a network of the front by merging convolutions, and `space`: the
    one of it alone; None where it is of the front itself, and its space the search's.
    """

    device: Device
    row: Row
    checked: Checked
    measured: Measurement
    shift: float
    in_floats: Mapping[str, int]
    merged: Mapping[str, Json] | None = None
    space: Space | None = None


def numbers(
    job: Job, told: Told, pick: str, network: Network, file: Mapping[str, Json], also: Mapping[str, Json]
) -> dict[str, Json]:
    """The document of one export; `file` says which model it is about, `also` what lies beside it."""
    row, checked = network.row, network.checked
    return {
        "format": FORMAT,
        "pick": pick,
        "as_asked": met(pick, row, network.measured) if network.merged is None else None,
        "arch_id": row["arch_id"],
        "precision": precision_of(checked.arch),
        "file": dict(file),
        "also": dict(also),
        "val_accuracy": row["val_accuracy"],
        **tested_json(checked.evaluation, checked.compared, told),
        "check": check_json(checked),
        "tunings": [asdict(each) for each in checked.tunings],
        "macs": row["macs"],
        "params": row["params"],
        "latency_ms": {part: row[f"latency_ms_{part}"] for part in ("predicted", "low", "high", "measured")},
        "measurement": measurement_json(network.measured),
        "canary_shift": network.shift,
        "in_floats": dict(network.in_floats),
        "merged": network.merged,
        **told_json(job, told, network.device, row["latency_ms_predicted"] or row["latency_ms_measured"]),
    }


def told_json(job: Job, told: Told, device: Device, latency_ms: float) -> dict[str, Json]:
    """What the run says of every export for this device; `latency_ms`: what uniformly scaled networks may take at most."""
    profiled, searched = told.profile(device.name), told.search(device.name)
    return {
        "name": job.name,
        "seed": job.seed,
        "license": job.export.license,
        "data": told.trained["data"],
        "device": device.to_json(),
        "fingerprint": profiled["fingerprint"],
        "predictor": {name: profiled["predictor"].get(name) for name in _PREDICTOR},
        "search": {
            **{name: told.searched["search"][name] for name in _SEARCH},
            "seeds": [each["seed"] for each in told.searched["search"]["searches"]],
        },
        "controls": _controls(searched, latency_ms),
        "supernet": {name: told.trained["supernet"][name] for name in _SUPERNET},
        "versions": versions(),
    }


def tested_json(evaluation: Evaluation, compared: Compared, told: Told) -> dict[str, Json]:
    """How a network does on the test images, and class by class and as a whole what it lost against the largest one."""
    columns = (evaluation.support, evaluation.by_class, compared.change_by_class, compared.forgotten_by_class)
    return {
        "test": {
            "images": evaluation.images,
            "accuracy": evaluation.accuracy,
            "calibration_error": evaluation.calibration_error,
            "nll": evaluation.nll,
            "by_class": [
                {"class": name, "images": images, "score": score, "change": change, "forgotten": forgotten}
                for name, images, score, change, forgotten in zip(
                    told.trained["data"]["classes"], *columns, strict=True
                )
            ],
        },
        "largest": {
            "test_accuracy": compared.accuracy,
            "change": compared.change,
            "disagreement": compared.disagreement,
            "forgotten": compared.forgotten,
            "forgotten_share": compared.forgotten / evaluation.images,
            "gained": compared.gained,
        },
    }


def measurement_json(measured: Measurement) -> dict[str, Json]:
    """Its summary, as of any measured file, with the conditions."""
    return {
        **measured.summary(),
        "spinning": measured.spinning,
        "cores": list(measured.cores),
        "priority": measured.priority,
        "load_average": measured.load_average,
    }


def _controls(searched: Mapping[str, Json], latency_ms: float) -> dict[str, Json]:
    """What the search is compared with, and the best uniformly scaled network that is predicted to be no slower."""
    uniform = searched["uniform"] or ()
    rivals = [each["val_accuracy"] for each in uniform if each["latency_ms_predicted"] <= latency_ms]
    kept = ("hypervolume", "hypervolume_random", "uniform_hypervolume")
    return {**{name: searched[name] for name in kept}, "uniform_val_accuracy": max(rivals, default=None)}


def _named(devices: list[Mapping[str, Json]], name: str) -> Mapping[str, Json]:
    return next(each for each in devices if each["name"] == name)
