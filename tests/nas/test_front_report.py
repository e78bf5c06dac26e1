"""A device in the report: what its front is compared with, what was asked of it, and whether that holds."""

import math

import pytest

from nas.report import render
from nas.tables import constraints_text, percent, quantity_text, significant
from tests.nas.made_up_run import Page, example


def traces_of(summary: dict, plot: str = "pareto-0") -> dict:
    return {trace["name"]: trace for trace in Page(render(summary)).plots[plot]["data"]}


def one_device() -> tuple[dict, dict]:
    summary = example(devices=1)
    return summary, summary["devices"][0]


def test_the_baselines_stand_in_the_plot_of_the_front_and_in_a_sentence():
    summary, device = one_device()
    traces = traces_of(summary)
    assert list(traces["Uniform"]["x"]) == [row["latency_ms_predicted"] for row in device["uniform"]]
    assert list(traces["Uniform"]["y"]) == [100 * row["val_accuracy"] for row in device["uniform"]]
    average = device["average"]
    assert (list(traces["Average"]["x"]), list(traces["Average"]["y"])) == (
        [average["cost"]],
        [100 * average["accuracy"]],
    )
    text = Page(render(summary)).text
    assert f"{percent(average['accuracy'])} accuracy at {quantity_text('latency_ms', average['cost'])}" in text
    assert "1.2 points more accuracy at no more latency, and a network 2.3× as fast that is no less accurate" in text
    assert device["uniform"][0]["arch_id"] in text


def test_a_front_without_controls_has_no_baselines():
    summary, device = one_device()
    device |= {"uniform": None, "average": None}
    assert not {"Uniform", "Average"} & traces_of(summary).keys()
    text = Page(render(summary)).text
    assert "Random networks have" not in text
    assert "Uniformly scaled" not in text


def test_without_latency_among_the_objectives_the_axis_is_the_first_one_beside_accuracy():
    summary, device = one_device()
    summary["search"]["objectives"] = ["accuracy", "energy_mj"]
    for row in (*device["evaluated"], *device["uniform"]):
        row["energy_mj"] = 3 * row["latency_ms_predicted"]
    page = Page(render(summary))
    assert page.plots["pareto-0"]["layout"]["xaxis"]["title"]["text"] == "Energy (mJ)"
    traces = traces_of(summary)
    front = sorted(device["front"], key=lambda row: row["values"]["energy_mj"]["predicted"])
    assert traces["Predicted"]["x"] == [row["values"]["energy_mj"]["predicted"] for row in front]
    measured = [row["values"]["energy_mj"]["measured"] for row in front if row["picks"]]
    assert traces["Measured"]["x"] == measured
    assert traces["Evaluated"]["x"] == [row["energy_mj"] for row in device["evaluated"]]
    assert "Accuracy against energy on" in page.text
    assert "one with 1/2.3 of the energy" in page.text


def test_an_average_of_another_quantity_than_the_axis_is_not_drawn_but_told():
    summary, device = one_device()
    summary["search"]["objectives"] = ["accuracy", "macs", "latency_ms"]
    device["average"]["cost"] = 7.5e6
    traces = traces_of(summary)
    assert "Average" not in traces
    assert traces["Predicted"]["mode"] == "markers"
    assert "accuracy at 7.50 M on average" in Page(render(summary)).text


def test_hovering_tells_every_quantity_both_accuracies_and_whether_constraints_hold():
    summary, device = one_device()
    network = device["front"][0]
    network |= {"search_accuracy": 0.5}
    network["constraints"][0]["measured"] = False
    text = traces_of(summary)["Predicted"]["hovertext"][0]
    assert "50.00% in the search, on fewer of them" in text
    energy = network["values"]["energy_mj"]
    assert f"Energy: predicted {significant(energy['predicted'])} mJ [" in text
    assert f"measured {significant(energy['measured'])} mJ" in text
    assert "latency_ms &lt;= 40: met as predicted, missed as measured" in text
    assert "params &lt;= 2M: met as predicted<br>" in text
    assert "in the search" not in traces_of(example(devices=1))["Predicted"]["hovertext"][0]


def test_constraints_stand_in_a_table_as_predicted_and_as_measured():
    summary, device = one_device()
    for network in device["front"]:
        network["constraints"] = network["constraints"][:1]
    device["front"][1]["constraints"] = [{"text": "latency_ms <= 40", "predicted": True, "measured": False}]
    page, n = Page(render(summary)), len(device["front"])
    assert "latency_ms <= 40, measured" in page.text
    assert f"Of the {n} networks of which all constraints were measured, {n - 1} meet every one" in page.text
    assert page.text.count("missed") == 1
    for network in device["front"]:
        network |= {"constraints": [], "values": {}}
    assert "What was asked" not in Page(render(summary)).text


