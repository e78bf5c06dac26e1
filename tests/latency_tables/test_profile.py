"""Which networks are profiled, and a table that survives a kill."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from latency_tables import BusyError, Device, LatencyError, Protocol, TableError, exclusive, load, plan, profile
from latency_tables.device import fingerprint
from latency_tables.graph import profiling_model
from search_spaces import arch_cost, canonical_json, costs, define_space
from tests.latency_tables.fakes import FakeMachine, tiny_space

SPACE = tiny_space()
DEVICE = Device("here")
# However noisy the machine that runs the tests: every round counts.
LENIENT = Protocol(min_rounds=2, max_rounds=3, warm_up_s=0.05, target_precision=9.0, disturbed=1e6, preempted=1e6)
SPACES = [SPACE, define_space("tiny"), define_space("mobilenet_v3")]


def times_us(space, archs):
    return {arch.id: 10 + arch_cost(space, arch).macs / 1e4 for arch in archs}


def fake_profile(path, n=10, space=SPACE, device=DEVICE, seed=0, machine=None, **arguments):
    """Profile on a fake machine; its clock is the real one, so CPU shares are those of the test."""
    machine = machine or FakeMachine(times_us(space, plan(space, n, seed)))
    arguments = {"protocol": Protocol(warm_up_s=0.05, preempted=1e6), **arguments}
    return profile(
        space, device, path=path, build=lambda arch: b"", n_networks=n, seed=seed, open_graph=machine.open, **arguments
    )


@pytest.mark.parametrize("space", SPACES, ids=["small", "tiny", "mobilenet_v3"])
@pytest.mark.parametrize("n", [2, 5, 40, 150])
def test_a_plan_covers_the_space_from_the_smallest_to_the_largest(space, n):
    archs = plan(space, n)
    assert len(set(archs)) == len(archs) == n
    assert (archs[0], archs[-1]) == (space.smallest(), space.largest())
    log_macs = np.sort(np.log(costs(space, space.encode(archs), "macs")))
    if n >= 40:
        assert np.diff(log_macs).max() < 0.15 * (log_macs[-1] - log_macs[0])


def test_a_plan_depends_on_its_seed_alone():
    assert plan(SPACE, 12, seed=3) == plan(SPACE, 12, seed=3) != plan(SPACE, 12, seed=4)


def test_a_plan_of_more_networks_than_there_are_has_them_all():
    space = tiny_space(channels=[32], strides=[1], widths=[1.0])
    assert len(plan(space, 1000)) == space.size < 1000


def test_a_plan_of_one_network_is_refused():
    with pytest.raises(LatencyError, match="at least 2"):
        plan(SPACE, 1)


def test_a_profile_has_a_measurement_of_each_planned_network(tmp_path):
    seen = []
    table = fake_profile(tmp_path / "t.json", progress=seen.append)
    assert {entry.arch for entry in table.entries} == set(plan(SPACE, 10))
    assert load(tmp_path / "t.json", space=SPACE, device=DEVICE) == table
    for arch, time_us in times_us(SPACE, plan(SPACE, 10)).items():
        assert table.measurements[arch].median_us == pytest.approx(time_us, rel=0.01)
    assert [at.round for at in seen] == list(range(1, len(seen) + 1))
    assert (seen[-1].converged, seen[-1].networks) == (10, 10)


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


def test_a_profile_waits_for_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with exclusive(0), pytest.raises(BusyError):
        fake_profile(tmp_path / "t.json", lock_timeout_s=0.1)


KILLED = """
import sys, json
from latency_tables import Device, Protocol, profile
from latency_tables.graph import profiling_model
from search_spaces import Space
space = Space.from_json(json.loads(sys.argv[2]))
profile(
    space, Device("here"), path=sys.argv[1], n_networks=6, build=lambda arch: profiling_model(space, arch, 1),
    protocol=Protocol(min_rounds=10000, max_rounds=10000, warm_up_s=0.05),
    progress=lambda at: print(at.round, flush=True),
)
"""


def test_a_killed_profile_leaves_a_table_that_is_gone_on_with(tmp_path):
    path = tmp_path / "t.json"
    arguments = [sys.executable, "-c", KILLED, str(path), canonical_json(SPACE.to_json())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline().strip() != "3":
            pass
        process.kill()
    left = load(path, space=SPACE, device=DEVICE)
    assert len(left.entries) == 6
    assert not any(entry.measurement.converged for entry in left.entries)
    table = profile(
        SPACE, DEVICE, path=path, n_networks=6, build=lambda arch: profiling_model(SPACE, arch, 1), protocol=LENIENT
    )
    assert [entry.arch for entry in table.entries] == [entry.arch for entry in left.entries]
    for new, old in zip(table.entries, left.entries, strict=True):
        assert new.measurement.converged
        assert new.measurement.rounds_us[: len(old.measurement.rounds_us)] == old.measurement.rounds_us
