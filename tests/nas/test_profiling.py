"""What a run measures beside latency: where it is needed, once, and not at all where nobody could."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from latency_tables import LatencyError
from latency_tables.measuring.energy import Energy
from latency_tables.measuring.machine import Here
from latency_tables.table import load
from nas import pipeline
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import changed_job
from nas.profiling import lacks
from tests.nas.fakes import FakeDisplay, open_timed

FRUGAL = ["search.objectives=[accuracy, energy_mj]", "search.measure_front=true", "search.evaluations=6"]


class Metered:
    """A quiet machine that counts what inferences take, and whose meter breaks after so many networks."""

    def __init__(self, networks: int = 10**6) -> None:
        self.networks = networks
        self.asked: list[str] = []

    def here(self, device) -> Here:
        return Here(open_graph=open_timed, find_needs=lambda: {"energy": self.energy})

    def energy(self, graph, device) -> Energy:
        if len(self.asked) == self.networks:
            raise KeyboardInterrupt
        self.asked.append(graph.key)
        return Energy(open_timed(graph, device)() * 1e-5, 10.0, 100, "cpu")


def frugal(root: Path) -> RunFolder:
    """A finished run whose search is to be made again, for energy."""
    folder = RunFolder.open(root)
    folder.reopen("profile")
    folder.change(changed_job(folder.job, "search", [*FRUGAL, "search.controls=false"]))
    return folder


def at(folder: RunFolder, machine: Metered) -> pipeline.Run:
    return pipeline.Run(folder, folder.job, 1, FakeDisplay(), machine=machine.here)


def test_energy_is_added_to_a_table_network_by_network(quiet_machine, copied):
    folder = frugal(copied)
    before = {name: load(folder.table(name)) for name in ("one", "four")}
    assert all(lacks(folder, folder.job, device) for device in folder.job.devices)
    broken = Metered(networks=5)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_stage(at(folder, broken), "profile")
    assert {entry.arch.id for entry in load(folder.table("one")).having("energy_mj").entries} == set(broken.asked)
    whole = Metered()
    pipeline.run_stage(at(folder, whole), "profile")
    assert len(whole.asked) == 2 * 14 - 5
    for device in folder.job.devices:
        assert not lacks(folder, folder.job, device)
        table = load(folder.table(device.name))
        for entry, known in zip(table.entries, before[device.name].entries, strict=True):
            assert entry.arch == known.arch
            assert entry.measurement.rounds[: len(known.measurement.rounds)] == known.measurement.rounds
    pipeline.run_stage(at(folder, Metered(networks=0)), "profile")


def test_a_search_for_energy_has_it_predicted_and_measured(quiet_machine, copied):
    folder, told = frugal(copied), []
    for name in ("profile", "search"):
        pipeline.run_stage(at(folder, Metered()), name)
    for device in folder.result("search")["devices"]:
        assert device["front"]
        for row in device["front"]:
            value = row["values"]["energy_mj"]
            assert value["measured"] == pytest.approx(row["latency_ms_measured"] * 10, rel=1e-6)
            assert value["predicted"] > 0
    watch = SimpleNamespace(measured=lambda *row: told.append(row))
    pipeline.measure_fronts(pipeline.Run(folder, folder.job, 1, FakeDisplay(), watch=watch))
    assert told == [], "it is measured once"


def test_a_front_that_was_not_measured_to_its_end_is_gone_on_with(quiet_machine, copied):
    folder = RunFolder.open(copied)
    folder.reopen("export")
    folder.change(changed_job(folder.job, "search", ["search.measure_front=true"]))
    document = json.loads((copied / "search.json").read_text())
    for row in document["devices"][0]["front"]:
        row["latency_ms_measured"] = 1.0
    (copied / "search.json").write_text(json.dumps(document))
    told = []
    watch = SimpleNamespace(measured=lambda *row: told.append(row))
    pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay(), watch=watch), "search")
    one, four = folder.result("search")["devices"]
    assert {row["latency_ms_measured"] for row in one["front"]} == {1.0}
    assert told == [("four", row["arch_id"], row["latency_ms_measured"]) for row in four["front"]]


def test_energy_where_nobody_counts_it_is_refused_before_anything_is_done(quiet_machine, copied, monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.needs.find_meter", lambda: None)
    folder = frugal(copied)
    folder.reopen("train")
    with pytest.raises(LatencyError, match=r"device one: no energy can be measured here: pip install '\.\[energy\]'"):
        pipeline.run(pipeline.Run(folder, folder.job, 1, FakeDisplay()))
    assert folder.stages() == {}


def test_a_profile_that_lacks_energy_is_refused_where_nobody_counts_it(quiet_machine, copied, monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.needs.find_meter", lambda: None)
    folder = frugal(copied)
    with pytest.raises(LatencyError, match="no energy can be measured here"):
        pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay()), "profile")
    assert len(load(folder.table("one")).entries) == 14


def test_a_finished_profile_needs_no_meter_any_more(quiet_machine, copied, monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.needs.find_meter", lambda: None)
    folder = frugal(copied)
    pipeline.run_stage(at(folder, Metered()), "profile")
    context = pipeline.Run(folder, folder.job, 1, FakeDisplay(), warm_start=stopped)
    with pytest.raises(JobError, match="as far as here"):
        pipeline.run(context)


def stopped(*arguments):
    raise JobError("as far as here")
