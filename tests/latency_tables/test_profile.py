"""Profiling: a table that grows, stops when it is good enough, and survives a kill."""

import os
import random
import signal
import sys
import time
from dataclasses import replace

import pytest

from latency_tables import BusyError, Device, LatencyError, Protocol, TableError, exclusive, load, plan, profile
from latency_tables.device import fingerprint
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.energy import Energy, measure_energy
from latency_tables.measuring.footprint import Footprint
from latency_tables.measuring.machine import Here
from search_spaces import arch_cost, define_space
from tests.latency_tables.fakes import FakeMachine, tiny_space

SPACE = tiny_space()
DEVICE = Device("here")
# However noisy the machine that runs the tests: every round counts.
LENIENT = Protocol(
    min_rounds=2, max_rounds=3, warm_up_s=0.05, target_precision=9.0, disturbed=1e6, preempted=1e6, stolen=1e6
)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A lock of this test's own, and no priority over the process that runs the tests."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("latency_tables.measuring.placement._raise_priority", lambda real_time: "")


def times_us(space, archs):
    return {arch.id: 10 + arch_cost(space, arch).macs / 1e4 for arch in archs}


def fake_profile(
    path, n=10, space=SPACE, device=DEVICE, seed=0, machine=None, lock_timeout_s=60.0, meter=None, **arguments
):
    """Profile on a fake machine; its clock is the real one, so CPU shares are those of the test."""
    machine = machine or FakeMachine(times_us(space, plan(space, n, seed)))
    arguments = {"protocol": Protocol(warm_up_s=0.05, preempted=1e6, stolen=1e6), **arguments}
    here = Here(lock_timeout_s, machine.open)
    gauge = None if meter is None else lambda graph, device: measure_energy(machine.open(graph, device), meter)
    return profile(
        space,
        device,
        path=path,
        build=lambda arch: b"",
        n_networks=n,
        seed=seed,
        machine=here,
        gauge=gauge,
        **arguments,
    )


def test_a_profile_has_a_measurement_of_each_planned_network(tmp_path):
    seen = []
    table = fake_profile(tmp_path / "t.json", progress=seen.append)
    assert {entry.arch for entry in table.entries} == set(plan(SPACE, 10))
    assert load(tmp_path / "t.json", space=SPACE, device=DEVICE) == table
    for arch, time_us in times_us(SPACE, plan(SPACE, 10)).items():
        assert table.measurements[arch].median_us == pytest.approx(time_us, rel=0.01)
    assert [at.round for at in seen] == list(range(1, len(seen) + 1))
    assert (seen[-1].converged, seen[-1].networks) == (10, 10)


def test_networks_can_be_given_in_place_of_a_plan(tmp_path):
    archs = plan(SPACE, 10)[4:8]
    table = fake_profile(tmp_path / "t.json", archs=[*archs, archs[0]])
    assert tuple(entry.arch for entry in table.entries) == archs


def test_a_finished_profile_is_not_repeated_and_a_larger_one_adds_what_is_missing(tmp_path):
    first = fake_profile(tmp_path / "t.json", n=6)
    nothing = FakeMachine({})
    assert fake_profile(tmp_path / "t.json", n=6, machine=nothing) == first
    assert nothing.opened == []
    machine = FakeMachine(times_us(SPACE, plan(SPACE, 12)))
    both = fake_profile(tmp_path / "t.json", n=12, machine=machine)
    known = {entry.arch.id for entry in first.entries}
    assert not known & set(machine.opened)
    assert both.entries[: len(first.entries)] == first.entries
    assert {entry.arch for entry in both.entries} == {e.arch for e in first.entries} | set(plan(SPACE, 12))


def test_a_profile_into_a_table_of_something_else_is_refused(tmp_path):
    path = tmp_path / "t.json"
    fake_profile(path, n=3)
    with pytest.raises(TableError, match="space"):
        fake_profile(path, n=3, space=define_space("tiny"))
    with pytest.raises(TableError, match="device"):
        fake_profile(path, n=3, device=Device("other"))


