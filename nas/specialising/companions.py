"""Files beside a model for those who need it in another form: with the preprocessing inside, and for the small runtimes of
phones and boards. Each is checked against the answers of the model itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from latency_tables.graphs.ort_format import ort_model
from latency_tables.graphs.preprocessing import IMAGE, with_preprocessing
from latency_tables.measuring.end_to_end import Preprocessing
from nas.deployed import open_model
from nas.errors import JobError
from nas.specialising.checks import Answers, Checked
from search_spaces.files import write_bytes
from supernets.batches import BATCH
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
    return made, _said(open_model(made, checked.arch.id), IMAGE, images_BHWC)


def ort_file(model: bytes, checked: Checked, dataset: Dataset) -> tuple[bytes, Tensor]:
    """The model in ORT format, for any processor, and what it says of the first test images."""
    made, scaled = ort_model(model), torch.from_numpy(np.array(dataset.test.pixels[:IMAGES])).float() / 255
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (dataset.mean, dataset.std))
    x_BCHW = resize((scaled - mean) / std, resolution(checked.arch)).contiguous()
    return made, _said(open_model(made, checked.arch.id), "input", x_BCHW.numpy())


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


def _said(session: ort.InferenceSession, name: str, images: np.ndarray[Any, Any]) -> Tensor:
    """Logits of all images; of a graph of a fixed batch in portions, the last one padded with its last image."""
    fixed = session.get_inputs()[0].shape[0]
    batch = fixed if isinstance(fixed, int) else min(BATCH, len(images))
    index = np.minimum(np.arange(-(-len(images) // batch) * batch), len(images) - 1)
    parts = [session.run(None, {name: images[index[i : i + batch]]})[0] for i in range(0, len(index), batch)]
    return torch.from_numpy(np.concatenate(parts)[: len(images)])
