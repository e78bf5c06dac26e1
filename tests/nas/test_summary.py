"""The summary of a run takes over what its stages wrote, and adds what the report needs beside it."""

import json

import pytest

from nas.folder import RunFolder
from nas.report import render
from nas.spreadsheet import evaluations_csv
from nas.summary import summarise
from search_spaces import slots
from tests.nas.conftest import commanded


@pytest.fixture(scope="module")
def folder(finished) -> RunFolder:
    return RunFolder(finished)


@pytest.fixture(scope="module")
def summary(folder) -> dict:
    return summarise(folder)


def test_everything_that_the_search_wrote_is_in_the_summary(folder, summary):
    searched = folder.result("search")
    assert summary["search"] == searched["search"]
    for found, device in zip(searched["devices"], summary["devices"], strict=True):
        assert {key: device[key] for key in found if key != "front"} == {
            key: value for key, value in found.items() if key != "front"
        }
        assert [row["arch_id"] for row in device["front"]] == [row["arch_id"] for row in found["front"]]
        for row, before in zip(device["front"], found["front"], strict=True):
            assert row.keys() - {"blocks"} == before.keys()


def test_picks_have_their_blocks_and_other_networks_have_none(folder, summary):
    names = [slot.name for slot in slots(folder.space)]
    for device in summary["devices"]:
        for row in device["front"]:
            assert [block["name"] for block in row.get("blocks", [])] == (names if row["picks"] else [])


def test_the_matrix_has_the_knee_of_every_device_and_one_at_home(summary):
    matrix = summary["matrix"]
    assert (matrix["pick"], matrix["devices"]) == ("knee", ["one", "four"])
    for row in matrix["picks"]:
        (device,) = [each for each in summary["devices"] if each["name"] == row["device"]]
        (picked,) = [each for each in device["front"] if "knee" in each["picks"]]
        assert row["arch_id"] == picked["arch_id"]
        assert row["latency_ms"][row["device"]] == pytest.approx(picked["latency_ms_predicted"])
        assert row["ratio"][row["device"]] == pytest.approx(1.0)


def test_the_summary_is_json_and_makes_a_page_and_rows(summary):
    read = json.loads(json.dumps(summary, allow_nan=False))
    assert render(read) == render(summary)
    assert len(evaluations_csv(summary).splitlines()) == 1 + len(summary["devices"][0]["evaluated"])


def test_the_terminal_tells_what_the_search_was_worth(finished, summary, copied):
    out = commanded("export", copied).out
    worth = summary["search"]["hypervolume"]["mean"]
    by_chance = summary["search"]["hypervolume_random"]["mean"]
    assert f"hypervolume: search {worth:.3f}, random {by_chance:.3f} (1 seed, 10 evaluations)" in out


def test_the_terminal_tells_what_comes_closest_to_constraints_that_nothing_meets(copied):
    path = copied / "summary.json"
    document = json.loads(path.read_text())
    closest = {"arch_id": "c105e57", "arch": {}, "missed": [{"text": "macs <= 1", "value": 12345.678}]}
    document["devices"][0] |= {"front": [], "exports": [], "closest": closest}
    path.write_text(json.dumps(document))
    out = commanded("export", copied).out
    assert "one: no architecture meets the constraints; closest is c105e57 ('macs <= 1': it has 1.235e+04)" in out
    assert "four:" in out


def test_a_summary_of_an_older_format_is_refused_in_one_line(copied):
    path = copied / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "nas.summary/1"}))
    said = commanded("export", copied)
    assert "nas.summary/2, not 'nas.summary/1'; `nas export DIR --again` makes it anew" in said.complaint
