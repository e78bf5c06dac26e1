"""Fronts and evaluations as CSV: what is written reads back."""

import csv
import io
import json

from nas.spreadsheet import FRONT_COLUMNS, evaluations_csv, front_csv
from tests.nas.made_up_run import example


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_of_a_front_reads_back_as_the_front():
    device = example(devices=1)["devices"][0]
    device["front"][0] |= {"latency_ms_measured": None, "picks": ["fastest", "knee"]}
    device["front"][1]["constraints"] = [
        {"text": 'of "quotes", commas\nand lines', "predicted": True, "measured": False}
    ]
    rows = read(front_csv(device))
    energy = [f"energy_mj_{part}" for part in ("predicted", "low", "high", "measured")]
    limits = [f"{text} ({part})" for text in ("latency_ms <= 40", "params <= 2M") for part in ("predicted", "measured")]
    odd = ['of "quotes", commas\nand lines (predicted)', 'of "quotes", commas\nand lines (measured)']
    assert list(rows[0]) == [*FRONT_COLUMNS, *energy, *limits, *odd, "picks", "arch"]
    assert rows[0]["latency_ms_measured"] == ""
    assert rows[0]["picks"] == "fastest;knee"
    assert rows[0]["params <= 2M (measured)"] == ""
    assert [rows[1][name] for name in odd] == ["true", "false"]
    for row, network in zip(rows, device["front"], strict=True):
        assert json.loads(row["arch"]) == network["arch"]
        assert float(row["latency_ms_predicted"]) == network["latency_ms_predicted"]
        assert float(row["search_accuracy"]) == network["search_accuracy"]
        assert int(row["macs"]) == network["macs"]
        assert float(row["energy_mj_high"]) == network["values"]["energy_mj"]["high"]
        assert (row["energy_mj_measured"] == "") == (not network["picks"])


def test_an_empty_front_is_a_header():
    device = {**example(devices=1)["devices"][0], "front": []}
    assert front_csv(device) == ",".join([*FRONT_COLUMNS, "picks", "arch"]) + "\n"


def test_the_csv_of_evaluations_has_a_row_for_each_network_with_its_costs_on_every_device_and_its_choices():
    summary = example(devices=2)
    first = summary["devices"][0]["evaluated"]
    archs = [{"resolution": 24, "s10.depth": 1, "s2.depth": 2, "s2.b1.kernel": 3}, {"resolution": 32, "s2.depth": 1}]
    summary["search"]["architectures"] = [
        {"arch_id": point["arch_id"], "arch": arch, "confirmed_accuracy": accuracy, "source": "sampler"}
        for point, arch, accuracy in zip(first, archs, (0.9, None), strict=False)
    ]
    rows = read(evaluations_csv(summary))
    names = [device["name"] for device in summary["devices"]]
    assert list(rows[0]) == [
        "arch_id", "accuracy", "confirmed_accuracy", "source", *(f"latency_ms@{name}" for name in names),
        "resolution", "s2.depth", "s10.depth", "s2.b1.kernel",
    ]  # fmt: skip
    assert [row["arch_id"] for row in rows] == [point["arch_id"] for point in first]
    for row, *points in zip(rows, *(device["evaluated"] for device in summary["devices"]), strict=True):
        assert float(row["accuracy"]) == points[0]["val_accuracy"]
        for name, point in zip(names, points, strict=True):
            assert float(row[f"latency_ms@{name}"]) == point["latency_ms_predicted"]
    assert [rows[0][key] for key in ("confirmed_accuracy", "source", "s10.depth")] == ["0.9", "sampler", "1"]
    assert [rows[1][key] for key in ("confirmed_accuracy", "s10.depth", "s2.depth")] == ["", "", "1"]
    assert rows[2]["resolution"] == ""


def test_evaluations_without_known_choices_still_have_their_rows():
    rows = read(evaluations_csv(example(devices=1)))
    assert len(rows) == 120
    assert list(rows[0])[-1] == "latency_ms@Raspberry Pi 5"
