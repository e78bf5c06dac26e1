"""Energy: a meter that is made up, and the one of the optional library on a made-up version of it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from latency_tables import LatencyError
from latency_tables.measuring.energy import Energy, ZeusMeter, find_meter, measure_energy


class FakeMeter:
    """A machine of `watts` that takes 10 ms a run."""

    def __init__(self, watts: float):
        self.watts, self.now_s, self.began_s = watts, 0.0, 0.0

    def run(self) -> float:
        self.now_s += 0.01
        return 1e4

    def begin(self) -> None:
        self.began_s = self.now_s

    def end(self) -> dict[str, float]:
        joules = self.watts * (self.now_s - self.began_s)
        return {"cpu": joules / 4, "gpu": joules * 3 / 4}


def test_energy_is_that_of_one_inference():
    meter = FakeMeter(20.0)
    found = measure_energy(meter.run, meter, clock=lambda: meter.now_s)
    assert found.joules == pytest.approx(0.2)
    assert found.watts == pytest.approx(20.0)
    assert (found.runs, found.source) == (100, "cpu+gpu")
    assert Energy.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_meter_that_stands_still_tells_nothing():
    meter = FakeMeter(0.0)
    assert measure_energy(meter.run, meter, clock=lambda: meter.now_s) is None


@pytest.fixture
def zeus(monkeypatch):
    """The library, with a window that the test fills in."""
    window = SimpleNamespace(gpu_energy={}, cpu_energy=None, dram_energy=None, soc_energy=None)
    monitor = SimpleNamespace(
        begin_window=lambda key, sync_execution: None, end_window=lambda key, sync_execution: window
    )
    library, module = ModuleType("zeus"), ModuleType("zeus.monitor")
    module.ZeusMonitor = lambda: monitor
    monkeypatch.setitem(sys.modules, "zeus", library)
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)
    monkeypatch.setattr("latency_tables.measuring.energy.time.sleep", lambda seconds: None)
    return window


def test_graphics_cards_and_processors_are_counted_apart(zeus):
    zeus.gpu_energy, zeus.cpu_energy = {0: 3.0, 1: 4.0}, {0: 2.0}
    assert ZeusMeter().end() == {"gpu": 7.0, "cpu": 2.0}


@pytest.mark.parametrize(
    "soc",
    [{"total_energy_mj": 5000.0, "cpu_energy_mj": 1000.0}, {"cpu_total_mj": 3000, "gpu_mj": 2000, "ane_mj": None}],
)
def test_boards_are_counted_in_joules(zeus, soc):
    zeus.soc_energy = SimpleNamespace(**soc)
    assert ZeusMeter().end() == {"soc": 5.0}


def test_a_meter_is_found_only_where_something_is_counted(zeus):
    assert find_meter() is None
    zeus.cpu_energy = {0: 2.0}
    assert isinstance(find_meter(), ZeusMeter)


def test_without_the_library_there_is_no_meter(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    assert find_meter() is None


@pytest.mark.parametrize(
    "wrong",
    [{"joules": 0.0}, {"joules": "1"}, {"watts": float("nan")}, {"runs": 1.5}, {"source": 1}, {"x": 1}],
    ids=str,
)
def test_a_document_that_is_no_energy_is_refused(wrong):
    with pytest.raises(LatencyError, match="energy"):
        Energy.from_json({**Energy(1.0, 2.0, 3, "cpu").to_json(), **wrong})