def test_a_table_of_another_machine_is_not_gone_on_with(tmp_path):
    path = tmp_path / "t.json"
    table = fake_profile(path, n=3)
    replace(table, fingerprint=replace(fingerprint(), cpu="Another")).save(path)
    with pytest.raises(TableError, match="fingerprint: measured on Another"):
        fake_profile(path, n=5)


def test_a_profile_waits_for_the_machine(tmp_path):
    with exclusive(0), pytest.raises(BusyError):
        fake_profile(tmp_path / "t.json", lock_timeout_s=0.1)


def test_while_it_waits_a_profile_says_for_whom(tmp_path):
    seen = []
    with exclusive(0), pytest.raises(BusyError):
        fake_profile(tmp_path / "t.json", lock_timeout_s=0.1, progress=seen.append)
    assert [at.message for at in seen] == [f"waiting for process {os.getpid()}, which is measuring on this machine"]


def test_a_profile_stops_when_the_error_is_small_enough(tmp_path):
    asked, seen = [], []

    def error_of(table):
        asked.append(len(table.entries))
        return 1 / len(table.entries)

    table = fake_profile(tmp_path / "t.json", n=100, target_error=1 / 36, error_of=error_of, progress=seen.append)
    assert asked == [24, 36]
    assert [entry.arch for entry in table.entries] == list(plan(SPACE, 36))
    assert seen[-1].error == pytest.approx(1 / 24)


def test_a_profile_without_a_target_tells_the_error_so_far_between_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["latency_tables.profile"], "LOOK_S", 0.0)
    seen = []
    table = fake_profile(
        tmp_path / "t.json", n=30, error_of=lambda table: len(table.entries) / 100, progress=seen.append
    )
    assert len(table.entries) == 30
    assert {at.error for at in seen} == {0.3}


def test_a_profile_whose_error_stays_large_measures_the_whole_plan(tmp_path):
    table = fake_profile(tmp_path / "t.json", n=30, target_error=0.0, error_of=lambda table: 1.0)
    assert len(table.entries) == 30


def test_a_target_without_a_way_to_find_the_error_is_refused(tmp_path):
    with pytest.raises(LatencyError, match="needs error_of"):
        fake_profile(tmp_path / "t.json", target_error=0.1)


def test_the_budget_is_of_the_whole_profile(tmp_path):
    table = fake_profile(tmp_path / "t.json", n=100, budget_s=0.0, target_error=0.0, error_of=lambda table: 1.0)
    assert table.entries == ()
    machine = FakeMachine(times_us(SPACE, plan(SPACE, 10)))
    protocol = Protocol(min_rounds=10000, max_rounds=10000, max_rejected=10000, warm_up_s=0.05)
    table = fake_profile(tmp_path / "t.json", n=10, budget_s=0.2, machine=machine, protocol=protocol)
    assert {entry.measurement.ended for entry in table.entries} == {"budget"}


def test_a_machine_that_is_slower_than_before_is_told_of_and_not_mixed_in(tmp_path):
    path = tmp_path / "t.json"
    some = Protocol(warm_up_s=0.05, preempted=1e6, stolen=1e6, min_rounds=3, max_rounds=3)
    fake_profile(path, protocol=some)
    seen = []
    slow = FakeMachine(times_us(SPACE, plan(SPACE, 12)), slow=lambda now: 1.3)
    table = fake_profile(path, n=12, machine=slow, progress=seen.append)
    assert seen[-1].shift == pytest.approx(0.3, abs=0.02)
    assert "the canary takes 130" in seen[-1].message.replace("129.", "130.")
    assert {entry.arch for entry in table.shifted} == set(plan(SPACE, 12)[10:])


