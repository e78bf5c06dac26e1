"""What is known of a device from its latency table: how far to trust it, and where the time goes. As JSON and as text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.additive import AdditivePredictor, fit_layers
from latency_tables.predicting.features import layer_class, space_layers
from latency_tables.predicting.judge import COVERAGE, Judgement
from latency_tables.predicting.samples import MIN_NETWORKS
from latency_tables.table import LatencyTable
from nas.tables import amount, finite, percent, significant
from search_spaces import Arch, network, slots

DEVICE_REPORT_FORMAT = "nas.device_report/1"
# Slots named as predicted worst, and choices that errors go with.
WORST = 5

F64 = NDArray[np.float64]
Json = Any


def device_report(table: LatencyTable, judgement: Judgement) -> dict[str, Json]:
    """Everything about one device over one space; latencies in ms, of whole batches."""
    latency_ms = table.latency_ms()
    found = table.measurements.values()
    return {
        "format": DEVICE_REPORT_FORMAT,
        "name": table.device.name,
        "full_name": table.device.full_name(table.fingerprint),
        "device": table.device.to_json(),
        "fingerprint": table.fingerprint.to_json(),
        "space": {"id": table.space.id, "family": table.space.family},
        "measured": {
            "networks": len(table.entries),
            "converged": sum(each.converged for each in found),
            "disturbed": sum(each.disturbed for each in found),
            "rejected_rounds": sum(each.rejected_rounds for each in found),
            "runs": sum(each.runs for each in found),
            "fastest_ms": float(latency_ms.min()),
            "slowest_ms": float(latency_ms.max()),
        },
        "predictor": {
            "kind": judgement.kind,
            **dataclasses.asdict(judgement.quality),
            "spearman": finite(judgement.quality.spearman),
            "coverage": judgement.coverage,
            "asked_coverage": COVERAGE,
            "noise_floor": finite(table.noise_floor),
            "errors": dict(judgement.errors),
        },
        "held_out": [dataclasses.asdict(row) for row in judgement.held_out],
        "worst_slots": [dataclasses.asdict(row) for row in judgement.slot_errors[:WORST]],
        "worst_choices": [dataclasses.asdict(row) for row in judgement.choice_errors[:WORST]],
        "peak_gmacs_per_s": table.peak_gmacs_per_s,
        "time": _time(table),
    }


def _time(table: LatencyTable) -> list[dict[str, Json]]:
    """Where the time goes in the fastest, the middle and the slowest of the measured networks; nothing if these are few."""
    if len(table.entries) < MIN_NETWORKS:
        return []
    order = np.argsort(table.latency_ms(), kind="stable")
    additive, layers_ms = fit_layers(table.space, table.codes(), table.latency_ms())
    picks = {"fastest": order[0], "middle": order[len(order) // 2], "slowest": order[-1]}
    return [
        {
            "network": name,
            **network_time(additive, layers_ms, table.entries[i].arch, table.device.batch, table.peak_gmacs_per_s),
        }
        for name, i in picks.items()
    ]


def network_time(
    additive: AdditivePredictor, layers_ms: F64, arch: Arch, batch: int, peak_gmacs_per_s: float | None
) -> dict[str, Json]:
    """One network's latency, slot by slot and layer by layer, as operations over peak times efficiency (1 is the device at
    its peak). A slot's layers share its time in proportion to `layers_ms`, what each of the space's layers costs.

    What no slot explains, such as entering and leaving the runtime, is `constant_ms`.
    """
    space = additive.space
    codes = space.encode([arch])
    costs_ms, indices = additive.slot_costs_ms(codes)[0], space_layers(space).of(space, codes[0])
    total = float(costs_ms.sum()) + additive.constant_ms

    def timed(macs: int, cost_ms: float) -> dict[str, Json]:
        rate = macs / (cost_ms * 1e6) if cost_ms > 0 and macs else None
        efficiency = rate / peak_gmacs_per_s if rate is not None and peak_gmacs_per_s else None
        share = {"latency_ms": cost_ms, "share": cost_ms / total}
        return {**share, "macs": macs, "gmacs_per_s": rate, "efficiency": efficiency}

    parts = []
    for slot, cost_ms, index in zip(slots(space), map(float, costs_ms), indices, strict=True):
        layers = [layer for layer in network(space, arch) if layer.name.startswith(f"{slot.name}.")]
        if not layers:
            continue
        whole = float(layers_ms[index].sum())
        shares = layers_ms[index] / whole if whole > 0 else np.full(len(layers), 1 / len(layers))
        parts.append(
            {
                "slot": slot.name,
                **timed(batch * sum(layer.macs for layer in layers), cost_ms),
                "layers": [
                    {"layer": layer.name, "op": layer_class(layer), **timed(batch * layer.macs, cost_ms * float(share))}
                    for layer, share in zip(layers, shares, strict=True)
                ],
            }
        )
    return {"arch_id": arch.id, "latency_ms": total, "constant_ms": additive.constant_ms, "parts": parts}


def device_text(report: dict[str, Json]) -> str:
    """The report for a terminal."""
    measured, predictor = report["measured"], report["predictor"]
    fingerprint = report["fingerprint"]
    lines = [
        f"{report['full_name']} over {report['space']['family']} {report['space']['id']}",
        f"  {fingerprint['cpu']}, {fingerprint['cores']} cores, {fingerprint['os']}, onnxruntime {fingerprint['onnxruntime']}",
        f"  {measured['networks']} networks from {significant(measured['fastest_ms'])} to "
        f"{significant(measured['slowest_ms'])} ms, {measured['converged']} settled, "
        f"{measured['disturbed']} disturbed; {measured['rejected_rounds']} rounds rejected",
        f"  predictor {predictor['kind']}: error {percent(predictor['mape'])} on {predictor['n_test']} held-out networks "
        f"(noise floor {percent(predictor['noise_floor'])}), within 5 / 10%: {percent(predictor['within_5'], 0)} / "
        f"{percent(predictor['within_10'], 0)}, Spearman {significant(predictor['spearman'])}, "
        f"{percent(predictor['coverage'], 0)} inside their {percent(predictor['asked_coverage'], 0)} intervals",
    ]
    if report["worst_slots"]:
        worst = ", ".join(
            f"{row['slot']} ({percent(row['error'])} of {percent(row['share'], 0)})" for row in report["worst_slots"]
        )
        lines.append(f"  predicted worst (error of the slot, of its share of the latency): {worst}")
    peak = report["peak_gmacs_per_s"]
    for entry in report["time"]:
        lines.append(
            f"  {entry['network']} {entry['arch_id']}: {significant(entry['latency_ms'])} ms"
            + (f", against a peak of {significant(peak)} GMAC/s" if peak else "")
        )
        layers = [layer for part in entry["parts"] for layer in part["layers"]]
        lines += [_layer_line(layer) for layer in sorted(layers, key=lambda layer: -layer["latency_ms"])[:WORST]]
    return "\n".join(lines)


def _layer_line(layer: dict[str, Json]) -> str:
    of_peak = "" if layer["efficiency"] is None else f", {percent(layer['efficiency'], 0)} of the peak"
    rate = (
        f", {amount(layer['macs'])} MACs at {significant(layer['gmacs_per_s'])} GMAC/s{of_peak}"
        if layer["macs"]
        else ""
    )
    return f"    {layer['layer']:<20} {percent(layer['share'], 0):>4} of the time, {layer['op']}{rate}"
