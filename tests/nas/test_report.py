"""The report of a run: one page, complete, harmless and independent of any network."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import io
import json
import math
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nas.errors import JobError
from nas.report import SUMMARY_FORMAT, front_csv, render
from nas.tables import amount, compact_arch, duration, scientific, significant, span, thinned
from tests.nas.chromium import dom_of, drawn_plots, needs_chromium

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
VOID = {"meta", "br", "img", "link", "input", "hr", "source"}
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
    front[0]["picks"], front[len(front) // 2]["picks"], front[-1]["picks"] = ["fastest"], ["knee"], ["most-accurate"]
    kept = ("arch_id", "val_accuracy", "latency_ms_predicted")
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
        "evaluated": [{key: row[key] for key in kept} for row in rows],
        "front": front,
        "exports": [
            {
                "arch_id": row["arch_id"], "pick": row["picks"][0],
                "file": f"{name.split()[0].lower()}-{row['arch_id']}.onnx",
                "sha256": f"{rng.getrandbits(256):064x}", "bytes": 4 * row["params"], "max_abs_diff": 2.4e-6,
                "top1_agreement": 1.0,
            }
            for row in front
            if row["picks"]
        ],
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
        "search": {
            "evaluations": 1280, "unique": 1204, "hypervolume": 0.7431, "seconds": 912.4, "sampler": "nsga2",
            "population": 40, "constraints": ["latency_ms <= 40 on Raspberry Pi 5", "params <= 2e6"],
            "hypervolume_history": [
                {"evaluations": count, "hypervolume": 0.7431 - 0.12 * math.exp(-count / 260)}
                for count in range(40, 1281, 40)
            ],
        },
        "devices": [device(rng, *DEVICES[index % 3], networks) for index in range(devices)],
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


def infected(document: Any, key: str = "") -> Any:
    """The summary of somebody who names everything so as to break out of the page."""
    if isinstance(document, dict):
        fixed = (
            key in ("", "space", "data", "supernet", "search", "predictor")
            or "arch_id" in document
            or "epoch" in document
        )
        fixed = fixed or "fingerprint" in document or "hypervolume" in document
        return {(name if fixed else name + EVIL): infected(value, name) for name, value in document.items()}
    if isinstance(document, list):
        return [infected(value, "" if key in ("devices", "front", "exports") else key) for value in document]
    return document + EVIL if isinstance(document, str) and key not in ("format", "picks") else document


def test_the_page_is_well_formed_and_its_references_lead_somewhere() -> None:
    page = Page(render(example()))
    assert page.elements[0] == ("html", {"lang": "en"})
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    references = [href.removeprefix("#") for href in page.values("href")]
    references += page.values("aria-labelledby") + page.values("aria-describedby")
    assert set(references) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later <= level + 1 for level, later in zip([0, *levels], levels, strict=False))
    scrolled = [attrs for _, attrs in page.elements if attrs.get("class") == "scroll"]
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolled)


def test_the_page_loads_nothing_and_allows_its_own_scripts_only() -> None:
    text = render(example())
    page = Page(text)
    assert not page.values("src")
    assert not page.values("srcset")
    assert all(href.startswith("#") for href in page.values("href"))
    assert not any(tag in ("link", "iframe", "object", "embed", "base", "form") for tag, _ in page.elements)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs) or ""
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]]
    assert policy.startswith("default-src 'none'; ")
    assert "script-src " + " ".join(f"'sha256-{digest}'" for digest in allowed) + ";" in policy


def test_every_device_pick_front_network_and_file_is_on_the_page() -> None:
    summary = example()
    page = Page(render(summary))
    for index, device in enumerate(summary["devices"]):
        assert {f"pareto-{index}", f"trust-{index}"} <= page.plots.keys()
        labels = [label["text"] for label in page.plots[f"pareto-{index}"]["layout"]["annotations"]]
        assert labels == ["<b>fastest</b>", "<b>knee</b>", "<b>most-accurate</b>"]
        named = [device["name"], *(network["arch_id"] for network in device["front"])]
        named += [export["file"] for export in device["exports"]]
        assert [name for name in named if name not in page.text] == []
    drawn = {attrs["id"] for _, attrs in page.elements if (attrs.get("class") or "").startswith("plot ")}
    assert drawn == page.plots.keys()
    assert {"loss", "accuracy", "hypervolume"} <= drawn


def test_a_measurement_is_drawn_beside_its_prediction() -> None:
    summary = example(devices=1)
    front = summary["devices"][0]["front"]
    front[0]["latency_ms_measured"] = None
    traces = {trace["name"]: trace for trace in Page(render(summary)).plots["pareto-0"]["data"]}
    assert traces["Predicted"]["x"] == [network["latency_ms_predicted"] for network in front]
    assert traces["Measured"]["x"] == [network["latency_ms_measured"] for network in front[1:]]
    assert traces["Error"]["x"][::3] == traces["Predicted"]["x"][1:]
    assert traces["Error"]["x"][1::3] == traces["Measured"]["x"]
    assert "measured" not in traces["Predicted"]["hovertext"][0]
    assert f"[{significant(front[1]['latency_ms_low'])}–" in traces["Predicted"]["hovertext"][1]
    assert "depth " in traces["Predicted"]["hovertext"][1]


@pytest.mark.parametrize(("slowest", "kind"), [(1.5, "linear"), (30.0, "log")])
def test_latencies_far_apart_get_a_logarithmic_axis(slowest: float, kind: str) -> None:
    summary = example(devices=1)
    device = summary["devices"][0]
    device["predictor"]["held_out"], device["front"] = [], device["front"][:2]
    for network, latency in zip(device["front"], (1.0, slowest), strict=True):
        network |= {"latency_ms_predicted": latency, "latency_ms_measured": latency}
        network |= {"latency_ms_low": 0.9 * latency, "latency_ms_high": 1.1 * latency}
    device["evaluated"] = []
    plots = Page(render(summary)).plots
    for plot in ("pareto-0", "trust-0"):
        assert plots[plot]["layout"]["xaxis"]["type"] == kind
        low, high = plots[plot]["layout"]["xaxis"]["range"]
        assert low < (0.0 if kind == "log" else 1.0)
        assert high > (math.log10(slowest) if kind == "log" else slowest)
    assert plots["pareto-0"]["layout"]["yaxis"]["type"] == "linear"


def test_hostile_names_stay_text() -> None:
    clean, page = Page(render(example())), Page(render(infected(example())))
    assert EVIL in page.text
    assert len(page.scripts) == 3
    assert Counter(tag for tag, _ in page.elements)["img"] == 0
    assert {name for _, attrs in page.elements for name in attrs} <= {
        name for _, attrs in clean.elements for name in attrs
    }
    assert "<script" not in "".join(
        text for trace in page.plots["pareto-0"]["data"] for text in trace.get("hovertext", ())
    )


def test_script_data_neither_ends_its_script_nor_opens_a_comment() -> None:
    page = render(infected(example()))
    data = page.split('<script type="application/json" id="plots">')[1].split("</script>")[0]
    assert "</" not in data
    assert "<!--" not in data
    assert json.loads(data)


@pytest.mark.parametrize(
    "change",
    [
        {"devices": []},
        {"supernet.history": []},
        {"search.hypervolume_history": [], "search.constraints": []},
        {"devices.0.predictor.held_out": []},
        {"devices.0.front": [], "devices.0.exports": []},
        {"devices.0.evaluated": []},
        {"devices.0.front": [], "devices.0.evaluated": [], "devices.0.exports": [], "devices.0.predictor.held_out": []},
        {"devices.0.predictor.mape": math.nan, "devices.0.predictor.spearman": math.nan, "devices.0.front.0.picks": []},
        {"supernet.history.3.loss": math.nan, "stages": {}, "versions": {}, "data.classes": [], "config": {}},
        {"space.size": 3 * 10**400, "finished": "yesterday", "data.classes": ["caf\udce9"]},
    ],
    ids=lambda change: ", ".join(change),
)
def test_a_run_that_lacks_something_still_has_a_page(change: dict[str, Any]) -> None:
    summary = example(devices=2)
    for path, value in change.items():
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
        place: Any = summary
        for part in parents:
            place = place[part]
        place[last] = value
    page = render(summary)
    assert page.encode()
    assert not {"nan", "None"} & set(re.findall(r"\w+", Page(page).text))


def test_networks_never_measured_or_tested_show_dashes() -> None:
    summary = example(devices=1)
    for network in summary["devices"][0]["front"]:
        for key in ("test_accuracy", "latency_ms_low", "latency_ms_high", "latency_ms_measured"):
            network[key] = None
    for row in summary["supernet"]["history"]:
        row |= {"largest_val_accuracy": None, "smallest_val_accuracy": None}
    page = Page(render(summary))
    assert "None" not in page.text
    assert "–" in page.text
    assert [trace["name"] for trace in page.plots["pareto-0"]["data"]] == ["Evaluated", "Predicted"]
    assert "accuracy" not in page.plots


def test_a_huge_search_is_thinned_and_says_so() -> None:
    summary = example(devices=1)
    summary["devices"][0]["evaluated"] *= 50
    page = Page(render(summary))
    assert len(page.plots["pareto-0"]["data"][0]["x"]) == 4000
    assert "4,000 of 6,000 evaluated networks are drawn" in page.text


def test_rendering_leaves_the_summary_alone_and_is_the_same_twice() -> None:
    summary = example()
    before = copy.deepcopy(summary)
    assert render(summary) == render(summary)
    assert summary == before


def test_a_summary_of_another_format_is_refused() -> None:
    with pytest.raises(JobError, match=r"nas\.summary/1, not 'nas\.summary/2'"):
        render({**example(), "format": "nas.summary/2"})


def test_the_csv_of_a_front_reads_back_as_the_front() -> None:
    device = example(devices=1)["devices"][0]
    device["front"][0] |= {"latency_ms_measured": None, "picks": ["fastest", "knee"]}
    rows = list(csv.DictReader(io.StringIO(front_csv(device))))
    assert list(rows[0]) == [
        "arch_id", "val_accuracy", "test_accuracy", "latency_ms_predicted", "latency_ms_low", "latency_ms_high",
        "latency_ms_measured", "macs", "params", "picks", "arch",
    ]  # fmt: skip
    assert rows[0]["latency_ms_measured"] == ""
    assert rows[0]["picks"] == "fastest;knee"
    for row, network in zip(rows, device["front"], strict=True):
        assert json.loads(row["arch"]) == network["arch"]
        assert float(row["latency_ms_predicted"]) == network["latency_ms_predicted"]
        assert int(row["macs"]) == network["macs"]


def test_numbers_read_well() -> None:
    assert [significant(value) for value in (0.04123, 0.4123, 4.123, 41.23, 4123.0, None)] == [
        "0.0412", "0.412", "4.12", "41.2", "4,123", "–",
    ]  # fmt: skip
    assert [amount(value) for value in (812, 9990, 23_400_000, 1.2e9)] == ["812", "9.99 k", "23.4 M", "1.20 G"]
    assert [duration(value) for value in (4.24, 59.7, 185, 3599, 7800)] == [
        "4.2 s",
        "1 min",
        "3 min 5 s",
        "1 h",
        "2 h 10 min",
    ]
    assert [scientific(value) for value in (12_345, 2 * 10**19, 999_999_999)] == [
        "12,345", "2.0 × 10<sup>19</sup>", "1.0 × 10<sup>9</sup>",
    ]  # fmt: skip
    ranges = ([0.041, 0.02], [0.02, 0.0201], [0.01, -0.002])
    assert [span(values, scale=100) for values in ranges] == ["2.0–4.1", "2.0", "−0.2 to 1.0"]


def test_an_architecture_is_written_by_kind_of_choice() -> None:
    arch = {"s1.b0.kernel": 3, "s1.b1.kernel": 1, "s2.b0.kernel": 5, "s10.depth": 4, "s2.depth": 1, "resolution": 28}
    assert compact_arch(arch) == ["resolution 28", "depth 1-4", "kernel 3-1 | 5"]
    assert compact_arch(arch, deepest=1) == ["resolution 28", "depth 1-4"]
    assert compact_arch({"note": "x" * 99}, longest=20) == ["note " + "x" * 14 + "…"]


def test_thinning_keeps_the_ends() -> None:
    assert thinned(range(5), 9) == [0, 1, 2, 3, 4]
    assert thinned(range(101), 5) == [0, 25, 50, 75, 100]


@pytest.mark.browser
@needs_chromium
def test_a_browser_draws_every_plot_and_runs_nothing_else(tmp_path: Path) -> None:
    summary = infected(example(devices=2))
    dom = dom_of(render(summary), tmp_path)
    assert drawn_plots(dom) == ["accuracy", "hypervolume", "loss", "pareto-0", "pareto-1", "trust-0", "trust-1"]
    assert "<img" not in dom
