"""What networks need beside time: found where it lacks, told as it comes, absent where a machine does not tell."""

from functools import partial

import pytest

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring import needs as needs_module
from latency_tables.measuring.energy import Energy
from latency_tables.measuring.footprint import Footprint
from latency_tables.measuring.machine import Here
from latency_tables.measuring.needs import AT_ONCE, NEEDS, needs_here, with_needs
from latency_tables.measuring.sessions import CANARY, Graph
from tests.latency_tables.fakes import graphs, measurement

FOOTPRINT, ENERGY = Footprint(5, 2.0, 3.0), Energy(0.1, 5.0, 10, "cpu")
DEVICE = Device("cpu_t1")


def finds(asked: list, energy: Energy | None = ENERGY):
    def find(name, found, graph, device):
        asked.append((name, graph.key))
        return found

    return {"footprint": partial(find, "footprint", FOOTPRINT), "energy": partial(find, "energy", energy)}


def test_what_lacks_is_found_and_told_graph_by_graph():
    known = {"a": measurement("a"), "b": measurement("b", footprint=FOOTPRINT), "c": measurement("c", energy=ENERGY)}
    asked, told = [], []
    found = with_needs(known, graphs("a", "b", "c"), DEVICE, finds(asked), lambda *each: told.append(each))
    assert asked == [("footprint", "a"), ("energy", "a"), ("energy", "b"), ("footprint", "c")]
    assert {(each.footprint, each.energy) for each in found.values()} == {(FOOTPRINT, ENERGY)}
    assert {key: each.rounds for key, each in found.items()} == {key: each.rounds for key, each in known.items()}
    assert told == [(number, 3, {key: found[key]}) for number, key in enumerate("abc", 1)]
    assert with_needs(found, graphs("a", "b", "c"), DEVICE, finds(asked), lambda *each: told.append(each)) == found
    assert (len(asked), len(told)) == (4, 3)


def test_a_machine_that_does_not_tell_leaves_it_open():
    known, asked = {"a": measurement("a")}, []
    told = []
    only = {"energy": finds(asked, energy=None)["energy"]}
    assert with_needs(known, graphs("a"), DEVICE, only, lambda *each: told.append(each)) == known
    assert (asked, told) == ([("energy", "a")], [])
    assert with_needs(known, graphs("a"), DEVICE, {}) == known


def test_a_machine_finds_what_is_asked_for_and_no_more():
    asked = []
    here = Here(find_needs=lambda: finds(asked))
    graph = Graph("canary", CANARY.read_bytes())
    found = here.measure([graph], DEVICE, protocol=AT_ONCE, needs=["energy"])["canary"]
    assert (found.energy, found.footprint, asked) == (ENERGY, None, [("energy", "canary")])
    assert here.measure([graph], DEVICE, protocol=AT_ONCE)["canary"].energy is None
    assert len(asked) == 1


def test_a_machine_without_a_meter_refuses_to_promise_energy():
    asked = []
    only = Here(find_needs=lambda: {"footprint": finds(asked)["footprint"]})
    only.check(DEVICE, ["footprint"])
    with pytest.raises(
        LatencyError, match=r"device cpu_t1: no energy can be measured here: pip install '\.\[energy\]'"
    ):
        only.check(DEVICE, NEEDS)
    Here(find_needs=lambda: finds(asked)).check(DEVICE, NEEDS)
    assert asked == []


def test_energy_is_offered_where_there_is_a_meter(monkeypatch):
    class Meter:
        def begin(self) -> None: ...

        def end(self) -> dict[str, float]:
            return {"cpu": 2.0}

    monkeypatch.setattr(needs_module, "find_meter", lambda: None)
    assert list(needs_here()) == ["footprint"]
    monkeypatch.setattr(needs_module, "find_meter", Meter)
    monkeypatch.setattr("latency_tables.measuring.energy.WINDOW_S", 0.01)
    found = needs_here()
    assert tuple(found) == NEEDS
    graph = Graph("canary", CANARY.read_bytes())
    assert found["energy"](graph, DEVICE).source == "cpu"
    assert found["footprint"](graph, DEVICE).model_bytes == len(graph.model)
