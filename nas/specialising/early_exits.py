"""A network with its early exits, made deployable: thresholds chosen on validation images, the graph checked and measured, and
what is expected of it on test images.

N images of all, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from latency_tables.device import Device
from latency_tables.graphs.exits import LEFT_AT, branching_model, outputs_model, up_to
from latency_tables.graphs.nodes import INPUT, OUTPUT
from latency_tables.measuring.sessions import Graph
from nas.deployed import as_given, open_model
from nas.errors import JobError
from nas.profiling import protocol_of
from nas.specialising.chain import ALLOWED, NEVER, Said, answered_by, cheapest, expected, links
from nas.specialising.checks import MAX_ABS_DIFF, Answers, Checked, Labelled, batch_by_batch
from nas.specialising.model_file import write_model
from nas.specialising.specialise import Weights
from nas.specialising.workshop import Exporting
from search_spaces import Arch, Exit, Layer, exits, precision_of, with_exits

Json = Any

EXITS = "exits.onnx"
WHOLE = "whole"
BRANCHED = 1000
"""Test images on which a graph that branches is compared with one that computes everything."""


@dataclass(frozen=True, eq=False)
class EarlyExits:
    """The graph of a network with exits, and all numbers of it but those of the file."""

    model: bytes
    numbers: dict[str, Json]


def early_exits(run: Exporting, device: Device, checked: Checked) -> EarlyExits | None:
    """What the job asks for: None where that is nothing, or, as is noted, where no exit is worth it or there can be none.

    `JobError` where the graph does not compute what torch does.
    """
    kind = run.trained.job.export.exits
    if kind is None:
        return None
    reason = refusal(device, checked.arch)
    if reason is None:
        made = _Made(run, checked.arch)
        found = made.chosen(device, checked, kind)
        if found is not None:
            return found
        reason = "with no thresholds are its exits as accurate as the whole of it in less time"
    run.display.note("export", f"{device.name}: {checked.arch.id}: {reason}; no {EXITS} is written")
    return None


def refusal(device: Device, arch: Arch) -> str | None:
    """Why a device can have no graph with exits of an architecture; None where it can."""
    if device.batch != 1:
        return f"an image leaves by itself, and this device takes {device.batch}"
    if precision_of(arch) != "fp32":
        return f"it is in {precision_of(arch)}, and graphs with exits are in fp32"
    return None


@dataclass(frozen=True, eq=False)
class _Made:
    """One architecture with the weights that it is deployed with."""

    run: Exporting
    arch: Arch

    @cached_property
    def weights(self) -> Weights:
        return self.run.workshop.weights(self.arch)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return with_exits(self.run.trained.space, self.weights.deployed.arch)

    @cached_property
    def exits(self) -> tuple[Exit, ...]:
        return exits(self.run.trained.space, self.weights.deployed.arch)

    @cached_property
    def settings(self) -> dict[str, int]:
        export = self.run.trained.job.export
        return {"opset": export.opset, "ir_version": export.ir_version}

    def outputs(self, last: str, batch: int | None) -> bytes:
        """The graph as far as this layer, with an output for each exit on the way."""
        cut, folded = up_to(self.layers, last), self.weights.deployed.weights
        model: bytes = outputs_model(cut, self.exits, folded, batch=batch, **self.settings).SerializeToString()
        return model

    def branching(self, thresholds: Sequence[float]) -> bytes:
        folded = self.weights.deployed.weights
        model: bytes = branching_model(self.layers, self.exits, thresholds, folded, **self.settings).SerializeToString()
        return model

    @cached_property
    def whole(self) -> bytes:
        return self.outputs(self.layers[-1].name, None)

    @cached_property
    def test(self) -> tuple[tuple[Answers, ...], float]:
        """What the exits and the network say of the test images, and the largest difference to torch."""
        return self.answers(self.run.workshop.test)

    def chosen(self, device: Device, checked: Checked, kind: str) -> EarlyExits | None:
        """With the thresholds of least expected latency; None where the whole network is as fast."""
        validation = [Said.of(each) for each in self.answers(self.run.trained.images("validation"))[0]]
        times = self.measured(device, checked, kind)
        latency_ms = times[kind]
        wanted = validation[-1].accuracy - ALLOWED
        found = cheapest(validation, latency_ms, wanted, times[WHOLE][0])
        if found is None:
            return None
        branches = kind == "if"
        model = self.branching(found.values) if branches else self._outputs_file(device)
        numbers = self.numbers(kind, found.values, validation, times)
        return EarlyExits(model, numbers | {"check": self.check(model if branches else None, found.values)})

    def _outputs_file(self, device: Device) -> bytes:
        free = self.run.trained.job.export.dynamic_batch
        return self.whole if free else self.outputs(self.layers[-1].name, device.batch)

    def answers(self, images: Labelled) -> tuple[tuple[Answers, ...], float]:
        """What each exit, and last the network, says of images; and how far the logits are from torch's at most."""
        session, module = open_model(self.whole, self.arch.id), self.weights.all_logits
        assert module is not None, "the space has exits"

        def answer(batch: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, ...], Tensor, float]:
            sized = as_given(batch[0], self.arch)
            with torch.no_grad():
                wanted = module(sized)
            found = run_outputs(session, sized, self.exits)
            gaps = [float((mine - torchs).abs().max()) for mine, torchs in zip(found, wanted, strict=True)]
            return found, batch[1], float(np.max(gaps))  # which keeps what is no number

        parts, labels, differences = zip(*batch_by_batch(answer, images), strict=True)
        difference = float(np.max(differences))
        if not difference <= MAX_ABS_DIFF:  # nor where it is not a number
            raise JobError(
                f"the ONNX model of {self.arch.id} with its exits differs from torch by {difference:.2g} (at most "
                f"{MAX_ABS_DIFF:g} is allowed)"
            )
        whole = torch.cat(labels)
        return tuple(Answers(torch.cat(each), whole) for each in zip(*parts, strict=True)), difference

    def measured(self, device: Device, checked: Checked, kind: str) -> dict[str, list[float]]:
        """Median latencies in ms: `whole` of the network without exits; `outputs` of the graph cut off after each exit, and
        uncut; `if` of the graph that branches, on an image that leaves at each exit, and at none."""
        ends = [*(each.output for each in self.exits), self.layers[-1].name]
        graphs = {WHOLE: [checked.model], "outputs": [self.outputs(end, device.batch) for end in ends]}
        if kind == "if":
            # Where the thresholds make it leave does not depend on the image that is drawn.
            graphs["if"] = [self.branching(_leaving(at, len(self.exits))) for at in range(len(ends))]
        named = [Graph(f"{name} {i}", model) for name, models in graphs.items() for i, model in enumerate(models)]
        machine = self.run.machine(device)
        with machine.held(lambda line: None):
            found = machine.measure(named, device, protocol=protocol_of(self.run.trained.job))
        return {
            name: [found[f"{name} {i}"].median_us / 1e3 for i in range(len(models))] for name, models in graphs.items()
        }

    def numbers(
        self, kind: str, thresholds: Sequence[float], validation: Sequence[Said], times: dict[str, list[float]]
    ) -> dict[str, Json]:
        """As `numbers.json` has them."""
        test = [Said.of(each) for each in self.test[0]]
        chain, names = links(test, thresholds, times[kind]), [each.stage for each in self.exits]
        outcomes = {"validation": expected(links(validation, thresholds, times[kind])), "test": expected(chain)}
        rows = [
            {
                "stage": name,
                "output": output,
                "threshold": threshold,
                "share": link.share,
                "accuracy": link.accuracy,
                "accuracy_of_all": each.accuracy,
                "latency_ms": link.latency_ms,
                "cut_ms": cut_ms,
            }
            for name, output, threshold, link, each, cut_ms in zip(
                [*names, "end"],
                [*(each.output for each in self.exits), OUTPUT],
                [*thresholds, None],
                chain,
                test,
                times["outputs"],
                strict=True,
            )
        ]
        return {
            "kind": kind,
            "exits": rows,
            **{split: {"accuracy": found[0], "latency_ms": found[1]} for split, found in outcomes.items()},
            "whole": {
                "val_accuracy": validation[-1].accuracy,
                "test_accuracy": test[-1].accuracy,
                "latency_ms": times[WHOLE][0],
            },
        }

    def check(self, branching: bytes | None, thresholds: Sequence[float]) -> dict[str, Json]:
        """The comparison with torch, and of a graph that branches with what all exits say."""
        found = {"max_abs_diff": self.test[1], "images": len(self.test[0][0].labels)}
        if branching is None:
            return found
        session, said = open_model(branching, self.arch.id), [Said.of(each) for each in self.test[0]]
        wanted_N, done = answered_by(said, thresholds), 0
        for x_BCHW, _ in self.run.workshop.test:
            for x_CHW in as_given(x_BCHW[: BRANCHED - done], self.arch):
                logits, left_at = session.run([OUTPUT, LEFT_AT], {INPUT: x_CHW[None].numpy()})
                self._same(int(left_at[0]), int(wanted_N[done]), logits, done, thresholds)
                done += 1
        return found | {"branched_images": done}

    def _same(self, left_at: int, wanted: int, logits: Any, image: int, thresholds: Sequence[float]) -> None:
        """`JobError` where a graph that branches says something else; sureness at a threshold but for rounding may go either
        way."""
        found = np.abs(logits - self.test[0][left_at].logits_NK[image].numpy()).max()
        first = min(left_at, wanted)
        edge = left_at != wanted and abs(self._sure(first, image) - thresholds[first]) <= MAX_ABS_DIFF
        if not found <= MAX_ABS_DIFF or not (left_at == wanted or edge):
            raise JobError(
                f"the graph of {self.arch.id} that branches leaves test image {image} at exit {left_at}, {found:.2g} from what "
                f"that says, and not at {wanted}; set export.exits to outputs"
            )

    def _sure(self, at: int, image: int) -> float:
        return float(self.test[0][at].logits_NK[image].double().softmax(0).max())


