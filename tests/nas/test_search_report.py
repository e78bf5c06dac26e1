"""The search in the report: what it was worth over its evaluations, beside what it is compared with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.report import render
from nas.search_report import averaged
from tests.nas.made_up_run import Page, example


def traces_of(summary: dict, plot: str = "hypervolume") -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for trace in Page(render(summary)).plots[plot]["data"]:
        found.setdefault(trace["name"], []).append(trace)
    return found


def test_every_seed_has_its_steps_beside_their_mean_and_the_band_of_random_search():
    summary = example(devices=2)
    search, traces = summary["search"], traces_of(summary)
    for seed, trace in zip(search["searches"], traces["One seed"], strict=True):
        assert list(trace["y"]) == [row["hypervolume"] for row in seed["history"]]
        assert trace["line"]["shape"] == "hv"
    last = sum(each["history"][-1]["hypervolume"] for each in search["searches"]) / 2
    assert traces["Search"][0]["y"][-1] == pytest.approx(last)
    edge = traces["Spread of random search"][0]["y"]
    middle = traces["Random search"][0]["y"]
    assert all(high > y > low for high, y, low in zip(edge, middle, reversed(edge), strict=False))
    assert traces["Uniform scaling"][0]["y"][0] == pytest.approx(
        sum(device["uniform_hypervolume"] for device in summary["devices"]) / 2
    )
    by_device = traces_of(summary, "growth-1")
    assert by_device["Uniform scaling"][0]["y"][0] == summary["devices"][1]["uniform_hypervolume"]


def test_one_seed_is_one_line_and_the_report_says_what_would_tell_a_spread():
    summary = example(devices=1)
    search = summary["search"]
    search |= {"searches": search["searches"][:1], "random": search["random"][:1]}
    for found in (search, summary["devices"][0]):
        for key in ("hypervolume", "hypervolume_random"):
            found[key] = {"mean": 0.7131, "std": None, "seeds": 1}
    assert set(traces_of(summary)) == {"Search", "Random search", "Uniform scaling"}
    page = Page(render(summary))
    assert "search.seeds of 2 or more" in page.text
    assert "±" not in page.text
    assert "growth-0" not in page.plots


def test_the_table_sets_the_search_beside_random_search_and_uniform_scaling():
    text = Page(render(example(devices=2))).text
    assert "All devices0.743 ± 0.0040.691 ± 0.0110.650" in text
    assert "Mean and standard deviation over 2 seeds" in text
    assert "Uniform scaling has 6 networks" in text


def test_a_search_without_controls_shows_itself_alone():
    summary = example(devices=2)
    summary["search"] |= {"random": [], "hypervolume_random": None}
    for device in summary["devices"]:
        device |= {"uniform": None, "uniform_hypervolume": None, "hypervolume_random": None, "average": None}
    assert set(traces_of(summary)) == {"Search", "One seed"}
    assert "All devices0.743 ± 0.004––" in Page(render(summary)).text


def test_a_device_whose_constraints_nothing_meets_has_no_growth():
    summary = example(devices=2)
    summary["devices"][0] |= {"closest": {"arch_id": "x", "arch": {}, "missed": []}, "front": [], "exports": []}
    plots = Page(render(summary)).plots
    assert "growth-0" not in plots
    assert "growth-1" in plots


def test_what_ended_a_search_and_where_its_networks_came_from_is_told():
    summary = example(devices=1)
    summary["search"]["searches"][0] |= {"ended": "patience", "sources": {"warm": 12, "exact": 3, "else": 1}}
    text = Page(render(summary)).text
    assert "12 taken over from other runs, 3 exact solver, 1 else" in text
    assert "the fronts stood still" in text
    assert "its evaluations were used up" in text


def test_fewer_images_first_come_with_their_rank_correlation():
    summary = example(devices=1)
    assert "Kendall" not in Page(render(summary)).text
    few = {"first": 200, "images": 1000, "n": 24, "spearman": 0.931, "kendall": None, "promoted": 0.5}
    summary["search"]["searches"][1]["fidelity"] = few
    summary["search"]["images"] = [200, 1000]
    text = Page(render(summary)).text
    assert "on 200 images first, and the promising ones on 1,000" in text
    assert "0.931–50%" in text
    assert "200, then 1,000" in text


def test_proxies_stand_beside_macs():
    summary = example(devices=1)
    assert "Proxies" not in Page(render(summary)).text
    rows = [{"name": "macs", "spearman": 0.81, "kendall": 0.62}, {"name": "synflow", "spearman": 0.78, "kendall": None}]
    summary["search"]["proxies"] = {"n": 200, "rows": rows}
    text = Page(render(summary)).text
    assert "macs0.8100.620synflow0.780–" in text
    assert "order 200 architectures" in text


curves = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda point: point[0]),
    min_size=1,
    max_size=4,
)


@given(curves)
def test_the_mean_of_curves_begins_where_all_have_begun_and_lies_among_them(found):
    found = [sorted(curve) for curve in found]
    mean = averaged(found)
    assert mean[0][0] == max(curve[0][0] for curve in found)
    assert mean[-1][1] == pytest.approx(sum(curve[-1][1] for curve in found) / len(found))
    for x, y, std in mean:
        values = [[height for at, height in curve if at <= x][-1] for curve in found]
        assert min(values) - 1e-9 <= y <= max(values) + 1e-9
        assert (std > 0) == (len(set(values)) > 1) or std == pytest.approx(0.0, abs=1e-9)


def test_no_curves_have_no_mean():
    assert averaged([]) == []
