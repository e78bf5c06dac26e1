"""A made-up summary of a run, like that of a real one, and what a browser would make of its page."""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from typing import Any

from nas.report import SUMMARY_FORMAT

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
VOID = {"meta", "br", "img", "link", "input", "hr", "source", "wbr"}
DEVICES = (("Raspberry Pi 5", 9.0, 0.05), ("Build server, 2 threads", 1.0, 0.03), ("Laptop int8", 0.55, 0.09))


def network(rng: random.Random) -> dict[str, Any]:
    """A made-up network of the tiny space: its values, cost and accuracy."""
    arch: dict[str, Any] = {"resolution": rng.choice([24, 28, 32])}
    work = 0.0
    for stage in (1, 2, 3):
        width, depth = rng.choice([0.5, 0.75, 1.0]), rng.choice([1, 2])
        arch |= {f"s{stage}.width": width, f"s{stage}.depth": depth}
        for block in range(depth):
            expand, kernel = rng.choice([0.25, 0.5, 1.0]), rng.choice([1, 3])
            arch |= {f"s{stage}.b{block}.expand": expand, f"s{stage}.b{block}.kernel": kernel}
            work += width * width * expand * (0.6 + 0.1 * kernel)
    macs = int(4.1e7 * work * (arch["resolution"] / 32) ** 2)
    accuracy = 0.93 - 0.13 * math.exp(-macs / 2.2e7) - 0.06 * rng.random()
    return {
        "arch_id": f"{rng.getrandbits(48):012x}",
        "arch": arch,
        "macs": macs,
        "params": int(macs / 61),
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.004 + 0.006 * rng.random(),
    }


