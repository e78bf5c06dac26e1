"""`export.merge`: networks made shallower for a device, checked and told of, or one line on why they cannot be."""

import json

import onnxruntime
import pytest

from latency_tables import Device
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import ExportSettings
from nas.specialising.merger_table import shares
from nas.specialising.shallow import check_mergeable
from search_spaces import Space, arch_cost, define_space, network, network_by_slot
from search_spaces.mergers import convolutions, mergers
from tests.nas.conftest import commanded
from tests.nas.fakes import open_timed, small_space

LIMIT = 0.7


@pytest.fixture
def exported(nas, copied, tmp_path):
    """An export of the little run's most accurate networks, merged."""
    said = nas(
        "export",
        copied,
        "--out",
        tmp_path / "out",
        "--merge",
        LIMIT,
        "--finetune",
        1,
        "--pick",
        "most-accurate",
        "--json",
    )
    assert said.code == 0, said.err
    return tmp_path / "out", said.json["devices"]


def test_a_merged_network_is_an_export_like_any_other(exported, copied):
    out, devices = exported
    searched = RunFolder.open(copied).space
    for device in devices:
        (entry,) = device["exports"]
        folder = out / f"{device['name']}-most-accurate"
        numbers, arch = (json.loads((folder / name).read_text()) for name in ("numbers.json", "arch.json"))
        space = Space.from_json(arch["space"])
        own = space.arch_from_json(arch["arch"])
        layers, cost = network(space, own), arch_cost(space, own)
        assert space.family == "fixed"
        assert arch["arch_id"] == numbers["arch_id"] == own.id
        assert (numbers["macs"], numbers["params"]) == (cost.macs, cost.params)
        told, row = numbers["merged"], next(row for row in device["front"] if row["arch_id"] == entry["arch_id"])
        before = network(searched, searched.arch(row["arch"]))
        assert told["made_of"] == arch["made_of"] == row["arch_id"] != own.id
        assert told["convolutions"] == {"before": convolutions(before), "after": convolutions(layers)}
        assert convolutions(layers) < convolutions(before)
        assert {f"{each['from']}_merged" for each in told["segments"]} <= {layer.name for layer in layers}
        assert len(layers) == len(before) - sum(each["layers"] - 1 for each in told["segments"])
        assert told["latency_ms"] == {"before": row["latency_ms_measured"], "after": numbers["latency_ms"]["measured"]}
        assert told["latency"] <= LIMIT + 0.1  # files are smaller when they are chosen: they say less about themselves
        assert told["val_accuracy"]["after"] == numbers["val_accuracy"] >= told["val_accuracy"]["merged"]
        assert told["test_accuracy"] == {"before": row["test_accuracy"], "after": numbers["test"]["accuracy"]}
        assert numbers["latency_ms"]["predicted"] is None
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        about = session.get_modelmeta().custom_metadata_map
        assert json.loads(about["nas.space"]) == space.to_json()
        assert about["nas.arch_id"] == own.id
        card = (folder / "card.md").read_text()
        assert "## Merged convolutions" in card
        assert f"`{row['arch_id']}`" in card


def test_savings_are_measured_once_for_a_network_and_a_device(nas, exported, copied, tmp_path):
    tables = sorted((copied / "mergers").iterdir())
    assert len(tables) == 2
    for table in tables:
        document = json.loads(table.read_text())
        document["latency_us"] *= 1000  # a network so slow that every merger saves all of it
        table.write_text(json.dumps(document))
    said = nas(
        "export",
        copied,
        "--out",
        tmp_path / "again",
        "--merge",
        0.95,
        "--finetune",
        1,
        "--pick",
        "most-accurate",
        "--json",
    )
    assert said.code == 0
    assert all(len(each["exports"][0]["merged"]["segments"]) == 1 for each in said.json["devices"])


class _Machine:
    """Measures by the size of a graph, and counts how often."""

    def __init__(self):
        self.measured = 0

    def held(self, on_wait):
        from contextlib import nullcontext

        return nullcontext()

    def measure(self, graphs, device, *, protocol=None, **others):
        from types import SimpleNamespace

        self.measured += len(graphs)
        return {graph.key: SimpleNamespace(median_us=open_timed(graph, device)()) for graph in graphs}


def test_a_table_of_another_network_or_broken_is_measured_anew(tmp_path):
    space, path, machine = small_space(), tmp_path / "table.json", _Machine()

    def measured(arch):
        layers = network(space, arch)
        found = shares(path, network_by_slot(space, arch), mergers(layers), Device("one"), machine, None, print)
        assert len(found) == len(mergers(layers))
        return found

    first = measured(space.largest())
    count = machine.measured
    assert count == len(first) + 1
    assert any(share > 0 for share in first)
    assert measured(space.largest()) == first
    assert machine.measured == count
    measured(space.smallest())
    assert machine.measured > count
    for broken in ("", "[]", "{}", '{"format": "nas.mergers/2"}'):
        path.write_text(broken)
        assert measured(space.largest()) == first


def test_a_limit_that_no_mergers_meet_exports_nothing_and_says_the_closest(nas, copied, tmp_path):
    said = nas("export", copied, "--out", tmp_path / "out", "--merge", 0.05, "--pick", "most-accurate")
    assert "to 5% of its latency; the closest is" in said.complaint
    assert not (tmp_path / "out").exists()


def test_networks_in_integers_or_pairs_or_with_exits_are_not_merged():
    space = define_space("tiny", precisions=["int8", "fp32"])
    check_mergeable([space.largest()])
    with pytest.raises(JobError, match=r"computes in int8, and only networks in fp32"):
        check_mergeable([space.largest(), space.smallest()])
    for name, given in (("pair", {"pair": True}), ("exits", {"exits": "if"})):
        with pytest.raises(JobError, match=rf"export\.merge does not go with export\.{name}; drop one"):
            ExportSettings(merge=0.8, **given)
    with pytest.raises(JobError, match=r"export\.merge must be from"):
        ExportSettings(merge=1.0)


def test_the_table_of_a_run_says_what_was_merged(quiet_machine, here, copied):
    said = commanded("export", copied, "--again", "--merge", LIMIT, "--finetune", 1, "--pick", "most-accurate")
    assert said.code == 0
    assert " convolutions: test " in said.out
    assert not list(copied.glob("finetune-*"))
