"""What is known of a device from its latency table: how far to trust it, and where the time goes. As JSON and as text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from latency_tables.additive import AdditivePredictor
from latency_tables.judge import COVERAGE, Judgement
from latency_tables.samples import MIN_NETWORKS
from latency_tables.table import LatencyTable
from nas.tables import amount, finite, percent, significant
from search_spaces import Arch, network, slots

DEVICE_REPORT_FORMAT = "nas.device_report/1"
# Slots named as predicted worst, and choices that errors go with.
WORST = 5

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
    additive = AdditivePredictor.fit(table.space, table.codes(), table.latency_ms())
    picks = {"fastest": order[0], "middle": order[len(order) // 2], "slowest": order[-1]}
    return [
        {"network": name, **network_time(additive, table.entries[i].arch, table.device.batch, table.peak_gmacs_per_s)}
        for name, i in picks.items()
    ]


def network_time(
    additive: AdditivePredictor, arch: Arch, batch: int, peak_gmacs_per_s: float | None
) -> dict[str, Json]:
    """One network's latency, slot by slot, as operations over peak times efficiency (1 is the device at its peak).

    What no slot explains, such as entering and leaving the runtime, is `constant_ms`.
    """
    space = additive.space
    costs_ms = additive.slot_costs_ms(space.encode([arch]))[0]
    layers = network(space, arch)
    total = float(costs_ms.sum()) + additive.constant_ms
    parts = []
    for slot, cost_ms in zip(slots(space), map(float, costs_ms), strict=True):
        macs = batch * sum(layer.macs for layer in layers if layer.name.startswith(f"{slot.name}."))
        if not any(layer.name.startswith(f"{slot.name}.") for layer in layers):
            continue
        rate = macs / (cost_ms * 1e6) if cost_ms > 0 else None
        parts.append(
            {
                "slot": slot.name,
                "latency_ms": cost_ms,
                "share": cost_ms / total,
                "macs": macs,
                "gmacs_per_s": rate,
                "efficiency": rate / peak_gmacs_per_s if rate is not None and peak_gmacs_per_s else None,
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
        slowest = sorted(entry["parts"], key=lambda part: -part["latency_ms"])[:WORST]
        lines += [_part_line(part) for part in slowest]
    return "\n".join(lines)


def _part_line(part: dict[str, Json]) -> str:
    of_peak = "" if part["efficiency"] is None else f", {percent(part['efficiency'], 0)} of the peak"
    return (
        f"    {part['slot']:<12} {percent(part['share'], 0):>4} of the time, {amount(part['macs'])} MACs at "
        f"{significant(part['gmacs_per_s'])} GMAC/s{of_peak}"
    )