def device(
    rng: random.Random, name: str, slowness: float, error: float, networks: list[dict[str, Any]]
) -> dict[str, Any]:
    def latency(one: dict[str, Any]) -> float:
        return slowness * float(0.16 + (one["macs"] / 5e7) ** 0.85)

    rows = [{**one, "latency_ms_predicted": latency(one) * rng.gauss(1, error)} for one in networks]
    best, front = 0.0, []
    for row in sorted(rows, key=lambda row: row["latency_ms_predicted"]):
        if row["val_accuracy"] > best:
            best = row["val_accuracy"]
            predicted = row["latency_ms_predicted"]
            bounds = {"latency_ms_low": predicted * (1 - 2 * error), "latency_ms_high": predicted * (1 + 2 * error)}
            front.append({**row, **bounds, "latency_ms_measured": latency(row), "picks": []})
            front[-1]["search_accuracy"] = row["val_accuracy"]
    front[0]["picks"], front[len(front) // 2]["picks"], front[-1]["picks"] = ["fastest"], ["knee"], ["most-accurate"]
    for row in front:
        row |= asked(row)
        if row["picks"]:
            row["blocks"] = blocks_of(row["arch"])
    kept = ("arch_id", "val_accuracy", "latency_ms_predicted")
    cloud = [{key: row[key] for key in kept} for row in rows]
    return {
        "name": name,
        "id": f"{rng.getrandbits(48):012x}",
        "device": {
            "name": name, "provider": "CPUExecutionProvider", "threads": 2, "precision": "fp32", "batch": 1,
            "options": {},
        },
        "fingerprint": {"cpu": "Cortex-A76", "cores": 4, "memory_bytes": 8_317_000_000, "onnxruntime": "1.24.1"},
        "predictor": {
            "mape": error * 0.8, "within_5": 0.83, "within_10": 0.98, "spearman": 0.991, "n_train": 120, "n_test": 40,
            "noise_floor": 0.012, "kind": "blend", "coverage": 0.92,
            "held_out": [
                {"arch_id": one["arch_id"], "predicted_ms": ms * rng.gauss(1, error), "measured_ms": ms}
                for one, ms in zip(networks[:40], map(latency, networks), strict=False)
            ],
        },
        "evaluated": cloud,
        "front": front,
        "hypervolume": {"mean": 0.74 - slowness / 100, "std": 0.004, "seeds": 2},
        "hypervolume_random": {"mean": 0.69 - slowness / 100, "std": 0.011, "seeds": 2},
        "uniform_hypervolume": 0.7 - slowness / 100,
        "uniform": [{**one, "arch_id": f"{i:012x}"} for i, one in enumerate(cloud[:6])],
        "average": {"accuracy": 0.81, "cost": 0.5 * slowness, "accuracy_gain": 0.0123, "cost_ratio": 2.34},
        "closest": None,
        "reach": [
            {"text": text, "quantity": quantity, "low": low, "median": 2 * low, "high": 9 * low, "bound": limit, "share": share}
            for text, quantity, low, limit, share in (
                ("latency_ms <= 40", "latency_ms", 0.1, 40.0, 0.93),
                ("peak_memory_bytes", "peak_memory_bytes", 4e5, None, None),
            )
        ],
        "exports": [
            {
                "arch_id": row["arch_id"], "pick": row["picks"][0],
                "file": f"models/{name.split()[0].lower()}-{row['picks'][0]}/model.onnx",
                "disagreement": 0.0731, "forgotten": 112, "calibration_error": 0.0412,
                "sha256": f"{rng.getrandbits(256):064x}", "bytes": 4 * row["params"], "max_abs_diff": 2.4e-6,
                "top1_agreement": 1.0,
            }
            for row in front
            if row["picks"]
        ],
    }  # fmt: skip


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """What a network has of the constraints and of a quantity that is measured for picks alone."""
    energy = 20 * row["latency_ms_predicted"]
    values = {"predicted": energy, "low": 0.9 * energy, "high": 1.1 * energy}
    values |= {"measured": 1.05 * energy} if row["picks"] else {}
    return {
        "values": {
            "latency_ms": {"predicted": row["latency_ms_predicted"], "low": 0.0, "high": 1.0},
            "energy_mj": values,
        },
        "constraints": [
            {
                "text": "latency_ms <= 40",
                "predicted": row["latency_ms_predicted"] <= 40,
                "measured": row["latency_ms_measured"] <= 40,
            },
            {"text": "params <= 2M", "predicted": row["params"] <= 2e6, "measured": None},
        ],
    }


def blocks_of(arch: dict[str, Any]) -> list[dict[str, Any]]:
    """Made-up blocks of a made-up network."""
    stem = {"name": "stem", "layers": 2, "channels": 16, "size_px": 32, "macs": 450_000, "choices": {}}
    stages = [
        {
            "name": f"s{stage}.b{block}",
            "layers": 6 if block < arch[f"s{stage}.depth"] else 0,
            "channels": 32 * 2**stage,
            "size_px": 32 >> stage,
            "macs": 1_000_000,
            "choices": {"expand": arch.get(f"s{stage}.b{block}.expand", 1.0)},
        }
        for stage in (1, 2, 3)
        for block in (0, 1)
    ]
    return [stem, *stages]


def search(names: list[str]) -> dict[str, Any]:
    """Two seeds of a search of 200 evaluations, each with a random search beside it."""

    def history(worth: float, step: int) -> list[dict[str, Any]]:
        curve = [(count, worth - 0.12 * math.exp(-count / 60)) for count in range(step, 201, step)]
        return [{"evaluations": count, "hypervolume": y, "by_device": dict.fromkeys(names, y)} for count, y in curve]

    return {
        "evaluations": 391, "proposals": 800, "confirmed": 31, "seconds": 912.4, "sampler": "guided", "images": [1000],
        "objectives": ["accuracy", "latency_ms"], "constraints": ["latency_ms <= 40", "params <= 2M"],
        "hypervolume": {"mean": 0.7431, "std": 0.0042, "seeds": 2},
        "hypervolume_random": {"mean": 0.6912, "std": 0.0113, "seeds": 2},
        "searches": [
            {
                "seed": seed, "evaluations": 200, "proposals": 400, "ended": "evaluations", "fidelity": None,
                "sources": {"founder": 40, "sampler": 160}, "history": history(0.743 + seed / 1e12, 40), "seconds": 456.2,
            }
            for seed in (7, 1983447018)
        ],
        "random": [{"evaluations": 200, "history": history(worth, 8)} for worth in (0.684, 0.699)],
    }  # fmt: skip


def example(devices: int = 3, evaluated: int = 120) -> dict[str, Any]:
    """A summary like that of a real run."""
    rng = random.Random(7)
    networks = [network(rng) for _ in range(evaluated)]
    steps = range(0, 6001, 200)
    return {
        "format": SUMMARY_FORMAT,
        "name": "Garden birds",
        "finished": "2026-11-21T20:41:07+00:00",
        "config": {"name": "Garden birds", "data": {"folder": "images/birds"}, "space": {"family": "tiny"}},
        "seed": 20261121,
        "space": {"family": "tiny", "id": "9f2c11e07a4b", "size": 34_867_844_010, "choices": 31},
        "data": {
            "name": "garden-birds", "id": "5b1f0c2277aa", "classes": ["blackbird", "robin", "wren", "great tit"],
            "train": 18_000, "validation": 2_000, "test": 4_000, "skipped": 3,
        },
        "supernet": {
            "largest_test_accuracy": 0.9218, "smallest_test_accuracy": 0.8394, "train_seconds": 5412.0,
            "params": 2_813_000, "recipe": "sandwich",
            "history": [
                {
                    "step": step, "epoch": step / 140,
                    "loss": 0.35 + 1.9 * math.exp(-step / 1400) + 0.04 * rng.random(),
                    "learning_rate": 0.05 * (1 + math.cos(math.pi * step / 6000)),
                    "largest_val_accuracy": 0.925 - 0.6 * math.exp(-step / 900) if step % 600 == 0 else None,
                    "smallest_val_accuracy": 0.845 - 0.6 * math.exp(-step / 1100) if step % 600 == 0 else None,
                }
                for step in steps
            ],
        },
        "search": search([name for name, *_ in DEVICES[:devices]]),
        "devices": [device(rng, *DEVICES[index % 3], networks) for index in range(devices)],
        "matrix": matrix([name for name, *_ in DEVICES[:devices]]) if devices > 1 else None,
        "stages": {"train": 5412.0, "profile": 1860.5, "search": 912.4, "export": 41.2},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.24.1", "hwnas": "0.1.0"},
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the page; fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(attribute)) is not None]

    @property
    def plots(self) -> dict[str, Any]:
        plots = json.loads(self.scripts[0])
        assert isinstance(plots, dict)
        return plots