def test_footprints_and_energy_are_added_where_they_lack(tmp_path):
    weighed = []

    def weigh(graphs, device):
        weighed.append([graph.key for graph in graphs])
        return {graph.key: Footprint(1, 2.0, 3.0) for graph in graphs}

    class Meter:
        def begin(self):
            pass

        def end(self):
            return {"cpu": 2.0}

    first = fake_profile(
        tmp_path / "t.json", n=3, weigh=weigh, protocol=Protocol(warm_up_s=0.05, min_rounds=2, max_rounds=2)
    )
    assert weighed == [[entry.arch.id for entry in first.entries]]
    again = fake_profile(tmp_path / "t.json", n=4, weigh=weigh, meter=None)
    assert weighed[1:] == [[plan(SPACE, 4)[3].id]]
    assert load(tmp_path / "t.json") == again
    assert all(entry.measurement.converged for entry in again.entries)
    assert {entry.measurement.footprint for entry in again.entries} == {Footprint(1, 2.0, 3.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latency_tables.measuring.energy.WINDOW_S", 0.001)
        measured = fake_profile(tmp_path / "t.json", n=4, meter=Meter())
    assert all(isinstance(entry.measurement.energy, Energy) for entry in measured.entries)


def test_energies_are_kept_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.energy.WINDOW_S", 0.001)
    path = tmp_path / "t.json"

    class Meter:
        def __init__(self, windows):
            self.windows = windows

        def begin(self):
            if self.windows == 0:
                raise KeyboardInterrupt
            self.windows -= 1

        def end(self):
            return {"cpu": 2.0}

    with pytest.raises(KeyboardInterrupt):
        fake_profile(path, n=4, meter=Meter(windows=3))
    left = load(path).having("energy_mj")
    assert len(left.entries) == 3
    whole = fake_profile(path, n=4, meter=Meter(windows=1))
    assert len(whole.values("energy_mj")) == 4
    assert whole.entries[:3] == left.entries
    assert load(path) == whole


def profile_for_ever(path, tell):
    """One byte into `tell` for each round that is finished."""
    try:
        never = {"min_rounds": 10000, "max_rounds": 10000, "max_rejected": 10000}
        endless = Protocol(**never, warm_up_s=0.0, preempted=1e6, stolen=1e6, visit_ms=0.1)
        fake_profile(path, n=4, protocol=endless, progress=lambda at: os.write(tell, b"."))
    finally:
        os._exit(1)


def test_a_profile_that_is_killed_at_any_moment_leaves_all_finished_rounds(tmp_path):
    """Fifty times; each goes on with what the one before left."""
    path, rng, rounds = tmp_path / "t.json", random.Random(0), 0
    kept = {}
    for _ in range(50):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            profile_for_ever(path, tell)
        os.close(tell)
        finished = len(os.read(told, 1)) if rng.random() < 0.8 else 0
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(told, 4096):
            finished += len(more)
        os.close(told)
        if path.exists():
            measured = load(path, space=SPACE, device=DEVICE).measurements
            for key, one in kept.items():
                assert measured[key].rounds[: len(one.rounds)] == one.rounds
            assert all(len(one.rounds) >= rounds + finished for one in measured.values())
            kept, rounds = measured, min((len(one.rounds) for one in measured.values()), default=0)
    assert rounds > 50


def test_an_interrupted_profile_is_gone_on_with(tmp_path):
    path = tmp_path / "t.json"

    def stop(at):
        if at.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake_profile(path, progress=stop)
    left = load(path, space=SPACE, device=DEVICE)
    assert {len(entry.measurement.rounds) for entry in left.entries} == {3}
    assert {entry.measurement.ended for entry in left.entries} == {"interrupted"}
    table = profile(
        SPACE, DEVICE, path=path, n_networks=10, build=lambda arch: profiling_model(SPACE, arch, 1), protocol=LENIENT
    )
    for key, old in left.measurements.items():
        assert table.measurements[key].rounds[: len(old.rounds)] == old.rounds
        assert table.measurements[key].converged
