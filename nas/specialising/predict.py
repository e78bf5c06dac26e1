"""Classify images with the network beside this file: python predict.py IMAGE...

Needs onnxruntime, numpy and pillow. Prints a line for each image: its class, or all classes above one half where it may have
several, with how sure the network is. Of a pair of networks the accurate one is asked where the fast one is not sure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps


def pixels(path: str, how: dict[str, Any]) -> NDArray[np.float32]:
    """(1, channels, height, width) as `nas.preprocessing` says; resized twice, like the images of the run."""
    try:
        image = ImageOps.exif_transpose(Image.open(path))
    except OSError as error:
        sys.exit(f"{path}: cannot be read ({error})")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
    image = image if len(how["mean"]) == 3 else image.convert("L")
    side, stored, size = min(image.size), (how["stored_px"],) * 2, (how["size_px"],) * 2
    left, top = ((extent - side) // 2 for extent in image.size)
    image = image.resize(stored, Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    bands = [np.asarray(band.convert("F").resize(size, Image.Resampling.BILINEAR)) for band in image.split()]
    mean, std = (np.reshape(how[key], (-1, 1, 1)) for key in ("mean", "std"))
    return np.asarray((np.stack(bands) * how["scale"] - mean) / std, np.float32)[None]


def probabilities(session: onnxruntime.InferenceSession, path: str) -> dict[str, float]:
    """Class -> probability: together 1, or each by itself where an image may have several."""
    about, batch = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0].shape[0]
    x_BCHW = pixels(path, json.loads(about["nas.preprocessing"]))
    x_BCHW = np.repeat(x_BCHW, batch if isinstance(batch, int) else 1, axis=0)
    logits_K = session.run(["logits"], {"input": x_BCHW})[0][0].astype(np.float64)
    if about["nas.task"] == "multi_label":
        found_K = 1 / (1 + np.exp(-logits_K))
    else:
        found_K = np.exp(logits_K - logits_K.max())
        found_K /= found_K.sum()
    return dict(zip(json.loads(about["nas.classes"]), found_K.tolist(), strict=True))


def said(found: dict[str, float], many: bool) -> str:
    best = max(found, key=lambda name: found[name])
    names = sorted((name for name in found if found[name] > 0.5), key=lambda name: -found[name]) if many else [best]
    return ", ".join(f"{name} {found[name]:.1%}" for name in names) or "none"


def main(folder: Path, paths: list[str]) -> None:
    pair = folder / "pair.json"
    names, threshold = ["model.onnx"], 0.0
    if pair.exists():
        names, threshold = ["fast.onnx", "accurate.onnx"], json.loads(pair.read_text())["threshold"]
    sessions = [onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"]) for name in names]
    many = sessions[0].get_modelmeta().custom_metadata_map["nas.task"] == "multi_label"
    for path in paths:
        for session in sessions:
            found = probabilities(session, path)
            if max(found.values()) >= threshold:
                break
        print(f"{path}: {said(found, many)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} IMAGE...")
    main(Path(__file__).parent, sys.argv[1:])
