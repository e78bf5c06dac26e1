"""Files beside a model for those who need it in another form: with the preprocessing inside, in half precision, and for the
small runtimes of phones and boards. Each is checked against the answers of the model itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from latency_tables.errors import LatencyError
from latency_tables.graphs.half_precision import in_half
from latency_tables.graphs.ort_format import ort_model
from latency_tables.graphs.preprocessing import with_preprocessing
from latency_tables.measuring.end_to_end import Preprocessing
from nas.deployed import answers_of, open_model
from nas.errors import JobError
from nas.specialising.checks import Answers, Checked, model_answers
from search_spaces import precision_of
from search_spaces.files import write_bytes
from supernets.batches import Batches
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


def half_file(model: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """The model in float16, which takes and gives float32, and what it says of the first test images."""
    half = in_half(onnx.load_from_string(model))
    next(each for each in half.metadata_props if each.key == "nas.precision").value = "fp16"
    return _answered(half.SerializeToString(), checked, dataset)


def ort_file(model: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """The model in ORT format, for any processor, and what it says of the first test images."""
    return _answered(ort_model(model), checked, dataset)


def _answered(made: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """A model that takes what `model.onnx` takes, with its answers."""
    return made, model_answers(made, checked.arch, Batches.of(dataset.test, dataset, IMAGES)).logits_NK


COMPANIONS: dict[str, tuple[str, Callable[[bytes, Checked, Dataset], tuple[bytes, Tensor]]]] = {
    "image": ("image.onnx", image_file),
    "fp16": ("model.fp16.onnx", half_file),
    "ort": ("model.ort", ort_file),
}
"""By what `export.also` calls it: the name of the file, and what makes it."""


def write_companions(
    folder: Path, kinds: Sequence[str], checked: Checked, dataset: Dataset
) -> dict[str, dict[str, Any]]:
    """Make those of these kinds that there are of a network; what is recorded of each. One with integers has none in fp16."""
    there = [kind for kind in kinds if kind != "fp16" or precision_of(checked.arch) == "fp32"]
    return {kind: _written(folder, kind, checked, dataset) for kind in there}


def _written(folder: Path, kind: str, checked: Checked, dataset: Dataset) -> dict[str, Any]:
    """Make, check and write one beside `model.onnx`; `JobError` if it cannot be made or answers otherwise."""
    name, make = COMPANIONS[kind]
    try:
        content, logits = make((folder / "model.onnx").read_bytes(), checked, dataset)
    except LatencyError as error:
        raise JobError(f"{name} of {checked.arch.id}: {error}; leave {kind} out of export.also") from error
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
