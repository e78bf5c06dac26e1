"""The result of a job, in short, from what its stages wrote; the whole is in its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.folder import RunFolder

Json = Any

_OF_NETWORK = ("arch_id", "val_accuracy", "test_accuracy", "latency_ms_predicted", "latency_ms_measured", "picks")
_OF_EXPORT = ("arch_id", "pick", "file", "sha256", "bytes")
_OF_PREDICTOR = ("kind", "mape", "within_10", "spearman", "noise_floor", "n_train", "n_test")
_OF_SUPERNET = ("largest_test_accuracy", "smallest_test_accuracy", "train_seconds")


def result_of(folder: RunFolder) -> dict[str, Json]:
    """Seconds of each stage, the supernet's accuracy, and for each device its predictor, front and exported files."""
    stages = folder.stages()
    found: dict[str, Json] = {"stages": stages}
    if "train" in stages:
        found["supernet"] = _some(folder.result("train")["supernet"], _OF_SUPERNET)
    devices: dict[str, dict[str, Json]] = {}
    for stage in ("profile", "search", "export"):
        for device in folder.result(stage)["devices"] if stage in stages else ():
            devices.setdefault(device["name"], {"name": device["name"]}).update(_of_device(device))
    return {**found, "devices": list(devices.values())}


def _of_device(device: Mapping[str, Json]) -> dict[str, Json]:
    """What one stage says of a device; what a later one says of the same replaces it."""
    found: dict[str, Json] = {}
    if "predictor" in device:
        found["device"] = device["device"]
        found["predictor"] = _some(device["predictor"], _OF_PREDICTOR)
    if "front" in device:
        found["front"] = [_some(row, _OF_NETWORK) for row in device["front"]]
    if "exports" in device:
        found["exports"] = [_some(each, _OF_EXPORT) for each in device["exports"]]
    return found


def _some(document: Mapping[str, Json], names: tuple[str, ...]) -> dict[str, Json]:
    return {name: document.get(name) for name in names}