# What holds names that somebody chose, or that may be anything one day.
FREE = ("arch", "by_device", "choices", "config", "device", "fingerprint", "latency_ms", "options", "ratio", "sources")
FREE += ("stages", "values", "versions")


def infected(document: Any, key: str = "") -> Any:
    """The summary of somebody who names everything so as to break out of the page."""
    if isinstance(document, dict):
        mark = EVIL if key in FREE else ""
        return {name + mark: infected(value, "value" if key == "values" else name) for name, value in document.items()}
    if isinstance(document, list):
        return [infected(value, key) for value in document]
    return document + EVIL if isinstance(document, str) and key not in ("format", "picks") else document


def matrix(names: list[str]) -> dict[str, Any]:
    """The first device's knee is slower on the second and has no rival there on the third, and so on in turn."""
    ratios = (1.0, 1.37, None)
    picks = [
        {
            "device": name, "arch_id": f"{i:012x}", "val_accuracy": 0.83 + i / 100,
            "latency_ms": {other: 1.5 + j for j, other in enumerate(names)},
            "ratio": {other: ratios[(j - i) % 3] for j, other in enumerate(names)},
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    square = [[1.0 if i == j else 0.91 for j in range(len(names))] for i in range(len(names))]
    return {
        "pick": "knee", "picks": picks, "fronts": names, "devices": names,
        "hypervolume_share": square, "extra_latency": square, "rank_correlation": square,
    }  # fmt: skip
