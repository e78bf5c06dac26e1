"""The report of a run: one page, complete, harmless and independent of any network."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nas.errors import JobError
from nas.report import render
from nas.tables import (
    amount,
    compact_arch,
    duration,
    quantity_label,
    quantity_text,
    scientific,
    significant,
    span,
    thinned,
)
from tests.nas.chromium import dom_of, drawn_plots, needs_chromium
from tests.nas.made_up_run import EVIL, Page, example, infected

QUANTITIES = (
    ("latency_ms", 4.12), ("model_bytes", 2.1e6), ("accuracy", 0.85), ("macs", 3e6), ("of_its_own", 1.5), ("params", None),
)  # fmt: skip


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
    assert {"loss", "accuracy", "hypervolume", "growth-0", "parallel-0"} <= drawn


def test_a_measurement_is_drawn_beside_its_prediction() -> None:
    summary = example(devices=1)
    front = summary["devices"][0]["front"]
    front[0]["latency_ms_measured"] = None
    traces = {trace["name"]: trace for trace in Page(render(summary)).plots["pareto-0"]["data"]}
    assert traces["Predicted"]["x"] == [network["latency_ms_predicted"] for network in front]
    assert traces["Measured"]["x"] == [network["latency_ms_measured"] for network in front[1:]]
    assert traces["Error"]["x"][::3] == traces["Predicted"]["x"][1:]
    assert traces["Error"]["x"][1::3] == traces["Measured"]["x"]
    assert "prediction off by" not in traces["Predicted"]["hovertext"][0]
    assert "prediction off by" in traces["Predicted"]["hovertext"][1]
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
    device |= {"evaluated": [], "uniform": None, "average": None}
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
        {"search.searches": [], "search.random": [], "search.hypervolume_random": None, "search.constraints": []},
        {"search.searches.0.history": [], "search.random.0.history": []},
        {"search.proxies": {"n": 0, "rows": []}},
        {"matrix": None},
        {"devices.0.average": None, "devices.0.uniform": None, "devices.0.uniform_hypervolume": None},
        {"devices.0.average.accuracy_gain": None, "devices.0.average.cost_ratio": None, "devices.0.reach": []},
        {"devices.0.bound": None},
        {"devices.0.front.0.constraints": [], "devices.0.front.0.values": {}, "devices.0.front.0.blocks": []},
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
    summary["devices"][0] |= {"uniform": None, "average": None}
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


def test_the_matrix_tells_what_a_pick_costs_on_the_other_devices() -> None:
    summary = example(devices=3)
    page = Page(render(summary))
    assert "#across" in page.values("href")
    assert "Knee of" in page.text
    assert "1.00× 1.50 ms1.37× 2.50 ms– 3.50 ms" in page.text
    summary["matrix"] = None
    assert "Across devices" not in Page(render(summary)).text


def test_the_first_numbers_are_those_of_the_search() -> None:
    text = Page(render(example())).text
    assert "Evaluations391 architectures, of 800 proposals" in text
    assert "Evaluated on all validation images31" in text


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
    with pytest.raises(JobError, match=r"nas\.summary/2, not 'nas\.summary/1'; `nas export DIR --again` makes it anew"):
        render({**example(), "format": "nas.summary/1"})


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
    assert [quantity_text(*pair) for pair in QUANTITIES] == ["4.12 ms", "2.10 MB", "85.00%", "3.00 M", "1.5", "–"]
    names = ("latency_ms", "latency_p90_ms", "peak_memory_bytes", "macs", "params", "of_its_own")
    assert [quantity_label(name) for name in names] == [
        "Latency (ms)", "Latency p90 (ms)", "Peak memory (bytes)", "MACs", "Params", "Of its own",
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
    page = render(summary)
    dom = dom_of(page, tmp_path)
    assert drawn_plots(dom) == sorted(Page(page).plots)
    assert "<img" not in dom