def run_outputs(session: ort.InferenceSession, x_BCHW: Tensor, found: Sequence[Exit]) -> tuple[Tensor, ...]:
    """Logits (B, K) of each exit, and last of the network."""
    names = [*(each.output for each in found), OUTPUT]
    return tuple(torch.from_numpy(each) for each in session.run(names, {INPUT: x_BCHW.numpy()}))


def exits_json(folder: Path, found: EarlyExits | None, about: Mapping[str, Any]) -> dict[str, Json]:
    """Write the graph beside the model, `about` as the model's; what `numbers.json` says of it. Nothing where there is none."""
    if found is None:
        return {}
    told = [{name: row[name] for name in ("stage", "output", "threshold")} for row in found.numbers["exits"]]
    sha256 = write_model(
        folder / EXITS, found.model, {**about, "nas.exits": {"kind": found.numbers["kind"], "exits": told}}
    )
    file = {"name": EXITS, "sha256": sha256, "bytes": (folder / EXITS).stat().st_size}
    return {"exits": {"file": file, **found.numbers}}


def exits_entry(document: Mapping[str, Json]) -> dict[str, Json]:
    """What is recorded of them with the export; nothing where there is none."""
    if "exits" not in document:
        return {}
    found = document["exits"]
    test = found["test"]
    return {"exits": {"kind": found["kind"], "test_accuracy": test["accuracy"], "latency_ms": test["latency_ms"]}}


def _leaving(at: int, count: int) -> list[float]:
    """Thresholds with which every image leaves at one exit, or, past the last one, at none."""
    return [NEVER] * at + [0.0] * (count - at)
