"""Files beside a model for those who need it in another form: with the preprocessing inside, and for the small runtimes of
phones and boards. Each is checked against the answers of the model itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from latency_tables.graphs.ort_format import ort_model
from latency_tables.graphs.preprocessing import with_preprocessing
from latency_tables.measuring.end_to_end import Preprocessing
from nas.deployed import answers_of, open_model
from nas.errors import JobError
from nas.specialising.checks import Answers, Checked
from search_spaces.files import write_bytes
from supernets.batches import Batches
from supernets.calibrate import resize, resolution
from supernets.dataset import Dataset
from supernets.tasks import agreeing, task_of

# An image on the edge between two classes may fall to the other one, where its resized pixels are rounded otherwise.
LEAST_AGREEMENT = 0.99
IMAGES = 256
"""Test images on which files are compared."""


def image_file(model: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """The model with images of 8 bits and any size as its input, and what it says of the first test images."""
    inside = with_preprocessing(onnx.load_from_string(model), Preprocessing(dataset.mean, dataset.std))
    made: bytes = inside.SerializeToString()
    images_BHWC = np.ascontiguousarray(dataset.test.pixels[:IMAGES].transpose(0, 2, 3, 1))
    return made, answers_of(open_model(made, checked.arch.id), images_BHWC)


def ort_file(model: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """The model in ORT format, for any processor, and what it says of the first test images."""
    made = ort_model(model)
    session = open_model(made, checked.arch.id)
    sized = (resize(x, resolution(checked.arch)).contiguous() for x, _ in Batches.of(dataset.test, dataset, IMAGES))
    return made, torch.cat([answers_of(session, x_BCHW.numpy()) for x_BCHW in sized])


COMPANIONS: dict[str, tuple[str, Callable[[bytes, Checked, Dataset], tuple[bytes, Tensor]]]] = {
    "image": ("image.onnx", image_file),
    "ort": ("model.ort", ort_file),
}
"""By what `export.also` calls it: the name of the file, and what makes it."""


def write_companion(folder: Path, kind: str, checked: Checked, dataset: Dataset) -> dict[str, Any]:
    """Make, check and write one beside `model.onnx`; what is recorded of it. `JobError` if it answers otherwise."""
    name, make = COMPANIONS[kind]
    content, logits = make((folder / "model.onnx").read_bytes(), checked, dataset)
    wanted = Answers(checked.answers.logits_NK[:IMAGES], checked.answers.labels[:IMAGES])
    agreement = agreeing(task_of(wanted.labels), logits, wanted.logits_NK) / len(logits)
    if agreement < LEAST_AGREEMENT:
        raise JobError(
            f"{name} of {checked.arch.id} says the same as model.onnx of {agreement:.1%} of {len(logits)} test images; "
            f"at least {LEAST_AGREEMENT:.0%} is wanted: leave {kind} out of export.also"
        )
    write_bytes(folder / name, content)
    return {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "top1_agreement": agreement,
        "max_abs_diff": float((logits - wanted.logits_NK).abs().max()),
        "images": len(logits),
    }