@pytest.mark.parametrize(
    ("truths", "text"),
    [
        ([], "–"),
        ([(True, None), (False, None)], "1 of 2 met, predicted"),
        ([(True, False), (True, True)], "1 of 2 met, measured"),
        ([(True, False), (True, None)], "1 of 2 met, predicted in part"),
    ],
)
def test_how_many_constraints_hold_goes_by_measurement_where_there_is_one(truths, text):
    limits = [{"text": "x", "predicted": predicted, "measured": measured} for predicted, measured in truths]
    assert constraints_text({"constraints": limits}) == text


def test_a_device_whose_constraints_nothing_meets_shows_what_comes_closest():
    summary, device = one_device()
    missed = [{"text": "latency_ms <= 40", "value": 51.3}, {"text": "params <= 2M", "value": 2.5e6}]
    device |= {"front": [], "exports": [], "closest": {"arch_id": "c105e57", "arch": {}, "missed": missed}}
    text = Page(render(summary)).text
    assert "No architecture was found that meets the constraints of this device" in text
    assert "c105e57. It misses latency_ms <= 40, where it has 51.3 ms; params <= 2M, where it has" in text
    assert "The front is empty" in text
    assert "The search found no network that meets its constraints" in text
    assert "The steps are the front" not in text


def test_what_the_space_reaches_is_a_table_with_units():
    summary, device = one_device()
    text = Page(render(summary)).text
    assert "peak_memory_bytes400 kB800 kB3.60 MB––" in text
    assert "93.0%" in text
    device["reach"] = []
    assert "What the space reaches" not in Page(render(summary)).text


def test_a_bound_is_drawn_with_the_errors_of_its_models():
    summary, device = one_device()
    points = [{"cost": 1.0 + i, "accuracy": 0.9 + i / 100, "arch_id": f"{i}", "proven": True} for i in range(3)]
    device["bound"] = {"quantity": "latency_ms", "accuracy_error": 0.0061, "cost_error": 0.0, "points": points}
    bound = traces_of(summary)["Bound"]
    assert (list(bound["x"]), bound["line"]["shape"], bound["line"]["dash"]) == ([1.0, 2.0, 3.0], "vh", "dash")
    assert bound["y"] == pytest.approx([90.0, 91.0, 92.0])
    text = Page(render(summary)).text
    assert "their accuracy is off by 0.6 points, so" in text
    assert "The bound on Raspberry Pi 5" in text
    assert "proven" not in text
    assert "do not add up" in text
    device["bound"]["cost_error"] = 0.023
    points[1]["proven"] = False
    text = Page(render(summary)).text
    assert "off by 0.6 points, and their latency by 2.3%, so" in text
    assert "Not all of it was proven in time." in text
    device["bound"]["quantity"] = "energy_mj"
    assert "Bound" not in traces_of(summary)
    assert "The dashed line" not in Page(render(summary)).text


def test_what_is_known_exactly_is_told_once_and_never_as_measured():
    summary, device = one_device()
    summary["search"]["objectives"] = ["accuracy", "params"]
    for row in device["front"]:
        row["values"]["params"] = dict.fromkeys(("predicted", "low", "high", "measured"), row["params"])
    for row in (*device["evaluated"], *device["uniform"]):
        row["params"] = 1000
    traces = traces_of(summary)
    assert "Measured" not in traces
    assert traces["Predicted"]["x"] == sorted(row["params"] for row in device["front"])
    assert "Params: " in traces["Predicted"]["hovertext"][0]
    assert "Params: predicted" not in traces["Predicted"]["hovertext"][0]
    text = Page(render(summary)).text
    assert "Energy, measured" in text
    assert "Params, measured" not in text


def test_an_axis_of_bytes_has_ticks_that_can_be_read():
    summary, device = one_device()
    summary["search"]["objectives"] = ["accuracy", "macs"]
    for row in device["front"]:
        row["values"]["macs"] = {"predicted": row["macs"], "low": row["macs"], "high": row["macs"]}
    for row in (*device["evaluated"], *device["uniform"]):
        row["macs"] = 1e6 * (1 + row["latency_ms_predicted"])
    x = Page(render(summary)).plots["pareto-0"]["layout"]["xaxis"]
    assert x["type"] == "log"
    assert x["tickvals"]
    assert x["ticktext"][x["tickvals"].index(1e7)] == "10 M"
    assert x["range"][0] < math.log10(min(row["macs"] for row in device["front"]))
