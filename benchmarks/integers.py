"""What 8-bit integers bring and cost. A part of `deploy.py`.

Times: our network in fp32, and what `onnxruntime.quantization` makes of it, in units of our network in int8, one image on one
thread; weights are drawn. With `--run RUN`, the folder of a trained run, also accuracy on its test images: in fp32, in int8 by
ours, and by theirs with each way of finding ranges. A point lost at the median is the most that is wanted.
"""

from __future__ import annotations

import io
import logging
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from ratio import Ratio, in_turn, over_archs

from latency_tables.graphs.graph import build_model
from nas.deployed import Deployed, open_model, score_of
from nas.folder import RunFolder
from search_spaces import Space, define_space, float_space, in_precision, lifted, network
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import calibrate
from supernets.checkpoint import load_supernet
from supernets.dataset import load

OURS = "ours, int8"
METHODS = {
    "min-max": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
PER_SESSION = 3


class Images(CalibrationDataReader):
    """Batches of images, as the runtime's calibration asks for them."""

    def __init__(self, batches: Sequence[NDArray[np.float32]]) -> None:
        self._left: Iterator[NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(({"input": batch} for batch in self._left), None)


def part(families: Mapping[str, Space], options: Namespace) -> dict[str, object]:
    found: dict[str, object] = {name: _times(name, space, options) for name, space in families.items()}
    return found if options.run is None else {**found, "accuracy": _accuracies(options.run, options)}


def quantised(model: onnx.ModelProto, batches: Sequence[NDArray[np.float32]], method: str) -> onnx.ModelProto:
    """What the runtime's own static quantisation makes of a graph in fp32."""
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        plain, ready, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "made"))
        onnx.save(model, plain)
        quant_pre_process(str(plain), str(ready))
        quantize_static(
            str(ready),
            str(made),
            Images(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
        )
        return onnx.load(made)


def _times(name: str, space: Space, options: Namespace) -> dict[str, object]:
    ratios: dict[str, list[Ratio]] = {}
    for arch in space.decode(space.sample(np.random.default_rng(0), options.archs)):
        layers = network(space, arch)
        images = np.random.default_rng(0).standard_normal((4, *layers[0].in_shape)).astype(np.float32)
        plain = build_model(layers, batch=1)
        sides = {
            OURS: build_model(in_precision(layers, "int8"), batch=1),
            "fp32": plain,
            "onnxruntime.quantization": quantised(plain, list(images[:, None]), "min-max"),
        }
        sessions = {side: open_model(model.SerializeToString(), arch.id) for side, model in sides.items()}
        feeds = {"input": images[:1]}
        runs = {side: partial(_run, session, feeds) for side, session in sessions.items()}
        times = in_turn(runs, options.repetitions, options.clock)
        for other in times.keys() - {OURS}:
            ratios.setdefault(other, []).append(Ratio.of(times[other], times[OURS]))
        shown = ", ".join(f"{side} {np.median(each) / PER_SESSION:.3f} ms" for side, each in times.items())
        print(f"{name} {arch.id}: {shown}")
    for other, each in sorted(ratios.items()):
        print(
            f"{name}: {other} / ours in int8: {over_archs(each)}, by arch {' '.join(f'{r.median:.2f}' for r in each)}"
        )
    return {other: asdict(over_archs(each)) for other, each in ratios.items()}


def _run(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[np.float32]]) -> None:
    for _ in range(PER_SESSION):
        session.run(None, feeds)


def _accuracies(run: Path, options: Namespace) -> dict[str, object]:
    """Of networks of a trained run, on its test images: in percent by way of quantising."""
    folder = RunFolder.open(run)
    job, plain = folder.job, float_space(folder.space)
    space = define_space(plain.family, **plain.settings, precisions=["int8", "fp32"], precision_per="network")
    dataset, (net, _) = load(job.source, folder.cache), load_supernet(folder.supernet, plain)
    calibration, test = calibration_batches(dataset, job.train.augment, job.seed), Batches.of(dataset.test, dataset)
    rows = []
    for arch in [
        plain.smallest(),
        plain.largest(),
        *plain.decode(plain.sample(np.random.default_rng(0), options.archs)),
    ]:
        both = {name: lifted(space, arch, name) for name in ("fp32", "int8")}
        deployed = Deployed.of(net, space, both["fp32"], calibrate(net, arch, calibration), calibration)
        graphs = {name: deployed.model(each) for name, each in both.items()}
        batches = [batch.numpy() for batch in deployed.images.split(32)]
        graphs |= {f"theirs, {method}": quantised(graphs["fp32"], batches, method) for method in METHODS}
        rows.append({name: 100 * score_of(graph, arch, test) for name, graph in graphs.items()})
        print(f"{arch.id}: {', '.join(f'{name} {score:.2f}%' for name, score in rows[-1].items())}", flush=True)
    lost = {name: [row["fp32"] - row[name] for row in rows] for name in rows[0] if name != "fp32"}
    for name, each in lost.items():
        print(f"{name}: {np.median(each):.2f} points lost at the median, {np.min(each):.2f} to {np.max(each):.2f}")
    return {"networks": rows, "median_lost": {name: float(np.median(each)) for name, each in lost.items()}}
