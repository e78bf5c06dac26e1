"""The ONNX file of a specialisation: the graph, with everything that is needed to use it in its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_tables.device import Device
from nas.folder import versions
from nas.job import Job
from nas.specialising.checks import Checked
from search_spaces import Arch, Space, canonical_json, precision_of
from search_spaces.files import write_bytes
from supernets.dataset import Dataset

FORMAT = "nas.specialisation/1"
METRICS = ("val_accuracy", "test_accuracy", "latency_ms_predicted", "latency_ms_measured", "macs", "params")


def check_json(checked: Checked) -> dict[str, Any]:
    """The comparison with torch."""
    parity = checked.parity
    return {
        "max_abs_diff": parity.max_abs_diff,
        "top1_agreement": parity.top1_agreement,
        "in_fp32": parity.in_fp32,
        "images": checked.evaluation.images,
    }


def preprocessing(arch: Arch, dataset: Dataset) -> dict[str, Any]:
    """What an image goes through before it is the input of an architecture.

    `stored_px`: images of a run are kept in 8 bits at the largest resolution of the space, and resized from there.
    """
    return {
        "layout": "NCHW",
        "size_px": int(arch.values["resolution"]),
        "stored_px": int(dataset.test.pixels.shape[-1]),
        "resize": "bilinear, antialiased",
        "scale": 1 / 255,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


def metadata(
    checked: Checked, job: Job, space: Space, dataset: Dataset, device: Device, pick: str, row: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the file says about itself; `row` is the network's in the front."""
    return {
        "nas.format": FORMAT,
        "nas.arch": checked.arch.to_json(),
        "nas.arch_id": checked.arch.id,
        "nas.space": space.to_json(),
        "nas.device": device.to_json(),
        "nas.pick": pick,
        "nas.precision": precision_of(checked.arch),
        "nas.metrics": {name: row[name] for name in METRICS},
        "nas.check": check_json(checked),
        "nas.task": dataset.task,
        "nas.classes": list(dataset.classes),
        "nas.preprocessing": preprocessing(checked.arch, dataset),
        "nas.license": job.export.license,
        "nas.versions": versions(),
        "nas.job": job.name,
    }


def write_model(path: Path, model: bytes, about: Mapping[str, Any]) -> str:
    """Write the model with `metadata_props` (values as JSON, texts as they are), at once; its SHA-256."""
    import onnx

    proto = onnx.load_from_string(model)
    onnx.helper.set_model_props(
        proto, {key: v if isinstance(v, str) else canonical_json(v) for key, v in about.items()}
    )
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()
