"""The tables of one run: picks, fronts, constraints, reach, files and devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.tables import (
    ABSENT,
    KNEE,
    MOST_ACCURATE,
    Network,
    amount,
    code,
    compact_arch,
    computes_in,
    constraints_text,
    differ,
    escaped,
    exact,
    facts_list,
    held,
    interval,
    off_by,
    percent,
    pick,
    plain,
    predictor_facts,
    quantity_label,
    quantity_text,
    reread,
    significant,
    small,
    speed,
    table,
)

PARTS = ("predicted", "measured")

# A heading, and what stands under it for a network, both of them HTML.
Column = tuple[str, Callable[[Network], str]]


def picks_table(devices: Sequence[Mapping[str, Any]]) -> str:
    """The picks of every device, beside the files they became. Nothing where there are no picks."""
    rows, strong = [], []
    limited = any(network.get("constraints") for device in devices for network in device["front"])
    for index, device in enumerate(devices):
        best = pick(device["front"], MOST_ACCURATE)
        exported = {export["arch_id"]: code(export["file"]) for export in device["exports"]}
        for network in sorted(device["front"], key=lambda network: float(network["latency_ms_predicted"])):
            if not network["picks"]:
                continue
            times = speed(network, best) if best else None
            rows.append(
                (
                    f'<a href="#device-{index}">{escaped(device["name"])}</a>',
                    escaped(", ".join(network["picks"])),
                    percent(network["val_accuracy"], 2),
                    percent(network["test_accuracy"], 2),
                    significant(network["latency_ms_predicted"]),
                    significant(network["latency_ms_measured"]),
                    ABSENT if times is None else f"{times:.1f}×",
                    amount(network["macs"]),
                    amount(network["params"]),
                    *([escaped(constraints_text(network))] if limited else []),
                    exported.get(network["arch_id"], ABSENT),
                )
            )
            strong.append(KNEE in network["picks"])
    columns = ["Device", "Pick", "#Validation", "#Test", "#Predicted ms", "#Measured ms", "#Speed", "#MACs", "#Params"]
    columns += [*(["Constraints"] if limited else []), "ONNX file"]
    return table("The picks of every device", columns, rows, strong) if rows else ""


def front_table(name: str, front: Sequence[Network]) -> str:
    confirmed, in_others = any(map(reread, front)), differ(front)
    rows = [
        (
            code(network["arch_id"]),
            escaped(", ".join(network["picks"])),
            *([computes_in(network)] if in_others else []),
            percent(network["val_accuracy"], 2),
            *([percent(network["search_accuracy"], 2)] if confirmed else []),
            percent(network["test_accuracy"], 2),
            significant(network["latency_ms_predicted"]),
            interval(network),
            significant(network["latency_ms_measured"]),
            percent(off_by(network), sign=True),
            amount(network["macs"]),
            amount(network["params"]),
            escaped(" · ".join(compact_arch(network["arch"], 1) or compact_arch(network["arch"]))),
        )
        for network in front
    ]
    columns = [
        "Network",
        "Pick",
        *(["In"] if in_others else []),
        "#Validation",
        *(["#In the search"] if confirmed else []),
        "#Test",
        "#Predicted ms",
    ]
    columns += ["#Interval ms", "#Measured ms", "#Off by", "#MACs", "#Params", "Architecture"]
    strong = [bool(network["picks"]) for network in front]
    return table(f"The front of {name}", columns, rows, strong)


def truths_table(name: str, front: Sequence[Network]) -> str:
    """Of every network of a front, what its constraints and its other quantities were predicted and measured to be.
    Nothing where there are neither."""
    quantities = dict.fromkeys(key for one in front for key in one.get("values", {}) if key != "latency_ms")
    limits = dict.fromkeys(limit["text"] for one in front for limit in one.get("constraints", ()))
    columns = [column for key in quantities for column in _quantity_columns(key)]
    columns += [column for text in limits for column in _limit_columns(text)]
    if not columns:
        return ""
    rows = [
        (code(one["arch_id"]), escaped(", ".join(one["picks"])), *(cell(one) for _, cell in columns)) for one in front
    ]
    heads = ("Network", "Pick", *(head for head, _ in columns))
    return table(f"Constraints and quantities of {name}", heads, rows, [bool(one["picks"]) for one in front])


def _quantity_columns(key: str) -> list[Column]:
    def cell(part: str) -> Callable[[Network], str]:
        return lambda network: quantity_text(key, network["values"].get(key, {}).get(part))

    head = f"#{escaped(quantity_label(key).partition(' (')[0])}"
    return [(head, cell("predicted"))] if exact(key) else [(f"{head}, {part}", cell(part)) for part in PARTS]


def _limit_columns(text: str) -> list[Column]:
    def cell(part: str) -> Callable[[Network], str]:
        return lambda network: held(next((each[part] for each in network["constraints"] if each["text"] == text), None))

    head = escaped(text).replace("_", "_<wbr>")  # on paper a long name has to break
    return [(f"{head}, {part}", cell(part)) for part in PARTS]


def reach_table(name: str, reach: Sequence[Mapping[str, Any]]) -> str:
    """What the space reaches of each quantity that is bounded or optimised. Nothing where there is none."""
    rows = [
        (
            escaped(row["text"]),
            *(quantity_text(row["quantity"], row[key]) for key in ("low", "median", "high", "bound")),
            percent(row["share"]),
        )
        for row in reach
    ]
    columns = ("Constraint or quantity", "#Least", "#Median", "#Most", "#Bound", "#Networks that meet it")
    return table(f"What the networks of the space reach on {name}", columns, rows) if rows else ""


def exports_table(name: str, exports: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            code(export["file"]),
            escaped(export["pick"]),
            code(export["arch_id"]) + _beside(export),
            f"{amount(export['bytes'])}B",
            code(export["sha256"][:12] + "…"),
            small(export["max_abs_diff"]),
            percent(export["top1_agreement"], 2),
            percent(export["disagreement"], 2),
            f"{export['forgotten']:,}",
            percent(export["calibration_error"]),
        )
        for export in exports
    ]
    columns = ["File", "Pick", "Network", "#Size", "SHA-256", "#Max abs difference", "#Agreement"]
    columns += ["#Unlike the largest", "#Forgotten", "#ECE"]
    return table(f"Files exported for {name}", columns, rows)


def _beside(export: Mapping[str, Any]) -> str:
    """What was made of a network beside handing it over."""
    if export.get("merged"):
        return ", convolutions merged"
    exits = export.get("exits")
    return f", {exits['latency_ms']:.3f} ms expected with early exits" if exits else ""


def trust_list(predictor: Mapping[str, Any], again: Sequence[Network]) -> str:
    """How good a device's predictor is, with the networks of the front that were measured again."""
    facts = predictor_facts(predictor, "Held out inside their 90% interval")
    bounded = [network for network in again if interval(network) != ABSENT]
    if bounded:
        inside = [
            one for one in bounded if one["latency_ms_low"] <= one["latency_ms_measured"] <= one["latency_ms_high"]
        ]
        facts.append(("Front measured inside its interval", f"{len(inside)} of {len(bounded)}"))
    return facts_list(facts)


def devices_table(devices: Sequence[Mapping[str, Any]]) -> str:
    """What each device was when it was measured: one column a device."""
    known = [{"id": device["id"], **device["device"], **device["fingerprint"]} for device in devices]
    names = dict.fromkeys(name for values in known for name in values)
    rows = [(escaped(name), *(plain(values.get(name)) for values in known)) for name in names]
    columns = ("Property", *(escaped(device["name"]).lstrip("#") for device in devices))
    return table("The devices as they were measured", columns, rows)
